"""Where the demo plays: a SQLite file of its own, or a table of its own in the database of ``--url``."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL, Engine, inspect, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.orm import Session

from ..databases import is_in_memory
from .orders import COMMENT, TABLE, Base, Order
from .race import first_line, make_engine


class NoStage(Exception):
    """The demo cannot be played there; the text says why, and what to do."""


@contextmanager
def stage(url: str | None, rows: int) -> Iterator[Engine]:
    """An engine on a database with *rows* new orders; gone at the end.

    Raises: NoStage when the database cannot be used, or holds a table of the demo's name that is not the
    demo's.
    """
    if url is None:
        with tempfile.TemporaryDirectory(prefix="fsm-demo-") as folder:
            yield from _set(URL.create("sqlite", database=str(Path(folder) / "orders.db")), rows)
    else:
        yield from _set(_parsed(url), rows)


def _parsed(text: str) -> URL:
    try:
        url = make_url(text)
    except ArgumentError as error:
        raise NoStage(
            "That is no database URL. One looks like mysql+pymysql://user:password@host:3306/database"
        ) from error
    if is_in_memory(url):
        raise NoStage("Processes cannot share a SQLite database in memory: leave --url out, or name a file.")
    if not url.database:
        raise NoStage(f"The URL names no database: add one, as in {url.set(database='test')}")
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
            raise NoStage(f"{url} cannot be used: {first_line(error)}") from error
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
        raise NoStage(f"{url} cannot be used: {first_line(error)}") from error


def _clear(engine: Engine) -> None:
    """Drop what a killed demo left behind.

    Raises: NoStage when the table there is somebody else's.
    """
    there = inspect(engine)
    if not there.has_table(TABLE):
        return
    if not _is_ours(engine):
        raise NoStage(
            f"{engine.url} has a table {TABLE} that is not the demo's, and it is left alone: name another database."
        )
    Base.metadata.drop_all(engine)


def _is_ours(engine: Engine) -> bool:
    there = inspect(engine)
    if engine.dialect.supports_comments:
        return there.get_table_comment(TABLE)["text"] == COMMENT
    return [column["name"] for column in there.get_columns(TABLE)] == list(Order.__table__.c.keys())
