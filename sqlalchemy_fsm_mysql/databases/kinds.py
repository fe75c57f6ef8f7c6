"""The kinds of databases: for each, its parts by name.

The module of a part is imported at the first use of the part: a program that fires on MySQL needs nothing of SQLite,
and neither triggers nor catalogue. The types are there from the beginning. They remember what a server has, and two
threads may make a part twice.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from .mysql.types import MariaDBTypes, MySQLTypes
from .transactions import Transactions
from .types import ColumnTypes

if TYPE_CHECKING:
    from .catalogue import Catalogue
    from .history import HistoryStatements
    from .meanings import ErrorMeanings
    from .packets import Packets
    from .rows import RowStatements
    from .sets import SetStatements
    from .syntax import Syntax
    from .triggers import Enforcer
    from .upsert import Upsert

__all__ = ["ByLocking", "Database", "MariaDB", "MySQL", "SQLite"]


class Database:
    """The parts of one kind of database; these are of any with row locks, and nothing else that is special.

    `title` is its name in messages for people. `upsert` and `packets` are None where it has none.
    """

    name: str = "locking"
    title: str = "a database with row locks"
    is_server: bool = True
    types: ColumnTypes = ColumnTypes()

    @cached_property
    def transactions(self) -> Transactions:
        return Transactions()

    @cached_property
    def rows(self) -> RowStatements:
        from .rows import PortableRows

        return PortableRows(self)

    @cached_property
    def sets(self) -> SetStatements:
        from .sets import SetStatements

        return SetStatements()

    @cached_property
    def history(self) -> HistoryStatements:
        from .history import HistoryStatements

        return HistoryStatements()

    @cached_property
    def upsert(self) -> Upsert | None:
        return None

    @cached_property
    def enforcer(self) -> Enforcer:
        from .triggers import Enforcer

        return Enforcer()

    @cached_property
    def catalogue(self) -> Catalogue:
        from .catalogue import Catalogue

        return Catalogue()

    @cached_property
    def errors(self) -> ErrorMeanings:
        from .meanings import ErrorMeanings

        return ErrorMeanings()

    @cached_property
    def syntax(self) -> Syntax:
        from .syntax import Syntax

        return Syntax()

    @cached_property
    def packets(self) -> Packets | None:
        return None


class MySQL(Database):
    """MySQL, and the servers that speak its protocol."""

    name: str = "mysql"
    title: str = "MySQL"
    types: ColumnTypes = MySQLTypes()

    @cached_property
    def transactions(self) -> Transactions:
        from .mysql.transactions import MySQLTransactions

        return MySQLTransactions()

    @cached_property
    def rows(self) -> RowStatements:
        from .mysql.rows import MySQLRows

        return MySQLRows(self)

    @cached_property
    def sets(self) -> SetStatements:
        from .mysql.sets import MySQLSets

        return MySQLSets(self.transactions)

    @cached_property
    def history(self) -> HistoryStatements:
        from .mysql.history import MySQLHistory

        return MySQLHistory()

    @cached_property
    def upsert(self) -> Upsert | None:
        from .mysql.upsert import MySQLUpsert

        return MySQLUpsert(self.transactions)

    @cached_property
    def enforcer(self) -> Enforcer:
        from .mysql.triggers import MySQLEnforcer

        return MySQLEnforcer()

    @cached_property
    def catalogue(self) -> Catalogue:
        from .mysql.catalogue import MySQLCatalogue

        return MySQLCatalogue()

    @cached_property
    def errors(self) -> ErrorMeanings:
        from .mysql.errors import MySQLErrors

        return MySQLErrors()

    @cached_property
    def syntax(self) -> Syntax:
        from .mysql.syntax import MySQLSyntax

        return MySQLSyntax()

    @cached_property
    def packets(self) -> Packets | None:
        from .mysql.packets import MySQLPackets
        from .mysql.rows import MySQLRows

        return MySQLPackets(MySQLRows(self))


class MariaDB(MySQL):
    name: str = "mariadb"
    title: str = "MariaDB"
    types: ColumnTypes = MariaDBTypes()

    @cached_property
    def transactions(self) -> Transactions:
        from .mysql.transactions import MariaDBTransactions

        return MariaDBTransactions()

    @cached_property
    def syntax(self) -> Syntax:
        from .mysql.syntax import MariaDBSyntax

        return MariaDBSyntax()

    @cached_property
    def catalogue(self) -> Catalogue:
        from .mysql.catalogue import MariaDBCatalogue

        return MariaDBCatalogue()


class SQLite(Database):
    """SQLite, which one process at a time writes."""

    name: str = "sqlite"
    title: str = "SQLite"
    is_server: bool = False

    @cached_property
    def transactions(self) -> Transactions:
        from .sqlite.rows import SQLiteTransactions

        return SQLiteTransactions()

    @cached_property
    def rows(self) -> RowStatements:
        from .sqlite.rows import SQLiteRows

        return SQLiteRows(self)

    @cached_property
    def enforcer(self) -> Enforcer:
        from .sqlite.triggers import SQLiteEnforcer

        return SQLiteEnforcer()

    @cached_property
    def errors(self) -> ErrorMeanings:
        from .sqlite.errors import SQLiteErrors

        return SQLiteErrors()

    @cached_property
    def syntax(self) -> Syntax:
        from .sqlite.syntax import SQLiteSyntax

        return SQLiteSyntax()


class ByLocking(Database):
    """A database under ``fsm_backend="locking"``: other statements move rows, its types and triggers stay."""

    name: str
    title: str
    is_server: bool
    types: ColumnTypes

    def __init__(self, database: Database) -> None:
        self.name, self.title, self.is_server = database.name, database.title, database.is_server
        self.types = database.types
        self._database = database

    @cached_property
    def transactions(self) -> Transactions:
        return self._database.transactions

    @cached_property
    def rows(self) -> RowStatements:
        if self.is_server:
            from .mysql.rows import MySQLLockingRows

            return MySQLLockingRows(self)
        from .rows import RowStatements

        return RowStatements(self)

    @cached_property
    def history(self) -> HistoryStatements:
        if not self.is_server:
            return self._database.history
        from .mysql.history import MySQLLockingHistory

        return MySQLLockingHistory()

    @cached_property
    def enforcer(self) -> Enforcer:
        return self._database.enforcer

    @cached_property
    def catalogue(self) -> Catalogue:
        return self._database.catalogue

    @cached_property
    def errors(self) -> ErrorMeanings:
        return self._database.errors

    @cached_property
    def syntax(self) -> Syntax:
        return self._database.syntax
