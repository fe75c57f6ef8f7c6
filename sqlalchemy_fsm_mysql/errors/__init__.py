"""All errors of the library, as one tree below ``FSMError``.

A message says which row, what was asked, what is true, and what would have worked:

>>> where = {"table": "orders", "key": 42, "event": "Ready"}
>>> print(TransitionNotAllowed(**where, state="Deleted", allowed_from=["Initializing", "Running", "Error"]))
orders 42 refused 'Ready': it is 'Deleted'; 'Ready' leaves 'Initializing', 'Running', 'Error'.

A message contains no SQL and no parameter values. A value from outside (an event's name, a key, a state stored in
the row) is shown by ``repr`` and cut at 64 characters, and a list stops after 20 entries; the attributes are whole. The
driver's error is the ``__cause__``.

Every error survives ``pickle`` and ``copy``, so a worker process can hand it to its parent.

The tree: ``roots.py`` has ``FSMError`` and ``FireError``, ``server.py`` the errors of the server and the connection,
and this module all others. ``texts.py`` writes states, keys and lists for messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .roots import FireError as FireError
from .roots import FSMError as FSMError
from .server import KeyConflict as KeyConflict
from .server import LockTimeout as LockTimeout
from .server import NotWritable as NotWritable
from .server import OutcomeHidden as OutcomeHidden
from .server import OutcomeUnknown as OutcomeUnknown
from .server import RowFailed as RowFailed
from .server import TableBusy as TableBusy
from .server import TransactionAborted as TransactionAborted
from .server import UniqueViolation as UniqueViolation
from .texts import State, counted, listed, row_label, shown, stored_form


class InvalidMachine(FSMError, ValueError):
    """The declaration of a machine is wrong, or the model cannot have it. Nothing was sent to the database.

    ``.problems`` (list of str) has a sentence for every problem.

    >>> print(InvalidMachine(["event 'Go' has no transitions"], name="orders"))
    the machine 'orders' has 1 problem:
    - event 'Go' has no transitions
    """

    problems: list[str]

    def __init__(self, problems: Sequence[str], name: str | None = None) -> None:
        self.problems = list(problems)
        self.name = name
        which = "the machine" if name is None else f"the machine {shown(name)}"
        count = counted(len(self.problems), "problem")
        super().__init__("\n- ".join([f"{which} has {count}:", *self.problems]))


class MigrationRefused(FSMError):
    """An Alembic operation refuses to run. The database is unchanged, except for batches that are committed already.

    ``.column`` is the state column, ``"orders.state"``. ``.rows`` (dict of str to int) has the number of rows in each
    state that prevents the migration, by stored value.

    >>> print(MigrationRefused("orders.state", "not empty", "move them first", rows={"Error": 3}))
    orders.state: not empty: 3 rows in 'Error'; move them first
    """

    rows: dict[str, int]

    def __init__(self, column: str, what: str, advice: str, rows: Mapping[str, int] | None = None) -> None:
        self.column = column
        self.rows = dict(rows or {})
        counts = listed(f"{counted(number, 'row')} in {shown(state)}" for state, number in self.rows.items())
        super().__init__(f"{column}: {what}{f': {counts}' if counts else ''}; {advice}")


class UnknownEvent(FSMError, LookupError):
    """The machine has no event with this name. Nothing was sent to the database.

    ``.event`` is the value that was passed as the event's name, of any type. ``.known`` (list of str) has the names of
    the machine's events. ``.model`` is the mapped class, None where only a machine was asked.

    >>> print(UnknownEvent("Halt", ["Ready", "Stop"]))
    the machine has no event 'Halt'; it has 'Ready', 'Stop'.
    """

    known: list[str]

    def __init__(self, event: object, known: Iterable[str], *, model: type[object] | None = None) -> None:
        self.event = event
        self.known = list(known)
        self.model = model
        owner = "the machine" if model is None else model.__name__
        super().__init__(f"{owner} has no event {shown(event)}; it has {listed(map(shown, self.known)) or 'none'}.")


class StateAssignmentError(FSMError):
    """The program assigned a state to a stored row, or an undeclared state to any instance. Fire an event instead.

    ``force_state`` bypasses the machine. Assigning the state that the row has is allowed.
    """


class InstanceStateError(FSMError):
    """The event cannot be fired on this instance: it is transient, detached, deleted, or of another session.

    The event was not fired. Add the instance to the session, or fire by its key with ``fire_key``.
    """


class TransactionRequired(FSMError):
    """The call needs a transaction, or one of another kind. Nothing was sent to the database.

    A history, a token and ``claim`` need a transaction: in AUTOCOMMIT, each statement is a transaction by itself.
    ``commit_with_fire`` needs the outermost transaction, and no two-phase transaction.
    """


class TooManyRows(FSMError):
    """More rows match than the ``max_rows`` of ``fire_where`` allows. No row was moved."""


class HistoryError(FSMError):
    """The history of a row has a gap or a contradiction, or the machine does not have one of its transitions.

    ``.row`` is the first history row that does not follow from the one before it.
    """

    def __init__(self, message: str, row: Any = None) -> None:  # Any: of a class that the program declares
        self.row = row
        super().__init__(message)


class GraphvizMissing(FSMError, RuntimeError):
    """Graphviz is missing: a picture (SVG, PNG) needs the Python package and the program ``dot``. Other formats do not.

    >>> print(GraphvizMissing("Graphviz's program 'dot' is", "apt install graphviz"))
    Graphviz's program 'dot' is not installed, and a picture needs it: apt install graphviz
    """

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what} not installed, and a picture needs it: {remedy}")


class DatabaseUnfit(FSMError):
    """The database does not fit the machine, so ``require_database`` stops the program.

    ``.findings`` (list of ``Finding``) has all findings of the doctor, errors first.

    >>> print(DatabaseUnfit(["error: orders.state does not take 'Failed'; add it"]))
    the database does not fit the machine:
    - error: orders.state does not take 'Failed'; add it
    """

    findings: list[Any]  # Any: Finding, whose module needs SQLAlchemy

    def __init__(self, errors: Sequence[str], findings: Sequence[Any] = ()) -> None:  # Any: as above
        self.findings = list(findings)
        super().__init__("\n- ".join(["the database does not fit the machine:", *errors]))


class TransitionNotAllowed(FireError):
    """The event is not allowed from the state of the row. Nothing was changed, and the transaction goes on.

    ``.state`` (str or Enum member) is the row's state. ``.allowed_from`` (list of states) has the states from which the
    event is allowed, in the machine's order. ``try_fire`` returns `Refused` instead of raising this error.
    """

    allowed_from: list[State]

    def __init__(
        self,
        *,
        table: str,
        key: object,
        event: str,
        state: State,
        allowed_from: Iterable[State],
        model: type[object] | None = None,
    ) -> None:
        self.state = state
        self.allowed_from = list(allowed_from)
        message = f"{row_label(table, key)} refused {shown(event)}: {self._reason(event)}"
        super().__init__(message, model=model, key=key, event=event)

    def _reason(self, event: str) -> str:
        leaves = listed(shown(stored_form(state)) for state in self.allowed_from) or "no state"
        return f"it is {shown(stored_form(self.state))}; {shown(event)} leaves {leaves}."


# The name that machine.guards gives to a lambda.
_UNNAMED = "guard"


class GuardNotSatisfied(TransitionNotAllowed):
    """The event is allowed from the row's state, but no transition had all its guards true. Nothing was changed.

    ``.failed`` (tuple of str) has the names of the guards that are not true of the row, and ``.sentences`` (tuple of
    str) the sentences for people that those guards have. ``.state`` and ``.allowed_from`` are those of
    `TransitionNotAllowed`.

    >>> where = {"table": "orders", "key": 42, "event": "Cancel", "state": "paid", "allowed_from": ["paid"]}
    >>> print(GuardNotSatisfied(**where, failed=["owner", "in time"], sentences=["only the owner may"]))
    orders 42 refused 'Cancel': it is 'paid', but 'owner', 'in time' are not true of this row: only the owner may.
    """

    failed: tuple[str, ...]
    sentences: tuple[str, ...]

    def __init__(
        self,
        *,
        table: str,
        key: object,
        event: str,
        state: State,
        allowed_from: Iterable[State],
        model: type[object] | None = None,
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
    """No row has this key: it was never stored, it is deleted, or a filter of the session hides it.

    >>> print(RowNotFound(table="orders", key=42, event="Ready"))
    orders 42: there is no row with this key, so 'Ready' was not fired; create the row first.
    """

    def __init__(self, *, table: str, key: object, event: str, model: type[object] | None = None) -> None:
        message = (
            f"{row_label(table, key)}: there is no row with this key, so {shown(event)} was not fired;"
            " create the row first."
        )
        super().__init__(message, model=model, key=key, event=event)


class UnknownState(FireError):
    """The row is in a state that the machine does not declare. Nothing was changed.

    A server with a newer release may have written the state, or a statement that bypasses the machine. ``.state`` is
    the stored value, None for NULL. ``.declared`` (list of states) has the states of this machine. ``force_state``
    repairs such a row.
    """

    declared: list[State]

    def __init__(
        self,
        *,
        table: str,
        key: object,
        event: str,
        state: object,
        declared: Iterable[State],
        model: type[object] | None = None,
    ) -> None:
        self.state = state
        self.declared = list(declared)
        message = (
            f"{row_label(table, key)} refused {shown(event)}: it is {shown(state)}, which the machine does"
            f" not declare; it declares {listed(shown(stored_form(known)) for known in self.declared)}."
            " If a newer release declares it, deploy that release; if none does, force_state() repairs the row."
        )
        super().__init__(message, model=model, key=key, event=event)


class TokenConflict(FireError):
    """The token belongs to an earlier fire of another event, or on another row. Nothing was changed.

    ``.token`` (str) is the token. A token stands for one event on one row: make a new token for another fire.
    """

    def __init__(
        self, *, table: str, key: object, event: str, token: str, earlier: str, model: type[object] | None = None
    ) -> None:
        self.token = token
        message = (
            f"{row_label(table, key)} refused {shown(event)}: its token was used before, for {earlier}; "
            "a token stands for one event on one row."
        )
        super().__init__(message, model=model, key=key, event=event)


class RefusedByDatabase(FireError):
    """The triggers of :func:`enforce_machine` refused a statement. It changed nothing, and the transaction goes on.

    Any statement can raise this error: a fire, a flush, or a statement of the application by Core or ORM.

    ``.column`` is the column as the triggers name it, ``"orders.state"``. ``.source`` is the stored value before, and
    ``.target`` the value that was to be stored. For a new row, ``.is_new`` is true and ``.source`` is None. A very long
    value is cut. On SQLite, a value that the machine does not declare is None. ``.code`` (int) is the server's error
    number, None on SQLite.

    >>> print(RefusedByDatabase(column="orders.state", source="Deleted", target="Running"))
    the database refused 'Deleted' to 'Running' in orders.state: its triggers know no such transition.
    """

    code: int | None
    column: str
    is_new: bool
    source: str | None
    target: str | None

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
        model: type[object] | None = None,
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

    def on(self, **row: Any) -> RefusedByDatabase:  # Any: each keyword has its type in FireError
        """The same error with the *row* that was fired on, as keywords of :class:`FireError`."""
        return RefusedByDatabase(
            column=self.column, source=self.source, target=self.target, code=self.code, is_new=self.is_new, **row
        )
