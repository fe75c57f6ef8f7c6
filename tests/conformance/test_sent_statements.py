"""What ``sqlalchemy-fsm-mysql sql`` prints is all that is sent: each statement of a fire is among those explained."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import pytest
from sqlalchemy import URL, Engine, bindparam, event, literal, literal_column, select, text, update
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.engine.default import DefaultExecutionContext
from sqlalchemy.exc import DBAPIError, InvalidRequestError
from sqlalchemy.orm import Session

from sqlalchemy_fsm_mysql import FSMError, fire_key
from sqlalchemy_fsm_mysql.cli.sql import steps
from sqlalchemy_fsm_mysql.databases.ready import ReadyStatement
from sqlalchemy_fsm_mysql.orm.mapped import mapped_state, sole_state
from tests.conformance import history_models, session_models
from tests.servers import make_engine

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


# --- by the driver's cursor alone


@pytest.fixture
def unheard(url: URL, database: Engine) -> Iterator[Engine]:
    """An engine of its own, whose statements no listener has heard."""
    engine = make_engine(url)
    yield engine
    engine.dispose()


def fire_twice(engine: Engine) -> None:
    """Two fires, so that the second one finds the statement compiled."""
    with Session(engine) as session:
        session.add(history_models.Order(id=701))
        session.flush()
        for name in ("Ready", "Stop"):
            assert fire_key(history_models.Order, 701, name, session)


@pytest.mark.servers_only
def test_a_fire_that_nobody_hears_needs_no_result_of_sqlalchemys(unheard: Engine, monkeypatch) -> None:
    """Neither for the UPDATE nor for the history row."""
    fire_twice(unheard)
    sent: list[str] = []
    init = DefaultExecutionContext._init_statement.__func__

    def noted(cls: Any, dialect: Any, connection: Any, sender: Any, options: Any, statement: str, *rest: Any) -> Any:
        sent.append(statement)
        return init(cls, dialect, connection, sender, options, statement, *rest)

    monkeypatch.setattr(DefaultExecutionContext, "_init_statement", classmethod(noted))
    fire_twice(unheard)
    assert sent == []

    with listening(unheard) as heard:
        fire_twice(unheard)
    assert [one.split()[0] for one in sent] == ["UPDATE", "INSERT", "UPDATE", "INSERT"]
    assert set(sent) <= set(heard)


@pytest.mark.parametrize("is_heard", [False, True])
def test_an_error_is_the_same_whether_or_not_a_listener_hears_the_statement(unheard: Engine, is_heard: bool) -> None:
    """SQLAlchemy's error, with statement and parameters; and listeners of handle_error hear of it, with the context."""
    fire_twice(unheard)
    contexts: list[ExceptionContext] = []
    event.listen(unheard, "handle_error", contexts.append)
    statement = ReadyStatement(text("UPDATE no_such_table SET a = :a").bindparams(a=1))
    with unheard.connect() as connection, connection.begin():
        ready = statement.text_on(connection)
        with listening(unheard) if is_heard else nullcontext(), pytest.raises(DBAPIError) as failed:
            statement.answer(connection, {})
        assert connection.scalar(select(literal_column("1"))) == 1  # the connection goes on

    (context,) = contexts
    assert ready is not None
    assert (failed.value.statement, failed.value.params) == (ready.text, (1,))
    assert (context.statement, context.sqlalchemy_exception) == (ready.text, failed.value)
    assert context.execution_context is not None
    assert failed.value.__cause__ is context.original_exception
    assert not failed.value.connection_invalidated


@pytest.mark.parametrize("keys", [[701], [701, 702, 703], []])
@pytest.mark.parametrize("is_select", [True, False])
def test_a_list_is_sent_as_sqlalchemy_sends_it(unheard: Engine, keys: list[int], is_select: bool) -> None:
    """One placeholder for each value; an empty list is the SQL that SQLAlchemy has for it."""
    table, listed = history_models.Order.__table__, bindparam("fsm_keys", expanding=True)
    statement: Any = update(table).values(note="x")
    if is_select:
        statement = select(table.c.id, literal(5)).order_by(table.c.id)
    ready = ReadyStatement(statement.where(table.c.id.in_(listed), table.c.note != "y"))
    fire_twice(unheard)
    with Session(unheard) as session:
        session.add_all([history_models.Order(id=key) for key in (701, 702)])
        session.flush()
        connection = session.connection()
        sends = ready.rows if is_select else ready.answer
        for _ in range(2):  # compiled now
            unheard_of = sends(connection, {"fsm_keys": keys})
        with listening(unheard) as sent:
            heard = sends(connection, {"fsm_keys": keys})
            expected = connection.execute(ready.statement, {"fsm_keys": keys})
            rows = expected.all() if is_select else (0, expected.rowcount)

    assert list(unheard_of)[-1:] == list(heard)[-1:] == list(rows)[-1:]
    assert sent[0] == sent[1]


def test_a_connection_whose_block_is_over_sends_nothing(unheard: Engine) -> None:
    """As SQLAlchemy: within ``with connection.begin()``, nothing is executed after its end."""
    fire_twice(unheard)
    with unheard.connect() as connection, connection.begin() as transaction:
        transaction.rollback()
        with pytest.raises(InvalidRequestError):
            fire_key(history_models.Order, 701, "Ready", connection)
    with unheard.connect() as connection, connection.begin(), connection.begin_nested() as savepoint:
        savepoint.rollback()
        with pytest.raises(InvalidRequestError):
            fire_key(history_models.Order, 701, "Ready", connection)


@pytest.mark.parametrize("is_of_class", [False, True])
def test_a_function_in_the_place_of_do_execute_is_given_the_context(
    unheard: Engine, monkeypatch, is_of_class: bool
) -> None:
    """As test suites and profilers put it there, also after the first fire."""
    fire_twice(unheard)
    place: Any = type(unheard.dialect) if is_of_class else unheard.dialect
    do_execute, seen = unheard.dialect.do_execute, []

    def noted(cursor: Any, statement: str, parameters: Any, context: Any) -> None:
        seen.append((statement, context.statement))
        do_execute(cursor, statement, parameters, context)

    monkeypatch.setattr(place, "do_execute", staticmethod(noted) if is_of_class else noted)
    with Session(unheard) as session:
        session.add(history_models.Order(id=701))
        session.flush()
        del seen[:]
        assert fire_key(history_models.Order, 701, "Ready", session)
    assert [one for one, _ in seen if one.startswith("UPDATE")]
    assert all(given == held for given, held in seen)
