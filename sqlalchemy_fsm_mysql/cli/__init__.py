"""The command line, ``sqlalchemy-fsm-mysql``. Each command is a module here, and an entry in :mod:`.app`.

It needs the extra ``cli``. This module does not, so that whoever lacks it is told what to install.
"""

from __future__ import annotations

import sys

__all__ = ["main"]

USAGE_ERROR = 2
_NEEDED = {"typer", "rich"}


def main() -> None:
    """Run the command line and exit with its status: 2 when called wrongly, or without the extra."""
    try:
        from .app import app
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in _NEEDED:
            raise
        sys.exit(_advice(error.name))
    app(prog_name="sqlalchemy-fsm-mysql")


def _advice(missing: str) -> int:
    sys.stderr.write(
        f"The command line needs {missing}, which is not installed. Install the extra 'cli':\n\n"
        "    pip install 'sqlalchemy-fsm-mysql[cli]'\n"
    )
    return USAGE_ERROR
