"""Each argument of the helpers and of ``otel.instrument`` with wrong values: a documented error, and nothing is sent."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.orm import Session, sessionmaker

from sqlalchemy_fsm_mysql import FSMError, testing
from sqlalchemy_fsm_mysql.observation import otel
from sqlalchemy_fsm_mysql.testing import (
    assert_moves,
    assert_refused,
    every_cell,
    frozen_hooks,
    private_server,
    race,
    sqlite_engine,
    sqlite_session,
    state_machine_for,
)
from tests.conformance.test_wrong_arguments import (
    MACHINE,
    NO_ACTOR,
    NO_EVENT,
    NO_FUNCTION,
    NO_INSTANCE,
    NO_INTEGER,
    NO_JSON,
    NO_STATE,
    NO_TOKEN,
    NONSENSE,
    Base,
    Plain,
    Timed,
    filled,
    shown,
    statements,
)

NO_COLUMN = NONSENSE
NO_REASON = [value for value in NONSENSE if value is not None]
NO_SESSION = NONSENSE
NO_COUNT = [value for value in NONSENSE if type(value) is not int or value < 1]
NO_LIST = [value for value in filled(NONSENSE) if isinstance(value, str) or not hasattr(value, "__iter__")]
NO_MAPPING = [value for value in NONSENSE if not isinstance(value, dict)]
NO_MACHINE = [value for value in NONSENSE if value is not MACHINE]
NO_BASE = [value for value in NONSENSE if not hasattr(value, "metadata") or value is Plain.id]
NO_OPTION = [value for value in NONSENSE if not isinstance(value, str) or not value.startswith("--")]
NO_PROVIDER = NONSENSE
URL = "sqlite:////nonexistent/race.db"

Call = Callable[[Any, Any], Any]


def entered(block: Any) -> Any:
    with block as value:
        return value


def raced(**said: Any) -> Any:
    given = {"url": URL, "column": Plain.state, "keys": [1], "events": ["Go"], **said}
    return race(given.pop("url"), given.pop("column"), given.pop("keys"), **given)


def by_instance(name: str, *, what: Callable[..., Any], at: int) -> Call:
    """A call of an assertion with the wrong value at a place, or as the argument *name*."""

    def call(session: Session, value: Any) -> Any:
        given: list[Any] = [session.info["one"], "Go", "on" if what is assert_moves else "state", session]
        if at >= 0:
            given[at] = value
            return what(*given)
        return what(*given, **{name: value})

    return call


# By function and argument. Those that are not called with arguments of their own stand under NOT_TRIED.
TABLE: dict[tuple[str, str], tuple[Call, list[Any]]] = {
    **{
        (what.__name__, name): (by_instance(name, what=what, at=at), values)
        for what, third, thirds in ((assert_moves, "target", NO_STATE), (assert_refused, "reason", NO_REASON))
        for name, at, values in (
            ("instance", 0, NO_INSTANCE),
            ("event", 1, NO_EVENT),
            (third, 2, thirds),
            ("session", 3, NO_SESSION),
            ("column", -1, [value for value in NONSENSE if value is not None]),
            ("actor", -1, NO_ACTOR),
            ("details", -1, NO_JSON),
            ("token", -1, NO_TOKEN),
            ("payload", -1, NONSENSE),
        )
    },
    ("every_cell", "machine"): (lambda _, value: every_cell(value), NO_MACHINE),
    ("frozen_hooks", "columns"): (lambda _, value: entered(frozen_hooks(value)), NO_COLUMN),
    ("state_machine_for", "column"): (lambda _, value: state_machine_for(value, sessionmaker()), NO_COLUMN),
    ("state_machine_for", "sessions"): (lambda _, value: state_machine_for(Timed.state, value), NO_FUNCTION),
    ("state_machine_for", "make"): (lambda _, v: state_machine_for(Timed.state, sessionmaker(), make=v), NO_FUNCTION),
    ("state_machine_for", "payloads"): (
        lambda _, value: state_machine_for(Timed.state, sessionmaker(), payloads=value),
        [*NO_MAPPING, {"Go": 5}, {"Go": {"amount": 5}}],
    ),
    ("sqlite_engine", "bases"): (lambda _, value: entered(sqlite_engine(value)), NO_BASE),
    ("sqlite_session", "bases"): (lambda _, value: entered(sqlite_session(value)), NO_BASE),
    ("private_server", "options"): (lambda _, value: entered(private_server(value)), NO_OPTION),
    ("race", "url"): (lambda _, value: raced(url=value), NONSENSE),
    ("race", "column"): (lambda _, value: raced(column=value), NO_COLUMN),
    ("race", "keys"): (lambda _, value: raced(keys=value), NO_LIST),
    ("race", "events"): (lambda _, value: raced(events=value), NO_LIST),
    ("race", "payloads"): (lambda _, value: raced(payloads=value), NO_MAPPING),
    ("race", "fire"): (lambda _, value: raced(fire=value), NO_FUNCTION),
    **{
        ("race", name): (lambda _, value, n=name: raced(**{n: value}), values)
        for name, values in (("processes", NO_COUNT), ("fires", NO_COUNT), ("seed", NO_INTEGER))
    },
    ("race", "isolation_level"): (
        lambda _, value: raced(isolation_level=value),
        [value for value in NONSENSE if not isinstance(value, str)],
    ),
    **{
        ("instrument", name): (lambda _, value, n=name: otel.instrument(**{n: value}), NO_PROVIDER)
        for name in ("tracer_provider", "meter_provider")
    },
}
NOT_TRIED = {
    ("race", "check"),  # true or not
    ("sqlite_engine", "options"),  # create_engine's
    ("sqlite_session", "options"),  # the Session's
}
CLASSES = {"Cell", "HookCall", "RaceReport", "ServerUnavailable"}  # made by the helpers


def public_arguments() -> set[tuple[str, str]]:
    functions = {name: getattr(testing, name) for name in testing.__all__ if name not in CLASSES}
    functions["instrument"] = otel.instrument
    return {(name, one) for name, function in functions.items() for one in inspect.signature(function).parameters}


def test_every_argument_of_every_helper_is_tried() -> None:
    """A new helper, or a new argument, has to be given wrong values here, too."""
    assert public_arguments() - NOT_TRIED == set(TABLE)


@pytest.mark.parametrize("name", TABLE, ids=".".join)
def test_a_wrong_argument_is_a_documented_error_and_sends_nothing(name: tuple[str, str]) -> None:
    call, values = TABLE[name]
    faults = []
    with sqlite_session(Base) as session:
        session.info["one"] = one = Plain(id=1)
        session.add(one)
        session.flush()
        with statements(session.connection()) as sent:
            for value in values:
                fault = tried(call, session, value)
                # assert_refused() reads the row first, to compare it afterwards.
                wrote = [text for text in sent if name[0] != "assert_refused" or not text.startswith("SELECT")]
                if fault is not None or wrote:
                    faults.append(f"{shown(value)}: {fault}; sent {wrote}")
                sent.clear()

    assert faults == []


def tried(call: Call, session: Session, value: Any) -> str | None:
    try:
        answer = call(session, value)
    except (FSMError, TypeError, ValueError) as error:
        return None if str(error) else "its message cannot be shown"
    except Exception as error:  # noqa: BLE001 - told by the test
        return f"{type(error).__name__}: {str(error)[:100]}"
    finally:
        otel.uninstrument()
    return f"returned {type(answer).__name__}"
