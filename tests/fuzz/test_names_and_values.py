"""Whatever is given as a name or a value: no SQL comes of an undeclared event, no state of anything but the machine, and no
error but ours.

The session `fuzz` tries 100,000 cases and more (FSM_FUZZ_CASES), the usual run a few thousand. A case is one call with one value
that Hypothesis drew; the shortest call that goes wrong is what it shows in the end.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import true
from sqlalchemy.exc import StatementError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_fsm_mysql import (
    Event,
    FSMError,
    InvalidMachine,
    Machine,
    StateMachineColumn,
    UnknownEvent,
    claim,
    find_by_token,
    fire_key,
    fire_or_create,
    fire_where,
    force_state,
    try_fire_key,
)
from sqlalchemy_fsm_mysql.errors.texts import shown
from tests.fuzz.conftest import CASES, Range
from tests.fuzz.models import ODD
from tests.fuzz.values import identifiers, names, values
from tests.servers import questions

pytestmark = [pytest.mark.servers_only, pytest.mark.timeout(3600)]

A_CALL = 20  # values an example
WAYS_OF_A_RUN = 36  # three servers, two drivers, six ways
EXAMPLES = max(4, CASES // WAYS_OF_A_RUN // A_CALL + 1)
ALLOWED = (FSMError, TypeError, ValueError)
DECLARED = {"Go", "Write", "Pay", ODD, "Stop"}

fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)
lists = st.lists(values, min_size=A_CALL, max_size=A_CALL)


def is_declared(event: Any) -> bool:
    return isinstance(event, str) and str.__str__(event) in DECLARED


# --- what is asked with a value in the place of an event, none of which may reach the server


def by_instance(session: Session, model: Any, key: Any, event: Any) -> None:
    row = session.get_one(model, key)
    row.try_fire(event, session)


ASKED: dict[str, Callable[[Session, Any, Any, Any], Any]] = {
    "fire_key": lambda session, model, key, event: fire_key(model, key, event, session),
    "try_fire_key": lambda session, model, key, event: try_fire_key(model, key, event, session),
    "fire": lambda session, model, key, event: session.get_one(model, key).fire(event, session),
    "try_fire": by_instance,
    "can_fire": lambda session, model, key, event: session.get_one(model, key).can_fire(event),
    "fire_where": lambda session, model, key, event: fire_where(model, event, session, true()),
    "claim": lambda session, model, key, event: claim(model, event, session, true(), limit=1),
    "fire_or_create": lambda session, model, key, event: fire_or_create(model(id=key), event, session),
    "can": lambda session, model, key, event: model.state.can(event),
    "after": lambda session, model, key, event: model.state.after(event),
}


# Each of its values is asked for in ten ways of three models.
@settings(parent=fuzz, max_examples=max(2, EXAMPLES // 20))
@given(events=lists)
def undeclared_events(fuzzed: Range, events: list[Any]) -> None:
    for model, key in fuzzed.pairs:
        with Session(fuzzed.engine) as session:
            held = session.get_one(model, key)  # the session itself would let it go
            connection = session.connection()
            before = questions(connection)
            for event in events:
                if is_declared(event):
                    continue
                for ask in ASKED.values():
                    with pytest.raises((UnknownEvent, TypeError, ValueError)):
                        ask(session, model, key, event)
                    fuzzed.tried["event, undeclared"] += 1
            assert questions(connection) == before, f"something was sent, with {held} held"


def test_an_undeclared_event_sends_nothing(fuzzed: Range) -> None:
    """Counted by the server: its own number of this connection's statements is the same afterwards."""
    with counting(fuzzed):
        undeclared_events(fuzzed)


# --- what is given in any other place


def odd_payload(value: Any) -> dict[str, Any]:
    return {"note": None, "amount": 1, "blob": None, "tree": None, **value}


def by_token(session: Session, model: Any, key: Any, value: Any) -> None:
    fire_key(model, key, "Go", session, token=value)
    find_by_token(model.state, value, session)


Given = Callable[[Session, Any, Any, Any], Any]
GIVEN: dict[str, Given] = {
    "event": lambda session, model, key, value: try_fire_key(model, key, value, session),
    "key": lambda session, model, key, value: try_fire_key(model, value, "Go", session),
    "key of a mapping": lambda session, model, key, value: try_fire_key(model, {"id": value}, "Go", session),
    "name of a key": lambda session, model, key, value: try_fire_key(model, {value: key}, "Go", session),
    "token": by_token,
    "token to find": lambda session, model, key, value: find_by_token(model.state, value, session),
    "actor": lambda session, model, key, value: fire_key(model, key, "Go", session, actor=value),
    "details": lambda session, model, key, value: fire_key(model, key, "Go", session, details=value),
    "details, within": lambda session, model, key, value: fire_key(model, key, "Go", session, details={"x": [value]}),
    "column": lambda session, model, key, value: fire_key(model, key, "Go", session, column=value),
    "payload, text": lambda session, model, key, value: fire_key(
        model, key, "Write", session, **odd_payload({"note": value})
    ),
    "payload, number": lambda session, model, key, value: fire_key(
        model, key, "Write", session, **odd_payload({"amount": value})
    ),
    "payload, bytes": lambda session, model, key, value: fire_key(
        model, key, "Write", session, **odd_payload({"blob": value})
    ),
    "payload, JSON": lambda session, model, key, value: fire_key(
        model, key, "Write", session, **odd_payload({"tree": value})
    ),
    "payload of a guard": lambda session, model, key, value: try_fire_key(model, key, "Pay", session, amount=value),
    "payload of a set": lambda session, model, key, value: fire_where(model, "Pay", session, true(), amount=value),
    "actor of a set": lambda session, model, key, value: fire_where(model, "Go", session, true(), actor=value),
    "name of a payload": lambda session, model, key, value: fire_key(model, key, "Go", session, **{value: 1}),
    "state, forced": lambda session, model, key, value: force_state(session.get_one(model, key), value, session),
    "actor of a forced state": lambda session, model, key, value: force_state(
        session.get_one(model, key), "on", session, actor=value
    ),
    "state, at first": lambda session, model, key, value: model(state=value),
    "state, assigned": lambda session, model, key, value: setattr(session.get_one(model, key), "state", value),
    "state, compared": lambda session, model, key, value: session.query(model).filter(model.state == value).all(),
    "session": lambda session, model, key, value: fire_key(model, key, "Go", value),
    "limit": lambda session, model, key, value: claim(model, "Go", session, true(), limit=value),
    "batch size": lambda session, model, key, value: fire_where(model, "Go", session, true(), batch_size=value),
    "rows at most": lambda session, model, key, value: fire_where(model, "Go", session, true(), max_rows=value),
    "criterion": lambda session, model, key, value: fire_where(model, "Go", session, value),
    "key of a new row": lambda session, model, key, value: fire_or_create(model(id=value, amount=0), "Go", session),
}
cases = st.lists(st.tuples(st.sampled_from(list(GIVEN)), values), min_size=A_CALL, max_size=A_CALL)


def violation_of(fuzzed: Range, model: Any, key: Any, place: str, value: Any) -> str | None:
    """What came of the call that should not have; None when all is well."""
    fuzzed.tried[place] += 1

    def told(error: Exception) -> str:
        return f"{place}, {model.__name__}, {shown(value)}: {type(error).__module__}.{type(error).__name__}: {error!s:.200}"

    with Session(fuzzed.engine) as session:
        try:
            GIVEN[place](session, model, key, value)
            if session.in_transaction():
                session.commit()
        except StatementError as error:
            # SQLAlchemy's wrapping of the ValueError with which the column refuses to be compared, in a query of the user's.
            return None if place == "state, compared" and isinstance(error.__cause__, ALLOWED) else told(error)
        except ALLOWED as error:
            return None if not has_sql(str(error)) else f"{place}: SQL in {error}"
        except Exception as error:  # noqa: BLE001 - that is the question
            return told(error)
    return None


def has_sql(message: str) -> bool:
    """Whether it shows a statement of ours; the words alone may be the value's."""
    return any(
        text in message
        for text in ("[SQL:", "[parameters:", "UPDATE fuzz", "UPDATE `", "INSERT INTO fuzz", "FOR UPDATE")
    )


@fuzz
@given(tried=cases)
def any_value(fuzzed: Range, tried: list[tuple[str, Any]]) -> None:
    for number, (place, value) in enumerate(tried):
        model, key = fuzzed.pairs[number % len(fuzzed.pairs)]
        found = violation_of(fuzzed, model, key, place, value)
        assert found is None, found
    assert fuzzed.undeclared() == []


def test_whatever_is_given_the_error_is_one_of_ours(fuzzed: Range) -> None:
    """Or a TypeError or ValueError; never the driver's, never SQLAlchemy's, never one from the inside."""
    fuzzed.reset()
    with counting(fuzzed):
        any_value(fuzzed)


def test_whatever_is_given_the_row_holds_a_declared_state(fuzzed: Range) -> None:
    """As the run before has left it: every value has been tried there."""
    assert fuzzed.tried.total() > 0
    assert fuzzed.undeclared() == []


# --- names that a machine, a table and a column may have


@settings(parent=fuzz, max_examples=max(3, EXAMPLES // 20))
@given(
    states=st.lists(names, min_size=2, max_size=5, unique=True),
    event=names,
    table=identifiers,
    column=identifiers,
)
def any_names(fuzzed: Range, states: list[str], event: str, table: str, column: str) -> None:
    with contextlib.suppress(InvalidMachine):
        machine = Machine(
            initial=states[0],
            events=[Event(event, dict(zip(states, states[1:], strict=False)))],
        )
        with model_of(fuzzed, machine, table, column) as model, Session(fuzzed.engine) as session:
            session.add(model(id=1))
            session.commit()
            for source, target in zip(states, states[1:], strict=False):
                moved = fire_key(model, 1, event, session)
                fuzzed.tried["names of states, event, table and column"] += 1
                assert (moved.source, moved.target) == (source, target)
            refused = try_fire_key(model, 1, event, session)
            assert (bool(refused), refused.state) == (False, states[-1])


@contextlib.contextmanager
def model_of(fuzzed: Range, machine: Machine, table: str, column: str) -> Iterator[Any]:
    class Base(DeclarativeBase):
        pass

    class Named(Base):
        __tablename__ = f"f {table}"
        id: Mapped[int] = mapped_column(primary_key=True)
        state: Mapped[str] = StateMachineColumn(machine, name=f"s {column}")

    Base.metadata.drop_all(fuzzed.engine)
    Base.metadata.create_all(fuzzed.engine)
    yield Named
    Base.metadata.drop_all(fuzzed.engine)


def test_a_machine_with_any_names_it_accepts_moves(fuzzed: Range) -> None:
    if fuzzed.way.charset != "utf8mb4":
        pytest.skip("not every identifier can be said in this character set")
    with counting(fuzzed):
        any_names(fuzzed)


@contextlib.contextmanager
def counting(fuzzed: Range) -> Iterator[None]:
    """A failure is a violation, and is recorded as one."""
    try:
        yield
    except BaseException:
        fuzzed.violations += 1
        raise


def test_the_instrument_tells_the_drivers_errors(fuzzed: Range, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: were it blind, the driver's error would pass."""
    model, key = fuzzed.pairs[2]
    monkeypatch.setitem(GIVEN, "hole", lambda session, model, key, value: session.connection().exec_driver_sql(value))

    assert "ProgrammingError" in str(violation_of(fuzzed, model, key, "hole", "SELEC"))
    assert secrets.token_hex(2) not in (violation_of(fuzzed, model, key, "key", key) or "")
