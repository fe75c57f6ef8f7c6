"""The command line, ``sqlalchemy-fsm-mysql``. Each command is a module here, and an entry in :mod:`.app`.

It needs the extra ``cli``. This module does not, so that it can name the missing extra.
"""

from __future__ import annotations

import io
import sys

__all__ = ["main"]

# As in .status, whose module needs SQLAlchemy.
USAGE_ERROR, INTERRUPTED = 2, 130
_NEEDED = {"typer", "rich"}


def main() -> None:
    """Run the command line and exit with a status of :class:`.status.Status`; 2 without the extra."""
    _escape_unknown_characters()
    try:
        from .app import app
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in _NEEDED:
            raise
        sys.exit(_advice(error.name))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    app(prog_name="sqlalchemy-fsm-mysql")


def _escape_unknown_characters() -> None:
    """Have the outputs write a character that their encoding lacks (in the C locale, all but ASCII) as its escape."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _advice(missing: str) -> int:
    sys.stderr.write(
        f"The command line needs {missing}, which is not installed. Install the extra 'cli':\n\n"
        "    pip install 'sqlalchemy-fsm-mysql[cli]'\n"
    )
    return USAGE_ERROR
