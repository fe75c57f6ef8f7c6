"""The end of every command: a status of :class:`.status.Status`, and a message where the status is an error's.

No command prints a traceback unless it is called with ``--traceback``: the last lines of one can hold SQL and values,
and the output of a command often ends up in a log.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import typer
from sqlalchemy.exc import SQLAlchemyError
from typer import rich_utils
from typer.core import TyperGroup

from ..errors import FSMError
from ..errors.texts import escaped, shown
from ..operations.lookup import NotFound
from .output import OutputLost, tell
from .status import Status, status_of

TRACEBACK = "--traceback"


class Commands(TyperGroup):
    """The group of all commands: the one place where an exception becomes a message and an exit status."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **options: Any,
    ) -> Any:
        """Run a command. Raises: SystemExit with a status of :class:`.status.Status`."""
        given = list(sys.argv[1:] if args is None else args)
        run = super().main
        if not standalone_mode:
            return run(given, prog_name, complete_var, standalone_mode=False, **options)
        sys.exit(
            _status(
                lambda: run(_readable(given), prog_name, complete_var, standalone_mode=False, **options),
                shows_traceback=TRACEBACK in given,
            )
        )


def _status(run: Callable[[], Any], *, shows_traceback: bool) -> int:
    """The exit status of *run*, after its error has been written to the standard error."""
    try:
        result = run()
    except SystemExit as error:
        # typer and rich both end the process with status 1 when a reader closes the pipe.
        if not isinstance(error.__context__, BrokenPipeError):
            raise
        _abandon_output()
        result = Status.CLOSED_PIPE
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - each becomes one line, without a row's values
        if shows_traceback:
            traceback.print_exception(error)
        tell_error = next(tell_error for kinds, tell_error in _ENDINGS if isinstance(error, kinds))
        result = tell_error(error)
    return int(result) if isinstance(result, int) else int(Status.DONE)


def _tell_usage(error: BaseException) -> int:
    """Show how the command is called, and the message of *error*, which may quote what was typed."""
    message = escaped(error.format_message())  # type: ignore[attr-defined]  # every ClickException has it
    error.format_message = lambda: message  # type: ignore[attr-defined]
    rich_utils.rich_format_error(error)  # type: ignore[arg-type]
    return Status.USAGE


def _tell_not_found(error: BaseException) -> int:
    return _tell_usage(typer.BadParameter(str(error)))


def _tell_lost_output(error: BaseException) -> int:
    _abandon_output()
    tell(str(error), err=True)
    return Status.OUTPUT


def _tell_full_disk(error: BaseException) -> int:
    """End as for lost output where the help, which typer prints itself, finds the disk full."""
    if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
        return _tell_unexpected(error)
    _abandon_output()
    tell(f"The output cannot be written: {error.strerror}.", err=True)
    return Status.OUTPUT


def _tell_interrupt(error: BaseException) -> int:
    is_ctrl_c = any(isinstance(cause, KeyboardInterrupt) for cause in _causes(error))
    tell("Interrupted." if is_ctrl_c else "There was no answer, and nothing was changed.", err=True)
    return Status.INTERRUPTED if is_ctrl_c else Status.REFUSED


def _tell_unexpected(error: BaseException) -> int:
    if isinstance(error, FSMError):
        tell(str(error), err=True)
        return status_of(error)
    original = getattr(error, "orig", None) if isinstance(error, SQLAlchemyError) else None
    text = next(iter(str(original or error).splitlines()), "")
    if isinstance(error, (TypeError, ValueError, OverflowError)) and _is_ours(error):
        tell(text, err=True)
        return Status.USAGE
    kind = type(original or error).__name__
    tell(f"{kind}: {text}" if text else kind, err=True)
    tell(f"This error was not expected. {TRACEBACK} before the command's name shows where it was raised.", err=True)
    return Status.UNEXPECTED


# typer brings click along since 0.27, and depends on it before: its exceptions have two addresses.
_ClickException: type[BaseException] = typer.BadParameter.__mro__[2]

# The first that fits.
_ENDINGS: tuple[tuple[Any, Callable[[BaseException], int]], ...] = (
    (_ClickException, _tell_usage),
    (NotFound, _tell_not_found),
    ((typer.Abort, KeyboardInterrupt, EOFError), _tell_interrupt),
    (OutputLost, _tell_lost_output),
    (OSError, _tell_full_disk),
    (BaseException, _tell_unexpected),
)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_ours(error: BaseException) -> bool:
    """Whether a module of this package raised *error*: it then names a wrong value."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    name = frames[-1].f_globals.get("__name__", "") if frames else ""
    return str(name).partition(".")[0] == __name__.partition(".")[0]


def _readable(given: Sequence[str]) -> list[str]:
    """*given* as text. Raises: typer.BadParameter for an argument that is not UTF-8.

    Python reads arguments by the locale, so in the C locale each byte outside of ASCII is a surrogate.
    """
    texts = []
    for number, argument in enumerate(given, start=1):
        try:
            texts.append(argument if argument.isascii() else os.fsencode(argument).decode("utf-8"))
        except UnicodeError:
            raise typer.BadParameter(f"argument {number} is not UTF-8: {shown(argument)}") from None
    return texts


def _abandon_output() -> None:
    """Point the standard output at nothing, so that Python's own flush at the end does not fail as well."""
    try:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
    except (AttributeError, OSError, ValueError):  # closed, or no file
        return
