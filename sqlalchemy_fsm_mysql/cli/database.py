"""The database that a command works on, and the message when it cannot be used. No message shows a password."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, NoReturn

import typer
from sqlalchemy import URL, Engine, create_engine, make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from ..databases import file_of
from ..databases.urls import LOOKS, cause_of, problem_of, shown_url
from ..errors import FSMError
from .output import fail
from .status import Status, status_of

UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url",
        "-u",
        metavar="URL",
        envvar="DATABASE_URL",
        show_envvar=True,
        help="The database: mysql+pymysql://user:password@host/database. Other users of this machine can see the"
        " arguments of a command, so pass a URL that has a password as DATABASE_URL.",
        show_default=False,
    ),
]


@contextmanager
def database(url: str | None) -> Iterator[Engine]:
    """An engine for *url* that has connected once, READ COMMITTED where the database has that level.

    Raises: typer.BadParameter without a URL, and for one that no driver takes. Within the block, an error of the
    database or of the library ends the command with its status.
    """
    engine = _engine(url)
    try:
        _connect(engine)
        yield engine
    except FSMError as error:
        fail(str(error), status_of(error))
    except DataError as error:
        # A value that the database cannot read as its column's type: it was typed, in a condition or a key.
        fail(cause_of(error, engine.url), Status.USAGE)
    except (DBAPIError, SQLAlchemyError) as error:
        fail(f"{shown_url(engine.url)}: {cause_of(error, engine.url)}", Status.DATABASE)
    finally:
        engine.dispose()


def _refuse(message: str) -> NoReturn:
    """Refuse the URL. Not ``from`` SQLAlchemy's error: some releases of it quote the URL with its password."""
    raise typer.BadParameter(message, param_hint="--url") from None


def _engine(text: str | None) -> Engine:
    if not text:
        _refuse("a database is needed: give --url, or set DATABASE_URL.")
    try:
        url = make_url(text)
        if url.get_dialect().is_async:
            _refuse(
                f"{url.drivername} is a driver for asyncio, which this program does not use: give mysql+pymysql://…"
            )
        _check(url)
        # SQLite has two levels, and neither of this name.
        level = "READ COMMITTED" if "READ COMMITTED" in _levels(url) else None
        return create_engine(url) if level is None else create_engine(url, isolation_level=level)
    except ImportError as error:
        _refuse(
            f"the driver {error.name} is not installed: pip install 'sqlalchemy-fsm-mysql[pymysql]', and use"
            " mysql+pymysql://…"
        )
    except NoSuchModuleError as error:
        _refuse(f"{error} {LOOKS}")
    except (ArgumentError, TypeError, ValueError):
        _refuse(f"this is not a database URL. {LOOKS}")


def _check(url: URL) -> None:
    """Check the parts of *url*.

    Raises: typer.BadParameter for a password that was not escaped, whose rest stands in the host's or the database's
    place, and without a database; typer.Exit where the file of a SQLite database does not exist.
    """
    if problem := problem_of(url):
        _refuse(problem)
    # SQLite makes a file that does not exist, and an empty database hides a misspelt path.
    path = file_of(url)
    if path is not None and not path.is_file():
        fail(f"{shown_url(url)}: there is no such file.", Status.DATABASE)


def _connect(engine: Engine) -> None:
    """Connect once.

    Raises: DBAPIError when the server cannot be reached; typer.BadParameter when the driver refuses an option
    of the URL, with whatever exception of Python.
    """
    try:
        engine.connect().close()
    except SQLAlchemyError:
        raise
    except Exception as error:  # noqa: BLE001 - TypeError, LookupError, OSError, … : what Python raises for options
        _refuse(f"{engine.driver} does not take this URL: {type(error).__name__}: {cause_of(error, engine.url):.200}")


def _levels(url: URL) -> tuple[str, ...]:
    dialect = url.get_dialect()()
    try:
        return tuple(dialect.get_isolation_level_values(None))  # type: ignore[arg-type]  # asks no connection
    except NotImplementedError:
        return ()
