"""The exit statuses of the command line, and the one that each error ends a command with."""

from __future__ import annotations

from enum import IntEnum

from ..errors import (
    FSMError,
    InvalidMachine,
    LockTimeout,
    NotWritable,
    OutcomeUnknown,
    RowNotFound,
    TransactionAborted,
    TransactionRequired,
    UnknownEvent,
)


class Status(IntEnum):
    """Every exit status that a command can have; docs/command_line.md has the table."""

    DONE = 0
    """The row was moved, the command is done, or nothing is wrong."""
    REFUSED = 1
    """The machine refused, or the operator did not confirm; the doctor found an error; two machines differ."""
    USAGE = 2
    """The call is wrong: an argument, an option, a value, the URL. Nothing was sent that changes a row."""
    NOT_FOUND = 3
    """The database has no row with this key."""
    DATABASE = 4
    """The database cannot be reached, or refuses to work: login, lock timeout, read-only, connection lost."""
    OUTPUT = 5
    """The output cannot be written. The command has moved the rows anyway."""
    UNEXPECTED = 70
    """An error that none of the above explains, such as one that a hook of the model raises."""
    INTERRUPTED = 130
    """Ctrl-C."""
    CLOSED_PIPE = 141
    """The program that reads the output has closed it, as `head` does."""


_STATUSES: tuple[tuple[type[FSMError] | tuple[type[FSMError], ...], Status], ...] = (
    (RowNotFound, Status.NOT_FOUND),
    ((UnknownEvent, InvalidMachine), Status.USAGE),
    ((LockTimeout, NotWritable, OutcomeUnknown, TransactionAborted, TransactionRequired), Status.DATABASE),
)


def status_of(error: FSMError) -> Status:
    """The exit status that *error* ends a command with."""
    return next((status for kinds, status in _STATUSES if isinstance(error, kinds)), Status.REFUSED)
