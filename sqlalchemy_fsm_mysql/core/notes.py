"""Notes on the transaction that a connection is in: whether something was fired, and which calls wait for its COMMIT.

They belong to the connection, because several sessions may use one connection in turn, or none may; SQLAlchemy has
no place for them. The rollback of a savepoint drops the notes that were made in it.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, NestedTransaction, RootTransaction, TwoPhaseTransaction, event
from sqlalchemy.exc import DBAPIError, InvalidRequestError

__all__ = ["Notes", "Promise", "current_notes", "keep_promises", "notes_of"]

KEY = "_sqlalchemy_fsm_mysql_notes"


@dataclass(slots=True, eq=False, repr=False)
class Promise:
    """A function to be called once the connection's transaction is committed.

    `is_void` after the rollback of the savepoint that it was made in, `is_kept` when it is run.
    """

    run: Callable[[], None]
    token: str | None = None  # of a fire; OutcomeUnknown lists it when the COMMIT's outcome is unknown
    is_void: bool = False
    is_kept: bool = False


class Notes:
    """The notes on one transaction of a connection."""

    end: Callable[[Callable[[], None]], None] | None
    has_fired: bool
    savepoints: int

    __slots__ = ("_promises", "end", "ended_by", "has_fired", "queue", "savepoints", "transaction")

    def __init__(self, transaction: RootTransaction) -> None:
        # The connection refers to its notes. A strong reference back would be a cycle, and a dropped connection would
        # return to the pool only at the next garbage collection.
        self.transaction = weakref.ref(transaction)
        self.has_fired = False
        self.ended_by: DBAPIError | None = None  # may have ended the transaction before a fire
        self.end = None
        self.savepoints = 0  # of ours, open now: the block of each rolls back to it after an error
        self.queue: deque[Any] | None = None  # of hooks' announcements, while one is made
        # The keys are the names of the savepoints that the promises were made in, the outermost first.
        self._promises: dict[tuple[str, ...], list[Promise]] = {}

    @property
    def tokens(self) -> list[str]:
        """The tokens that were noted, without those of savepoints that were rolled back."""
        every = [promise.token for made in self._promises.values() for promise in made]
        return [token for token in every if token is not None]

    def note_token(self, connection: Connection, token: str) -> None:
        """Note that something was fired under *token*."""
        self.promise(connection, _nothing).token = token

    def promise(self, connection: Connection, run: Callable[[], None]) -> Promise:
        """Have *run* called once after the COMMIT of the transaction, unless the savepoint is rolled back before."""
        self._watch_commit()
        promise = Promise(run)
        # Only a promise made in a savepoint can become void, so only then are the savepoint's events listened for.
        savepoints = _savepoints(connection.get_nested_transaction())
        if savepoints:
            _listen(connection)
        self._promises.setdefault(savepoints, []).append(promise)
        return promise

    def end_by(self, send: Callable[[Callable[[], None]], None]) -> None:
        """Have *send* called in the place of the COMMIT of the transaction, with the function that sends the COMMIT.

        When *send* returns, SQLAlchemy takes the transaction for committed; after an exception of it, for ended without
        a COMMIT, and it is rolled back.
        """
        self._watch_commit()
        self.end = send

    def _watch_commit(self) -> None:
        transaction = self.transaction()
        assert transaction is not None
        transaction.__class__ = _COMMITTING.get(type(transaction), type(transaction))

    def forget(self, savepoint: str) -> None:
        """Make the promises void that were made in *savepoint*, which has been rolled back."""
        for names in [names for names in self._promises if savepoint in names]:
            for promise in self._promises.pop(names):
                promise.is_void = True

    def release(self, savepoint: str) -> None:
        """Move the promises made in *savepoint*, which has been released, to the savepoint around it."""
        for names in [names for names in self._promises if savepoint in names]:
            promises = self._promises.pop(names)
            self._promises.setdefault(tuple(name for name in names if name != savepoint), []).extend(promises)

    def take_promises(self) -> list[Promise]:
        """All promises, in the order in which they were made, and forget them."""
        promises, self._promises = self._promises, {}
        return [promise for made in promises.values() for promise in made]


def _nothing() -> None:
    """The run of a promise that is made for its token alone."""


def current_notes(connection: Connection) -> Notes | None:
    """The notes on the transaction that *connection* is in; None when there are none."""
    notes: Notes | None = connection.__dict__.get(KEY)
    transaction = connection.get_transaction()
    return notes if notes is not None and transaction is not None and notes.transaction() is transaction else None


def notes_of(connection: Connection) -> Notes:
    """The notes on the transaction that *connection* is in, begun if it is in none."""
    transaction = connection.get_transaction()
    notes: Notes | None = connection.__dict__.get(KEY)
    if notes is None or transaction is None or notes.transaction() is not transaction:
        transaction = transaction or connection.begin()  # as the connection's first statement does
        notes = connection.__dict__[KEY] = Notes(transaction)
    return notes


def _savepoints(nested: NestedTransaction | None) -> tuple[str, ...]:
    """The names of the savepoints that *nested* is in, the outermost first."""
    names: list[str] = []
    while nested is not None:
        names.append(nested._savepoint)  # noqa: SLF001 - SQLAlchemy's events give this name and nothing else
        nested = nested._previous_nested  # noqa: SLF001
    return tuple(reversed(names))


# --- the end of a transaction


class _Committing:
    """A base that runs the promises after a COMMIT, mixed into a transaction's class when its first promise is made.

    SQLAlchemy's event ``commit`` comes before the COMMIT is sent, and there is none after it. Nor is there one that can
    replace the COMMIT, so the method that sends it is overridden.
    """

    __slots__ = ()

    connection: Connection

    def commit(self) -> None:
        notes = current_notes(self.connection)
        super().commit()  # type: ignore[misc]  # of the transaction's own class
        if notes is not None:
            keep_promises(notes.take_promises())

    def _connection_commit_impl(self) -> None:
        notes, send = current_notes(self.connection), super()._connection_commit_impl  # type: ignore[misc]  # as above
        if notes is None or notes.end is None:
            send()
            return
        end, notes.end = notes.end, None
        try:
            end(send)
        except BaseException:
            # SQLAlchemy takes a transaction whose COMMIT has failed for one that has ended on the server, and sends no
            # ROLLBACK for it. This one is open there, with its locks and all that was done in it.
            self._roll_back_now()
            raise

    def _roll_back_now(self) -> None:
        connection = self.connection
        try:
            if not connection.invalidated:
                super()._connection_rollback_impl()  # type: ignore[misc]  # as above
        except DBAPIError:
            connection.invalidate()


class _Root(_Committing, RootTransaction):
    __slots__ = ()


class _TwoPhase(_Committing, TwoPhaseTransaction):
    __slots__ = ()


_COMMITTING: dict[type[Any], type[Any]] = {RootTransaction: _Root, TwoPhaseTransaction: _TwoPhase}


def keep_promises(promises: Iterable[Promise]) -> None:
    """Run the *promises* that are neither void nor kept already.

    An exception of one does not keep the others from running; the first exception is raised when all have run.
    """
    raised: BaseException | None = None
    for promise in promises:
        if promise.is_void or promise.is_kept:
            continue
        promise.is_kept = True
        try:
            promise.run()
        except BaseException as error:  # noqa: BLE001 - KeyboardInterrupt and SystemExit, too
            raised = raised or error
    if raised is not None:
        raise raised


def _listen(connection: Connection) -> None:
    """Listen for the ends of savepoints on *connection*.

    Listeners on the Engine class would make SQLAlchemy look for listeners of all kinds at every statement of every
    engine, which adds a hundred calls to each fire.
    """
    try:
        target: Any = connection
        is_listening = event.contains(target, "rollback_savepoint", _forget)
    except InvalidRequestError:  # SQLAlchemy before 2.0.31, on a connection of engine.execution_options()
        target = Engine
        is_listening = event.contains(target, "rollback_savepoint", _forget)
    if not is_listening:
        event.listen(target, "rollback_savepoint", _forget)
        event.listen(target, "release_savepoint", _release)


def _forget(connection: Connection, name: str, context: None) -> None:
    notes = current_notes(connection)
    if notes is not None:
        notes.forget(name)


def _release(connection: Connection, name: str, context: None) -> None:
    notes = current_notes(connection)
    if notes is not None:
        notes.release(name)
