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
    """The server has ended the whole transaction, and has also rolled back its earlier statements.

    ``.retryable`` (bool) is true when the same unit of work can succeed the next time: after a deadlock, a snapshot or
    certification conflict, or a connection that was lost before COMMIT was sent. ``run_transaction`` then runs the unit
    again. ``.code`` (int) is the server's error number, None without one.

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
    """The statement did not get the row's lock: another transaction held it too long, or the statement was killed.

    Nothing moved, and the transaction goes on with its earlier work and its locks. If ``.rolled_back`` (bool) is
    true, the statement belonged to the flush before the event. SQLAlchemy then has rolled back to the innermost
    savepoint, or the whole transaction.
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
    """DDL did not get the lock of its table: other transactions used the table during every attempt.

    ``.column`` is the column that was to be changed, ``"orders.state"``. ``.users`` (list of str) describes the
    connections of these transactions, if the account may see them. ``.happened`` and ``.advice`` (str) are the two
    halves of the message.

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
    """An effect, the move or a new row would break a unique key. Nothing moved, and the transaction goes on.

    ``.code`` (int) is the database's error number, None where it gives none. The ``__cause__``, SQLAlchemy's
    ``IntegrityError``, names the key and the value.

    >>> print(UniqueViolation(table="tickets", key=2, event="Seat", code=1062))
    tickets 2: a unique key refused a value while 'Seat' was fired (error 1062); another row has it, and nothing moved.
    """

    _what = "a unique key refused a value"
    _remedy = "another row has it, and nothing moved"


class RowFailed(_ServerError):
    """The event of one row cannot be computed or stored. The row keeps its state, and the transaction goes on.

    ``fire_due`` and ``run_due`` do not raise this error. They go on with the other rows, and the ``.errors`` of their
    outcome has a ``RowFailed`` for each such row. ``.code`` (int) is the database's error number, None if a hook
    raised the error. The ``__cause__`` is SQLAlchemy's error or that of the hook.

    >>> print(RowFailed(table="jobs", key=2, event="Go", code=1690))
    jobs 2: a guard, an effect, a hook or a constraint failed while 'Go' was fired (error 1690); the row stays as it is.
    """

    _what = "a guard, an effect, a hook or a constraint failed"
    _remedy = "the row stays as it is"


class KeyConflict(UniqueViolation):
    """``fire_or_create`` cannot create the row: another row has one of its unique values. No row was changed."""

    _what = "the row cannot be created"
    _remedy = "another row has one of its unique values, and nothing was changed"


class NotWritable(_ServerError):
    """The server takes no writes: it is read-only, a replica, or a node without quorum. Nothing moved.

    Run the whole unit of work again on a server that takes writes. ``.code`` (int) is the server's error number.
    """

    _what = "the server takes no writes"
    _remedy = "nothing was committed; roll back and run the whole unit of work again on a server that takes writes"


class OutcomeUnknown(_ServerError):
    """The connection was lost at COMMIT: either the whole transaction is committed, or nothing of it.

    ``.token`` (str or None) is the token to pass to ``find_by_token``, which finds out. It is None if no fire had a
    token. ``.tokens`` (list of str) has the tokens of all fires of the transaction, in order. One is enough, because
    they were committed together.
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
    """A fire in AUTOCOMMIT has moved the row, but the answer does not contain the state that the row had before.

    The move is committed. This happens once, when the table has got a trigger since the last fire of the event. Later
    fires of the event run in a transaction of their own, whose answer is complete.
    """

    _what = "the row moved, but a new trigger on its table hides the state that the row had before"

    def _advice(self) -> str:
        return "the move is committed; read the row"
