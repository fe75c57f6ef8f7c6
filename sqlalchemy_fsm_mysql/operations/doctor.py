"""The doctor: does this database fit this machine? Each `Finding` says what is true, and what to do about it.

:func:`check_database` returns the findings, :func:`require_database` raises when one of them is an error: for a program
that starts. ``sqlalchemy-fsm-mysql check`` is the same on a command line. Nothing is changed; rows are counted, which
reads the whole table or an index on the state. The checks themselves are in :mod:`.checks`.
"""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from ..core.failures import Cause, error_code, is_due_to
from ..databases import database_of
from ..databases.identifiers import check_names
from ..errors import DatabaseUnfit
from ..orm.mapped import MappedState, attribute_state
from .checks.column import of_checks, of_column, of_engine, of_rights, of_rows, of_table
from .checks.due import of_due
from .checks.history import of_history
from .checks.model import of_events, of_key
from .checks.server import SETTINGS
from .checks.triggers import of_triggers
from .enforcement import connected, reflecting
from .findings import SEVERITIES, Finding, label_of, names_of

__all__ = ["SEVERITIES", "Finding", "check_database", "require_database"]


def check_database(column: object, bind: Connection | Engine, *, count_rows: bool = True) -> list[Finding]:
    """Compare the machine of *column* (``Order.state``) with the database of *bind*.

    Returns: a list of `Finding`, errors first; empty when everything fits.

    *count_rows* also counts the rows in each state, which reads the whole table. The settings that are checked are
    those of the connection, so pass the program's own engine.

    Raises: TypeError when *column* is not a mapped state; SQLAlchemy's errors.
    """
    mapped = attribute_state(column)
    with connected(bind) as connection, reflecting(connection):
        findings = list(_findings(mapped, connection, count_rows=count_rows))
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def require_database(column: object, bind: Connection | Engine, *, count_rows: bool = False) -> list[Finding]:
    """Check the database as :func:`check_database`, and raise on an error: for the start of a program.

    Returns: a list of the warnings and notes. Rows are not counted unless *count_rows* is true.

    Raises: DatabaseUnfit when a finding is an error; its `.findings` has all findings.
    """
    findings = check_database(column, bind, count_rows=count_rows)
    errors = [str(finding) for finding in findings if finding.severity == "error"]
    if errors:
        raise DatabaseUnfit(errors, findings)
    return findings


def _findings(mapped: MappedState, connection: Connection, *, count_rows: bool) -> Iterator[Finding]:
    own, catalogue = mapped.column, database_of(connection).catalogue
    try:
        facts = catalogue.table(connection, own.table)
    except DBAPIError as error:
        if not is_due_to(error, Cause.NO_PRIVILEGE):
            raise
        what = f"this account may not read {own.table.name} (error {error_code(error)})"
        yield Finding("error", "rights", what, "GRANT it, or connect with the account of the program")
        return
    column = None if facts is None else catalogue.column(connection, own, check_names(*names_of(own)))
    if facts is None or column is None:
        missing, name = ("table", names_of(own)[0]) if facts is None else ("column", label_of(own))
        what = f"there is no {missing} {name}"
        yield Finding("error", f"no {missing}", what, "run the migrations, or check that the URL is right")
        return
    yield from of_events(mapped)
    yield from of_table(mapped, facts)
    yield from of_key(mapped, connection)
    yield from of_due(mapped, facts)
    yield from of_column(mapped, column)
    yield from of_checks(mapped, connection)
    yield from of_engine(str(own.table.name), facts)
    yield from of_triggers(connection, own)
    yield from of_rights(mapped, connection)
    if count_rows:
        yield from of_rows(mapped, connection)
    yield from of_history(mapped, connection)
    known = catalogue.settings(connection)
    for ask in SETTINGS:
        yield from ask(known)


def described(connection: Connection) -> str:
    """The database in a few words, for a report."""
    return f"{database_of(connection).name} {database_of(connection).catalogue.settings(connection).version}"
