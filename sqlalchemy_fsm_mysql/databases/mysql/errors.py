"""The meanings of MySQL's and MariaDB's errors, in one table; and of those of servers that speak their protocol."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ...errors.texts import shown
from ..meanings import Cause, ErrorMeanings, Meaning
from ..messages import REFUSED

__all__ = ["CODES", "MySQLErrors"]

# MySQL: https://dev.mysql.com/doc/mysql-errors/9.4/en/server-error-reference.html
# MariaDB: https://mariadb.com/kb/en/mariadb-error-code-reference/
CODES: dict[int, Meaning] = {
    1213: Meaning.ABORTED,  # deadlock; at COMMIT on Galera: certification failed
    1020: Meaning.ABORTED,  # MariaDB: record has changed since the snapshot
    1053: Meaning.ABORTED,  # MySQL: server shutdown in progress; COMMIT included, which has then done nothing
    1206: Meaning.ABORTED,  # the lock table is full: InnoDB rolls back all of the transaction, as for a deadlock
    1402: Meaning.ABORTED,  # XA: branch was rolled back
    1613: Meaning.ABORTED,  # XA: branch was rolled back, it took too long
    1614: Meaning.ABORTED,  # XA: branch was rolled back, deadlock
    4060: Meaning.ABORTED,  # MariaDB: the transaction was rolled back and cannot be committed
    3101: Meaning.ABORTED,  # Group Replication: certification failed
    8002: Meaning.ABORTED,  # TiDB: SELECT FOR UPDATE conflict
    8005: Meaning.ABORTED,  # TiDB: write conflict
    8022: Meaning.ABORTED,  # TiDB: commit failed, retry
    8028: Meaning.ABORTED,  # TiDB: the table was altered meanwhile
    9007: Meaning.ABORTED,  # TiDB: write conflict
    6002: Meaning.ABORTED,  # OceanBase: transaction was killed, or needs to be rolled back
    6235: Meaning.ABORTED,  # OceanBase: transaction needs to be rolled back
    1205: Meaning.LOCK_TIMEOUT,  # lock wait; see MySQLTransactions.ends_on_lock_wait
    1317: Meaning.LOCK_TIMEOUT,  # KILL QUERY
    1969: Meaning.LOCK_TIMEOUT,  # MariaDB: max_statement_time
    3024: Meaning.LOCK_TIMEOUT,  # MySQL: max_execution_time
    3572: Meaning.LOCK_TIMEOUT,  # NOWAIT
    1290: Meaning.NOT_WRITABLE,  # --read-only
    1836: Meaning.NOT_WRITABLE,  # read-only mode
    1792: Meaning.NOT_WRITABLE,  # READ ONLY transaction
    1874: Meaning.NOT_WRITABLE,  # --innodb-read-only
    1665: Meaning.NOT_WRITABLE,  # binlog_format=STATEMENT under READ COMMITTED
    1047: Meaning.NOT_WRITABLE,  # Galera: node without quorum
    3100: Meaning.NOT_WRITABLE,  # Group Replication, at COMMIT: member without majority
    3796: Meaning.NOT_WRITABLE,  # Group Replication: a member that is not in the group
    3797: Meaning.NOT_WRITABLE,  # Group Replication: waiting for the others' transactions, before any of our own
    3798: Meaning.NOT_WRITABLE,  # Group Replication: the same, with 'AFTER'
    3799: Meaning.NOT_WRITABLE,  # Group Replication: the plugin is stopping
    REFUSED: Meaning.REFUSED,  # our own number, of SIGNAL
    1022: Meaning.DUPLICATE,  # duplicate key, without its name
    1062: Meaning.DUPLICATE,  # duplicate entry for a key
    1169: Meaning.DUPLICATE,  # a unique constraint
    1586: Meaning.DUPLICATE,  # duplicate entry for a key, with its name
    1048: Meaning.VALUE,  # cannot be NULL
    1264: Meaning.VALUE,  # out of range
    1265: Meaning.VALUE,  # truncated
    1267: Meaning.VALUE,  # illegal mix of collations: a character that the column's set does not have
    1292: Meaning.VALUE,  # incorrect value of its type
    1300: Meaning.VALUE,  # invalid character string
    1364: Meaning.VALUE,  # no value, and no default
    1366: Meaning.VALUE,  # incorrect value of its type
    1406: Meaning.VALUE,  # too long
    1525: Meaning.VALUE,  # MySQL: incorrect DATE or DATETIME value in a comparison
    1690: Meaning.VALUE,  # out of range within an expression
    3140: Meaning.VALUE,  # MySQL: invalid JSON
    3854: Meaning.VALUE,  # MySQL: cannot be converted to the column's character set
    3988: Meaning.VALUE,  # MySQL: cannot be converted to the column's character set
    4078: Meaning.VALUE,  # MariaDB: parameter types that the operation does not take, as text for a UUID
    4079: Meaning.VALUE,  # MariaDB: the same of one parameter
    2006: Meaning.LOST,
    2013: Meaning.LOST,
    2026: Meaning.LOST,  # TLS, as MariaDB's client library says of a connection that was cut
    2027: Meaning.LOST,  # an answer that the client cannot read: the next one would be read in its place
    2055: Meaning.LOST,
    1158: Meaning.LOST,  # the server could not read from, or write to, the connection, and closes it
    1159: Meaning.LOST,
    1160: Meaning.LOST,
    1161: Meaning.LOST,
    3032: Meaning.LOST,  # MySQL: offline mode
    3168: Meaning.LOST,  # MySQL: the server is not available
    1927: Meaning.LOST,  # MariaDB: connection was killed
    3169: Meaning.LOST,  # MySQL: session was killed
    4031: Meaning.LOST,  # MySQL: disconnected because of inactivity
    8501: Meaning.LOST,  # TiDB: result undetermined
}

# The numbers that mean not that a column cannot store a value, but that no value was given, or that a comparison or a
# function cannot take it. Error 1292 stands for both. Where its message names a column, MariaDB was to assign it, and
# MySQL to assign it or to compare with it.
_NO_DEFAULT, _INCORRECT = 1364, 1292
_TRUNCATED = 1265  # an ENUM that lacks the value, or a number that loses digits
# The server's messages that name a column. The "column" of 1264 can be an expression with a value in it,
# 'CAST(73451 AS DECIMAL(3,1))', so a name is shown only if a table has such a column.
_NAMING = {
    1048: re.compile(r"Column '(.+)' cannot be null"),
    _NO_DEFAULT: re.compile(r"Field '(.+)' doesn't have a default value"),
    **dict.fromkeys((1264, _TRUNCATED, 1406), re.compile(r"for column '(.+)' at row \d+")),
}
_COMPARED = frozenset({1267, 1525, 3988, 4078, 4079})

# The errors that other rows would meet as well: of the schema, of privileges, and of the server's disk and memory.
_OF_EVERY_ROW = frozenset(
    {
        *(1054, 1064, 1109, 1146, 1176, 1193, 1243, 1305, 1356, 1442, 1449, 1615),
        *(1044, 1045, 1049, 1142, 1143, 1227, 1370, 1410),
        *(1016, 1021, 1023, 1024, 1026, 1028, 1030, 1034, 1035, 1037, 1038, 1041, 1099, 1100, 1114, 1194, 1195, 1210),
    }
)

# The errors of connecting that pass: no server there, an unknown host, the handshake was cut, too many connections.
_UNREACHABLE = frozenset({2002, 2003, 2005, 2012, 1040, 1129, 1152, 1184, 1203, 1226})

# MySQL Connector/Python, asked for a cursor of a connection that it has lost; SQLAlchemy expects a full stop behind it.
_NO_NUMBER, _NOT_CONNECTED = -1, "MySQL Connection not available"

_COMMIT_FAILED = 1180
_UNKNOWN_ERROR = 1105
# The words by which Vitess reports that it has ended a transaction: its transaction killer, or a primary that was lost.
_ENDED_BY_VITESS = ("code = Aborted", "VT15001", "VT09032")
_CHECK_FAILED = 4025
# The words of mysqlclient and PyMySQL about a float that is nan or inf, which has no number.
_NOT_FINITE = "can not be used with MySQL"


class MySQLErrors(ErrorMeanings):
    """By number; a few numbers stand for several errors, which the message tells apart."""

    causes = {  # noqa: RUF012 - read only, as its type says
        Cause.SAVEPOINT_GONE: frozenset({1305}),
        # The node lost the others, perhaps in the middle of the COMMIT: they may have it, and go on without this node.
        Cause.UNSURE_AT_COMMIT: frozenset({1047, 3100, 1180}),
        Cause.ONE_STATEMENT: frozenset({1064}),
        Cause.TRANSACTION_OPEN: frozenset({1568}),
        Cause.LOCK_WAIT: frozenset({1205}),
        Cause.TRIGGER_EXISTS: frozenset({1359, 5734}),  # the latter is OceanBase's
        Cause.NO_PRIVILEGE: frozenset({1142, 1143, 1044}),  # of SELECT, of another command, of the whole database
        # "ALGORITHM=INSTANT is not supported for this operation", with and without a reason; and too many row versions.
        Cause.ALGORITHM_REFUSED: frozenset({1845, 1846, 4092}),
        # A value that the ENUM has not; a CHECK that is not true, on MySQL and on MariaDB.
        Cause.ROWS_REFUSED: frozenset({1265, 3819, 4025}),
        # The type or nullability of a column of a key, types that differ, SET NULL, and a CHECK beside CASCADE.
        Cause.KEY_REFUSED: frozenset({1830, 1832, 1833, 3780, 3823}),
        Cause.VERSIONED: frozenset({4119}),  # MariaDB: the history of a table WITH SYSTEM VERSIONING
    }

    def of(self, driver: BaseException | None, code: int | None) -> Meaning:
        message = str(driver)
        # 1180 wraps the number of another error, of which 149 is Group Replication's certification.
        if code == _COMMIT_FAILED:
            return Meaning.ABORTED if "149" in message else Meaning.NOT_WRITABLE
        if code == _UNKNOWN_ERROR and any(words in message for words in _ENDED_BY_VITESS):
            return Meaning.ABORTED
        # MariaDB names a CHECK of JSON, or of a column, by table and column; other CHECKs are the application's.
        if code == _CHECK_FAILED:
            return Meaning.VALUE if "." in message.partition("` failed")[0] else Meaning.UNRELATED
        if code in (None, _NO_NUMBER):
            if _NOT_FINITE in message:
                return Meaning.VALUE
            return Meaning.LOST if message.startswith(_NOT_CONNECTED) else Meaning.UNRELATED
        return CODES.get(code, Meaning.UNRELATED)

    def is_of_every_row(self, driver: BaseException | None, code: int | None) -> bool:
        return code in _OF_EVERY_ROW

    def is_unreachable(self, driver: BaseException | None, code: int | None) -> bool:
        return code in _UNREACHABLE

    def misfit(self, driver: BaseException | None, code: int | None, columns: Iterable[str]) -> str:
        named = _NAMING[code].search(str(driver)) if code in _NAMING else None
        known = {name.lower(): name for name in columns} if named else {}
        name = known.get(named[1].lower()) if named else None
        if code == _NO_DEFAULT:
            what = "a column that" if name is None else f"the column {shown(name)}, which"
            return f"no value was given for {what} has no default"
        if code == _TRUNCATED and name is not None:
            return (
                f"the database cannot store a value that was given for the column {shown(name)}; if that is the state"
                " column, run the migration that adds the state, op.add_states()"
            )
        if name is not None:
            return f"the database cannot store a value that was given for the column {shown(name)}"
        if code == _INCORRECT and "for column" in str(driver):
            return "the database cannot store or compare a value that was given, which does not fit its column"
        if code in _COMPARED or code == _INCORRECT:
            return "the database cannot compare or compute with a value that was given, which is of another type"
        return super().misfit(driver, code, columns)
