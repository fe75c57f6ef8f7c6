"""sqlalchemy_fsm_mysql.web: statuses, sentences and problem documents, and the handlers of three frameworks."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine, MetaData
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_fsm_mysql import (
    Event,
    FSMError,
    Guard,
    InvalidMachine,
    LockTimeout,
    Machine,
    Moved,
    MovedRows,
    RowNotFound,
    Stateful,
    StateMachineColumn,
    fire_key,
    try_fire_key,
)
from sqlalchemy_fsm_mysql.web import ANSWERED, problem_of, sentence_of, status_of


class Base(DeclarativeBase):
    pass


class Order(Stateful, Base):
    __tablename__ = "web_orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    total: Mapped[int] = mapped_column(default=0)
    state: Mapped[str] = StateMachineColumn(
        Machine(
            initial="new",
            events=[
                Event("Pay", {"new": "paid"}),
                Event("Ship", {"paid": "shipped"}, guard={"total": Guard(lambda o: o.total > 0, "the total is 0.")}),
                Event("Void", {("new", "paid"): "void"}, guard=lambda o: o.total > 100),
            ],
        )
    )


@pytest.fixture
def rows(engine: Engine, tables: Callable[[MetaData], None]) -> Engine:
    tables(Base.metadata)
    with Session(engine) as session:
        session.add_all([Order(id=1), Order(id=2, state="paid")])
        session.commit()
    return engine


def fired(engine: Engine, key: int, event: str) -> Moved[Order]:
    with Session(engine) as session:
        moved = fire_key(Order, key, event, session)
        session.commit()
        return moved


def test_every_outcome_has_a_status_and_a_sentence(rows: Engine) -> None:
    with Session(rows) as session:
        moved = fire_key(Order, 1, "Pay", session)
        again = try_fire_key(Order, 1, "Pay", session)
        guarded = try_fire_key(Order, 1, "Ship", session)
        unnamed = try_fire_key(Order, 1, "Void", session)
        with pytest.raises(RowNotFound) as missing:
            fire_key(Order, 99, "Pay", session)
        session.rollback()

    assert (status_of(moved), sentence_of(moved)) == (200, "'Pay' is done: it is 'paid' now.")
    assert (status_of(again), sentence_of(again)) == (409, "'Pay' is only allowed from 'new'; it is 'paid' now.")
    assert (status_of(guarded), sentence_of(guarded)) == (409, "'Ship' is not possible now: the total is 0.")
    assert sentence_of(unnamed) == "'Void' is not possible now, because a condition is not met."
    assert (status_of(missing.value), sentence_of(missing.value)) == (404, "There is no such entry.")
    assert status_of(Moved(Order, 1, "Pay", "new", "paid", created=True)) == 201
    assert sentence_of(MovedRows(Order, "Pay", 2, {})) == "'Pay' is done for 2."
    names = {"Pay": "Zahlen", "new": "neu", "paid": "bezahlt"}
    assert sentence_of(moved, name=names.__getitem__) == "'Zahlen' is done: it is 'bezahlt' now."


@pytest.mark.parametrize("kind", ANSWERED, ids=lambda kind: kind.__name__)
def test_the_sentence_of_an_error_shows_nothing_of_the_database(kind: type[FSMError]) -> None:
    error = kind.__new__(kind)
    Exception.__init__(error, "UPDATE secrets SET x = 1")
    error.__dict__.update(state="paid", allowed_from=["new"], event="Pay", sentences=(), failed=(), key=1)

    assert sentence_of(error)
    assert "secret" not in json.dumps(problem_of(error))
    assert problem_of(error, developer=True)["developer"] == "UPDATE secrets SET x = 1"
    assert 404 <= status_of(error) <= 503


def test_a_fault_of_the_program_is_not_the_clients() -> None:
    assert status_of(InvalidMachine(["x"])) == status_of(ZeroDivisionError()) == 500


@pytest.fixture(params=["fastapi", "flask", "litestar"])
def post(request: pytest.FixtureRequest, rows: Engine) -> Callable[[int, str], tuple[int, Any, str, Any]]:
    """Posts an event to an application of the framework: the status, JSON, media type and headers of the answer."""
    return globals()[f"_{request.param}"](rows)


def _fire(rows: Engine, key: int, event: str) -> Moved[Order]:
    if event == "Busy":
        raise LockTimeout(table="web_orders", key=key, event=event)
    return fired(rows, key, event)


def _fastapi(rows: Engine) -> Any:
    fastapi = pytest.importorskip("fastapi")
    from fastapi.testclient import TestClient

    from sqlalchemy_fsm_mysql.web.fastapi import answer_errors, problem_responses

    app = fastapi.FastAPI(responses=problem_responses())
    answer_errors(app)

    @app.post("/{key}/{event}")
    def post(key: int, event: str) -> Moved[Order]:
        return _fire(rows, key, event)

    client = TestClient(app)
    responses = client.get("/openapi.json").json()["paths"]["/{key}/{event}"]["post"]["responses"]
    assert {"200", "404", "409", "422", "503"} == set(responses)

    def send(key: int, event: str) -> Any:
        answer = client.post(f"/{key}/{event}")
        return answer.status_code, answer.json(), answer.headers["content-type"], answer.headers

    return send


def _flask(rows: Engine) -> Any:
    flask = pytest.importorskip("flask")

    from sqlalchemy_fsm_mysql.web.flask import answer_errors

    app = flask.Flask("orders")
    answer_errors(app)

    @app.post("/<int:key>/<event>")
    def post(key: int, event: str) -> Any:
        return _fire(rows, key, event).to_dict()

    def send(key: int, event: str) -> Any:
        answer = app.test_client().post(f"/{key}/{event}")
        return answer.status_code, answer.json, answer.content_type, answer.headers

    return send


def _litestar(rows: Engine) -> Any:
    litestar = pytest.importorskip("litestar")
    from litestar.testing import TestClient

    from sqlalchemy_fsm_mysql.outcomes.data import MovedData
    from sqlalchemy_fsm_mysql.web.litestar import exception_handlers

    def post(key: int, event: str) -> MovedData:
        return _fire(rows, key, event).to_dict()

    post.__annotations__ = {"key": int, "event": str, "return": MovedData}
    app = litestar.Litestar(
        [litestar.post("/{key:int}/{event:str}", status_code=200, sync_to_thread=False)(post)],
        exception_handlers=exception_handlers(),
    )

    def send(key: int, event: str) -> Any:
        with TestClient(app) as client:
            schema = client.get("/schema/openapi.json").json()["components"]["schemas"]
            assert {"source", "target", "changed"} <= set(schema["MovedData"]["properties"])
            answer = client.post(f"/{key}/{event}")
            return answer.status_code, answer.json(), answer.headers["content-type"], answer.headers

    return send


# Litestar's newer way to declare a path parameter is not in the versions before it.
@pytest.mark.filterwarnings("ignore:.*deprecated inferred style")
def test_a_framework_answers_outcomes_and_errors(post: Callable[[int, str], tuple[int, Any, str, Any]]) -> None:
    status, body, kind, _ = post(1, "Pay")
    assert (status, body["moved"], body["target"]) == (200, True, "paid")
    assert kind.startswith("application/json")

    status, body, kind, headers = post(1, "Pay")
    assert (status, kind) == (409, "application/problem+json")
    assert "Retry-After" not in headers
    assert body == {
        "title": "Conflict",
        "status": 409,
        "detail": "'Pay' is only allowed from 'new'; it is 'paid' now.",
        "error": "TransitionNotAllowed",
        "event": "Pay",
        "state": "paid",
        "allowed_from": ["new"],
    }

    status, body, _, _ = post(2, "Ship")
    assert (status, body["failed"], body["detail"]) == (409, ["total"], "'Ship' is not possible now: the total is 0.")
    assert (post(99, "Pay")[0], post(1, "Burn")[0]) == (404, 422)
    status, _, _, headers = post(1, "Busy")
    assert (status, headers["Retry-After"]) == (503, "1")
