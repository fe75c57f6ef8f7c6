"""Groups, effects of entering and leaving, named guards, timed and unrecorded events, as they are declared."""

from __future__ import annotations

import copy
import enum
import pickle
from datetime import timedelta

import pytest

from sqlalchemy_fsm_mysql import ANY, Event, Guard, InvalidMachine, Machine, Transition
from sqlalchemy_fsm_mysql.machine.evolution import RECIPES, diff_machines
from sqlalchemy_fsm_mysql.machine.rules import Rules


def is_owner(order, user):
    return order.owner == user


def in_stock(order):
    return order.stock > 0


def note(order, text=""):
    return {"note": text}


def stamp(order):
    return {"stamped": 1}


def unpickled(value):
    return pickle.loads(pickle.dumps(value))  # noqa: S301 - pickled the moment before


PAY = Event("Pay", {"new": "paid"})
SHIP = Event("Ship", {"paid": "shipped"})


def shop(**changes):
    return Machine(**{"initial": "new", "events": [PAY, SHIP], **changes})


def problems(**changes):
    with pytest.raises(InvalidMachine) as invalid:
        shop(**changes)
    return invalid.value.problems


def full():
    """A machine with everything."""
    return shop(
        name="shop",
        events=[
            Event("Pay", {"new": "paid"}, guard={"owner": Guard(is_owner, "only the owner may pay")}, effect=note),
            Event("Ship", [Transition(["paid"], "shipped", guard=in_stock, effect=stamp)], description="sent"),
            Event("Cancel", {"open": "cancelled"}, after=timedelta(minutes=15)),
            Event("Beat", {"new": "new"}, recorded=False),
            Event("Begin", {"draft": "new"}),
        ],
        groups={"open": ("new", "paid"), "live": ["open", "shipped"]},
        initial_states={"draft"},
        on_enter={"paid": stamp, "live": note, ANY: stamp},
        on_exit={"open": stamp},
    )


# --- sources and groups


@pytest.mark.parametrize(
    "sources",
    [["new", "paid"], {"paid", "new"}, frozenset({"new", "paid"}), (s for s in ("new", "paid")), {"new": 1, "paid": 2}],
)
def test_sources_come_as_any_iterable(sources):
    machine = shop(events=[PAY, Event("Cancel", [Transition(sources, "cancelled")])])
    assert machine.targets("Cancel") == {"new": "cancelled", "paid": "cancelled"}


def test_enum_class_is_an_iterable_of_sources():
    light = enum.Enum("light", {"RED": "red", "GREEN": "green", "OFF": "off"})
    machine = Machine(initial=light.RED, states=light, events=[
        Event("Switch", {light.RED: light.GREEN}), Event("Stop", [Transition(light, light.OFF)])
    ])  # fmt: skip
    assert machine.sources("Stop") == list(light)


def test_group_stands_where_a_source_does():
    machine = shop(events=[PAY, SHIP, Event("Cancel", {"open": "cancelled"})], groups={"open": ("new", "paid")})

    assert machine.targets("Cancel") == {"new": "cancelled", "paid": "cancelled"}
    assert machine.states == ("new", "paid", "shipped", "cancelled")


def test_group_contains_groups():
    machine = shop(groups={"any": ["open", "shipped"], "open": ["new", "paid", "new"][:2]})

    assert machine.groups == {"any": ("new", "paid", "shipped"), "open": ("new", "paid")}
    assert machine.grouping.subgroups("any") == ("open",)


def test_state_of_two_groups_is_one_source():
    event = Event("Cancel", {("early", "open"): "cancelled"})
    machine = shop(events=[PAY, SHIP, event], groups={"open": ("new", "paid"), "early": ["new"]})
    assert machine.sources("Cancel") == ["new", "paid"]


def test_group_of_members():
    light = enum.Enum("light", {"RED": "red", "GREEN": "green"})
    machine = Machine(
        initial=light.RED,
        states=light,
        groups={"lit": set(light)},
        events=[Event("Switch", {"lit": light.GREEN})],
    )
    assert machine.groups["lit"] == (light.GREEN, light.RED)


@pytest.mark.parametrize(
    ("groups", "told"),
    [
        ({"new": ("paid",)}, "group 'new' is a state too: rename the group"),
        ({"open": ()}, "group 'open' is empty: name a state at least, or drop the group"),
        ({"open": ("lost",)}, "group 'open' names 'lost', which is not declared; the states are 'new', 'paid', "),
        ({"open": ("new", "new")}, "group 'open' names 'new' more than once: leave one"),
        ({"a": ("b", "new"), "b": ("a",)}, "groups 'a', 'b' contain each other: a group cannot contain itself"),
        ({"": ("new",)}, "group '' is empty: give it a name"),
        ({"Open": ("new",), "open": ("new",)}, "groups 'Open', 'open' differ only in case"),
    ],
)
def test_wrong_group(groups, told):
    (problem,) = problems(groups=groups)
    assert problem.startswith(told)


@pytest.mark.parametrize("groups", [["open"], {1: ("new",)}, {"open": "new"}, {"open": 5}])
def test_group_of_a_wrong_type(groups):
    with pytest.raises(TypeError, match="group"):
        shop(groups=groups)


def test_group_as_a_target():
    found = problems(events=[PAY, SHIP, Event("Undo", {"shipped": "open"})], groups={"open": ("new", "paid")})
    assert any("leads to the group 'open': a row is in one state, so name that" in problem for problem in found)


# --- initial states


def test_initial_states_need_no_way_to_them():
    machine = shop(events=[PAY, Event("Begin", {"draft": "new"})], initial_states=["draft"])

    assert machine.initial_states == ("draft",)
    assert Rules.of(machine).begins == ("new", "draft", "paid")


@pytest.mark.parametrize(
    ("states", "told"),
    [
        (["lost"], "initial state 'lost' is never left by an event: a row born in it could not move; add one"),
        (["paid", "paid"], "initial state 'paid' is named more than once: leave one"),
        ([None], "initial state None is neither a str nor a hashable member of an Enum class"),
        (["shipped"], "initial state 'shipped' is never left by an event: a row born in it could not move; add one"),
    ],
)
def test_wrong_initial_states(states, told):
    assert told in problems(initial_states=states)


def test_initial_state_that_is_not_declared():
    found = problems(states=["new", "paid", "shipped"], initial_states=["lost"])
    assert found == ["initial state 'lost' is not declared; the states are 'new', 'paid', 'shipped'"]


def test_retired_initial_states():
    found = problems(retired=["old"], initial_states=["old"])
    assert found == ["initial state 'old' is retired: rows could not begin in it"]


# --- entering and leaving


def crossed(machine, source, target):
    return [(border.role, border.of) for border in machine.borders.crossed(source, target)]


def test_borders_are_crossed_from_outside_to_inside():
    machine = shop(
        groups={"open": ("new", "paid")},
        on_enter={"paid": stamp, "open": stamp, "shipped": stamp},
        on_exit={"open": stamp, "new": stamp},
    )

    assert crossed(machine, "new", "paid") == [("enter", "paid"), ("exit", "new")]
    assert crossed(machine, "paid", "shipped") == [("enter", "shipped"), ("exit", "open")]
    assert crossed(machine, "shipped", "paid") == [("enter", "paid"), ("enter", "open")]
    assert crossed(machine, "paid", "paid") == []
    assert crossed(machine, None, "new") == [("enter", "open")]


def test_borders_come_from_the_most_specific_to_any():
    machine = shop(
        groups={"open": ("inner",), "inner": ["paid"], "late": ("paid", "shipped")},
        on_enter={ANY: stamp, "late": stamp, "open": stamp, "inner": stamp, "paid": stamp},
        on_exit={ANY: stamp, "new": stamp},
    )

    assert crossed(machine, "new", "paid") == [
        ("enter", "paid"), ("exit", "new"), ("enter", "inner"), ("enter", "open"), ("enter", "late"),
        ("enter", ANY), ("exit", ANY),
    ]  # fmt: skip


def test_only_groups_that_are_not_inside_each_other_conflict():
    machine = shop(
        groups={"inner": ["paid"], "outer": ["paid", "shipped"], "other": ["paid", "new"]},
        on_enter={"inner": stamp, "outer": note, "other": lambda order: {}},
    )
    inner, outer, other = machine.borders.effects

    assert not machine.borders.conflicts(inner, outer)
    assert not machine.borders.conflicts(inner, other)
    assert machine.borders.conflicts(outer, other)


@pytest.mark.parametrize("role", ["on_enter", "on_exit"])
def test_border_of_an_unknown_name(role):
    (problem,) = problems(**{role: {"lost": stamp}}, groups={"open": ("new", "paid")})
    assert problem == (
        f"{role} of 'lost': this is not declared; the states are 'new', 'paid', 'shipped'; the groups are 'open',"
        " and ANY is every state"
    )


@pytest.mark.parametrize("effects", [["paid"], {"paid": None}, {"paid": {"at": 1}}])
def test_border_effect_of_a_wrong_type(effects):
    with pytest.raises(TypeError, match="on_enter"):
        shop(on_enter=effects)


def test_payload_of_a_border_effect_is_that_of_the_events_that_cross_it():
    machine = shop(on_enter={"paid": lambda order, by, how="card": {"by": by}})

    assert (machine.payload("Pay"), machine.optional_payload("Pay")) == (("by", "how"), {"how": "card"})
    assert machine.payload("Ship") == ()


def test_border_effect_that_cannot_be_called():
    assert problems(on_exit={"new": lambda order, *rest: {}}) == [
        "on_exit of 'new': the effect takes *rest: name each value of the payload"
    ]


# --- guards and their names


def names(machine, event):
    return list(machine.guards(event))


def test_guards_are_named_by_the_dict_the_function_or_guard():
    events = [
        Event("Pay", [Transition("new", "paid", guard={"owner": is_owner, "stock": in_stock})]),
        Event("Ship", [Transition("paid", "shipped", guard=in_stock)]),
        Event("Undo", [Transition("paid", "new", guard=lambda order: True)]),
    ]
    machine = shop(events=events)
    assert [names(machine, event) for event in events] == [["owner", "stock"], ["in_stock"], ["guard"]]


def test_guard_carries_a_sentence():
    machine = shop(events=[Event("Pay", {"new": "paid"}, guard=Guard(is_owner, "only the owner may pay"))])

    guard = machine.guards("Pay")["is_owner"]

    assert (guard.function, guard.sentence) == (is_owner, "only the owner may pay")


def test_guard_of_an_event_is_that_of_each_transition():
    event = Event("Pay", [Transition("new", "paid", guard=in_stock), Transition("paid", "paid")], guard=is_owner)
    machine = shop(events=[event])

    assert [[guard.name for guard in way.guards] for way in machine.transitions("Pay")] == [
        ["is_owner", "in_stock"],
        ["is_owner"],
    ]
    assert machine.payload("Pay") == ("user",)


def test_guard_of_an_event_leaves_later_transitions_open():
    event = Event("Pay", [Transition("new", "paid"), Transition("new", "shipped")], guard=is_owner)
    (problem,) = problems(events=[event])
    assert "can never win from 'new'" in problem


@pytest.mark.parametrize(
    ("event", "told"),
    [
        (
            Event("Pay", [Transition("new", "paid", guard={"owner": in_stock})], guard={"owner": is_owner}),
            "event 'Pay' has two guards called 'owner': rename one, so that a refusal distinguishes them",
        ),
        (Event("Pay", {"new": "paid"}, guard={"": is_owner}), "event 'Pay': the guard '' is empty: give it a name"),
        (
            Event("Pay", {"new": "paid"}, guard={"a": Guard(in_stock, " ")}),
            "event 'Pay': the sentence of the guard 'a' is empty or not all printable",
        ),
        (
            Event("Pay", {"new": "paid"}, guard={"a": Guard(in_stock, "x" * 256)}),
            "event 'Pay': the sentence of the guard 'a' is 256 characters long: 255 is the most",
        ),
        (
            Event("Pay", {"new": "paid"}, guard={"after": in_stock}, after=timedelta(1)),
            "event 'Pay': the guard 'after' has the name of the guard that after= makes: rename it",
        ),
        (
            Event("Pay", {"new": "paid"}, guard={f"g{i}": in_stock for i in range(39)}),
            "event 'Pay' has 39 guards with different names, and 38 is the most: make one function of some, or two events",
        ),
    ],
)
def test_wrong_guard(event, told):
    assert problems(events=[event, SHIP]) == [told]


def test_one_function_may_be_named_alike_twice():
    ways = [
        Transition("new", "paid", guard={"owner": is_owner}),
        Transition("paid", "shipped", guard={"owner": is_owner}),
    ]
    assert names(shop(events=[Event("Pay", ways)]), "Pay") == ["owner"]


@pytest.mark.parametrize("arguments", [(5,), (in_stock, 5), (Guard(in_stock),)])
def test_guard_of_a_wrong_type(arguments):
    with pytest.raises(TypeError, match="Guard"):
        Guard(*arguments)


# --- timed, unrecorded and described events


@pytest.mark.parametrize(
    ("event", "told"),
    [
        (Event("Pay", {"new": "paid"}, after=timedelta(0)), "event 'Pay': after=datetime.timedelta(0) is not between"),
        (
            Event("Pay", {"new": "paid"}, after=timedelta(days=40_000)),
            "event 'Pay': after=datetime.timedelta(days=40000)",
        ),
        (
            Event("Pay", {"new": "paid"}, after=lambda order, at: at),
            "event 'Pay': the function of after takes a payload",
        ),
        (Event("Pay", {"new": "paid"}, after=lambda: 1), "event 'Pay': the function of after has no first parameter"),
        (
            Event("Pay", {"new": "paid"}, after=timedelta(1), guard=is_owner),
            "event 'Pay' has after= and needs the payload 'user', which is not given when it becomes due",
        ),
        (
            Event("Pay", {"new": "paid"}, recorded=False),
            "event 'Pay': the transition from 'new' to 'paid' changes the state, which recorded=False would hide",
        ),
        (Event("Pay", {"new": "paid"}, description=" "), "event 'Pay': the description is empty or not all printable"),
        (Event("Pay", {"new": "paid"}, description="a\x1b[2J"), "event 'Pay': the description is empty or not all"),
        (Event("Pay", {"new": "paid"}, description="x" * 1001), "event 'Pay': the description is 1,001 characters"),
    ],
)
def test_wrong_option_of_an_event(event, told):
    (problem,) = problems(events=[event, SHIP])
    assert problem.startswith(told)


@pytest.mark.parametrize(
    "options", [{"after": 15}, {"after": "15m"}, {"recorded": 0}, {"description": 5}, {"guard": 1}]
)
def test_option_of_an_event_of_a_wrong_type(options):
    with pytest.raises(TypeError):
        Event("Pay", {"new": "paid"}, **options)


def test_description_may_have_lines():
    assert shop(events=[Event("Pay", {"new": "paid"}, description="Money\n  has come in.")]).events["Pay"].description


# --- a value


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, unpickled, lambda m: full()])
def test_equal_declarations_are_equal(again):
    machine = full()
    assert again(machine) == machine
    assert hash(again(machine)) == hash(machine)
    assert again(machine).to_json() == machine.to_json()


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"groups": {"open": ("new",)}},
        {"initial_states": ["paid"]},
        {"on_enter": {"paid": stamp}},
        {"on_exit": {"paid": stamp}},
        {"aliases": {"payed": "paid"}},
        {"retired": ["old"]},
        {"events": [Event("Pay", {"new": "paid"}, guard=in_stock), SHIP]},
        {"events": [Event("Pay", {"new": "paid"}, after=timedelta(1)), SHIP]},
        {"events": [Event("Pay", {"new": "paid"}, description="paid"), SHIP]},
        {"events": [SHIP, PAY], "states": ["new", "paid", "shipped"]},
    ],
)
def test_another_declaration_is_another_machine(changes):
    assert shop(**changes) != shop()
    assert shop(**changes) == shop(**changes)


def test_machine_is_no_other_thing():
    assert shop() != "shop"


def test_sources_in_any_order_of_a_set_are_equal():
    assert Event("Go", [Transition({"a", "b", "c"}, "d")]) == Event("Go", [Transition({"c", "b", "a"}, "d")])


def test_json_comes_back():
    machine = full()

    arrived = Machine.from_json(machine.to_json())

    assert arrived.to_json() == machine.to_json()
    assert arrived == Machine.from_json(machine.to_json())
    assert diff_machines(machine, arrived) == []
    assert arrived.guards("Pay")["owner"].sentence == "only the owner may pay"
    assert arrived.events["Cancel"].after == timedelta(minutes=15)
    assert (arrived.groups, arrived.initial_states) == (machine.groups, ("draft",))


def test_machine_without_functions_is_equal_after_json():
    machine = shop(groups={"open": ("new", "paid")}, initial_states=["paid"])
    assert Machine.from_json(machine.to_json()) == machine


# --- what changed

WAY = "event 'Pay' from 'new'"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({}, {"groups": {"open": ("new",)}}, [("group added", "group 'open' is added")]),
        ({"groups": {"open": ("new",)}}, {}, [("group removed", "group 'open' is removed")]),
        (
            {"groups": {"open": ("new",)}},
            {"groups": {"open": ("paid",)}},
            [
                ("group changed", "state 'paid' joins group 'open'"),
                ("group changed", "state 'new' leaves group 'open'"),
            ],
        ),
        ({}, {"initial_states": ["paid"]}, [("initial state added", "rows may begin in 'paid', too")]),
        ({"initial_states": ["paid"]}, {}, [("initial state removed", "rows no longer begin in 'paid'")]),
        (
            {},
            {"on_enter": {"paid": stamp}},
            [("border effects changed", "entering state 'paid' has an effect now")],
        ),
        (
            {"on_exit": {ANY: stamp}},
            {},
            [("border effects changed", "leaving any state has no effect any more")],
        ),
        (
            {},
            {"events": [Event("Pay", {"new": "paid"}, guard={"owner": in_stock}), SHIP]},
            [("guards changed", f"{WAY} had guards on the way to none; now it has them on the way to 'paid' ('owner')")],
        ),
        (
            {"events": [Event("Pay", {"new": "paid"}, guard={"owner": in_stock}), SHIP]},
            {"events": [Event("Pay", {"new": "paid"}, guard={"stock": in_stock}), SHIP]},
            [("guards changed", f"{WAY} had guards on the way to 'paid' ('owner'); now it has them on the way to 'paid' ('stock')")],
        ),
        (
            {},
            {"events": [Event("Pay", {"new": "paid"}, after=timedelta(minutes=15)), SHIP]},
            [("deadline changed", "event 'Pay' was never due by itself, and is due after 0:15:00")],
        ),
        (
            {"events": [PAY, SHIP, Event("Beat", {"new": "new"})]},
            {"events": [PAY, SHIP, Event("Beat", {"new": "new"}, recorded=False)]},
            [("recording changed", "event 'Beat' is not in the history from now on")],
        ),
        (
            {"events": [Event("Pay", {"new": "paid"}, guard=lambda order, by: True), SHIP]},
            {"events": [Event("Pay", {"new": "paid"}, guard=lambda order, by="": True), SHIP]},
            [("payload widened", "event 'Pay' took 'by'; now it takes 'by' (optional)")],
        ),
    ],
)  # fmt: skip
def test_change_is_told(old, new, expected):
    changes = diff_machines(shop(**old), shop(**new))

    assert [(change.kind, change.what) for change in changes] == expected
    assert all(change.phases for change in changes)
    assert {change.kind for change in changes} <= set(RECIPES)


# --- hostile JSON


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"format": ' + "9" * 30 + "}",
        '{"format": NaN}',
        '{"format": Infinity}',
        '{"format": true}',
        '{"format": 1.0}',
        '{"format": 1, "format": 1}',
        '{"format": 1e400}',
        "\ud800",
        "\x00",
    ],
)
def test_hostile_json_is_a_value_error(text):
    with pytest.raises(ValueError, match=r"not the JSON of a machine|not known here"):
        Machine.from_json(text)


@pytest.mark.parametrize("text", [None, b"{}", 5])
def test_json_that_is_no_text(text):
    with pytest.raises(ValueError, match="not the JSON of a machine"):
        Machine.from_json(text)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"effect": null', '"effect": "abc"'),
        ('"effect": null', '"effect": ["no name"]'),
        ('"effect": null', '"effect": ["a", "a?"]'),
        ('"guards": {}', '"guards": []'),
        ('"guards": {}', '"guards": {"g": {"takes": [], "sentence": 5}}'),
        ('"guards": {}', '"after": -5, "guards": {}'),
        ('"guards": {}', '"after": 1e300, "guards": {}'),
        ('"guards": {}', '"after": true, "guards": {}'),
        ('"guards": {}', '"recorded": 1, "guards": {}'),
        ('"on_enter": []', '"on_enter": [{"of": null, "effect": []}, {"of": null, "effect": []}]'),
        ('"on_enter": []', '"on_enter": [{"of": ["paid"], "effect": []}]'),
        ('"groups": {}', '"groups": {"open": "paid"}'),
        ('"groups": {}', '"groups": {"open": [1]}'),
        ('"aliases": {}', '"aliases": {"payed": ["paid"]}'),
        ('"name": null', '"name": 5'),
    ],
)
def test_json_of_a_wrong_shape_is_a_value_error(before, after):
    text = shop().to_json()
    assert before in text

    with pytest.raises(ValueError, match=r"not the JSON of a machine|problem"):
        Machine.from_json(text.replace(before, after, 1))


def test_json_that_is_too_long(monkeypatch):
    monkeypatch.setattr("sqlalchemy_fsm_mysql.machine.document.MAX_CHARACTERS", 100)

    with pytest.raises(ValueError, match="characters, 100 is the most"):
        Machine.from_json(shop().to_json())
