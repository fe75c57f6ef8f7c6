"""Outcomes as data: to_dict(), JSON, pydantic's and FastAPI's schemas, Celery's encoder."""

from __future__ import annotations

import copy
import json
import pickle
import uuid
from typing import Annotated, Any, TypeVar, get_type_hints

import pytest
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqlalchemy_fsm_mysql import Event, Machine, Missing, Moved, MovedRows, Refused, Stateful, StateMachineColumn
from sqlalchemy_fsm_mysql.outcomes.data import MissingData, MovedData, MovedRowsData, RefusedData
from sqlalchemy_fsm_mysql.outcomes.schema import json_schema


class Base(DeclarativeBase):
    pass


class Order(Stateful, Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(Machine(initial="new", events=[Event("Pay", {"new": "paid"})]))


class Line(Stateful, Base):
    __tablename__ = "lines"
    order_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(Machine(initial="new", events=[Event("Pay", {"new": "paid"})]))


MOVED = Moved(Order, 1, "Pay", "new", "paid", details={"card": "visa"})
REFUSED = Refused(Order, 1, "Pay", "paid", "state", ["new"])
ROWS = MovedRows(Order, "Pay", 2, {("new", "paid"): 2})
MISSING = Missing(Order, 1, "Pay")
OUTCOMES = [MOVED, REFUSED, MISSING, ROWS]
DATA = [MovedData, RefusedData, MissingData, MovedRowsData]


@pytest.mark.parametrize("outcome, data", list(zip(OUTCOMES, DATA, strict=True)))
def test_the_schema_and_the_typed_dict_name_what_to_dict_returns(outcome: Any, data: Any) -> None:
    schema = json_schema(type(outcome))

    assert list(outcome.to_dict()) == [name for name in get_type_hints(data) if name in schema["required"]]
    assert list(get_type_hints(data)) == list(schema["properties"])
    assert set(schema["properties"]) - set(schema["required"]) <= {"errors", "keys"}


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_an_outcome_is_json_and_survives_pickle(outcome: Any) -> None:
    assert json.loads(json.dumps(outcome.to_dict())) == outcome.to_dict()
    assert copy.deepcopy(outcome) == outcome == pickle.loads(pickle.dumps(outcome))  # noqa: S301 - made here


def test_a_schema_of_a_model_has_its_events_and_states() -> None:
    """force_state() moves rows, too, and refuses none."""
    moved = json_schema(Moved, Order)["properties"]
    refused = json_schema(Refused, Order)["properties"]

    assert (moved["event"]["enum"], refused["event"]["enum"]) == (["Pay", "force_state"], ["Pay"])
    assert ["new", "paid"] == moved["source"]["enum"] == refused["allowed_from"]["items"]["enum"]
    assert moved["key"] == {"type": "integer"}
    assert json_schema(Moved, Line)["properties"]["key"]["prefixItems"] == [{"type": "string"}, {"type": "integer"}]


def test_a_parametrized_outcome_works_where_types_are_read() -> None:
    """Moved[Order] is an annotation, a base, a part of a union, and generic over a type variable."""
    model = TypeVar("model")

    assert Annotated[Moved, 1].__origin__ is Moved[Order].__origin__
    assert Moved[Order] == Moved[Order] != Moved[Line]
    assert (Moved[model] | Refused[model])[Order]
    assert "Order" in repr(Moved[Order] | None)


def test_pydantic_dumps_an_outcome_and_describes_it() -> None:
    pydantic = pytest.importorskip("pydantic")

    class Answer(pydantic.BaseModel):
        outcome: Moved[Order] | Refused[Order]
        several: list[MovedRows[Order]] = []

    for outcome in (MOVED, REFUSED):
        answer = Answer(outcome=outcome, several=[ROWS])
        assert json.loads(answer.model_dump_json()) == {"outcome": outcome.to_dict(), "several": [ROWS.to_dict()]}
        assert answer.model_dump()["outcome"] == outcome.to_dict()
    with pytest.raises(pydantic.ValidationError):
        Answer(outcome=outcome.to_dict())
    for mode in ("validation", "serialization"):
        schema = Answer.model_json_schema(mode=mode)
        assert {"MovedOrder", "RefusedOrder", "MovedRowsOrder"} == set(schema["$defs"])
        assert schema["$defs"]["MovedOrder"] == json_schema(Moved, Order)


def test_fastapi_returns_outcomes_and_documents_them() -> None:
    fastapi = pytest.importorskip("fastapi")
    from fastapi.testclient import TestClient

    api = fastapi.FastAPI()

    @api.get("/moved")
    def moved() -> Moved[Order]:
        return MOVED

    @api.get("/either")
    def either() -> Moved | Refused:
        return REFUSED

    @api.get("/many")
    def many() -> list[Moved[Order] | Refused[Order]]:
        return [MOVED, REFUSED]

    client = TestClient(api)

    assert MOVED.to_dict() == client.get("/moved").json()
    assert REFUSED.to_dict() == client.get("/either").json()
    assert [MOVED.to_dict(), REFUSED.to_dict()] == client.get("/many").json()
    document = client.get("/openapi.json").json()
    assert {"Moved", "Refused", "MovedOrder", "RefusedOrder"} <= set(document["components"]["schemas"])
    content = document["paths"]["/moved"]["get"]["responses"]["200"]["content"]["application/json"]
    assert content["schema"] == {"$ref": "#/components/schemas/MovedOrder"}


def test_celery_encodes_an_outcome() -> None:
    kombu = pytest.importorskip("kombu.utils.json")

    assert MOVED.to_dict() == json.loads(kombu.dumps(MOVED))
    assert [REFUSED.to_dict()] == json.loads(kombu.dumps([REFUSED]))
