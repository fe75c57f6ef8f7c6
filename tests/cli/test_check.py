"""``check``: what it prints, and the status that a CI job goes by."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine

MODELS = """
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy_fsm_mysql import Event, Machine, StateMachineColumn

machine = Machine(initial="new", events=[Event("Pay", {"new": "paid"})], retired=["void"])


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine, enforced=True, initial_states=["void"])
"""


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"doctor_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return f"{name}:Order.state"


@pytest.fixture
def patient(target: str, tmp_path: Path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{tmp_path}/shop.db")
    __import__(target.partition(":")[0]).Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


def test_all_is_well(run: Any, target: str, patient: Engine) -> None:
    answer = run("check", target, "--url", patient.url)

    assert (answer.status, answer.err) == (0, "")
    assert answer.out.splitlines()[-1].startswith("Order.state on sqlite ")
    assert answer.out.splitlines()[-1].endswith(": 0 errors, 0 warnings, 0 notes")


def test_an_error_is_told_with_what_to_do_and_fails(run: Any, target: str, patient: Engine) -> None:
    with patient.begin() as connection:
        connection.exec_driver_sql("DROP TABLE orders")
    answer = run("check", target, "--url", patient.url)

    assert answer.status == 1
    assert "error: there is no table orders run the migrations" in answer.told


def test_a_note_does_not_fail(run: Any, target: str, patient: Engine) -> None:
    with patient.begin() as connection:
        connection.exec_driver_sql("INSERT INTO orders (id, state) VALUES (1, 'void')")
    answer = run("check", target, "--url", patient.url, "--strict")

    assert answer.status == 0
    assert "1 row of orders.state is in a retired state: 'void' (1)" in answer.told
    assert "void" not in run("check", target, "--url", patient.url, "--no-rows").out


def test_a_warning_fails_when_strict(run: Any, target: str, patient: Engine) -> None:
    with patient.begin() as connection:
        connection.exec_driver_sql("DROP TABLE orders")
        connection.exec_driver_sql("CREATE TABLE orders (id INTEGER PRIMARY KEY, state VARCHAR(20) NOT NULL)")
    run_ = run("check", target, "--url", patient.url, "--json")
    document = json.loads(run_.out)

    assert run_.status == 1
    assert [one["kind"] for one in document["findings"]] == ["triggers missing", "any state"]
    assert (document["errors"], document["warnings"], document["notes"]) == (1, 1, 0)
    __import__(target.partition(":")[0]).Order.state.type.enforced = False
    assert run("check", target, "--url", patient.url).status == 0
    assert run("check", target, "--url", patient.url, "--strict").status == 1


def test_json_has_the_rows(run: Any, target: str, patient: Engine) -> None:
    with patient.begin() as connection:
        connection.exec_driver_sql("INSERT INTO orders (id, state) VALUES (1, 'void'), (2, 'void')")
    document = json.loads(run("check", target, "--url", patient.url, "--json").out)

    assert document["target"] == "Order.state"
    assert document["findings"][0]["rows"] == {"void": 2}


@pytest.mark.parametrize(("where", "status"), [("", 2), ("nonsense://x", 2), ("sqlite:////nowhere/at/all.db", 4)])
def test_a_database_that_cannot_be_used_has_its_status(run: Any, target: str, where: str, status: int) -> None:
    assert run("check", target, "--url", where).status == status


def test_a_password_is_not_shown(run: Any, target: str) -> None:
    answer = run("check", target, "--url", "mysql+pymysql://somebody:sesame@127.0.0.1:1/shop")

    assert answer.status == 4
    assert "sesame" not in answer.told
