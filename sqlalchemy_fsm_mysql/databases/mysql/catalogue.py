"""The facts about a column, its table and the server's settings on MySQL and MariaDB."""

from __future__ import annotations

import re
from typing import Any, cast

from sqlalchemy import Column, Connection, Table, bindparam, false, insert, select, text, update
from sqlalchemy.engine import Inspector
from sqlalchemy.exc import DBAPIError

from ..catalogue import Catalogue, Settings
from . import literals

__all__ = ["MariaDBCatalogue", "MySQLCatalogue"]


class MySQLCatalogue(Catalogue):
    """The facts that MySQL and MariaDB have in information_schema, SHOW VARIABLES and SHOW GRANTS."""

    is_scriptable = True

    VARIABLES = (
        *("sql_mode", "transaction_isolation", "tx_isolation", "innodb_snapshot_isolation"),
        *("read_only", "super_read_only", "innodb_read_only", "transaction_read_only", "tx_read_only"),
        *("wsrep_on", "wsrep_sync_wait", "group_replication_consistency", "group_replication_single_primary_mode"),
        "group_replication_group_name",
        *("character_set_client", "character_set_connection", "character_set_results"),
        *("binlog_format", "innodb_flush_log_at_trx_commit", "log_bin", "sync_binlog", "sql_log_bin"),
    )

    def engine(self, inspector: Inspector, table: Table, schema: str | None) -> str | None:
        options = inspector.get_table_options(table.name, schema=schema)
        return cast("str | None", options.get("mysql_engine") or options.get("mariadb_engine"))

    def column_names(self, connection: Connection, table: Table) -> set[str]:
        query = text(
            "SELECT COLUMN_NAME FROM information_schema.COLUMNS"
            " WHERE TABLE_SCHEMA = COALESCE(:schema, DATABASE()) AND TABLE_NAME = :table"
        )
        where = {"schema": connection.schema_for_object(table), "table": table.name}
        return {str(name) for name in connection.scalars(query, where)}

    def enum_value(self, reflected: str) -> str:
        return re.sub(r"\\(.)", r"\1", reflected)  # SHOW CREATE TABLE doubles a backslash, and SQLAlchemy leaves it so

    def collation(self, connection: Connection, column: Column[Any]) -> str | None:
        query = text(
            "SELECT COLLATION_NAME FROM information_schema.COLUMNS WHERE TABLE_NAME = :table"
            " AND TABLE_SCHEMA = COALESCE(:schema, DATABASE()) AND COLUMN_NAME = :column"
        )
        schema = connection.schema_for_object(column.table)
        where = {"schema": schema, "table": column.table.name, "column": column.name}
        return cast("str | None", connection.execute(query, where).scalar())

    def settings(self, connection: Connection) -> Settings:
        query = text("SHOW VARIABLES WHERE Variable_name IN :names").bindparams(bindparam("names", expanding=True))
        found = connection.execute(query, {"names": list(self.VARIABLES)}).all()
        version = str(connection.execute(text("SELECT VERSION()")).scalar_one())
        variables = {str(row[0]).lower(): str(row[1]) for row in found}
        pooled, charset = _is_pooled(connection), _charset(connection)
        return Settings(version, variables, _counts_found_rows(connection), pooled, charset)

    def unenforced_checks(self, connection: Connection, table: Table) -> set[str]:
        query = text(
            "SELECT CONSTRAINT_NAME FROM information_schema.TABLE_CONSTRAINTS WHERE ENFORCED = 'NO'"
            " AND TABLE_SCHEMA = COALESCE(:schema, DATABASE()) AND TABLE_NAME = :table"
        )
        where = {"schema": connection.schema_for_object(table), "table": table.name}
        return {str(name) for name in connection.scalars(query, where)}

    def missing_rights(self, connection: Connection, column: Column[Any], *, writes: str) -> list[str]:
        # EXPLAIN needs the rights of the statement, granted in any way, and runs nothing.
        statement: Any = update(column.table).where(false()).values({column: column})
        if writes == "insert":
            statement = insert(column.table).from_select([column.name], select(column).where(false()))
        compiled = str(statement.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True}))
        options = {"no_parameters": True}
        try:
            connection.exec_driver_sql(f"EXPLAIN {compiled}", execution_options=options).close()
        except DBAPIError as error:
            denied = re.search(r"(\w+(?:, \w+)*) command denied", str(error.orig))
            return [denied[1]] if denied is not None else []
        return []

    def definer_problem(self, connection: Connection, table: Table, definer: str) -> str | None:
        user, _, host = definer.rpartition("@")
        account = {"user": user, "host": host}
        try:
            known = connection.execute(_ACCOUNT, account).first()
            if known is None:
                return "does not exist any more"
            grants = connection.execute(text("SHOW GRANTS FOR :user@:host"), account).scalars().all()
        except DBAPIError:  # this account may not read the accounts
            return None
        schema = connection.schema_for_object(table) or str(connection.scalar(text("SELECT DATABASE()")))
        # A trigger runs with its definer's rights; it needs TRIGGER, and SELECT for OLD and NEW.
        lacking = [
            right
            for right in ("TRIGGER", "SELECT")
            if not any(gives(str(grant), right, schema, table.name) for grant in grants)
        ]
        return f"lacks {' and '.join(lacking)}" if lacking else None

    def strings(self, listed: str) -> tuple[str, ...]:
        return literals.strings(listed)

    def may_see_columns(self, connection: Connection, table: Table) -> bool:
        return self._has("SELECT", connection, table)

    def may_see_triggers(self, connection: Connection, table: Table) -> bool:
        return self._has("TRIGGER", connection, table)

    def _has(self, privilege: str, connection: Connection, table: Table) -> bool:
        """Whether the account has *privilege* on all of *table*, by a grant of its own."""
        schema = connection.schema_for_object(table) or str(connection.scalar(text("SELECT DATABASE()")))
        grants = [str(row[0]) for row in connection.execute(text("SHOW GRANTS"))]
        return any(gives(grant, privilege, schema, table.name) for grant in grants)


class MariaDBCatalogue(MySQLCatalogue):
    """As MySQL's; MariaDB enforces every CHECK."""

    def unenforced_checks(self, connection: Connection, table: Table) -> set[str]:
        return set()


_GRANT = re.compile(
    r"GRANT (?P<rights>.*) ON (?:TABLE )?(?P<schema>\*|`(?:[^`]|``)*`)\.(?P<table>\*|`(?:[^`]|``)*`) TO ", re.DOTALL
)


def gives(grant: str, right: str, schema: str, table: str) -> bool:
    """Whether *grant*, a line of SHOW GRANTS, may give *right* on a table. A role may give anything.

    >>> grant = "GRANT SELECT, TRIGGER ON `shop\\\\_eu`.* TO `app`@`%`"
    >>> gives(grant, "TRIGGER", "shop_eu", "orders"), gives(grant, "TRIGGER", "shop", "orders")
    (True, False)
    """
    found = _GRANT.match(grant)
    if found is None:
        return " ON " not in grant
    if not re.search(rf"\b(?:{right}|ALL PRIVILEGES)\b", found["rights"]):
        return False
    if found["table"] != "*":
        return (_name(found["schema"]), _name(found["table"])) == (schema, table)
    # In a grant on a whole database, % and _ are wildcards unless a backslash stands before them.
    pattern = re.sub(
        r"\\(.)|(%)|(_)|(.)",
        lambda part: ".*" if part[2] else "." if part[3] else re.escape(part[1] or part[4]),
        _name(found["schema"]),
        flags=re.DOTALL,
    )
    return found["schema"] == "*" or re.fullmatch(pattern, schema, re.DOTALL) is not None


def _name(quoted: str) -> str:
    return quoted[1:-1].replace("``", "`")


_ACCOUNT = text("SELECT 1 FROM mysql.user WHERE User = :user AND Host = :host")


def _is_pooled(connection: Connection) -> bool | None:
    """Whether the server connection is another one than the driver has: a proxy stands between."""
    driver = connection.connection.driver_connection
    own = getattr(driver, "thread_id", None) or getattr(driver, "connection_id", None)
    number = own() if callable(own) else own
    if not isinstance(number, int):
        return None
    return bool(connection.scalar(text("SELECT CONNECTION_ID()")) != number)


def _charset(connection: Connection) -> str | None:
    """The character set that the driver was given, and escapes texts for; None where the driver does not show it."""
    driver = connection.connection.driver_connection
    named = getattr(driver, "character_set_name", None)
    charset = named() if callable(named) else getattr(driver, "charset", None)
    return charset.lower() if isinstance(charset, str) and charset else None


def _counts_found_rows(connection: Connection) -> bool | None:
    """Whether an UPDATE that changes nothing counts its row: what CLIENT_FOUND_ROWS makes of it. Tried out.

    None where it cannot be tried: without the privilege for temporary tables, or where no row can be written at all.
    """
    try:
        # With a key, and an UPDATE by it: sql_safe_updates refuses any other with error 1175.
        connection.execute(text("CREATE TEMPORARY TABLE fsm_doctor (n INT PRIMARY KEY)"))
    except DBAPIError:
        return None
    try:
        connection.execute(text("INSERT INTO fsm_doctor VALUES (1)"))
        return connection.execute(text("UPDATE fsm_doctor SET n = 1 WHERE n = 1")).rowcount == 1
    except DBAPIError:  # MariaDB under READ COMMITTED with binlog_format=STATEMENT: error 1665
        return None
    finally:
        connection.execute(text("DROP TEMPORARY TABLE fsm_doctor"))
