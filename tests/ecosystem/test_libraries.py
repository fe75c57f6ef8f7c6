"""Libraries that have no page of their own: each does its usual work on a table with a state column."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import Engine, MetaData, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_fsm_mysql import Event, Machine, Stateful, StateMachineColumn

pytestmark = pytest.mark.servers_only

machine = Machine(initial="new", events=[Event("Pay", {"new": "paid"}), Event("Ship", {"paid": "shipped"})])


class Base(DeclarativeBase):
    pass


class Order(Stateful, Base):
    __tablename__ = "library_orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine)


@pytest.fixture
def paid(engine: Engine, tables: Callable[[MetaData], None]) -> Engine:
    """An engine on a table with one paid order."""
    tables(Base.metadata)
    with Session(engine) as session:
        session.add(Order(id=1))
        session.get_one(Order, 1).fire("Pay")
        session.commit()
    return engine


def test_pandas_reads_and_writes_states(paid: Engine) -> None:
    """What it writes goes past the machine: an INSERT in any declared state."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_sql(select(Order), paid)
    assert frame.to_dict("records") == [{"id": 1, "state": "paid"}]

    frame["id"] += 1
    frame.to_sql("library_orders", paid, if_exists="append", index=False)

    with Session(paid) as session:
        assert session.get_one(Order, 2).fire("Ship").source == "paid"


def test_sqlacodegen_generates_an_enum(paid: Engine) -> None:
    generators = pytest.importorskip("sqlacodegen.generators")
    metadata = MetaData()
    metadata.reflect(paid, only=["library_orders"])

    text = generators.DeclarativeGenerator(metadata, paid, []).generate()

    assert "'new'" in text
    assert "library_orders" in text
    compile(text, "models.py", "exec")
