"""Errors that come from the server or the connection, during a fire or at COMMIT."""

from __future__ import annotations

from collections.abc import Iterable

from .roots import FireError
from .texts import row_label, shown


class _ServerError(FireError):
    """An error of the server or the connection, during a fire or at COMMIT; the driver's error is ``__cause__``.

    ``.code`` is the server's error number, None when there is none.
    """

    _what: str
    _remedy: str

    def __init__(
        self,
        *,
        code: int | None = None,
        table: str | None = None,
        key: object = None,
        event: str | None = None,
        model: type[object] | None = None,
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
    """The server has ended the whole transaction: its earlier statements are rolled back, too.

    ``.retryable`` is true when the same unit of work may succeed the next time (a deadlock, a snapshot or certification
    conflict, a connection lost before COMMIT was sent).

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
        model: type[object] | None = None,
    ) -> None:
        self.retryable = retryable
        super().__init__(code=code, table=table, key=key, event=event, model=model)

    def _advice(self) -> str:
        return self._remedy if self.retryable else "roll back, and correct the cause before you run the same work again"


class LockTimeout(_ServerError):
    """The statement ended without the row's lock: another transaction held it too long, or the statement was killed.

    Nothing moved. The transaction goes on, with its earlier work and its locks, unless ``.rolled_back`` is true: then
    the statement belonged to the flush before the event, and SQLAlchemy rolls back a failed flush, to the innermost
    savepoint or the whole transaction.
    """

    _what = "the statement was ended before it got the row's lock"
    # The transaction could go on, but other transactions may be waiting for the locks that it holds.
    _remedy = "nothing moved; roll back, which releases this transaction's locks, and run the unit of work again"

    def __init__(
        self,
        *,
        code: int | None = None,
        rolled_back: bool = False,
        table: str | None = None,
        key: object = None,
        event: str | None = None,
        model: type[object] | None = None,
    ) -> None:
        self.rolled_back = rolled_back
        super().__init__(code=code, table=table, key=key, event=event, model=model)

    def _advice(self) -> str:
        if not self.rolled_back:
            return self._remedy
        return "the flush before the event failed and was rolled back; roll back and run the whole unit of work again"


class TableBusy(LockTimeout):
    """DDL ended without the lock of its table: other transactions used the table during every attempt.

    ``.column`` is the column that was to be changed, ``"orders.state"``. ``.users`` describe the connections of these
    transactions, as far as the account may see them. ``.happened`` and ``.advice`` are the two halves of the message.

    >>> busy = TableBusy(column="orders.state", attempts=5, seconds=1, users=["connection 12 of app@db"], code=1205)
    >>> print(busy.happened)
    other transactions (connection 12 of app@db) used the table during 5 attempts of 1 s
    """

    advice: str
    column: str
    happened: str
    users: list[str]

    def __init__(
        self,
        *,
        column: str,
        attempts: int,
        seconds: int,
        users: Iterable[str] = (),
        left: str = "nothing was changed",
        code: int | None = None,
    ) -> None:
        self.column, self.users = column, list(users)
        who = f" ({'; '.join(self.users)})" if self.users else ""
        self.happened = f"other transactions{who} used the table during {attempts} attempts of {seconds} s"
        self.advice = f"end them, or run it again with a longer lock_wait_timeout=; {left}"
        self._what, self._remedy = f"{column}: {self.happened}", self.advice
        super().__init__(code=code)


class UniqueViolation(_ServerError):
    """An effect, the move or a new row breaks a unique key; nothing moved, and the transaction goes on.

    ``.code`` is the database's error number, None where it gives none. The ``__cause__``, SQLAlchemy's
    ``IntegrityError``, names the key and the value.

    >>> print(UniqueViolation(table="tickets", key=2, event="Seat", code=1062))
    tickets 2: a unique key refused a value while 'Seat' was fired (error 1062); another row has it, and nothing moved.
    """

    _what = "a unique key refused a value"
    _remedy = "another row has it, and nothing moved"


class RowFailed(_ServerError):
    """The event of one row cannot be computed or stored; the row stays as it is, and the transaction goes on.

    ``.code`` is the database's error number, None where a hook has raised. The ``__cause__`` is SQLAlchemy's or the
    hook's error. ``fire_due`` and ``run_due`` go on with the other rows, and their outcome's ``.errors`` has one of
    these for each such row.

    >>> print(RowFailed(table="jobs", key=2, event="Go", code=1690))
    jobs 2: a guard, an effect, a hook or a constraint failed while 'Go' was fired (error 1690); the row stays as it is.
    """

    _what = "a guard, an effect, a hook or a constraint failed"
    _remedy = "the row stays as it is"


class KeyConflict(UniqueViolation):
    """The row could not be created, because another row has one of its unique values. The other row is unchanged."""

    _what = "there is no row with this key, and another row has one of its unique values"
    _remedy = "nothing was changed"


class NotWritable(_ServerError):
    """The server takes no writes: it is read-only, a replica, or a node without quorum. Nothing moved."""

    _what = "the server takes no writes"
    _remedy = "nothing was committed; roll back and run the whole unit of work again on a server that takes writes"


class OutcomeUnknown(_ServerError):
    """The connection was lost at COMMIT: the transaction is in the database as a whole, or not at all.

    ``.tokens`` are the tokens of the transaction's fires, in order. ``.token`` is the one to give to ``find_by_token``:
    the token given here, else the first of ``.tokens``. One is enough, because all were committed together or none was.
    It is None when no fire had a token.
    """

    token: str | None
    tokens: list[str]

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
        model: type[object] | None = None,
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
