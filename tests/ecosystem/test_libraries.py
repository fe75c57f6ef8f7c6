"""Libraries that have no page of their own: each does its usual work on a table with a state column."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import Engine, MetaData, String, select
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, Session, mapped_column

from sqlalchemy_fsm_mysql import Event, Machine, Stateful, StateMachineColumn, TransitionHistory

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


def test_flask_sqlalchemy_has_dataclasses(engine: Engine) -> None:
    """Its models as dataclasses: a state from the start, a fire, a history, and Flask's JSON."""
    flask = pytest.importorskip("flask")
    extension = pytest.importorskip("flask_sqlalchemy")

    class Data(DeclarativeBase, MappedAsDataclass):
        pass

    try:
        db = extension.SQLAlchemy(model_class=Data)
    except InvalidRequestError as error:
        pytest.skip(f"Flask-SQLAlchemy 3.1 makes no dataclasses on SQLAlchemy 2.1: {error}")

    class Parcel(Stateful, db.Model):  # type: ignore[name-defined, misc]
        id: Mapped[int] = mapped_column(primary_key=True, init=False)
        name: Mapped[str] = mapped_column(String(20))
        state: Mapped[str] = StateMachineColumn(machine)

    class ParcelTransition(TransitionHistory, db.Model):  # type: ignore[name-defined, misc]
        __records__ = "Parcel.state"

    app = flask.Flask("parcels")
    app.config["SQLALCHEMY_DATABASE_URI"] = engine.url
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {"isolation_level": "READ COMMITTED"}
    db.init_app(app)
    with app.app_context():
        db.create_all()
        try:
            parcel = Parcel(name="a")
            assert parcel.state == "new"
            db.session.add(parcel)
            parcel.fire("Pay")
            db.session.commit()
            assert flask.jsonify(parcel).json == {"id": parcel.id, "name": "a", "state": "paid"}
            assert [row.event for row in parcel.history()] == ["Pay"]
        finally:
            db.session.remove()
            db.drop_all()
            db.engine.dispose()


MACHINE_CELL = """
from sqlalchemy_fsm_mysql import Event, Machine
machine = Machine(initial="new", events=[Event("Pay", {"new": "paid"})])
machine
"""
COUNTS_CELL = """
from IPython.display import SVG
from sqlalchemy_fsm_mysql.diagram import svg
SVG(svg(machine, rows={"new": 3, "paid": 4}))
"""


def test_jupyter_shows_the_picture_and_the_table_of_a_machine() -> None:
    """In a kernel of its own, the cells of docs/recipes/jupyter.md."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(cell) for cell in (MACHINE_CELL, COUNTS_CELL)]

    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()

    shown, counted = (cell.outputs[0].data for cell in notebook.cells)
    assert "<svg" in shown["text/html"]
    assert "| new" in shown["text/markdown"]
    assert "3 rows" in counted["image/svg+xml"]
