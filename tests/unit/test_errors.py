"""The errors: the tree, what they say, and that they travel."""

from __future__ import annotations

import copy
import enum
import inspect
import pickle
import uuid

import pytest

from sqlalchemy_fsm_mysql import errors
from sqlalchemy_fsm_mysql.errors import (
    FireError,
    FSMError,
    GuardNotSatisfied,
    InstanceStateError,
    InvalidMachine,
    LockTimeout,
    MigrationRefused,
    NotWritable,
    OutcomeUnknown,
    RowNotFound,
    StateAssignmentError,
    TransactionAborted,
    TransitionNotAllowed,
    UnknownEvent,
    UnknownState,
)
from sqlalchemy_fsm_mysql.errors.texts import listed, row_label, shown, stored_form


class Order:
    """Stands for a mapped class."""


class Job(enum.Enum):
    NEW = 1
    BUSY = "at work"


class Unprintable:
    def __repr__(self):
        raise RuntimeError("no")


ROW = {"model": Order, "table": "orders", "key": 42, "event": "Ready"}
REFUSAL = {"state": "Deleted", "allowed_from": ["Initializing", "Running", "Error"]}
TOKENS = {"token": "t1", "tokens": ["t0", "t1"]}

WRITE_ELSEWHERE = "nothing was committed; roll back and run the whole unit of work again on a server that takes writes"

EXAMPLES = [
    FSMError("something"),
    InvalidMachine(["one", "two"], "orders"),
    MigrationRefused("orders.state", "cannot drop it", "move them first", rows={"Error": 3}),
    UnknownEvent("Halt", ["Ready"], model=Order),
    UnknownEvent(["Halt"], []),
    StateAssignmentError("orders 42 is moved by events"),
    errors.TransactionRequired("the connection is in AUTOCOMMIT"),
    errors.TooManyRows("more than 10 rows match"),
    errors.HistoryError("history row 7 does not follow", row=("orders", 7)),
    InstanceStateError("orders 42 is detached"),
    errors.GraphvizMissing("Graphviz's program 'dot' is", "apt install graphviz"),
    errors.DatabaseUnfit(["error: it takes no writes; connect to the primary"], ["a finding"]),
    FireError("orders 42 did not move", model=Order, key=42, event="Ready"),
    TransitionNotAllowed(**ROW, **REFUSAL),
    GuardNotSatisfied(**ROW, **REFUSAL),
    RowNotFound(**ROW),
    errors.KeyConflict(**ROW),
    errors.UniqueViolation(**ROW, code=1062),
    errors.UniqueViolation(),
    errors.RowFailed(**ROW, code=1690),
    errors.TableBusy(column="orders.state", attempts=5, seconds=1, users=["connection 12 of app@db"], code=1205),
    errors.TokenConflict(**ROW, token=TOKENS["token"], earlier="'Stop' on orders 41"),
    UnknownState(**ROW, state="Lost", declared=[Job.NEW, Job.BUSY]),
    errors.RefusedByDatabase(**ROW, column="orders.state", source="Deleted", target="Running", code=30045),
    errors.RefusedByDatabase(column="orders.state", source=None, target="Deleted", is_new=True),
    errors.RefusedByDatabase(column="orders.state", source=None, target=None),
    TransactionAborted(**ROW, code=1213, retryable=True),
    TransactionAborted(code=None, retryable=False),
    LockTimeout(**ROW, code=1205),
    NotWritable(code=1290),
    OutcomeUnknown(**TOKENS, code=2013),
    OutcomeUnknown(),
    errors.OutcomeHidden(**ROW),
]


def name_of(value):
    return type(value).__name__


def unpickled(value, protocol=None):
    """What another process gets when *value* is sent to it."""
    return pickle.loads(pickle.dumps(value, protocol))  # noqa: S301 - pickled the moment before


# The tree


@pytest.mark.parametrize(
    ("error", "parents"),
    [
        (InvalidMachine, (FSMError, ValueError)),
        (UnknownEvent, (FSMError, LookupError)),
        (StateAssignmentError, (FSMError,)),
        (InstanceStateError, (FSMError,)),
        (FireError, (FSMError,)),
        (TransitionNotAllowed, (FireError,)),
        (GuardNotSatisfied, (TransitionNotAllowed,)),
        (RowNotFound, (FireError,)),
        (errors.UniqueViolation, (FireError,)),
        (errors.KeyConflict, (errors.UniqueViolation,)),
        (errors.RowFailed, (FireError,)),
        (errors.TableBusy, (LockTimeout,)),
        (UnknownState, (FireError,)),
        (errors.RefusedByDatabase, (FireError,)),
        (TransactionAborted, (FireError,)),
        (LockTimeout, (FireError,)),
        (NotWritable, (FireError,)),
        (OutcomeUnknown, (FireError,)),
        (errors.OutcomeHidden, (OutcomeUnknown,)),
    ],
)
def test_error_is_caught_as_its_parents(error, parents):
    assert all(issubclass(error, parent) for parent in parents)


def test_every_public_error_has_an_example_here():
    public = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, FSMError) and not name.startswith("_")
    }
    assert public == set(map(name_of, EXAMPLES))


# They travel


@pytest.mark.parametrize("error", EXAMPLES, ids=name_of)
@pytest.mark.parametrize(
    "again",
    [
        copy.copy,
        copy.deepcopy,
        *(lambda error, p=p: unpickled(error, p) for p in range(pickle.HIGHEST_PROTOCOL + 1)),
    ],
)
def test_error_survives_copying_and_pickling(error, again):
    there = again(error)

    assert type(there) is type(error)
    assert (str(there), there.args, vars(there)) == (str(error), error.args, vars(error))


def test_attribute_set_later_travels_too():
    error = RowNotFound(**ROW)
    error.__notes__ = ["seen by worker 3"]
    assert unpickled(error).__notes__ == ["seen by worker 3"]


def test_error_raised_and_caught_keeps_its_cause():
    driver = RuntimeError("Deadlock found")
    with pytest.raises(TransactionAborted) as caught:
        raise TransactionAborted(code=1213, retryable=True) from driver
    assert caught.value.__cause__ is driver


# What they say


def test_refusal_says_row_event_state_and_what_would_have_worked():
    error = TransitionNotAllowed(**ROW, **REFUSAL)
    assert str(error) == (
        "orders 42 refused 'Ready': it is 'Deleted'; 'Ready' leaves 'Initializing', 'Running', 'Error'."
    )


def test_refusal_carries_what_it_says():
    error = TransitionNotAllowed(**{**ROW, **REFUSAL, "allowed_from": iter(REFUSAL["allowed_from"])})
    assert (error.model, error.key, error.event) == (Order, 42, "Ready")
    assert (error.state, error.allowed_from) == ("Deleted", ["Initializing", "Running", "Error"])


def test_refusal_needs_no_model():
    row = {name: value for name, value in ROW.items() if name != "model"}
    assert TransitionNotAllowed(**row, **REFUSAL).model is None


def test_refusal_by_guard_says_that_the_state_fits():
    error = GuardNotSatisfied(**ROW, state="Running", allowed_from=["Running"])
    assert str(error) == (
        "orders 42 refused 'Ready': it is 'Running', which 'Ready' leaves, but no guard of 'Ready' is true of this row."
    )
    assert (error.state, error.allowed_from) == ("Running", ["Running"])


def test_members_are_shown_as_they_are_stored():
    error = TransitionNotAllowed(**ROW, state=Job.NEW, allowed_from=[Job.BUSY])
    assert str(error) == "orders 42 refused 'Ready': it is 'NEW'; 'Ready' leaves 'at work'."
    assert (error.state, error.allowed_from) == (Job.NEW, [Job.BUSY])


def test_event_that_leaves_no_state_is_told_so():
    assert str(TransitionNotAllowed(**ROW, state="a", allowed_from=[])).endswith("'Ready' leaves no state.")


def test_missing_row_is_told():
    assert str(RowNotFound(**ROW)) == (
        "orders 42: there is no row with this key, so 'Ready' was not fired; create the row first."
    )


def test_undeclared_state_is_told_with_the_declared_ones():
    error = UnknownState(**ROW, state="Lost", declared=["a", Job.BUSY])
    assert str(error) == (
        "orders 42 refused 'Ready': it is 'Lost', which the machine does not declare; it declares 'a', 'at work'."
        " If a newer release declares it, deploy that release; if none does, force_state() repairs the row."
    )
    assert (error.state, error.declared) == ("Lost", ["a", Job.BUSY])


def test_long_undeclared_state_is_cut():
    error = UnknownState(**ROW, state="x" * 65_536, declared=["a"])
    assert len(str(error)) < 300
    assert len(error.state) == 65_536


def test_unknown_event_names_the_model_and_the_known_events():
    error = UnknownEvent("Halt", iter(["Ready", "Stop"]), model=Order)
    assert str(error) == "Order has no event 'Halt'; it has 'Ready', 'Stop'."
    assert (error.event, error.known, error.model) == ("Halt", ["Ready", "Stop"], Order)


def test_unknown_event_of_a_machine_without_events():
    assert str(UnknownEvent(b"Halt", [])) == "the machine has no event b'Halt'; it has none."


def test_unknown_event_is_cut_and_so_is_the_list():
    error = UnknownEvent("x" * 65_536, [f"e{number}" for number in range(50)])
    assert str(error) == (
        f"the machine has no event '{'x' * 63}…; it has "
        + ", ".join(f"'e{number}'" for number in range(20))
        + " (30 more not shown)."
    )
    assert (len(error.event), len(error.known)) == (65_536, 50)


def test_event_with_quotes_and_control_characters_is_escaped():
    assert "\0" not in str(UnknownEvent("a\0b\n'\"", []))
    assert "\n" not in str(UnknownEvent("a\0b\n'\"", []))


def test_event_whose_repr_raises_is_told_by_its_type():
    assert str(UnknownEvent(Unprintable(), [])) == "the machine has no event <Unprintable>; it has none."


def test_invalid_machine_lists_each_problem_on_a_line():
    error = InvalidMachine(("one", "two"), name="orders")
    assert str(error) == "the machine 'orders' has 2 problems:\n- one\n- two"
    assert (error.problems, error.name) == (["one", "two"], "orders")


def test_invalid_machine_with_one_problem_and_no_name():
    assert str(InvalidMachine(["one"])) == "the machine has 1 problem:\n- one"


@pytest.mark.parametrize(
    ("error", "happened", "advice"),
    [
        (
            TransactionAborted(**ROW, code=1213, retryable=True),
            "orders 42: the server ended the whole transaction while 'Ready' was fired (error 1213)",
            "roll back and run the whole unit of work again",
        ),
        (
            TransactionAborted(retryable=True),
            "the server ended the whole transaction",
            "roll back and run the whole unit of work again",
        ),
        (
            TransactionAborted(code=1180, retryable=False),
            "the server ended the whole transaction (error 1180)",
            "roll back, and correct the cause before you run the same work again",
        ),
        (
            LockTimeout(table="orders", key=42, code=1205),
            "orders 42: the statement was ended before it got the row's lock (error 1205)",
            "nothing moved; roll back, which releases this transaction's locks, and run the unit of work again",
        ),
        (
            errors.TableBusy(column="orders.state", attempts=5, seconds=1, users=["connection 12", "connection 14"]),
            "orders.state: other transactions (connection 12; connection 14) used the table during 5 attempts of 1 s",
            "end them, or run it again with a longer lock_wait_timeout=; nothing was changed",
        ),
        (
            NotWritable(code=1290),
            "the server takes no writes (error 1290)",
            WRITE_ELSEWHERE,
        ),
        (
            OutcomeUnknown(tokens=["t1"]),
            "the connection was lost at COMMIT, which may or may not have succeeded",
            "roll back, and ask find_by_token whether it was committed before the unit of work is run again",
        ),
        (
            OutcomeUnknown(code=2013),
            "the connection was lost at COMMIT, which may or may not have succeeded (error 2013)",
            "roll back, and look into the database before the unit of work is run again",
        ),
    ],
    ids=name_of,
)
def test_error_of_the_server_says_what_happened_and_what_to_do(error, happened, advice):
    assert str(error) == f"{happened}; {advice}."


@pytest.mark.parametrize("error", [LockTimeout, NotWritable, OutcomeUnknown])
def test_error_at_commit_belongs_to_no_fire(error):
    assert vars(error(code=7)).items() >= {"code": 7, "model": None, "key": None, "event": None}.items()


@pytest.mark.parametrize("row", [{"table": "orders"}, {"key": 42}])
def test_row_that_is_half_known_is_left_out(row):
    assert str(TransactionAborted(**row, retryable=True)).startswith("the server ended")


@pytest.mark.parametrize("retryable", [True, False])
def test_aborted_transaction_carries_code_and_whether_to_retry(retryable):
    error = TransactionAborted(**ROW, code=1020, retryable=retryable)
    assert (error.code, error.retryable, error.key) == (1020, retryable, 42)


@pytest.mark.parametrize(
    ("given", "token", "tokens"),
    [
        ({}, None, []),
        ({"token": "a"}, "a", ["a"]),
        ({"tokens": iter(["a", "b"])}, "a", ["a", "b"]),
        ({"token": "b", "tokens": ["a", "b"]}, "b", ["a", "b"]),
    ],
)
def test_unknown_outcome_has_a_token_to_ask_with(given, token, tokens):
    error = OutcomeUnknown(**given)
    assert (error.token, error.tokens) == (token, tokens)


# How they say it


@pytest.mark.parametrize(
    ("key", "label"),
    [
        (42, "orders 42"),
        (-1, "orders -1"),
        ("a b", "orders 'a b'"),
        (b"\0\xff", r"orders b'\x00\xff'"),
        (uuid.UUID(int=7), "orders UUID('00000000-0000-0000-0000-000000000007')"),
        ((1, "x"), "orders (1, 'x')"),
        ((7,), "orders (7,)"),
        (("x" * 99, 2), f"orders ('{'x' * 63}…, 2)"),
        ("x" * 99, f"orders '{'x' * 63}…"),
        (None, "orders None"),
    ],
)
def test_row_is_named_by_table_and_key(key, label):
    assert row_label("orders", key) == label


@pytest.mark.parametrize("length", [61, 62, 63, 64, 65_536])
def test_text_is_cut_after_64_characters(length):
    whole = repr("x" * length)
    assert shown("x" * length) == (whole if length <= 62 else whole[:64] + "…")


def test_list_stops_after_twenty_entries():
    assert listed(["a"] * 20) == ", ".join(["a"] * 20)
    assert listed(["a"] * 21) == ", ".join(["a"] * 20) + " (1 more not shown)"


def test_stored_form_is_an_exact_str():
    """A driver looks the escaper of a value up by its exact type."""
    mixed = enum.Enum("Mixed", {"A": "a"}, type=str)
    assert [stored_form(state) for state in (mixed.A, Job.BUSY, Job.NEW)] == ["a", "at work", "NEW"]
    assert type(stored_form(mixed.A)) is str
