"""Each argument of each operation with wrong values: a documented error, and nothing is sent."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from alembic.operations import Operations
from sqlalchemy import Engine, event

import sqlalchemy_fsm_mysql.alembic
from sqlalchemy_fsm_mysql import Event, FSMError, Machine
from tests.alembic.support import migrating
from tests.conformance.test_wrong_arguments import NO_ACTOR, NO_JSON, NONSENSE, filled, shown

MACHINE = Machine(initial="new", events=[Event("Pay", {"new": "paid"})]).to_json()
COLUMN = {"table_name": "orders", "column_name": "state"}
ADOPTED = {"table_name": "orders", "old": "status", "new": "state"}
# Each operation with arguments that are right, but for the table, which is not there.
RIGHT: dict[str, dict[str, Any]] = {
    "add_states": {**COLUMN, "states": ["late"]},
    "drop_states": {**COLUMN, "states": ["late"], "copies_table": True},
    "migrate_states": {**COLUMN, "targets": {"new": "paid"}},
    "convert_states": {**COLUMN, "states": ["new", "paid"], "storage": "varchar", "copies_table": True},
    "adopt_column": {**ADOPTED, "states": ["new", "paid"], "mapping": {"N": "new", "P": "paid"}},
    "abandon_adoption": ADOPTED,
    "finish_adoption": ADOPTED,
    "enforce_machine": {**COLUMN, "machine": MACHINE},
    "release_machine": {**COLUMN, "machine": MACHINE},
    "add_since_column": COLUMN,
}


def is_empty(value: Any) -> bool:
    return isinstance(value, (list, tuple, set, frozenset)) and not value


NO_TEXT = [value for value in NONSENSE if not isinstance(value, str) or value == "\ud800"]
NO_NAME = [*NO_TEXT, "", "\0", "a\0b"]
NO_NUMBER = [v for v in NONSENSE if type(v) is not int or not 1 <= v < 2**31] + [None]
NO_CHOICE = NONSENSE
NO_FLAG = [value for value in NONSENSE if not isinstance(value, bool)]
NO_STATE = [v for v in NONSENSE if not isinstance(v, (str, int)) or v in ("", "\ud800") or isinstance(v, bool)] + [None]
NO_STATES = [*(v for v in NONSENSE if not isinstance(v, (list, tuple, set, frozenset, range)) or not v), None]
NO_STATES += [[value] for value in NO_STATE] + [["new", value] for value in NO_STATE]
NO_MAPPING = [*(v for v in NONSENSE if not isinstance(v, dict)), {}, None]
NO_MACHINE = [value for value in NONSENSE if not isinstance(value, (Machine, dict))]
NO_INITIAL = [v for v in filled(NONSENSE) if isinstance(v, str) or not hasattr(v, "__iter__")]
WRONG: dict[str, list[Any]] = {
    **{name: [*NO_NAME, None] for name in ("table_name", "column_name", "old", "new")},
    **dict.fromkeys(("schema", "history", "since"), NO_NAME),
    **dict.fromkeys(("definition", "where"), NO_TEXT),
    **dict.fromkeys(("lock_wait_timeout", "attempts", "batch_size"), NO_NUMBER),
    **{name: [*NO_FLAG, None] for name in ("copies_table", "keeps_timestamps", "drop")},
    **{name: [*NO_CHOICE, None] for name in ("storage", "mode")},
    **dict.fromkeys(("algorithm", "existing_storage"), NO_CHOICE),
    "states": NO_STATES,
    "existing": [value for value in NO_STATES if value is not None and not is_empty(value)],
    "server_default": NO_STATE[:-1],
    "unknown": NO_STATE[:-1],
    "targets": [*NO_MAPPING, *({"new": value} for value in NO_STATE), {"a": "b", "b": "c"}],
    "mapping": [*NO_MAPPING, *({"N": "new", "P": value} for value in NO_STATE)],
    "record": [*(v for v in NONSENSE if v != {}), {"record_id": 5}, {"": "id"}],
    "names": [*(v for v in NONSENSE if v != {}), {1: 5}, {1: ""}],
    "actor": NO_ACTOR,
    "details": NO_JSON,
    "machine": NO_MACHINE,
    "previous": NO_MACHINE,
    "also": [*filled(NONSENSE), *([value] for value in NO_MACHINE)],
    "initial_states": [*NO_INITIAL, ["nowhere"], [5], [None]],
    "previous_initial_states": [*NO_INITIAL, ["nowhere"], [5], [None]],
}


def operations() -> set[str]:
    """The operations that the package registers."""
    folder = Path(sqlalchemy_fsm_mysql.alembic.__file__).parent
    text = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    return set(re.findall(r'register_operation\("(\w+)"', text))


def arguments(name: str) -> list[str]:
    return [argument for argument in inspect.signature(getattr(Operations, name)).parameters if argument != "self"]


CALLS = [(name, argument) for name in RIGHT for argument in arguments(name)]


@contextmanager
def sent_by(engine: Engine) -> Iterator[list[str]]:
    sent: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        sent.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    yield sent
    event.remove(engine, "before_cursor_execute", note)


def test_every_operation_and_each_of_its_arguments_is_tried() -> None:
    """A new operation, or a new argument, has to be given wrong values here, too."""
    assert operations() == set(RIGHT)
    assert {argument for _, argument in CALLS} == set(WRONG)


@pytest.mark.parametrize(("name", "argument"), CALLS)
def test_a_wrong_argument_is_refused_before_anything_is_sent(engine: Engine, name: str, argument: str) -> None:
    """On a server, each fifth value is tried."""
    values = WRONG[argument]
    faults = []
    with migrating(engine) as op, sent_by(engine) as sent:
        for value in values if engine.dialect.name == "sqlite" else values[::5]:
            given = {**RIGHT[name], argument: value}
            if argument == "previous_initial_states":
                given["previous"] = MACHINE
            if argument == "record":
                given["history"] = "order_steps"
            try:
                getattr(op, name)(**given)
                fault = "nothing was raised"
            except (TypeError, ValueError, FSMError) as error:
                fault = None if str(error) else "its message cannot be shown"
            except Exception as error:  # noqa: BLE001 - told below
                fault = f"{type(error).__name__}: {str(error)[:100]}"
            if fault or sent:
                faults.append(f"{shown(value)}: {fault}; sent {sent}")
                sent.clear()

    assert faults == []
