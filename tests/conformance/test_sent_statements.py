"""What ``sqlalchemy-fsm-mysql sql`` prints is all that is sent: each statement of a fire is among those explained."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.orm import Session

from sqlalchemy_fsm_mysql import FSMError, fire_key
from sqlalchemy_fsm_mysql.cli.sql import steps
from sqlalchemy_fsm_mysql.orm.mapped import mapped_state, sole_state
from tests.conformance import history_models, session_models

# Unless every driver is asked for.
ONE_DRIVER = True


@pytest.fixture(scope="module", params=["own"])
def backend(request: pytest.FixtureRequest) -> str:
    """The command prints what the dialect's own backend sends."""
    return str(request.param)


def without_names(statement: str) -> str:
    """*statement* with its parameters by position: a fire's ready text has them so for PyMySQL, too."""
    return re.sub(r"%\(\w+\)s", "%s", statement)


@contextmanager
def listening(engine: Engine) -> Iterator[list[str]]:
    sent: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        sent.append(without_names(statement))

    event.listen(engine, "before_cursor_execute", note)
    yield sent
    event.remove(engine, "before_cursor_execute", note)


def printed(model: Any, name: str, engine: Engine) -> set[str]:
    mapped = mapped_state(model, name)
    return {
        without_names(str(statement.compile(dialect=engine.dialect)))
        for _, statement in steps(mapped, mapped.event(name), engine.dialect)
    }


@pytest.mark.parametrize(
    ("make", "name", "held"),
    [
        (lambda: session_models.Order(id=700), "Ready", False),
        (lambda: session_models.Order(id=700), "Delete", True),
        (lambda: session_models.Counted(id=700), None, True),
        (lambda: session_models.Stamped(id=700), None, True),
        (lambda: session_models.Stepped(id=700), None, False),
        (lambda: session_models.Triggered(id=700), None, True),
        (lambda: history_models.Order(id=700), "Ready", False),
        (lambda: history_models.Parcel(depot="d", number=7), "Ready", True),
    ],
)
@pytest.mark.parametrize("missing", [False, True])
def test_each_statement_of_a_fire_is_printed(database: Engine, make, name, held, missing) -> None:
    instance = make()
    model = type(instance)
    name = name or next(iter(sole_state(model).machine.events))
    has_token = model.__module__ == history_models.__name__
    with Session(database) as session:
        if not missing:
            session.add(instance)
            session.flush()
        key = tuple(getattr(instance, part.name) for part in model.__table__.primary_key)
        with listening(database) as sent, suppress(FSMError):
            for token in ("token-1", "token-1", None) if has_token else (None, None):
                if held and not missing:
                    instance.fire(name, session, token=token)
                else:
                    fire_key(model, key, name, session, token=token)

    assert sent
    assert set(sent) - printed(model, name, database) == set()
