"""What can go wrong, as one tree; all of it is an `FSMError`.

A message says which row, what was asked, what is true, and what would have worked:

>>> where = {"table": "orders", "key": 42, "event": "Ready"}
>>> print(TransitionNotAllowed(**where, state="Deleted", allowed_from=["Initializing", "Running", "Error"]))
orders 42 refused 'Ready': it is 'Deleted'; 'Ready' leaves 'Initializing', 'Running', 'Error'.

It holds no SQL and no parameter values. What came from outside (an event's name, a key, a state that the row
holds) is shown by `repr` and cut at 64 characters, and a list stops after 20 entries; the attributes are
whole. The driver's error is the ``__cause__``.

Every error survives `pickle` and `copy`, so a worker process can hand it to its parent.

This module imports nothing of ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from .texts import State, counted, listed, row_label, shown, stored_form


def _restored(kind: type[FSMError], arguments: tuple[object, ...]) -> FSMError:
    """An error of *kind* made past its ``__init__``; what unpickling calls before it sets the attributes."""
    return kind.__new__(kind, *arguments)


class FSMError(Exception):
    """The root: ``except FSMError`` catches whatever this library raises for reasons of its own."""

    # Exception's own __reduce__ calls the class with `args`, which a keyword-only __init__ refuses.
    def __reduce__(self) -> tuple[Any, ...]:  # Any: the shape that object.__reduce__ has in typeshed
        return _restored, (type(self), self.args), self.__dict__


class InvalidMachine(FSMError, ValueError):
    """The machine's declaration, or its place on a model, is wrong; `.problems` lists everything found.

    >>> print(InvalidMachine(["event 'Go' has no transitions"], name="orders"))
    the machine 'orders' has 1 problem:
    - event 'Go' has no transitions
    """

    def __init__(self, problems: Sequence[str], name: str | None = None) -> None:
        self.problems = list(problems)
        self.name = name
        which = "the machine" if name is None else f"the machine {shown(name)}"
        count = counted(len(self.problems), "problem")
        super().__init__("\n- ".join([f"{which} has {count}:", *self.problems]))


class MigrationRefused(FSMError):
    """A migration of a state column was not done; the database is as it was, or as far as its batches had come.

    `.rows` has the number of rows in each state that stands in the way, by the stored name.

    >>> print(MigrationRefused("orders.state", "still held", "move them first", rows={"Error": 3}))
    orders.state: still held: 3 rows in 'Error'; move them first
    """

    def __init__(self, column: str, what: str, advice: str, rows: Mapping[str, int] | None = None) -> None:
        self.column = column
        self.rows = dict(rows or {})
        held = listed(f"{counted(number, 'row')} in {shown(state)}" for state, number in self.rows.items())
        super().__init__(f"{column}: {what}{f': {held}' if held else ''}; {advice}")


class UnknownEvent(FSMError, LookupError):
    """There is no such event; nothing was sent to the database.

    `.event` is what was asked for, whatever its type, and `.known` names the events there are.

    >>> print(UnknownEvent("Halt", ["Ready", "Stop"]))
    the machine has no event 'Halt'; it has 'Ready', 'Stop'.
    """

    def __init__(self, event: object, known: Iterable[str], *, model: type[Any] | None = None) -> None:
        self.event = event
        self.known = list(known)
        self.model = model
        owner = "the machine" if model is None else model.__name__
        super().__init__(f"{owner} has no event {shown(event)}; it has {listed(map(shown, self.known)) or 'none'}.")


class StateAssignmentError(FSMError):
    """A protected state was assigned; only an event, or `force_state`, moves it."""


class InstanceStateError(FSMError):
    """The instance cannot be fired on: it is transient, detached, deleted, or of another session."""


class TransactionRequired(FSMError):
    """History, tokens and claims need a transaction, and in AUTOCOMMIT each statement is one by itself."""


class TooManyRows(FSMError):
    """More rows match than `max_rows` allows; nothing was changed."""


class HistoryError(FSMError):
    """A row of a history does not follow from the one before it, or not by the machine; `.record` is that row."""

    def __init__(self, message: str, record: Any = None) -> None:
        self.record = record
        super().__init__(message)


class GraphvizMissing(FSMError, RuntimeError):
    """A picture needs Graphviz: the Python package and the program ``dot``; the other formats need neither.

    >>> print(GraphvizMissing("Graphviz's program 'dot' is", "apt install graphviz"))
    Graphviz's program 'dot' is not installed, and a picture needs it: apt install graphviz
    """

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what} not installed, and a picture needs it: {remedy}")


class DatabaseUnfit(FSMError):
    """The database does not fit the machine; `.findings` is all that the doctor found, errors first.

    >>> print(DatabaseUnfit(["error: orders.state does not take 'Failed'; add it"]))
    the database does not fit the machine:
    - error: orders.state does not take 'Failed'; add it
    """

    def __init__(self, errors: Sequence[str], findings: Sequence[Any] = ()) -> None:
        self.findings = list(findings)
        super().__init__("\n- ".join(["the database does not fit the machine:", *errors]))


class FireError(FSMError):
    """An event did not move its row.

    `.model` is the mapped class, `.key` the primary key (a tuple when composite), `.event` the event's name.
    Each is None where it is not known: an error at COMMIT belongs to no one fire.
    """

    def __init__(
        self,
        message: str,
        *,
        model: type[Any] | None = None,
        key: object = None,
        event: str | None = None,
    ) -> None:
        self.model = model
        self.key = key
        self.event = event
        super().__init__(message)


class TransitionNotAllowed(FireError):
    """The event does not leave the state that the row is in; nothing was changed.

    `.state` is the state observed in the row, `.allowed_from` the states that the event leaves, in the
    machine's order.
    """

    def __init__(
        self,
        *,
        table: str,
        key: object,
        event: str,
        state: State,
        allowed_from: Iterable[State],
        model: type[Any] | None = None,
    ) -> None:
        self.state = state
        self.allowed_from = list(allowed_from)
        message = f"{row_label(table, key)} refused {shown(event)}: {self._reason(event)}"
        super().__init__(message, model=model, key=key, event=event)

    def _reason(self, event: str) -> str:
        leaves = listed(shown(stored_form(state)) for state in self.allowed_from) or "no state"
        return f"it is {shown(stored_form(self.state))}; {shown(event)} leaves {leaves}."


# What machine.guards calls a guard without a name of its own.
_UNNAMED = "guard"


class GuardNotSatisfied(TransitionNotAllowed):
    """The event leaves the row's state, but no transition's guards were all true there; nothing was changed.

    `.failed` are the names of the guards that were not true of the row, `.sentences` what guards among them say to
    people.

    >>> where = {"table": "orders", "key": 42, "event": "Cancel", "state": "paid", "allowed_from": ["paid"]}
    >>> print(GuardNotSatisfied(**where, failed=["owner", "in time"], sentences=["only the owner may"]))
    orders 42 refused 'Cancel': it is 'paid', but 'owner', 'in time' are not true of this row: only the owner may.
    """

    def __init__(
        self,
        *,
        table: str,
        key: object,
        event: str,
        state: State,
        allowed_from: Iterable[State],
        model: type[Any] | None = None,
        failed: Iterable[str] = (),
        sentences: Iterable[str] = (),
    ) -> None:
        self.failed = tuple(failed)
        self.sentences = tuple(sentences)
        super().__init__(table=table, key=key, event=event, state=state, allowed_from=allowed_from, model=model)

    def _reason(self, event: str) -> str:
        state = shown(stored_form(self.state))
        named = [name for name in self.failed if name != _UNNAMED]
        if not named:
            return f"it is {state}, which {shown(event)} leaves, but no guard of {shown(event)} is true of this row."
        verb = "is" if len(named) == 1 else "are"
        why = f": {'; '.join(self.sentences).removesuffix('.')}" if self.sentences else ""
        return f"it is {state}, but {listed(map(shown, named))} {verb} not true of this row{why}."


class RowNotFound(FireError):
    """No row has this key: it was never there, or is deleted, or not visible to this transaction."""

    def __init__(self, *, table: str, key: object, event: str, model: type[Any] | None = None) -> None:
        message = f"{row_label(table, key)} refused {shown(event)}: there is no row with this key; create it first."
        super().__init__(message, model=model, key=key, event=event)


class UnknownState(FireError):
    """The row holds a state that the machine does not declare; nothing was changed.

    A newer server may have written it, or a statement past the machine. `.state` is the text stored,
    `.declared` the states of this machine.
    """

    def __init__(
        self,
        *,
        table: str,
        key: object,
        event: str,
        state: object,
        declared: Iterable[State],
        model: type[Any] | None = None,
    ) -> None:
        self.state = state
        self.declared = list(declared)
        message = (
            f"{row_label(table, key)} refused {shown(event)}: it holds {shown(state)}, which the machine does"
            f" not declare; it declares {listed(shown(stored_form(known)) for known in self.declared)}."
        )
        super().__init__(message, model=model, key=key, event=event)


class TokenConflict(FireError):
    """The token belongs to an earlier fire of another event, or on another row; nothing was changed.

    `.token` is the token.
    """

    def __init__(
        self, *, table: str, key: object, event: str, token: str, earlier: str, model: type[Any] | None = None
    ) -> None:
        self.token = token
        message = (
            f"{row_label(table, key)} refused {shown(event)}: its token was used before, for {earlier}; "
            "a token stands for one event on one row."
        )
        super().__init__(message, model=model, key=key, event=event)


class KeyConflict(FireError):
    """The row could not be created: another row holds one of its unique values. That one was left alone."""

    def __init__(self, *, table: str, key: object, event: str, model: type[Any] | None = None) -> None:
        message = (
            f"{row_label(table, key)} refused {shown(event)}: there is no row with this key, and another row holds"
            " one of its unique values; nothing was changed."
        )
        super().__init__(message, model=model, key=key, event=event)


class RefusedByDatabase(FireError):
    """The triggers of :func:`enforce_machine` refused what a statement would have done; nothing changed.

    `.column` is the column as the triggers name it (``"orders.state"``), `.source` the text that the row holds, None
    for a new row (then `.is_new` is true), and `.target` the text that was to follow. A very long one is cut, and what
    the machine does not declare is None on SQLite. `.code` is the server's error number, None on SQLite. The
    transaction is alive.

    Raised to whoever sends the statement: a fire, a flush, a statement of one's own by Core or ORM.

    >>> print(RefusedByDatabase(column="orders.state", source="Deleted", target="Running"))
    the database refused 'Deleted' to 'Running' in orders.state: its triggers know no such transition.
    """

    def __init__(
        self,
        *,
        column: str,
        source: str | None,
        target: str | None,
        code: int | None = None,
        is_new: bool = False,
        table: str | None = None,
        key: object = None,
        event: str | None = None,
        model: type[Any] | None = None,
    ) -> None:
        self.column, self.source, self.target, self.code, self.is_new = column, source, target, code, is_new
        row = "" if table is None or key is None else f"{row_label(table, key)}: "
        at = "" if event is None else f" while {shown(event)} was fired"
        reached = "an undeclared state" if target is None else shown(target)
        if is_new:
            what = f"a new row in {reached} in {column}{at}: its triggers know no such initial state"
        else:
            left = "an undeclared state" if source is None else shown(source)
            what = f"{left} to {reached} in {column}{at}: its triggers know no such transition"
        advice = "" if event is None else "; they may be those of another release's machine: run the doctor"
        super().__init__(f"{row}the database refused {what}{advice}.", model=model, key=key, event=event)

    def on(self, **row: Any) -> RefusedByDatabase:
        """The same error, told of the *row* that was fired on."""
        return RefusedByDatabase(
            column=self.column, source=self.source, target=self.target, code=self.code, is_new=self.is_new, **row
        )


class _ServerError(FireError):
    """The server or the connection said no, during a fire or at COMMIT; the driver's error is ``__cause__``.

    `.code` is the server's error number, None when there is none.
    """

    _what: ClassVar[str]
    _remedy: ClassVar[str]

    def __init__(
        self,
        *,
        code: int | None = None,
        table: str | None = None,
        key: object = None,
        event: str | None = None,
        model: type[Any] | None = None,
    ) -> None:
        self.code = code
        row = "" if table is None or key is None else f"{row_label(table, key)}: "
        at = "" if event is None else f" while {shown(event)} was fired"
        error = "" if code is None else f" (error {code})"
        message = f"{row}{self._what}{at}{error}; {self._advice()}."
        super().__init__(message, model=model, key=key, event=event)

    def _advice(self) -> str:
        return self._remedy


class TransactionAborted(_ServerError):
    """The server has ended the whole transaction: what it did before is gone too.

    `.retryable` is true when the same unit of work may well succeed the next time (a deadlock, a snapshot or
    certification conflict, a connection lost before COMMIT was sent).

    >>> print(TransactionAborted(code=1213, retryable=True))
    the server ended the whole transaction (error 1213); roll back and run the whole unit of work again.
    """

    _what = "the server ended the whole transaction"
    _remedy = "roll back and run the whole unit of work again"

    def __init__(
        self,
        *,
        retryable: bool,
        code: int | None = None,
        table: str | None = None,
        key: object = None,
        event: str | None = None,
        model: type[Any] | None = None,
    ) -> None:
        self.retryable = retryable
        super().__init__(code=code, table=table, key=key, event=event, model=model)

    def _advice(self) -> str:
        return self._remedy if self.retryable else "roll back; the same work fails again until the cause is mended"


class LockTimeout(_ServerError):
    """The statement gave up: another transaction held the row for too long, or the statement was interrupted.

    Nothing moved. The transaction lives on, with its earlier work and its locks, unless `.rolled_back` is true: the
    statement was one of the flush before the event, and SQLAlchemy rolls back when a flush fails, to the innermost
    savepoint or the whole transaction.
    """

    _what = "the statement was ended before it got the row's lock"
    # The transaction could go on, but others may be waiting for the locks that it holds.
    _remedy = "nothing moved; roll back, which frees its own locks too, and run the whole unit of work again"

    def __init__(
        self,
        *,
        code: int | None = None,
        rolled_back: bool = False,
        table: str | None = None,
        key: object = None,
        event: str | None = None,
        model: type[Any] | None = None,
    ) -> None:
        self.rolled_back = rolled_back
        super().__init__(code=code, table=table, key=key, event=event, model=model)

    def _advice(self) -> str:
        if not self.rolled_back:
            return self._remedy
        return "the flush before the event failed and was rolled back; roll back and run the whole unit of work again"


class NotWritable(_ServerError):
    """The server takes no writes: it is read-only, a replica, or a node without quorum. Nothing moved."""

    _what = "the server takes no writes"
    _remedy = "nothing was committed; roll back and run the whole unit of work again on a server that takes writes"


class OutcomeUnknown(_ServerError):
    """The connection was lost at COMMIT: the transaction is in the database as a whole, or not at all.

    `.tokens` are the tokens of the transaction's fires, in order. `.token` is the one to give to
    `find_by_token`: the token given here, else the first of `.tokens` (they were committed together, so one
    tells of all); None when no fire had one.
    """

    _what = "the connection was lost at COMMIT, which may or may not have succeeded"
    _remedy = "roll back, and ask find_by_token whether it was committed before the unit of work is run again"

    def __init__(
        self,
        *,
        token: str | None = None,
        tokens: Iterable[str] = (),
        code: int | None = None,
        table: str | None = None,
        key: object = None,
        event: str | None = None,
        model: type[Any] | None = None,
    ) -> None:
        self.tokens = list(tokens) or ([] if token is None else [token])
        self.token = self.tokens[0] if token is None and self.tokens else token
        super().__init__(code=code, table=table, key=key, event=event, model=model)

    def _advice(self) -> str:
        if self.token is None:
            return "roll back, and look into the database before the unit of work is run again"
        return self._remedy


class OutcomeHidden(OutcomeUnknown):
    """A fire in AUTOCOMMIT moved the row, and the answer does not contain the state that the row had before.

    This happens once, when the table has got a trigger since the last fire of the event. Later fires of the event run
    in a transaction of their own, whose answer is complete.
    """

    _what = "the row moved, but a new trigger on its table hides the state that the row had before"

    def _advice(self) -> str:
        return "the move is committed; read the row"
