"""``report``: versions and settings for a bug report, without secrets."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Annotated, Any

import typer

from ..databases import database_of
from ..operations.doctor import check_database
from ..operations.lookup import state_at
from .database import UrlOption, database
from .output import JsonOption, cell, print_json, tell

# The package, what it needs, and the drivers: in the order in which a reader of the report looks for them.
_DISTRIBUTIONS = (
    "sqlalchemy-fsm-mysql",
    "SQLAlchemy",
    "alembic",
    "stamina",
    "mysqlclient",
    "PyMySQL",
    "asyncmy",
    "aiomysql",
    "mysql-connector-python",
    "mariadb",
    "aiosqlite",
)


def report(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODULE:MODEL.STATE]",
            help="Add the kinds of the doctor's findings about this column.",
            show_default=False,
        ),
    ] = None,
    url: UrlOption = None,
    is_json: JsonOption = False,
) -> None:
    """Print versions and settings for a bug report, without any host, user, password, row or name of a table.

    With --url, the report has the server's version, driver and settings. With --url and a model, it also has the kinds
    of the doctor's findings.
    The exit status is 0, 2 when the call is wrong, and 4 when the database cannot be reached or used.
    """
    document: dict[str, Any] = {"python": platform.python_version(), "platform": platform.platform()}
    document["packages"] = {name: version for name in _DISTRIBUTIONS if (version := _version(name)) is not None}
    mapped = None if target is None else state_at(target)
    if url:
        with database(url) as engine, engine.connect() as connection:
            served_by = database_of(connection)
            settings = served_by.catalogue.settings(connection)
            document["server"] = f"{served_by.name} {settings.version}"
            document["driver"] = engine.driver
            document["settings"] = dict(sorted(settings.variables.items()))
            if mapped is not None:
                column = getattr(mapped.model, mapped.attribute)
                found = check_database(column, connection, count_rows=False)
                document["findings"] = [f"{finding.severity}: {finding.kind}" for finding in found]
    elif mapped is not None:
        raise typer.BadParameter("the doctor's findings need a database: also give --url.", param_hint="--url")
    if is_json:
        print_json(document)
        return
    for name, value in document.items():
        if value and isinstance(value, dict):
            tell("\n".join([f"{name}:", *(f"  {cell(key)}: {cell(one)}" for key, one in value.items())]))
        else:
            tell(f"{name}: {cell(', '.join(value) or 'none' if isinstance(value, (list, dict)) else value)}")


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
