"""What a driver or a server cannot do, whoever uses it: the tests that meet it are expected to fail, and the run says why.

A driver's limits, and those of a server that no error tells, are named test by test. One that does not fail any more is
told as XPASS, so that its line can go. Where the server raises an error that MySQL does not, or this library refuses, the
error itself is the limit: no test that fails in silence can hide behind it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from sqlalchemy import URL


class Limit(NamedTuple):
    """*driver* fails the tests whose name contains *test*; a name of a server ends with a hyphen."""

    driver: str
    test: str
    reason: str
    run: bool = True


class Loud(NamedTuple):
    """On *server*, tests fail by an error whose text contains *error*."""

    server: str
    error: str
    reason: str


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


_SEEKDB = "seekdb14-"
_CHARACTER_SET = "seekdb lacks the character set"
_NAMES = "seekdb's triggers take no names with quotes, percent signs or brackets"
_STATEMENTS = "guarded fires, sets, upserts and numbers of history rows are more statements on seekdb"
_SKIPPED = "seekdb applies LIMIT before it passes over locked rows: a claim finds fewer rows"
_NUMBER = "seekdb's own number of the error, where the test expects MySQL's"
_ENUM = "seekdb cannot search an ENUM by an index"
_FACTS = "seekdb's catalogue, plans and metadata locks are others than MySQL's"
_CLOCK = "seekdb's clock goes back by milliseconds from one statement to the next"
_REFUSED = "seekdb itself refuses some of the statements, before a trigger does"
_DEADLOCK = "seekdb finds no deadlock: each side waits until its wait for the lock ends"
_CHECK = "seekdb has no room for a long CHECK"
_PACKETS = "refused: seekdb's answers to a packet repeat each other"
_REFLECTION = "SQLAlchemy does not know what seekdb adds to SHOW CREATE TABLE"

LOUD = (
    Loud(_SEEKDB, "does not keep the locks of those rows", "refused: seekdb loses locks in EXISTS, IN and aggregates"),
    Loud(
        _SEEKDB, "would miss a COMMIT in flight", "refused: seekdb's locking reads do not wait for a COMMIT in flight"
    ),
    Loud(_SEEKDB, "evaluates LAST_INSERT_ID() too early", "refused: seekdb's answers to a packet repeat each other"),
    Loud(_SEEKDB, "(1210, 'Invalid argument')", _ENUM),
    Loud(_SEEKDB, "(1115, ", _CHARACTER_SET),
    Loud(_SEEKDB, "(1064, ", _NAMES),
    Loud(_SEEKDB, "SAWarning: Unknown schema content", _REFLECTION),
    Loud(_SEEKDB, "SAWarning: Datatype FLOAT", "SQLAlchemy takes seekdb for MySQL 5.7, which cannot CAST to FLOAT"),
    Loud(_SEEKDB, "for column 'check_expr'", _CHECK),
    Loud(_SEEKDB, "(error 1690)", "seekdb's intervals end earlier"),
    Loud(_SEEKDB, "(error 6235)", "seekdb refuses a snapshot conflict by an error number of its own"),
    Loud(_SEEKDB, "(1142, ", "a locking read of seekdb needs the right to UPDATE"),
    Loud(_SEEKDB, "(1690, ", "seekdb's intervals end earlier"),
    Loud(_SEEKDB, "(4201, ", "seekdb cannot copy an ENUM into another column"),
    Loud(_SEEKDB, "(6235, ", "seekdb refuses a snapshot conflict by an error number of its own"),
)

# Those that no error of the server tells: what they are is in docs/recipes/seekdb.md.
SEEKDB = (
    Limit(_SEEKDB, "test_guards.py::test_a_guarded_fire_is_one_statement_too", _STATEMENTS),
    Limit(_SEEKDB, "test_fire_keys.py::test_guards_choose_each_rows_transition_by_what_the_row_was", _STATEMENTS),
    Limit(_SEEKDB, "test_fire_or_create.py::test_it_is_one_statement_and_after_a_creation_one_look", _STATEMENTS),
    Limit(_SEEKDB, "test_fire_where.py::test_rows_with_a_history_move_as_a_set", _STATEMENTS),
    Limit(_SEEKDB, "test_history.py::test_a_recorded_fire_is_two_statements", _STATEMENTS),
    Limit(_SEEKDB, "test_sent_statements.py::test_each_statement_of_a_fire_is_printed", _STATEMENTS),
    Limit(_SEEKDB, "test_claim.py::test_rows_that_somebody_else_has_", _SKIPPED),
    Limit(_SEEKDB, "test_claim.py::test_two_workers_in_turns_never_get_the_same_row", _SKIPPED),
    Limit(_SEEKDB, "test_claim.py::test_a_claim_does_not_lock_the_rows_that_are_loaded_along", _SKIPPED),
    Limit(_SEEKDB, "test_claim.py::test_a_claimed_instance_is_never_of_an_old_snapshot", _NUMBER),
    Limit(_SEEKDB, "cli/test_due.py::", _ENUM),
    Limit(_SEEKDB, "test_clocks.py::test_the_clock_of_the_workers_host", _ENUM),
    Limit(_SEEKDB, "test_timed_events.py::test_the_time_zone_of_the_session_changes_nothing", _CLOCK),
    Limit(_SEEKDB, "test_timed_events.py::test_a_function_gives_the_moment", _CLOCK),
    Limit(_SEEKDB, "test_trigger_life.py::test_triggers_of_a_dropped_column_are_found_and_replaced", _NUMBER),
    Limit(_SEEKDB, "test_trigger_messages.py::test_refusals_are_read_on_any_character_set", _CHARACTER_SET),
    Limit(_SEEKDB, "test_upsert_reports.py::test_an_answer_that_is_neither_is_no_creation", _STATEMENTS),
    Limit(_SEEKDB, "test_values.py::test_a_comparison_that_the_server_refuses_is_reported_as_one", _FACTS),
    Limit(_SEEKDB, "test_fire_due.py::test_a_batch_reads_about_as_many_rows_as_it_moves", _FACTS),
    Limit(_SEEKDB, "test_history.py::test_the_newest_record_is_found_by_the_key_alone", _FACTS),
    Limit(_SEEKDB, "test_inspection.py::", _FACTS),
    Limit(_SEEKDB, "test_doctor.py::", _FACTS),
    Limit(_SEEKDB, "test_enforcement.py::test_it_gives_up_when_the_table_is_held", _FACTS),
    Limit(_SEEKDB, "deadlock", _DEADLOCK, run=False),
    Limit(
        _SEEKDB, "test_aborted_transactions.py::test_each_transaction_of_a_connection_is_watched", _DEADLOCK, run=False
    ),
    Limit(_SEEKDB, "test_enforcement.py::test_a_wait_in_the_middle_leaves_no_trigger_behind", _FACTS),
    Limit(_SEEKDB, "test_refused_statements.py::test_more_than_200_statements", _REFUSED),
    Limit(_SEEKDB, "test_reference_machine.py::test_an_update_trigger_costs_a_second_look", _STATEMENTS),
    Limit(
        _SEEKDB, "test_aborted_transactions.py::test_a_savepoint_that_went_with_its_transaction", _DEADLOCK, run=False
    ),
    Limit(_SEEKDB, "test_aborted_transactions.py::test_a_session_that_fires_nothing_is_left", _DEADLOCK, run=False),
    Limit(_SEEKDB, "test_columns.py::", _CHECK, run=False),
    Limit(_SEEKDB, "test_packets.py::", _PACKETS, run=False),
    Limit(_SEEKDB, "test_commit_with_fire.py::", _PACKETS),
    Limit(_SEEKDB, "test_history_on_bases.py::test_a_counting_history_is_not_sent_in_a_packet", _PACKETS),
    Limit(_SEEKDB, "test_coalescer.py::test_a_batch_is_one_packet_in_key_order", _PACKETS),
    Limit(_SEEKDB, "test_coalescer.py::test_after_a_lost_packet_tokens_resolve", _PACKETS),
    Limit(_SEEKDB, "test_coalescer.py::test_a_text_that_the_connection_cannot_send_fails_alone", _CHARACTER_SET),
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
        yield from (limit for limit in SEEKDB if limit.driver in item.name and limit.test in item.nodeid)


def loud_limit(item: Any, error: BaseException) -> str | None:
    """The reason why *item* fails by *error* on its server; None where that is no known limit."""
    text = f"{type(error).__name__}: {error}"
    return next((limit.reason for limit in LOUD if limit.server in item.name and limit.error in text), None)


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
