"""What a fire returns: values that compare, hash, travel, and do not change."""

from __future__ import annotations

import copy
import enum
import pickle

import pytest

from sqlalchemy_fsm_mysql.outcomes import Missing, Moved, MovedRows, ReadOnlyMapping, Refused


class Order:
    """Stands for a mapped class, and one that cannot be hashed."""

    __hash__ = None

    def __eq__(self, other):
        raise AssertionError("an outcome must not compare instances")


class Light(enum.Enum):
    RED = 1
    GREEN = 2


STOPPED = Moved(Order, 42, "Stop", "Running", "Stopped")
REFUSED = Refused(Order, 42, "Stop", "Deleted", "state", ["Running", "Stopped"])
ROWS = MovedRows(Order, "Stop", 5, {("Running", "Stopped"): 3, ("Stopped", "Stopped"): 2})


def unpickled(value):
    """What another process gets when *value* is sent to it."""
    return pickle.loads(pickle.dumps(value))  # noqa: S301 - pickled the moment before


# Moved


def test_moved_is_true():
    assert STOPPED


def test_moved_has_changed_when_the_target_is_another_state():
    assert STOPPED.changed


@pytest.mark.parametrize("state", ["Stopped", Light.RED])
def test_moved_to_the_same_state_is_true_and_has_not_changed(state):
    moved = Moved(Order, 42, "Stop", state, state)
    assert moved
    assert not moved.changed


def test_moved_needs_five_things_and_knows_defaults_for_the_rest():
    assert (STOPPED.model, STOPPED.key, STOPPED.event, STOPPED.source, STOPPED.target) == (
        Order,
        42,
        "Stop",
        "Running",
        "Stopped",
    )
    assert (STOPPED.instance, STOPPED.payload, STOPPED.actor, STOPPED.details) == (None, {}, None, None)
    assert (STOPPED.token, STOPPED.replayed, STOPPED.sequence) == (None, False, None)


def test_moved_compares_without_instance_payload_and_details():
    one = Moved(Order, 42, "Stop", "Running", "Stopped", instance=Order(), payload={"a": []}, details={"b": []})
    assert one == STOPPED
    assert hash(one) == hash(STOPPED)
    assert repr(one) == repr(STOPPED)


@pytest.mark.parametrize(
    "change",
    [{"actor": "me"}, {"token": "t"}, {"replayed": True}, {"sequence": 2}, {"created": True}],
    ids=lambda change: next(iter(change)),
)
def test_moved_differs_by_everything_else(change):
    assert Moved(Order, 42, "Stop", "Running", "Stopped", **change) != STOPPED


def test_repr_of_moved_says_the_transition():
    assert "key=42, event='Stop', source='Running', target='Stopped')" in repr(STOPPED)


def test_repr_leaves_out_the_fields_that_have_their_default():
    again = Moved(Order, 42, "Stop", "Running", "Stopped", token="t", replayed=True, sequence=2)

    assert repr(again).endswith("target='Stopped', token='t', replayed=True, sequence=2)")
    assert repr(Missing(Order, 42, "Stop")) == f"Missing(model={Order!r}, key=42, event='Stop')"


@pytest.mark.parametrize("attribute", ["state", "source", "instance", "changed"])
def test_moved_cannot_be_changed(attribute):
    with pytest.raises((AttributeError, TypeError)):
        setattr(STOPPED, attribute, "Deleted")


def test_payload_cannot_be_changed():
    """A fire wraps its payload once; tests/conformance has the outcomes of real ones."""
    given = {"amount": 30}
    moved = Moved(Order, 42, "Refund", "Paid", "Refunded", payload=ReadOnlyMapping(given))

    with pytest.raises(TypeError):
        moved.payload["amount"] = 40
    given["amount"] = 50

    assert moved.payload == {"amount": 30}


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, unpickled])
def test_moved_survives_copying_and_pickling(again):
    moved = Moved(
        Order,
        (1, "x"),
        "Go",
        Light.RED,
        Light.GREEN,
        payload={"a": 1},
        details=[1],
        replayed=True,
        sequence=3,
    )

    there = again(moved)

    assert there == moved
    assert (there.payload, there.details, there.source) == ({"a": 1}, [1], Light.RED)


# Refused


def test_refused_is_false():
    assert not REFUSED


def test_refused_is_hashable_and_compares_by_value():
    assert Refused(Order, 42, "Stop", "Deleted", "state", ["Running", "Stopped"]) == REFUSED
    assert Refused(Order, 42, "Stop", "Deleted", "guard", ["Running", "Stopped"]) != REFUSED
    assert len({REFUSED, copy.copy(REFUSED)}) == 1


def test_refused_cannot_be_changed():
    with pytest.raises(AttributeError):
        REFUSED.state = "Running"


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, unpickled])
def test_refused_survives_copying_and_pickling(again):
    assert again(REFUSED) == REFUSED


# MovedRows


@pytest.mark.parametrize("moved", [0, 1, 5])
def test_moved_rows_are_true_when_a_row_moved(moved):
    assert bool(MovedRows(Order, "Stop", moved, {})) == (moved > 0)


def test_changed_rows_are_those_of_another_state_now():
    assert (ROWS.moved, ROWS.changed) == (5, 3)


def test_rows_by_transition_equal_a_dict_and_cannot_be_changed():
    assert ROWS.by_transition == {("Running", "Stopped"): 3, ("Stopped", "Stopped"): 2}
    assert ROWS.by_transition["Running", "Stopped"] == 3
    with pytest.raises(TypeError):
        ROWS.by_transition["Running", "Stopped"] = 4


def test_moved_rows_are_hashable_and_compare_by_value():
    alike = MovedRows(Order, "Stop", 5, dict(ROWS.by_transition))
    assert alike == ROWS
    assert len({alike, ROWS}) == 1
    assert MovedRows(Order, "Stop", 5, {}) != ROWS


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, unpickled])
def test_moved_rows_survive_copying_and_pickling(again):
    assert again(ROWS) == ROWS


# The mapping behind them


def test_read_only_mapping_shows_as_its_dict():
    mapping = ReadOnlyMapping({"b": 1, "a": 2})
    assert (repr(mapping), list(mapping), len(mapping)) == ("{'b': 1, 'a': 2}", ["b", "a"], 2)
    assert {"a": 2, "b": 1} == mapping  # noqa: SIM300 - either side may ask
    assert mapping != {"a": 2}


def test_read_only_mapping_is_hashed_by_its_items():
    assert hash(ReadOnlyMapping({"b": 1, "a": 2})) == hash(ReadOnlyMapping({"a": 2, "b": 1}))
