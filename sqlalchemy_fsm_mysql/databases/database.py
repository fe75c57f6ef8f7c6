"""One object for each database: everything that differs between servers, as parts.

A :class:`Database` is a composition; each part has one default implementation, whose methods are the points of
variance, and a database overrides only what differs. Code outside of this folder asks a part, never a dialect's name:
``database.upsert is None``, ``database.sets.can_sweep(…)``, ``database.enforcer.can_enforce``.

To add a database, write the parts that differ, name them in `kinds.py`, and enter it in `SUPPORTED`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import URL, Connection, Dialect

from ..errors import FSMError
from .kinds import ByLocking, Database, MariaDB, MySQL, SQLite

if TYPE_CHECKING:
    from .meanings import ErrorMeanings
    from .syntax import Syntax
    from .triggers import Enforcer
    from .types import ColumnTypes

__all__ = [
    "EXECUTION_OPTION",
    "LOCKING",
    "MARIADB",
    "MYSQL",
    "SQLITE",
    "Database",
    "database_of",
    "database_of_dialect",
    "ends_on_any_error",
    "enforcer_of",
    "errors_of",
    "file_of",
    "has_server",
    "is_embedded",
    "is_in_memory",
    "name_of",
    "require_database",
    "supported",
    "syntax_of",
    "types_of",
]

EXECUTION_OPTION: Final = "fsm_backend"


LOCKING: Final = Database()
"""Any database with row locks and SELECT … FOR UPDATE: a locking read, then the update.

Nothing is known of it but standard SQL. So every error is taken to end the transaction, as on PostgreSQL, and no error
to be worth another attempt.
"""

MYSQL: Final = MySQL()
MARIADB: Final = MariaDB()
SQLITE: Final = SQLite()

SUPPORTED: Final[Mapping[str, Database]] = {database.name: database for database in (MYSQL, MARIADB, SQLITE)}

_BY_LOCKING: Final[Mapping[str, Database]] = {name: ByLocking(database) for name, database in SUPPORTED.items()}


def database_of(connection: Connection) -> Database:
    """The database of *connection*: of its dialect, or the one that the execution option ``fsm_backend`` asks for.

    ``create_engine(url, execution_options={"fsm_backend": "locking"})`` chooses the locking backend, for proxies and
    servers on which ``LAST_INSERT_ID(expr)`` does not work, and for databases that are not supported.

    Raises: FSMError for a database that is not supported; ValueError for an option that names none.
    """
    asked, dialect = connection.get_execution_options().get(EXECUTION_OPTION), connection.dialect
    if asked is not None:
        return _asked_for(asked, dialect)
    # As supported() does, without its calls: every fire comes by here.
    found = SUPPORTED.get("mariadb" if getattr(dialect, "is_mariadb", False) else dialect.name)
    return found or database_of_dialect(dialect)


def database_of_dialect(dialect: Dialect) -> Database:
    """The database that *dialect* connects to.

    Raises: FSMError for a database that is not supported.
    """
    database = supported(dialect)
    if database is None:
        raise FSMError(
            f"the database {dialect.name!r} is not supported; sqlalchemy-fsm-mysql knows {_titles()}. "
            f"For another database with SELECT … FOR UPDATE, choose the locking backend, tested on PostgreSQL only: "
            f'create_engine(url, execution_options={{"{EXECUTION_OPTION}": "locking"}}); '
            "docs/databases.md lists its limits"
        )
    return database


def types_of(dialect: Dialect) -> ColumnTypes:
    """The types of our columns; those of any SQL database where *dialect* is not supported.

    SQLAlchemy asks for a type without a connection, so ``fsm_backend="locking"`` cannot be seen here;
    :func:`require_database` refuses when the table is created, and :func:`database_of` when a row is moved.
    """
    return (supported(dialect) or LOCKING).types


def enforcer_of(dialect: Dialect) -> Enforcer:
    """The triggers that the database of *dialect* can have; none where it is not supported."""
    return (supported(dialect) or LOCKING).enforcer


def errors_of(driver: BaseException | None) -> ErrorMeanings:
    """The meanings of the errors of the database whose driver has raised *driver*.

    An error of a driver that no database knows for its own is taken for one of MySQL. Its drivers are many, and other
    servers that speak its protocol use its numbers.
    """
    known = (database.errors for database in SUPPORTED.values())
    return next((errors for errors in known if driver is not None and errors.is_raised_by(driver)), MYSQL.errors)


def syntax_of(dialect: Dialect) -> Syntax:
    """The SQL text of our expressions; standard SQL where *dialect* is not supported."""
    return (supported(dialect) or LOCKING).syntax


def ends_on_any_error(connection: Connection) -> bool:
    """Whether a failed statement on *connection* ends its transaction; see :class:`Transactions`."""
    return (supported(connection.dialect) or LOCKING).transactions.ends_on_any_error


def require_database(connection: Any) -> None:
    """Refuse to create a state column in a database that is not supported and where no backend is asked for.

    The types of our columns learn from a supported one which collations it has. *connection* may be SQLAlchemy's mock,
    which has no execution options.

    Raises: FSMError for a database that is not supported; ValueError for an option that names none.
    """
    options: Mapping[str, Any] = getattr(connection, "get_execution_options", dict)()
    asked = options.get(EXECUTION_OPTION)
    if asked is None:
        database_of_dialect(connection.dialect)
    else:
        _asked_for(asked, connection.dialect)
    if isinstance(connection, Connection):
        types_of(connection.dialect).learn(connection)


def name_of(dialect: Dialect) -> str:
    """The name of the database in messages, also of one that is not supported."""
    database = supported(dialect)
    return dialect.name if database is None else database.name


def has_server(dialect: Dialect) -> bool:
    """Whether the driver reads the answers of a server from a connection; not so for an embedded database."""
    return (supported(dialect) or LOCKING).is_server


def is_embedded(url: URL) -> bool:
    """Whether *url* is of a database without a server, such as SQLite, which one process at a time writes."""
    database = SUPPORTED.get(url.get_backend_name())
    return database is not None and not database.is_server


def file_of(url: URL) -> Path | None:
    """The file that *url* names; None for a database in memory, a ``file:`` URI, and a server."""
    is_file = is_embedded(url) and not url.host and "uri" not in url.query
    return Path(url.database) if is_file and url.database and url.database != ":memory:" else None


def is_in_memory(url: URL) -> bool:
    """Whether *url* is of a database that only this process sees."""
    return is_embedded(url) and url.database in {None, "", ":memory:"}


def supported(dialect: Dialect) -> Database | None:
    """The database that *dialect* connects to; None when it is not supported."""
    name = dialect.name
    # SQLAlchemy learns at the first connect that a mysql:// URL leads to a MariaDB.
    return SUPPORTED.get("mariadb" if name == "mysql" and getattr(dialect, "is_mariadb", False) else name)


def _titles() -> str:
    *others, last = (database.title for database in SUPPORTED.values())
    return f"{', '.join(others)} and {last}"


def _asked_for(asked: Any, dialect: Dialect) -> Database:
    if asked == LOCKING.name:
        known = supported(dialect)
        return LOCKING if known is None else _BY_LOCKING[known.name]
    if asked not in SUPPORTED:
        names = ", ".join(map(repr, (LOCKING.name, *SUPPORTED)))
        raise ValueError(f"execution option {EXECUTION_OPTION}={asked!r} names no backend; there are {names}")
    return SUPPORTED[asked]
