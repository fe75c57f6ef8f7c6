"""A state machine for Hypothesis, made of a machine: it looks for events after which something is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from sqlalchemy import inspect, select
from sqlalchemy.orm import Session

from ..errors.texts import State, shown, stored_form
from ..orm.calls import try_fire_key
from ..orm.history import replay
from ..orm.mapped import MappedState, attribute_state
from ..outcomes import Moved, Refused

if TYPE_CHECKING:
    from hypothesis.stateful import RuleBasedStateMachine
    from hypothesis.strategies import SearchStrategy

__all__ = ["state_machine_for"]


def state_machine_for(
    column: object,
    sessions: Callable[[], Session],
    *,
    make: Callable[[], object] | None = None,
    payloads: Mapping[str, Mapping[str, SearchStrategy[object]]] | None = None,
) -> type[RuleBasedStateMachine]:
    """A Hypothesis state machine that fires the events of *column* (``Order.state``) on a row, in any order.

    Returns: a ``RuleBasedStateMachine`` class. Each example has a session of *sessions*, such as a ``sessionmaker``,
    and one new row, which *make* returns (by default ``Order()``). The example is rolled back at its end. *payloads*
    has a strategy for each payload name of each event that takes one. A rule fires an event on the instance, by key, or
    in a savepoint that is rolled back.

    After each step it checks that the machine declares the outcome for the row's state, that a refusal has changed no
    column, and that the row, the instance and the history agree on the state.

    Inherit the class to add invariants. ``self.instance`` is the row's instance, ``self.session`` the session::

        class Orders(state_machine_for(Order.state, sessions, payloads={"Refund": {"amount": st.integers(0, 99)}})):
            @invariant()
            def total_is_not_negative(self):
                assert self.instance.total >= 0

        TestOrders = Orders.TestCase

    It needs Hypothesis: the extra ``testing``.

    Raises: TypeError when *column* is not a state column, an argument is of a wrong type, or a payload has no strategy.
    """
    functions: dict[str, object] = {"sessions": sessions, "make": make}
    for name, function in functions.items():
        if not callable(function) and (function is not None or name == "sessions"):
            raise TypeError(f"{name}={shown(function)}; it must be a function")
    given: object = payloads
    if given is not None and not isinstance(given, Mapping):
        raise TypeError(f"payloads={shown(given)}; it must be a dict, by event")
    from hypothesis import strategies as st
    from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

    mapped = attribute_state(column)
    strategies = payloads or {}
    body: dict[str, Any] = {"__module__": __name__, "__doc__": f"Events on a row of {mapped.label}."}

    def begin(self: Any) -> None:
        RuleBasedStateMachine.__init__(self)
        self.session = sessions()
        self.instance = (make or mapped.model)()
        self.session.add(self.instance)
        self.session.flush()
        self.expected = getattr(self.instance, mapped.attribute)

    def end(self: Any) -> None:
        self.session.rollback()
        self.session.close()

    def row_instance_and_history_agree(self: Any) -> None:
        _agree(mapped, self)

    body |= {"__init__": begin, "teardown": end, "agreement": invariant()(row_instance_and_history_agree)}
    for number, event in enumerate(mapped.machine.events):
        given = _payload(mapped, event, strategies.get(event, {}))
        body[_rule_name(number, event)] = rule(way=st.sampled_from(list(_WAYS)), payload=st.fixed_dictionaries(given))(
            _step(mapped, event)
        )
    return type(f"{mapped.model.__name__}Events", (RuleBasedStateMachine,), body)


def _payload(
    mapped: MappedState, event: str, given: Mapping[str, SearchStrategy[Any]]
) -> dict[str, SearchStrategy[Any]]:
    names = mapped.machine.payload(event)
    if set(names) != set(given):
        wanted = ", ".join(f"{name!r}: …" for name in names)
        raise TypeError(f"{event!r} takes ({', '.join(names)}): give payloads={{{event!r}: {{{wanted}}}}}")
    return {name: given[name] for name in names}


def _rule_name(number: int, event: str) -> str:
    name = re.sub(r"\W", "_", event)
    return f"fire_{name}" if name == event else f"fire_{number}_{name}"


def _step(mapped: MappedState, event: str) -> Callable[..., None]:
    def step(self: Any, way: str, payload: dict[str, Any]) -> None:
        before = _row(mapped, self)
        if way == "savepoint":
            with self.session.begin_nested() as savepoint:
                outcome = _by_instance(mapped, self, event, payload)
                savepoint.rollback()
            _require_possible(mapped, event, self.expected, outcome)
            if _row(mapped, self) != before:
                raise AssertionError("the savepoint was rolled back, and the row is another")
            return
        outcome = _WAYS[way](mapped, self, event, payload)
        _require_possible(mapped, event, self.expected, outcome)
        if isinstance(outcome, Moved):
            self.expected = outcome.target
        elif _row(mapped, self) != before:
            raise AssertionError(f"{event!r} was refused, and has changed the row")

    step.__name__ = step.__qualname__ = _rule_name(0, event)
    return step


def _by_instance(mapped: MappedState, self: Any, event: str, payload: Mapping[str, Any]) -> Any:
    return self.instance.try_fire(event, self.session, column=mapped.attribute, **payload)


def _by_key(mapped: MappedState, self: Any, event: str, payload: Mapping[str, Any]) -> Any:
    key = inspect(self.instance).identity
    return try_fire_key(mapped.model, key, event, self.session, column=mapped.attribute, **payload)


_WAYS: Mapping[str, Callable[..., Any]] = {"instance": _by_instance, "key": _by_key, "savepoint": _by_instance}


def _require_possible(mapped: MappedState, event: str, state: State, outcome: Moved[Any] | Refused[Any]) -> None:
    """Assert that *outcome* is one of those that the machine declares for *event* in *state*."""
    found = [way for way in mapped.machine.transitions(event) if way.written_sources() == (state,)]
    first_open = next((i for i, way in enumerate(found) if way.guard is None), None)
    possible = found if first_open is None else found[: first_open + 1]
    asked = f"{event!r} in {stored_form(state)!r}"
    if isinstance(outcome, Refused):
        reason = "guard" if found else "state"
        if first_open is not None:
            raise AssertionError(f"{asked} was refused, and leads to {stored_form(found[-1].target)!r}")
        if (outcome.state, outcome.reason) != (state, reason):
            raise AssertionError(f"{asked} was refused as {shown(outcome)}")
        return
    way = outcome.source, outcome.target
    if way not in [(state, one.target) for one in possible]:
        raise AssertionError(f"{asked} moved the row from {way[0]!r} to {way[1]!r}")


def _row(mapped: MappedState, self: Any) -> dict[str, Any]:
    parameters = dict(zip(mapped.key_names, inspect(self.instance).identity, strict=True))
    query = select(mapped.row.table).where(mapped.row.is_key())
    return dict(self.session.connection().execute(query, parameters).mappings().one())


def _agree(mapped: MappedState, self: Any) -> None:
    wanted = self.expected
    stored = _row(mapped, self)[mapped.column.name]
    if stored != wanted:
        raise AssertionError(f"the row is {stored_form(stored)!r}, and the events led to {stored_form(wanted)!r}")
    shows = getattr(self.instance, mapped.attribute)
    if shows != wanted:
        raise AssertionError(f"the instance shows {stored_form(shows)!r}, and the row is {stored_form(wanted)!r}")
    if mapped.extras.history is None:
        return
    records = mapped.extras.history.rows(self.session, inspect(self.instance).identity, {})
    led = replay(records) if records else wanted
    if led != wanted:
        raise AssertionError(f"the history leads to {shown(led)}, and the row is {stored_form(wanted)!r}")
