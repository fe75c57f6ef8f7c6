"""Where the demo plays: a SQLite file of its own, or a table of its own in the database of ``--url``."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Final

from sqlalchemy import URL, Engine, inspect, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.orm import Session

from ..databases import is_in_memory
from ..databases.urls import cause_of, problem_of, shown_url
from ..testing.servers import ServerUnavailable, private_server, seekdb
from .orders import COMMENT, TABLE, Base, Order
from .race import make_engine

SERVERS: Final[Mapping[str, Callable[[], AbstractContextManager[URL]]]] = {
    "seekdb": seekdb,
    "installed": private_server,
}
"""The servers that the demo can start: OceanBase's, from its wheel, and one that is installed on this machine."""


class NoStage(Exception):
    """The demo cannot be played there. The text has the reason and a remedy, and no password."""


class NoDatabase(NoStage):
    """The database of the demo cannot be reached or used."""


@contextmanager
def stage(url: str | None, rows: int, server: str | None = None) -> Iterator[Engine]:
    """An engine on a database with *rows* new orders; gone at the end. *server* is one of `SERVERS`, to be started.

    Raises: NoStage when the database cannot be used, or holds a table of the demo's name that is not the
    demo's; or when the server cannot be started.
    """
    if server is not None:
        with ExitStack() as stack:
            try:
                started = stack.enter_context(SERVERS[server]())
            except ServerUnavailable as error:
                raise NoDatabase(str(error)) from error
            yield from _set(started, rows)
    elif url is None:
        with tempfile.TemporaryDirectory(prefix="fsm-demo-") as folder:
            yield from _set(URL.create("sqlite", database=str(Path(folder) / "orders.db")), rows)
    else:
        yield from _set(_parsed(url), rows)


def _parsed(text: str) -> URL:
    try:
        url = make_url(text)
    except ArgumentError as error:
        raise NoStage(
            "This is not a database URL. One looks like mysql+pymysql://user:password@host:3306/database"
        ) from error
    if is_in_memory(url):
        raise NoStage("Processes cannot share a SQLite database in memory: leave --url out, or name a file.")
    if problem := problem_of(url):
        raise NoStage(problem)
    if not url.database:
        raise NoStage(f"The URL names no database: add one, as in {shown_url(url.set(database='test'))}")
    return url


def _set(url: URL, rows: int) -> Iterator[Engine]:
    engine = _engine(url)
    try:
        try:
            _clear(engine)
            Base.metadata.create_all(engine)
            with Session(engine) as session:
                session.add_all([Order() for _ in range(rows)])
                session.commit()
        except SQLAlchemyError as error:
            raise NoDatabase(f"{shown_url(url)} cannot be used: {cause_of(error, url)}") from error
        except (TypeError, ValueError, LookupError, OSError) as error:  # options that the driver does not take
            raise NoStage(
                f"The driver does not take the URL: {type(error).__name__}: {cause_of(error, url)}"
            ) from error
        try:
            yield engine
        finally:
            Base.metadata.drop_all(engine)
    finally:
        engine.dispose()


def _engine(url: URL) -> Engine:
    try:
        if url.get_dialect().is_async:
            raise NoStage(f"{url.drivername} is for asyncio, and the demo is not: use mysql+pymysql:// instead.")
        return make_engine(url)
    except ModuleNotFoundError as error:
        raise NoStage(
            f"The driver {error.name} is not installed. PyMySQL is enough: pip install"
            " 'sqlalchemy-fsm-mysql[pymysql]', and a URL that begins with mysql+pymysql://"
        ) from error
    except (NoSuchModuleError, ArgumentError) as error:
        raise NoStage(f"{shown_url(url)} cannot be used: {cause_of(error, url)}") from error


def _clear(engine: Engine) -> None:
    """Drop what a killed demo left behind.

    Raises: NoStage when the table there is not the demo's.
    """
    there = inspect(engine)
    if not there.has_table(TABLE):
        return
    if not _is_ours(engine):
        raise NoStage(
            f"{shown_url(engine.url)} has a table {TABLE} that is not the demo's. It is left alone: name another"
            " database."
        )
    Base.metadata.drop_all(engine)


def _is_ours(engine: Engine) -> bool:
    there = inspect(engine)
    if engine.dialect.supports_comments:
        return there.get_table_comment(TABLE)["text"] == COMMENT
    return [column["name"] for column in there.get_columns(TABLE)] == list(Order.__table__.c.keys())
