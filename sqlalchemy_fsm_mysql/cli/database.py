"""The database that a command works on, and what is said when it cannot be used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, NoReturn

import typer
from sqlalchemy import URL, Engine, create_engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from ..errors import FSMError, LockTimeout, NotWritable, OutcomeUnknown, TransactionAborted, TransactionRequired

REFUSED, UNUSABLE = 1, 2
"""Exit statuses: the machine said no; the call was wrong, or the database could not be used."""

_UNUSABLE = (LockTimeout, NotWritable, OutcomeUnknown, TransactionAborted, TransactionRequired)

UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url",
        "-u",
        metavar="URL",
        envvar="DATABASE_URL",
        show_envvar=True,
        help="The database: mysql+pymysql://user:password@host/database. Other users of this machine may see a"
        " password in a command's arguments; the environment variable keeps it from them.",
        show_default=False,
    ),
]


@contextmanager
def database(url: str | None) -> Iterator[Engine]:
    """An engine for *url*, READ COMMITTED where the database has that.

    Raises: typer.BadParameter without a URL, or for one that names no usable driver. Within the block, an error of the
    database ends the command with status 2, and one of the library with status 1.
    """
    engine = _engine(url)
    try:
        yield engine
    except FSMError as error:
        fail(str(error), status_of(error))
    except (DBAPIError, SQLAlchemyError) as error:
        fail(f"{shown_url(engine.url)}: {first_line(error)}", UNUSABLE)
    finally:
        engine.dispose()


def status_of(error: FSMError) -> int:
    """The exit status that *error* ends a command with."""
    return UNUSABLE if isinstance(error, _UNUSABLE) else REFUSED


def fail(message: str, status: int) -> NoReturn:
    """End the command with *status*, and *message* on the standard error."""
    typer.echo(message, err=True)
    raise typer.Exit(status)


def first_line(error: BaseException) -> str:
    """What the driver said, without the statement and its values."""
    original = getattr(error, "orig", None) or error
    return next(iter(str(original).splitlines()), "") or type(original).__name__


_LOOKS = "A URL looks like mysql+pymysql://user@host:3306/database."


def _engine(url: str | None) -> Engine:
    if not url:
        raise typer.BadParameter("which database? Give --url, or set DATABASE_URL.", param_hint="--url")
    try:
        parsed = make_url(url)
        if parsed.get_dialect().is_async:
            raise typer.BadParameter(
                f"{parsed.drivername} is a driver for asyncio, and this program is not: use mysql+pymysql://…",
                param_hint="--url",
            )
        # SQLite has two levels, and neither of this name.
        level = "READ COMMITTED" if "READ COMMITTED" in _levels(parsed) else None
        return create_engine(parsed) if level is None else create_engine(parsed, isolation_level=level)
    except ModuleNotFoundError as error:
        raise typer.BadParameter(
            f"the driver {error.name} is not installed: pip install 'sqlalchemy-fsm-mysql[pymysql]', and use"
            " mysql+pymysql://…",
            param_hint="--url",
        ) from error
    except NoSuchModuleError as error:
        raise typer.BadParameter(f"{error} {_LOOKS}", param_hint="--url") from error
    except (ArgumentError, ValueError):
        # Not what SQLAlchemy says: some releases of it quote the URL, with its password.
        raise typer.BadParameter(f"this is no database's URL. {_LOOKS}", param_hint="--url") from None


def _levels(url: URL) -> tuple[str, ...]:
    dialect = url.get_dialect()()
    try:
        return tuple(dialect.get_isolation_level_values(None))  # type: ignore[arg-type]  # asks no connection
    except NotImplementedError:
        return ()


def shown_url(url: URL) -> str:
    """*url* for people, without its password."""
    return url.render_as_string(hide_password=True)
