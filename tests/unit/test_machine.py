"""Declaring a machine, asking it, and every way to declare it wrong."""

from __future__ import annotations

import copy
import enum
import functools
import itertools
import pickle
import sys
import time

import pytest

from sqlalchemy_fsm_mysql.errors import InvalidMachine, UnknownEvent
from sqlalchemy_fsm_mysql.machine import ANY, Event, Machine, Transition
from sqlalchemy_fsm_mysql.machine.payload import RESERVED_NAMES
from sqlalchemy_fsm_mysql.machine.validation import MAX_STATES

STATES = ("Initializing", "Running", "Error", "Stopped", "Deleted")

# The reference machine of the README: a row per state, None where the event is refused.
TABLE = {
    "NotReady": ("Initializing", "Error", "Error", None, None),
    "Ready": ("Running", "Running", "Running", None, None),
    "Stop": ("Stopped", "Stopped", "Stopped", "Stopped", None),
    "Delete": (None, None, None, "Deleted", "Deleted"),
}
CELLS = [
    (event, state, target) for event, targets in TABLE.items() for state, target in zip(STATES, targets, strict=True)
]


class Light(str, enum.Enum):
    """Members that are strings."""

    RED = "red"
    GREEN = "green"
    ROUGE = "red"  # noqa: PIE796 - an alias is the point


class Job(enum.Enum):
    """Members of every kind of value that are no strings themselves."""

    NEW = 1
    BUSY = "at work"
    DONE = (2, 3)


class Phase(enum.Enum):
    ONE = enum.auto()
    TWO = enum.auto()


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class OtherLevel(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Text(str):
    """A string of a subclass, as template and SQL libraries have them."""

    __slots__ = ()

    def __str__(self) -> str:
        return "something else"


class NoHash(enum.Enum):
    A = "a"
    __hash__ = None  # type: ignore[assignment]


def is_cheap(order, amount):
    return order.total <= amount


def book(order, amount, reason):
    return {"amount": amount, "reason": reason}


def make_nothing():
    return {}


@pytest.fixture
def machine():
    return Machine(
        initial="Initializing",
        events=[
            Event("NotReady", {"Initializing": "Initializing", "Running": "Error", "Error": "Error"}),
            Event("Ready", {("Initializing", "Running", "Error"): "Running"}),
            Event("Stop", {("Initializing", "Running", "Error", "Stopped"): "Stopped"}),
            Event("Delete", {("Stopped", "Deleted"): "Deleted"}),
        ],
    )


def two_states(**changes):
    """A sound machine of two states, with *changes* to what it is declared with."""
    return Machine(**{"initial": "a", "events": [Event("go", {"a": "b"}), Event("back", {"b": "a"})], **changes})


def problems(**changes):
    """The problems of that machine."""
    with pytest.raises(InvalidMachine) as invalid:
        two_states(**changes)
    return invalid.value.problems


def guarded(source, target, **options):
    return Transition(source, target, guard=lambda order: order.is_ready, **options)


def unpickled(value, protocol=None):
    """What another process gets when *value* is sent to it."""
    return pickle.loads(pickle.dumps(value, protocol))  # noqa: S301 - pickled the moment before


# The reference machine


@pytest.mark.parametrize(("event", "state", "target"), CELLS)
def test_cell_of_the_reference_table(machine, event, state, target):
    assert machine.targets(event).get(state) == target
    assert (event in machine.events_from(state)) == (target is not None)
    assert (state in machine.sources(event)) == (target is not None)


def test_reference_table_moves_or_stays_in_twelve_cells(machine):
    assert (len(CELLS), sum(len(machine.transitions(event)) for event in machine.events)) == (20, 12)


def test_states_come_in_the_order_of_their_appearance(machine):
    assert machine.states == STATES


def test_initial_state_comes_first_wherever_the_events_name_it():
    machine = Machine(initial="a", events=[Event("go", {"b": "c", "a": "b"})])
    assert machine.states == ("a", "b", "c")


def test_events_come_in_the_order_of_their_declaration(machine):
    assert list(machine.events) == list(TABLE)


def test_state_that_only_leads_to_itself_is_final(machine):
    assert machine.final == ("Deleted",)


def test_state_that_nothing_leaves_is_final():
    assert Machine(initial="a", events=[Event("go", {"a": "b"})]).final == ("b",)


def test_state_with_a_later_way_out_is_not_final():
    """Its first transition leads back to it, the second one does not."""
    machine = Machine(initial="a", events=[Event("go", [guarded("a", "a"), Transition("a", "b")])])
    assert machine.final == ("b",)


def test_machine_without_events_has_one_final_state():
    machine = Machine(initial="a", events=[])
    assert (machine.states, machine.final, dict(machine.events)) == (("a",), ("a",), {})


def test_repr_names_states_and_events(machine):
    states = "'Initializing', 'Running', 'Error', 'Stopped', 'Deleted'"
    assert repr(machine) == f"<Machine {states}; 'NotReady', 'Ready', 'Stop', 'Delete'>"
    assert repr(two_states(name="lamps")).startswith("<Machine 'lamps': ")


# Transitions


def test_tuple_of_sources_is_expanded():
    machine = Machine(initial="a", events=[Event("go", {("a", "b"): "b"})])
    assert machine.transitions("go") == [Transition("a", "b"), Transition("b", "b")]


def test_list_of_transitions_equals_the_dict():
    assert Event("go", {"a": "b", ("b", "c"): "c"}) == Event("go", [Transition("a", "b"), Transition(("b", "c"), "c")])


def test_transitions_may_come_from_a_generator():
    assert Event("go", (Transition(state, "z") for state in "ab")).transitions == (
        Transition("a", "z"),
        Transition("b", "z"),
    )


def test_transitions_are_grouped_by_source_in_the_order_of_states_and_as_written_within():
    written = [guarded("b", "c"), guarded("a", "b"), Transition(("b", "a"), "a")]
    machine = Machine(initial="a", states=["a", "b", "c"], events=[Event("go", written)])

    found = machine.transitions("go")

    assert [(way.source, way.target) for way in found] == [("a", "b"), ("a", "a"), ("b", "c"), ("b", "a")]
    assert [way.guard for way in found] == [written[1].guard, None, written[0].guard, None]


def test_targets_hold_the_first_transition_of_each_source():
    machine = Machine(initial="a", events=[Event("go", [guarded("a", "b"), Transition("a", "c")])])
    assert machine.targets("go") == {"a": "b"}


def test_any_covers_the_states_that_are_not_named():
    machine = Machine(initial="a", events=[Event("go", {"a": "b", ANY: "c"})])
    assert machine.targets("go") == {"a": "b", "b": "c", "c": "c"}


def test_any_written_first_leaves_the_named_states_alone():
    machine = Machine(initial="a", events=[Event("go", {ANY: "c", ("a", "b"): "b"}), Event("on", {"b": "c"})])
    assert machine.targets("go") == {"a": "b", "c": "c", "b": "b"}


def test_any_does_not_cover_a_state_whose_guards_may_all_fail():
    machine = Machine(initial="a", events=[Event("go", [guarded("a", "b"), Transition(ANY, "c")])])
    assert machine.targets("go") == {"a": "b", "b": "c", "c": "c"}
    assert len(machine.transitions("go")) == 3


def test_several_transitions_from_any_are_tried_in_their_order():
    machine = Machine(initial="a", events=[Event("go", [guarded(ANY, "a"), Transition(ANY, "b")])])
    assert [(way.source, way.target) for way in machine.transitions("go")] == [
        ("a", "a"), ("a", "b"), ("b", "a"), ("b", "b"),
    ]  # fmt: skip


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, unpickled])
def test_any_is_copied_and_pickled_to_itself(again):
    assert again(ANY) is ANY
    assert repr(ANY) == "ANY"


# Asking for events


@pytest.mark.parametrize("method", ["transitions", "targets", "sources", "payload", "event_name"])
@pytest.mark.parametrize(
    "unknown",
    [
        "Halt",
        "stop",
        "Stop ",
        "",
        "'; DROP TABLE orders; --",
        "\0",
        "x" * 65_536,
        b"Stop",
        None,
        7,
        [],
        {},
        object,
    ],
    ids=lambda value: repr(value)[:20],
)
def test_unknown_event_is_told_with_the_known_ones(machine, method, unknown):
    with pytest.raises(UnknownEvent) as refused:
        getattr(machine, method)(unknown)

    assert refused.value.event is unknown
    assert refused.value.known == list(TABLE)
    assert repr(unknown)[:64] in str(refused.value)
    assert "'NotReady', 'Ready', 'Stop', 'Delete'" in str(refused.value)
    assert len(str(refused.value)) < 200


def test_event_object_stands_for_its_name(machine):
    assert machine.targets(machine.events["Delete"]) == machine.targets("Delete")


def test_event_object_of_another_name_is_unknown(machine):
    with pytest.raises(UnknownEvent) as refused:
        machine.targets(Event("Halt", {"Running": "Stopped"}))
    assert refused.value.event == "Halt"


def test_event_name_is_always_an_exact_str():
    machine = two_states(events=[Event(Text("go"), {"a": "b"}), Event(Light.RED, {"b": "a"})])

    assert list(map(type, machine.events)) == [str, str]
    assert (machine.event_name(Text("go")), machine.event_name(Light.RED), list(machine.events)) == (
        "go", "red", ["go", "red"],
    )  # fmt: skip


@pytest.mark.parametrize("unknown", ["Lost", "running", b"Running", None, 1, [], Level.LOW])
def test_events_from_an_unknown_state_is_a_value_error_that_names_the_states(machine, unknown):
    with pytest.raises(ValueError, match="its states are 'Initializing', 'Running'"):
        machine.events_from(unknown)


def test_answers_are_the_askers_own(machine):
    """Changing a list or dict that the machine returned does not change the machine."""
    machine.targets("Stop").clear()
    machine.transitions("Stop").clear()
    machine.sources("Stop").clear()
    machine.events_from("Running").clear()

    assert len(machine.targets("Stop")) == len(machine.transitions("Stop")) == len(machine.sources("Stop")) == 4
    assert machine.events_from("Running") == ["NotReady", "Ready", "Stop"]


# Frozen, hashable, copied, pickled


def test_machine_cannot_be_changed(machine):
    with pytest.raises(AttributeError):
        machine.initial = "Running"
    with pytest.raises(TypeError):
        machine.events["Halt"] = machine.events["Stop"]
    with pytest.raises((AttributeError, TypeError)):
        machine.owner = "me"


def test_transition_and_event_cannot_be_changed():
    event = Event("go", {"a": "b"})
    with pytest.raises(AttributeError):
        event.name = "stop"
    with pytest.raises(AttributeError):
        event.transitions[0].target = "c"


def test_copy_of_a_machine_is_the_machine(machine):
    assert copy.copy(machine) is machine
    assert copy.deepcopy({"machine": machine})["machine"] is machine
    assert {machine: 1}[copy.deepcopy(machine)] == 1


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_unpickled_machine_answers_alike(machine, protocol):
    again = unpickled(machine, protocol)

    assert repr(again) == repr(machine)
    assert again.events == machine.events
    assert all(again.transitions(event) == machine.transitions(event) for event in machine.events)


def test_unpickled_machine_keeps_name_callables_members_and_any():
    event = Event("go", [Transition(ANY, Light.GREEN, guard=is_cheap, effect=book)], effect=book)
    machine = Machine(initial=Light.RED, states=Light, events=[event], name="lamps")

    again = unpickled(machine)

    assert (again.name, again.states, again.initial) == ("lamps", (Light.RED, Light.GREEN), Light.RED)
    assert again.events["go"] == event
    assert again.payload("go") == ("amount", "reason")


# Storage, and states of every kind


def test_string_is_stored_as_itself(machine):
    assert machine.stored_states == STATES
    assert [machine.stored(state) for state in STATES] == list(STATES)
    assert [machine.loaded(state) for state in STATES] == list(STATES)


@pytest.mark.parametrize(
    ("states", "stored"),
    [
        (Light, ("red", "green")),
        (Job, ("NEW", "at work", "DONE")),
        (Phase, ("ONE", "TWO")),
        (Level, ("LOW", "HIGH")),
    ],
)
def test_member_is_stored_by_its_str_value_or_its_name(states, stored):
    members = tuple(states)
    machine = Machine(initial=members[0], states=states, events=[Event("end", {ANY: members[-1]}), *forward(members)])

    assert machine.states == members
    assert all(ours is theirs for ours, theirs in zip(machine.states, members, strict=True))
    assert machine.stored_states == stored
    assert tuple(map(machine.stored, members)) == stored
    assert all(machine.loaded(text) is member for text, member in zip(stored, members, strict=True))


def forward(members):
    """Events that lead from each member to the next one."""
    return [Event(f"from {source.name}", {source: target}) for source, target in itertools.pairwise(members)]


def test_members_are_used_everywhere():
    machine = Machine(initial=Job.NEW, states=Job, events=[Event("go", {Job.NEW: Job.BUSY, Job.BUSY: Job.DONE})])

    assert (machine.initial, machine.final) == (Job.NEW, (Job.DONE,))
    assert machine.targets("go") == {Job.NEW: Job.BUSY, Job.BUSY: Job.DONE}
    assert machine.events_from(Job.NEW) == ["go"]


def test_string_that_equals_a_member_becomes_the_member():
    machine = Machine(initial="red", states=Light, events=[Event("go", {"red": "green"})])

    (way,) = machine.transitions("go")
    ((source, target),) = machine.targets("go").items()

    assert all(state is Light.RED for state in (machine.initial, way.source, source, machine.loaded("red")))
    assert all(state is Light.GREEN for state in (way.target, target, *machine.final))
    assert (machine.stored("red"), machine.events_from("red")) == ("red", ["go"])


def test_stored_text_of_a_plain_member_does_not_stand_for_it():
    machine = Machine(initial=Job.NEW, states=Job, events=forward(tuple(Job)))

    assert not machine.declares("at work")
    with pytest.raises(
        ValueError, match=r"'at work' is not a state of this machine; its states are Job\.NEW, Job\.BUSY"
    ):
        machine.stored("at work")


def test_alias_within_an_enum_is_no_state_of_its_own():
    machine = Machine(initial=Light.ROUGE, states=Light, events=[Event("go", {Light.ROUGE: Light.GREEN})])
    assert machine.states == (Light.RED, Light.GREEN)


def test_members_may_be_listed():
    machine = Machine(initial=Job.NEW, states=[Job.DONE, Job.NEW], events=[Event("go", {Job.NEW: Job.DONE})])
    assert machine.states == (Job.DONE, Job.NEW)


def test_members_need_no_list_of_states():
    machine = Machine(initial=Job.NEW, events=[Event("go", {Job.NEW: Job.DONE})])
    assert (machine.states, machine.stored_states) == ((Job.NEW, Job.DONE), ("NEW", "DONE"))


def test_listed_strings_are_what_equal_members_become():
    machine = Machine(initial=Light.RED, states=["red", "green"], events=[Event("go", {Light.RED: Light.GREEN})])
    assert [type(state) for state in (*machine.states, *machine.targets("go").values())] == [str, str, str]


def test_member_of_another_enum_is_no_state_even_if_it_is_equal():
    machine = Machine(initial=Level.LOW, states=Level, events=[Event("go", {Level.LOW: Level.HIGH})])

    assert OtherLevel.LOW == Level.LOW
    assert not machine.declares(OtherLevel.LOW)
    assert not machine.declares(1)


def test_string_of_a_subclass_becomes_the_declared_string():
    machine = Machine(initial=Text("a"), states=[Text("a"), "b"], events=[Event("go", {Text("a"): Text("b")})])

    given = (machine.initial, *machine.states, machine.stored(Text("a")), *machine.targets("go").values())

    assert {type(state) for state in given} == {str}
    assert machine.stored(Text("a")) == "a"


@pytest.mark.parametrize("value", ["Lost", "running", "Running ", "", b"Running", None, 1, 1.5, [], {}, object(), ANY])
def test_value_that_is_no_state_is_not_stored(machine, value):
    assert not machine.declares(value)
    with pytest.raises(ValueError, match="its states are 'Initializing', 'Running', 'Error', 'Stopped', 'Deleted'"):
        machine.stored(value)


def test_unhashable_member_is_not_declared(machine):
    assert not machine.declares(NoHash.A)


@pytest.mark.parametrize("text", ["Lost", "running", "", "x" * 65_536, "é\0"])
def test_undeclared_text_is_loaded_as_it_is(machine, text):
    assert machine.loaded(text) is text


# Payload


def test_payload_is_the_union_of_all_names_by_first_appearance():
    event = Event(
        "go",
        [
            Transition("a", "b", guard=is_cheap, effect=lambda order, note: {"note": note}),
            Transition("a", "a", guard=lambda order, limit_, amount: order.limit < limit_ - amount),
        ],
        effect=book,
    )
    assert Machine(initial="a", events=[event]).payload("go") == ("amount", "note", "limit_", "reason")


def test_event_without_callables_has_no_payload(machine):
    assert machine.payload("Stop") == ()


def test_parameter_with_a_default_is_optional_payload():
    def guard(order, /, amount=0):
        return order.total == amount

    machine = two_states(events=[Event("go", [Transition("a", "b", guard=guard)])])

    assert Machine.callable_payload(guard) == ("amount",)
    assert (machine.payload("go"), machine.optional_payload("go")) == (("amount",), {"amount": 0})


def test_name_that_one_function_requires_is_required():
    machine = two_states(
        events=[Event("go", {"a": "b"}, guard=lambda order, by=None: True, effect=lambda order, by: {"by": by})]
    )

    assert (machine.payload("go"), machine.optional_payload("go")) == (("by",), {})


def test_keyword_only_parameter_is_the_functions_own():
    events = [Event(name, {"a": "b"}, effect=lambda order, *, to=name: {"went": to}) for name in ("left", "right")]

    assert [two_states(events=events).payload(event) for event in events] == [(), ()]
    assert [event.effect(None) for event in events] == [{"went": "left"}, {"went": "right"}]


def test_keyword_only_parameter_without_a_default_cannot_be_filled():
    (problem,) = problems(events=[Event("go", {"a": "b"}, effect=lambda order, *, note: {"note": note})])

    assert problem.startswith("event 'go': the effect takes 'note' by keyword only, which makes it the function's own")


def test_payload_with_two_defaults():
    found = problems(
        events=[Event("go", {"a": "b"}, guard=lambda order, n=1: True, effect=lambda order, n=2: {"n": n})]
    )

    assert found == ["event 'go': payload 'n' has two defaults, 1 and 2: leave one"]


def test_guard_may_be_a_bound_method_or_a_partial():
    class Limits:
        def guard(self, order, amount):
            return order.total < amount

    transitions = [
        Transition("a", "b", guard=Limits().guard),
        Transition("a", "a", guard=functools.partial(book, reason="none")),
    ]
    assert Machine(initial="a", events=[Event("go", transitions)]).payload("go") == ("amount",)


# Wrong types, told where they are written


@pytest.mark.parametrize("source", [None, 1, b"a", ("a", 1), ["a", ANY], ("a", ("b",)), NoHash.A, object()])
def test_source_that_is_no_state_is_a_type_error(source):
    with pytest.raises(TypeError, match="the source of a transition is a state, a group, an iterable of these, or ANY"):
        Transition(source, "b")


@pytest.mark.parametrize("target", [None, 1, b"a", ["a"], ("a",), ANY, NoHash.A])
def test_target_that_is_no_state_is_a_type_error(target):
    with pytest.raises(TypeError, match="the target of a transition is one state"):
        Event("go", {"a": target})


@pytest.mark.parametrize("option", ["guard", "effect"])
@pytest.mark.parametrize("value", [True, "order.total > 0", {"total": 1}, {1: len}, {}, 0])
def test_guard_or_effect_that_is_no_function_is_a_type_error(option, value):
    with pytest.raises(TypeError, match=rf"the {option} |guards are named by str"):
        Transition("a", "b", **{option: value})


def test_effect_of_an_event_that_is_no_function_is_a_type_error():
    with pytest.raises(TypeError, match=r"the effect is .*: give a function"):
        Event("go", {"a": "b"}, effect={"total": 0})


@pytest.mark.parametrize("transitions", [5, None, "ab", b"ab", {"a"}, Transition("a", "b"), [("a", "b")], ["a"]])
def test_transitions_of_a_wrong_type_are_a_type_error(transitions):
    with pytest.raises(TypeError, match="the transitions of event 'go'"):
        Event("go", transitions)


@pytest.mark.parametrize("events", [5, None, "go", {"go": {"a": "b"}}, Event("go", {"a": "b"})])
def test_events_that_cannot_be_gone_through_are_a_type_error(events):
    with pytest.raises(TypeError, match="the events of a machine come as a list or tuple"):
        Machine(initial="a", events=events)


@pytest.mark.parametrize("states", [5, "ab", {"a", "b"}, frozenset("ab"), {"a": 1}])
def test_states_without_an_order_are_a_type_error(states):
    with pytest.raises(TypeError, match="the states of a machine come as a list or tuple"):
        two_states(states=states)


def test_name_of_a_machine_that_is_no_str_is_a_type_error():
    with pytest.raises(TypeError, match="the name of a machine is a str or None, not 5"):
        two_states(name=5)


# Every rule of validation, alone


@pytest.mark.parametrize("stranger", [5, None, "go", ("go", {"a": "b"}), Event])
def test_event_that_is_no_event(stranger):
    (problem,) = problems(events=[Event("go", {("a", "b"): "b"}), stranger])
    assert problem.endswith("is not an Event: write Event(name, transitions)")


@pytest.mark.parametrize("state", [None, 5, b"c", [], ("c",), ANY, NoHash.A])
def test_declared_state_that_is_no_state(state):
    (problem,) = problems(states=["a", "b", state])
    assert problem.endswith("is neither a str nor a hashable member of an Enum class")


@pytest.mark.parametrize("initial", [None, 5, b"a", ["a"], "c", ("a",), ANY, Level.LOW])
def test_initial_state_that_is_not_declared(initial):
    (problem,) = problems(initial=initial, states=["a", "b"])
    assert problem.startswith("the initial state ")
    assert problem.endswith(" is not declared; the states are 'a', 'b'")


def test_initial_state_that_is_none_without_a_list_of_states():
    assert problems(initial=None) == ["the initial state None is not declared; the states are 'a', 'b'"]


@pytest.mark.parametrize("states", [[], enum.Enum("Nothing", [])])
def test_no_states(states):
    assert "there are no states: declare one at least" in problems(states=states)


@pytest.mark.parametrize(
    "transition",
    [Transition("a", "c"), Transition("c", "a"), Transition(("b", "c"), "a"), Transition("b", "c")],
)
def test_state_that_is_not_declared(transition):
    found = problems(states=["a", "b"], events=[Event("go", {"a": "b"}), Event("jump", [transition])])
    assert found == ["event 'jump' names the state 'c', which is not declared; the states are 'a', 'b'"]


def test_text_of_a_plain_member_is_not_declared():
    found = problems(initial=Job.NEW, states=Job, events=[*forward(tuple(Job)), Event("go", {Job.NEW: "DONE"})])
    assert found == [
        "event 'go' names the state 'DONE', which is not declared; the states are Job.NEW, Job.BUSY, Job.DONE"
    ]


def test_problem_that_is_found_twice_is_told_once():
    found = problems(states=["a", "b"], events=[Event("go", [guarded("a", "c"), guarded("b", "c"), guarded("a", "b")])])
    assert found == ["event 'go' names the state 'c', which is not declared; the states are 'a', 'b'"]


def test_state_that_no_event_leads_to():
    why = "no events lead to it from 'a'; add a transition to it, or drop the state"
    assert problems(states=["a", "b", "c"]) == [f"state 'c' cannot be reached: {why}"]


def test_initial_state_that_is_misspelt_is_one_problem():
    events = [Event("Pay", {"new": "paid"}), Event("Ship", {"paid": "shipped"})]
    (problem,) = problems(initial="nwe", events=events)
    assert problem == (
        "no event leads from the initial state 'nwe' to another one, and so none can reach 'new', 'paid', 'shipped';"
        " add a transition from it, or correct its name"
    )


def test_states_that_only_lead_to_each_other_cannot_be_reached():
    found = problems(events=[Event("go", {"a": "b", "c": "d", "d": "c"})])
    assert [problem.split(":")[0] for problem in found] == [
        "state 'c' cannot be reached",
        "state 'd' cannot be reached",
    ]


def test_state_behind_any_is_reached():
    machine = Machine(initial="a", states=["a", "b", "c"], events=[Event("go", {ANY: "b"}), Event("on", {"b": "c"})])
    assert machine.states == ("a", "b", "c")


def test_state_behind_a_guard_is_reached():
    assert Machine(initial="a", events=[Event("go", [guarded("a", "b")])]).states == ("a", "b")


def test_duplicate_event():
    found = problems(events=[Event("go", {"a": "b"}), Event("go", {"b": "a"})])
    assert found == ["event 'go' is declared more than once: put all its transitions into one Event"]


def test_duplicate_state():
    assert problems(states=["a", "b", "a"]) == ["state 'a' is declared more than once: leave one"]


def test_duplicate_source_within_a_tuple():
    found = problems(events=[Event("go", {("a", "b", "a"): "b"})])
    assert found == ["event 'go': the transition from 'a', 'b', 'a' to 'b' names 'a' more than once: leave one"]


@pytest.mark.parametrize("transitions", [{}, [], ()])
def test_event_without_transitions(transitions):
    found = problems(events=[Event("go", {"a": "b"}), Event("halt", transitions)])
    assert found == ["event 'halt' has no transitions: give it one, or drop the event"]


def test_transition_after_an_unguarded_one_can_never_win():
    found = problems(events=[Event("go", [Transition("a", "b"), guarded("a", "a")])])
    what = "event 'go': the transition from 'a' to 'a' can never win from 'a'"
    why = "an earlier transition from there has no guard; put this one first, or drop it"
    assert found == [f"{what}: {why}"]


def test_tuples_that_overlap_in_a_dict_can_not_both_win():
    (problem,) = problems(events=[Event("go", {("a", "b"): "b", ("b", "c"): "c"}), Event("on", {"a": "c"})])
    assert "the transition from 'b', 'c' to 'c' can never win from 'b'" in problem


def test_transition_after_an_unguarded_any_can_never_win():
    (problem,) = problems(events=[Event("go", [Transition(ANY, "b"), guarded(ANY, "a")])])
    assert "the transition from ANY to 'a' can never win from 'a', 'b'" in problem


def test_any_that_covers_no_state_can_never_win():
    (problem,) = problems(events=[Event("go", {"a": "b", "b": "a", ANY: "a"})])
    assert problem.startswith("event 'go': the transition from ANY to 'a' can never win: it covers no state")


def test_empty_tuple_of_sources_can_never_win():
    (problem,) = problems(events=[Event("go", {("a", "b"): "b", (): "a"})])
    assert problem.startswith("event 'go': the transition from () to 'a' can never win: it covers no state")


def test_guarded_transitions_before_an_unguarded_one_can_all_win():
    event = Event("go", [guarded("a", "a"), guarded("a", "b"), Transition("a", "c")])
    assert len(Machine(initial="a", events=[event]).transitions("go")) == 3


WRONG_NAMES = [
    ("", "is empty"),
    ("x" * 65, "is 65 characters long: 64 is the most"),
    ("a\tb", "is not all printable"),
    ("a\x7f", "is not all printable"),
    ("a\u200b", "is not all printable"),
    ("a\ud800", "is not all printable"),
    (" x", "begins or ends with a space"),
    ("x ", "begins or ends with a space"),
    ("007", "is made only of digits"),
]


@pytest.mark.parametrize(("name", "told"), WRONG_NAMES)
def test_state_with_a_wrong_name(name, told):
    (problem,) = problems(events=[Event("go", {"a": "b", "b": name})])
    assert problem.startswith("state '")
    assert told in problem


@pytest.mark.parametrize(("name", "told"), WRONG_NAMES)
def test_event_with_a_wrong_name(name, told):
    (problem,) = problems(events=[Event(name, {"a": "b"})])
    assert problem.startswith("event '")
    assert told in problem


def test_event_in_another_script():
    (problem,) = problems(events=[Event("öffnen", {"a": "b"})])
    assert problem.startswith("event 'öffnen' is not all printable ASCII")


@pytest.mark.parametrize("name", ["überfällig", "已支付", "оплачен", "πληρωμένο", "مدفوع", "支払い済み", "🚀"])
def test_state_in_any_script(name):
    assert two_states(events=[Event("go", {"a": name})]).states == ("a", name)


@pytest.mark.parametrize(
    ("one", "other"),
    [("überfällig", "uberfallig"), ("Straße", "STRASSE"), ("ø", "o"), ("ガ", "か"), ("ﬁn", "fin"), ("é", "e\u0301")],
)
def test_states_that_differ_only_in_accents(one, other):
    (problem,) = problems(events=[Event("go", {"a": one, one: other})])
    assert "differ only in case" in problem


@pytest.mark.parametrize("name", ["७", "\uff17\uff17", "²"])
def test_state_of_digits_in_another_script(name):
    (problem,) = problems(events=[Event("go", {"a": name})])
    assert "is made only of digits" in problem


def test_enum_member_with_a_wrong_name():
    lamp = enum.Enum("lamp", {"A": "on", "B": " off"})
    (problem,) = problems(initial=lamp.A, states=lamp, events=[Event("go", {lamp.A: lamp.B})])
    assert problem == "state lamp.B begins or ends with a space: strip it"


@pytest.mark.parametrize("name", ["x" * 64, "a b", "it's", 'say "x"', "100%", "a:b", "back\\slash", "~", "4x", "-1"])
def test_name_that_is_unusual_but_right(name):
    machine = Machine(initial="a", events=[Event(name, {"a": name})])
    assert (machine.stored(name), machine.event_name(name)) == (name, name)


@pytest.mark.parametrize("name", [None, 5, b"go", ["go"], Job.NEW, ANY])
def test_event_whose_name_is_no_str(name):
    (problem,) = problems(events=[Event(name, {"a": "b"})])
    assert problem.endswith("has a name that is not a str: give one")


def test_event_named_as_a_history_shows_forced_states():
    (problem,) = problems(events=[Event("force_state", {"a": "b"})])
    assert problem.startswith("event 'force_state': this name is what a history shows for force_state()")


def test_states_that_differ_only_in_case():
    found = problems(events=[Event("go", {"a": "b", "b": "A"})])
    assert found == ["states 'a', 'A' differ only in case, which most collations ignore: rename all but one"]


def test_events_that_differ_only_in_case():
    found = problems(events=[Event("go", {"a": "b"}), Event("GO", {"a": "b"}), Event("Go", {"a": "b"})])
    assert found == ["events 'go', 'GO', 'Go' differ only in case, which most collations ignore: rename all but one"]


def test_event_may_be_named_like_a_state():
    assert Machine(initial="a", events=[Event("A", {"a": "b"})]).targets("A") == {"a": "b"}


def test_states_that_are_stored_alike():
    lamp = enum.Enum("lamp", {"on": 1, "B": "on"})
    found = problems(initial=lamp.on, states=lamp, events=[Event("go", {lamp.on: lamp.B})])
    assert found == ["states lamp.on, lamp.B are stored alike, as 'on': rename all but one"]


def test_more_states_than_an_enum_takes():
    states = [f"s{number}" for number in range(MAX_STATES + 1)]
    found = problems(initial="s0", states=states, events=[Event("go", {"s0": "s1", tuple(states[1:]): "s0"})])
    assert found[0] == "there are 65536 states: MySQL's ENUM takes 65535 at most"


@pytest.mark.parametrize("name", sorted(RESERVED_NAMES))
def test_payload_name_that_is_an_option_of_fire(name):
    guard = eval(f"lambda order, {name}: True")  # noqa: S307 - a function of our own making
    found = problems(events=[Event("go", [Transition("a", "b", guard=guard)])])
    guard_of = "the guard of the transition to 'b'"
    assert found == [f"event 'go': {guard_of} takes {name!r}, which is an option of fire: rename it"]


def test_reserved_names_are_the_options_of_fire():
    assert set(RESERVED_NAMES) == {
        "event", "session", "column", "actor", "details", "token", "order_by", "limit", "key", "model",
        "criteria", "batch_size", "max_rows", "progress",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("effect", "told"),
    [
        (lambda order, fsm_now: {}, "takes 'fsm_now': names that begin with 'fsm_' are the library's own"),
        (lambda order, *amounts: {}, "takes *amounts: name each value of the payload"),
        (lambda order, **payload: {}, "takes **payload: name each value of the payload"),
        (lambda order, amount, /: {}, "takes 'amount' by position only: the payload comes by name"),
        (lambda *orders: {}, "does not take the mapped class by position: *orders comes first"),
        (lambda *, order: {}, "does not take the mapped class by position: order comes first"),
        (
            lambda: {},  # noqa: PIE807 - a function in Python, which dict is not
            "has no first parameter for the mapped class, or no signature to read: wrap it in a lambda",
        ),
        (dict, "has no first parameter for the mapped class, or no signature to read: wrap it in a lambda"),
    ],
)
def test_effect_that_cannot_be_called_with_class_and_payload(effect, told):
    (problem,) = problems(events=[Event("go", {"a": "b"}, effect=effect)])
    assert problem.startswith("event 'go': the effect ")
    assert told in problem


# Several at once


def test_every_problem_is_listed():
    """One declaration with a problem of every kind: none of them hides another."""
    events = [
        Event("go", [Transition("a", "b"), Transition("a", "lost")]),
        Event("go", {"b": "a"}),
        Event("GO", {ANY: "b"}, effect=lambda order, session, **rest: {}),
        Event("", {}),
        "stop",
    ]
    with pytest.raises(InvalidMachine) as invalid:
        Machine(initial="start", states=["a", "b", "B", "12", "b", None], events=events, name="orders")

    told = [
        "state None is neither",
        "event 'stop' is not an Event",
        "state '12' is made only of digits",
        "states 'b', 'B' differ only in case",
        "event '' is empty",
        "events 'go', 'GO' differ only in case",
        "state 'b' is declared more than once",
        "event 'go' is declared more than once",
        "the initial state 'start' is not declared",
        "event '' has no transitions",
        "event 'go' names the state 'lost'",
        "event 'go': the transition from 'a' to 'lost' can never win",
        "event 'GO': the effect takes 'session'",
        "event 'GO': the effect takes **rest",
    ]
    found = invalid.value.problems
    assert [part for part, problem in zip(told, found, strict=True) if not problem.startswith(part)] == []
    assert str(invalid.value) == "\n- ".join(["the machine 'orders' has 14 problems:", *found])


@pytest.mark.long
def test_large_machine_is_made_in_no_time():
    """As many states as an ENUM takes: no rule's time grows with the square of their number."""
    states = [f"s{number}" for number in range(MAX_STATES)]
    event = Event("next", dict(zip(states, [*states[1:], "s0"], strict=True)))

    machine = Machine(initial="s0", events=[event])

    assert (len(machine.states), machine.targets("next")["s65534"]) == (MAX_STATES, "s0")


@pytest.mark.long
@pytest.mark.skipif(sys.gettrace() is not None, reason="a tracer multiplies the time")
def test_many_aliases_and_events_cost_no_more_than_their_number():
    """Both were quadratic: 3.3 and 10 seconds of a CPU that needs 0.2 now."""
    states = [f"s{number}" for number in range(8_000)]
    ways = list(zip(states, [*states[1:], "s0"], strict=True))
    begin = time.process_time()

    Machine(initial="s0", events=[Event("next", dict(ways))], aliases={f"x{state}": state for state in states})
    Machine(initial="s0", events=[Event(f"from {source}", {source: target}) for source, target in ways[:4_000]])

    assert time.process_time() - begin < 3
