"""What a driver cannot do, whoever uses it: the tests that meet it are expected to fail, and the run says why.

One that does not fail any more is told as XPASS, so that its line can go.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from sqlalchemy import URL


class Limit(NamedTuple):
    """*driver* fails the tests whose name contains *test*."""

    driver: str
    test: str
    reason: str
    run: bool = True


_QUOTES = "MariaDB's connector looks for its parameters also behind a quote inside of a quoted name"
_SECOND_LOOK = "MariaDB's connector hides the id of an UPDATE and halves that of an upsert, so each fire asks once more"
_MESSAGE_FIRST = (
    "MariaDB's connector puts the message before the number in its errors, and the test reads them by position"
)
_CRASH = "after this test MariaDB's connector 1.1.14 crashes the process when the connection is closed"
_NOT_CONNECTED = "SQLAlchemy does not know Connector/Python's words for a lost connection, at a SAVEPOINT as elsewhere"
_ATTRIBUTES = "Connector/Python warns of each statement on MariaDB, once OpenTelemetry is set up beside it"

LIMITS = (
    Limit("mariadbconnector", "-quoted-", _QUOTES),
    Limit("mariadbconnector", "test_a_fire_is_one_statement_moved_or_refused[own-", _SECOND_LOOK),
    Limit("mariadbconnector", "test_a_key_fires_in_one_statement_though_nothing_is_loaded[own-", _SECOND_LOOK),
    Limit("mariadbconnector", "test_an_update_trigger_costs_a_second_look_at_a_move_only[own-", _SECOND_LOOK),
    Limit("mariadbconnector", "test_a_recorded_fire_is_two_statements[own-", _SECOND_LOOK),
    Limit("mariadbconnector", "test_a_guarded_fire_is_one_statement_too[own-", _SECOND_LOOK),
    Limit("mariadbconnector", "test_to_ask_the_session_costs_one_statement_more[own-", _SECOND_LOOK),
    Limit("mariadbconnector", "test_nobody_writes_between_what_an_event_reads_and_writes[own-", _SECOND_LOOK),
    Limit("mariadbconnector", "test_it_is_one_statement_and_after_a_creation_one_look[own-", _SECOND_LOOK),
    Limit("mariadbconnector", "test_an_error_that_leaves_the_transaction_alive_passes_unchanged", _MESSAGE_FIRST),
    Limit("mariadbconnector", "test_two_machines_on_a_row_are_held_each_to_its_own[own-", _QUOTES),
    Limit("mariadbconnector", "test_a_moved_fire_costs_a_second_look[own-", _SECOND_LOOK),
    Limit("mariadbconnector", "test_it_gives_up_when_the_table_is_held[", _MESSAGE_FIRST),
    Limit("mariadbconnector", "test_an_error_on_the_way_leaves_no_row_moved_and_none_recorded", _CRASH, run=False),
    Limit("mysqlconnector", "-mysqlconnector-savepoint]", _NOT_CONNECTED),
    Limit("mysqlconnector", "test_spans_and_counters_of_a_fire[own-mariadb", _ATTRIBUTES),
    Limit("mysqlconnector", "test_keys_are_in_no_metric[own-mariadb", _ATTRIBUTES),
    Limit("mysqlconnector", "test_an_error_marks_the_span_and_quotes_no_value[own-mariadb", _ATTRIBUTES),
    Limit("mysqlconnector", "test_a_set_counts_its_rows[own-mariadb", _ATTRIBUTES),
    Limit("mysqlconnector", "test_a_fires_span_is_the_parent_of_what_happens_within[own-mariadb", _ATTRIBUTES),
)


def expect_limits(items: list[pytest.Item]) -> None:
    """Mark the tests that meet a limit of their driver."""
    for item in items:
        for limit in limits_of(item):
            item.add_marker(pytest.mark.xfail(reason=limit.reason, run=limit.run, strict=False))


def limits_of(item: Any) -> Iterator[Limit]:
    url = item.callspec.params.get("url") if hasattr(item, "callspec") else None
    if isinstance(url, URL):
        driver = url.get_driver_name()
        yield from (limit for limit in LIMITS if limit.driver == driver and limit.test in item.name)


def let_aiomysql_bind_bytes() -> str | None:
    """Mend aiomysql where it cannot bind bytes, so that all else can be tested; what was done, if anything.

    aiomysql 0.3.2 calls ``escape_bytes_prefixed`` of PyMySQL, in whose place PyMySQL 1.2 has left a string.
    """
    import aiomysql.connection
    from pymysql.converters import escape_bytes

    if callable(aiomysql.connection.escape_bytes_prefixed):
        return None
    aiomysql.connection.escape_bytes_prefixed = escape_bytes
    return "aiomysql: mended for this run, without which it binds no bytes (aiomysql 0.3.2 with PyMySQL 1.2)"
