"""The checks of a server's and a connection's settings.

To add one, write a generator that takes the `Settings`, enter it in `SETTINGS`, name the variables that it reads in the
catalogue of the database, and add its kind to docs/doctor.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ...databases.catalogue import Settings
from ...errors.texts import listed
from ..findings import Finding

__all__ = ["SETTINGS"]

# The bits of wsrep_sync_wait for UPDATE and for INSERT; that of SELECT is not enough.
_WRITES = 2 | 4


def _strictness(known: Settings) -> Iterator[Finding]:
    mode = known.variables.get("sql_mode")
    if mode is not None and not {"STRICT_TRANS_TABLES", "STRICT_ALL_TABLES"} & set(mode.upper().split(",")):
        what = "the connection is not in strict mode: the server stores '' for a bad ENUM value, and cuts a long text"
        yield Finding("warning", "strict mode", what, "add STRICT_TRANS_TABLES to sql_mode")


def _found_rows(known: Settings) -> Iterator[Finding]:
    if known.counts_found_rows is False:
        what = (
            "the driver's flag FOUND_ROWS is off, so an UPDATE counts changed rows only, and a self transition counts 0"
        )
        yield Finding("warning", "found rows", what, "leave client_flag to SQLAlchemy, which sets it")


def _isolation(known: Settings) -> Iterator[Finding]:
    level = (known.variables.get("transaction_isolation") or known.variables.get("tx_isolation") or "").upper()
    advice = 'create_engine(url, isolation_level="READ COMMITTED")'
    if level == "REPEATABLE-READ" and known.says("innodb_snapshot_isolation", "ON", "1"):
        what = (
            "the isolation level is REPEATABLE READ with innodb_snapshot_isolation: on busy rows, transactions end with"
            " error 1020"
        )
        yield Finding("warning", "isolation level", what, advice)
    elif level == "REPEATABLE-READ":
        what = (
            "the isolation level is REPEATABLE READ: a refused row stays locked until COMMIT, and plain reads show an"
            " older snapshot"
        )
        yield Finding("note", "isolation level", what, advice)
    elif level not in ("", "READ-COMMITTED"):
        yield Finding("warning", "isolation level", f"the isolation level is {level.replace('-', ' ')}", advice)


def _binary_log(known: Settings) -> Iterator[Finding]:
    level = (known.variables.get("transaction_isolation") or known.variables.get("tx_isolation") or "").upper()
    is_logged = known.says("log_bin", "ON", "1") and not known.says("sql_log_bin", "OFF", "0")
    # InnoDB: a statement's effect under these levels depends on what others commit, so its text cannot be replayed.
    if is_logged and known.says("binlog_format", "STATEMENT") and level in ("READ-COMMITTED", "READ-UNCOMMITTED"):
        what = (
            f"binlog_format is STATEMENT, and the isolation level is {level.replace('-', ' ')}: every write fails with"
            " error 1665"
        )
        yield Finding("error", "binary log", what, "set binlog_format to ROW or MIXED, or use REPEATABLE READ")


def _writable(known: Settings) -> Iterator[Finding]:
    on = [
        name
        for name in ("read_only", "super_read_only", "innodb_read_only", "transaction_read_only", "tx_read_only")
        if known.variables.get(name, "OFF").upper() not in ("OFF", "0", "")
    ]
    if on:
        what = f"the server takes no writes: {', '.join(on)}"
        yield Finding("error", "read only", what, "connect to the primary")


def _clusters(known: Settings) -> Iterator[Finding]:
    wait = known.variables.get("wsrep_sync_wait", "0")
    if known.says("wsrep_on", "ON", "1") and not (wait.isdigit() and int(wait) & _WRITES == _WRITES):
        what = f"this is a Galera node with wsrep_sync_wait = {wait}: a refusal can name a state that the row has left"
        yield Finding("warning", "stale refusals", what, "SET SESSION wsrep_sync_wait = 7 on each new connection")
    consistency = known.variables.get("group_replication_consistency", "BEFORE").upper()
    waits = consistency in ("BEFORE", "BEFORE_AND_AFTER")
    # A server without a group can have the variables all the same: the plugin alone brings them, and seekdb has them.
    is_member = known.variables.get("group_replication_group_name", "") != ""
    has_several = is_member and known.says("group_replication_single_primary_mode", "OFF", "0")
    if has_several and not waits:
        what = (
            f"the group has several primaries, and group_replication_consistency is {consistency}: a refusal can name a"
            " state that the row has left"
        )
        yield Finding("warning", "stale refusals", what, "SET SESSION group_replication_consistency = 'BEFORE'")
    if has_several:
        what = (
            "the group has several primaries: after a conflict between members, a SAVEPOINT loses the changes before it"
        )
        yield Finding("warning", "savepoints", what, "use one primary, or send all writes to one member")


def _durability(known: Settings) -> Iterator[Finding]:
    weak = [
        f"{name} = {known.variables[name]}"
        for name in ("innodb_flush_log_at_trx_commit", "sync_binlog")
        if known.variables.get(name, "1") != "1" and (name != "sync_binlog" or known.says("log_bin", "ON", "1"))
    ]
    if weak:
        what = f"a crash of the server can lose committed transitions: {', '.join(weak)}"
        yield Finding("note", "durability", what, "set each to 1, unless you accept that loss")


def _character_set(known: Settings) -> Iterator[Finding]:
    client = known.variables.get("character_set_client", "").lower()
    if known.charset and client and _UTF8.get(client, client) != _UTF8.get(known.charset, known.charset):
        what = (
            f"the server reads this connection as {client}, but the driver writes {known.charset}, because a"
            " statement SET NAMES changed it: a text can end its quotes and run as SQL"
        )
        yield Finding("error", "client charset", what, "set the character set in the URL instead: ?charset=utf8mb4")
    other = sorted(
        {
            known.variables[name]
            for name in ("character_set_client", "character_set_connection", "character_set_results")
            if known.variables.get(name, "utf8mb4") not in ("utf8mb4", "")
        }
    )
    if other:
        what = (
            f"the connection's character set is {listed(other)}: it cannot send every text, and mysqlclient cannot "
            "read every error message of the server"
        )
        yield Finding("note", "character set", what, "add ?charset=utf8mb4 to the URL")


_UTF8 = {"utf8": "utf8mb4", "utf8mb3": "utf8mb4"}  # alike for the quotes


def _proxy(known: Settings) -> Iterator[Finding]:
    if known.is_pooled:
        what = (
            "a proxy shares server connections: outside of a transaction each statement may go to another one, and "
            "LAST_INSERT_ID() and session variables may belong to another client"
        )
        yield Finding("warning", "proxy", what, "fire in transactions, not in AUTOCOMMIT")


SETTINGS: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
    _strictness,
    _found_rows,
    _isolation,
    _binary_log,
    _writable,
    _clusters,
    _character_set,
    _durability,
    _proxy,
)
