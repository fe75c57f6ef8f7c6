"""The state column in every mapping, under every name, and what the database makes of it."""

from __future__ import annotations

import pickle
from contextlib import nullcontext
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import Integer, String, insert, inspect, select, text, update
from sqlalchemy.exc import DBAPIError, StatementError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, load_only, mapped_column

from sqlalchemy_fsm_mysql import (
    Event,
    InvalidMachine,
    Machine,
    RowNotFound,
    StateAssignmentError,
    StateMachineColumn,
    TransitionNotAllowed,
    UnknownState,
    fire_key,
    try_fire_key,
)
from tests.conformance import models
from tests.conformance.models import (
    ODD_STATES,
    SHAPES,
    Base,
    Car,
    ColourScan,
    Crossing,
    Data,
    Document,
    Imperative,
    Invoice,
    Job,
    Light,
    Print,
    Reminder,
    Renamed,
    Scan,
    Task,
    Tram,
    Varchar,
    Vehicle,
    long_machines,
    odd_machine,
)
from tests.conformance.support import WAYS, refusal, stored
from tests.reference import STATES, machine
from tests.servers import make_engine


def state_of(session: Session, shape: models.Shape) -> Any:
    """The state as the database has it."""
    column = inspect(shape.model).columns[shape.attribute]
    return session.connection().execute(select(column)).scalar_one()


@pytest.fixture(params=SHAPES.values(), ids=list(SHAPES))
def shape(request: pytest.FixtureRequest) -> models.Shape:
    return request.param


# --- every mapping


@pytest.mark.parametrize("way", ["fire", "try_fire_key"])
def test_every_mapping_moves(session, shape, way):
    session.add(shape.make(state="Running"))
    session.flush()
    session.expunge_all()

    moved = WAYS[way](session, shape.model, shape.key, "NotReady")

    assert (shape.model, shape.key, "Running", "Error") == (moved.model, moved.key, moved.source, moved.target)
    assert state_of(session, shape) == "Error"


@pytest.mark.parametrize("way", ["fire", "try_fire_key"])
def test_every_mapping_refuses(session, shape, way):
    session.add(shape.make(state="Running"))
    session.flush()
    session.expunge_all()

    state, _ = refusal(lambda: WAYS[way](session, shape.model, shape.key, "Delete"))

    assert (state, state_of(session, shape)) == ("Running", "Running")


def test_every_mapping_begins_in_the_initial_state(session, shape):
    instance = shape.make()
    session.add(instance)
    session.flush()

    assert (getattr(instance, shape.attribute), state_of(session, shape)) == ("Initializing", "Initializing")


def test_every_mapping_shows_what_the_fire_of_a_key_did(session, sent, shape):
    instance = shape.make(state="Running")
    session.add(instance)
    session.flush()
    session.refresh(instance)
    fire_key(shape.model, shape.key, "Stop", session)

    with sent() as statements:
        state = getattr(instance, shape.attribute)

    assert (state, statements.number) == ("Stopped", 0)


def test_every_mapping_says_that_a_row_is_missing(session, shape):
    with pytest.raises(RowNotFound) as missing:
        fire_key(shape.model, shape.key, "Stop", session)

    assert (shape.model, shape.key, "Stop") == (missing.value.model, missing.value.key, missing.value.event)


def test_every_mapping_protects_the_state_of_a_stored_row(session, shape):
    instance = shape.make()
    session.add(instance)
    session.flush()

    with pytest.raises(StateAssignmentError):
        setattr(instance, shape.attribute, "Running")


def test_every_mapping_hints_from_memory(session, sent, shape):
    instance = shape.make(state="Stopped")
    session.add(instance)
    session.flush()
    session.refresh(instance)

    with sent() as statements:
        hints = instance.can_fire("Delete"), instance.can_fire("Ready"), instance.available_events()

    assert (hints, statements.number) == ((True, False, ["Stop", "Delete"]), 0)


@pytest.mark.parametrize(
    ("owner", "other"),
    [(Print, Scan), (Scan, Print), (Scan, ColourScan), (Car, Tram), (Vehicle, Car), (Task, Print), (Invoice, Reminder)],
)
@pytest.mark.parametrize("event", ["Stop", "Delete"])
def test_a_class_finds_no_row_of_another(session, owner, other, event):
    session.add(owner(id=7, state="Running"))
    session.flush()
    before = stored(session, owner)

    with pytest.raises(RowNotFound):
        fire_key(other, 7, event, session)

    assert before == stored(session, owner)


@pytest.mark.parametrize(
    ("owner", "base"), [(Print, Task), (ColourScan, Scan), (ColourScan, Task), (Car, Vehicle), (Reminder, Invoice)]
)
def test_a_base_class_finds_the_rows_of_its_children(session, owner, base):
    session.add(owner(id=7, state="Running"))
    session.flush()

    moved = fire_key(base, 7, "Stop", session)

    assert ("Stopped", base) == (session.get_one(owner, 7).state, moved.model)


def test_a_child_without_a_row_in_the_states_table_is_no_row(session):
    session.add(Document(id=7))
    session.flush()

    with pytest.raises(RowNotFound):
        fire_key(Invoice, 7, "Stop", session)


def test_a_table_of_another_schema_is_fired_on_there(session, backend_engine):
    schema = backend_engine.url.database if backend_engine.dialect.name != "sqlite" else "main"

    class Own(DeclarativeBase):
        pass

    class Elsewhere(Own):
        __tablename__ = "elsewhere_orders"
        __table_args__ = {"schema": schema}
        id: Mapped[int] = mapped_column(primary_key=True)
        state: Mapped[str] = StateMachineColumn(machine)

    with own_tables(backend_engine, Own) as own:
        own.add(Elsewhere(id=1))
        own.flush()

        assert fire_key(Elsewhere, 1, "Stop", own).target == "Stopped"
        assert list(own.scalars(select(Elsewhere.id).where(Elsewhere.state.can("Delete")))) == [1]


class own_tables(Session):  # noqa: N801 - used as a function
    """A session on tables that only one test has: created before, dropped after."""

    def __init__(self, engine: Any, base: Any, connection: Any = None) -> None:
        super().__init__(engine)
        self.made = base.metadata, engine
        base.metadata.create_all(engine)

    def __exit__(self, *raised: object) -> None:
        super().__exit__(*raised)
        metadata, engine = self.made
        metadata.drop_all(engine)


# --- what the database is told


@pytest.mark.servers_only
def test_an_enum_column_is_exact(session):
    column = column_of(session, "renamed_orders", "order_phase")

    assert column.startswith(
        "enum('Initializing','Running','Error','Stopped','Deleted') CHARACTER SET ascii COLLATE ascii_bin"
    )
    assert "NOT NULL DEFAULT 'Initializing'" in column


@pytest.mark.servers_only
def test_a_varchar_column_is_exact_and_pads_nothing(session):
    column = column_of(session, "varchar_orders", "state")

    assert column.startswith("varchar(12) CHARACTER SET ")
    assert "ascii_nopad_bin" in column or "utf8mb4_0900_bin" in column
    assert "NOT NULL DEFAULT 'Initializing'" in column


def test_a_column_without_enum_has_a_named_check(session):
    table = "varchar_orders"
    names = [check["name"] for check in inspect(session.connection()).get_check_constraints(table)]
    assert any(name.startswith("ck_varchar_orders_state_states_") for name in names), names


@pytest.mark.servers_only
@pytest.mark.parametrize("storage", ["enum", "varchar"])
def test_without_backslash_escapes_a_quoted_state_needs_an_enum_on_mysql(session, storage):
    """MySQL 9.7 writes the text of a CHECK with backslashes, and cannot read it again in this sql_mode."""
    machine = Machine(initial="o'clock", events=[Event("Go", {"o'clock": "gone"})])

    class Fresh(DeclarativeBase):
        """Nothing but this model."""

    class Quoted(Fresh):
        __tablename__ = "quoted_states"
        id: Mapped[int] = mapped_column(primary_key=True)
        state: Mapped[str] = StateMachineColumn(machine, storage=storage)

    connection = session.connection()
    connection.exec_driver_sql("SET SESSION sql_mode = 'STRICT_TRANS_TABLES,NO_BACKSLASH_ESCAPES'")
    is_refused = storage == "varchar" and not connection.dialect.is_mariadb

    try:
        with pytest.raises(DBAPIError, match="1064") if is_refused else nullcontext():
            Fresh.metadata.create_all(connection)
    finally:
        Fresh.metadata.drop_all(connection)
        connection.invalidate()


@pytest.mark.servers_only
def test_an_enum_needs_no_check(session):
    assert inspect(session.connection()).get_check_constraints("renamed_orders") == []


def column_of(session: Session, table: str, column: str) -> str:
    """The line of SHOW CREATE TABLE about *column*, after its name."""
    created = session.connection().exec_driver_sql(f"SHOW CREATE TABLE {table}").one()[1]
    return next(line for line in created.splitlines() if line.strip().startswith(f"`{column}`")).split("` ", 1)[1]


STORAGES = {"enum": (Renamed, "order_no", "order_phase"), "varchar": (Varchar, "id", "state")}


@pytest.mark.parametrize("storage", STORAGES)
def test_a_row_written_without_a_state_is_in_the_initial_one(session, storage):
    model, key, column = STORAGES[storage]
    extra = ", sum" if model is Renamed else ""
    session.execute(text(f"INSERT INTO {model.__tablename__} ({key}{extra}) VALUES (1{extra and ', 0'})"))

    assert stored(session, model)[1,][column] == "Initializing"


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("state", ["'Bogus'", "'running'", "'Running '", "''", "NULL"])
def test_the_database_refuses_what_is_no_state(session, storage, state):
    model, key, column = STORAGES[storage]
    extra = ", sum" if model is Renamed else ""
    insert = f"INSERT INTO {model.__tablename__} ({key}, {column}{extra}) VALUES (1, {state}{extra and ', 0'})"

    if (storage, state, session.get_bind().dialect.name) in TRIMMED:
        pytest.skip("ENUM takes a trailing space off and stores the state")
    with pytest.raises(DBAPIError):
        session.execute(text(insert))


TRIMMED = {("enum", "'Running '", "mysql"), ("enum", "'Running '", "mariadb")}


@pytest.mark.parametrize("storage", STORAGES)
def test_a_comparison_is_exact_to_the_case_and_the_space(session, storage):
    model, _, column = STORAGES[storage]
    shape = next(shape for shape in SHAPES.values() if shape.model is model)
    session.add(shape.make(state="Running"))
    session.flush()

    found = [
        session.scalar(text(f"SELECT count(*) FROM {model.__tablename__} WHERE {column} = '{spelling}'"))
        for spelling in ("Running", "running", "Running ")
    ]

    # An ENUM's own comparison pads; the state itself is always stored in its one spelling.
    assert found[:2] == [1, 0]
    if storage == "varchar":
        assert found[2] == 0


# --- states of another release


wider_machine = Machine(
    initial="Initializing",
    states=(*STATES, "Archived"),
    events=[
        *machine.events.values(),
        Event("Archive", {"Deleted": "Archived"}),
    ],
)


class Newer(Base):
    """The table as a newer release has it."""

    __tablename__ = "deployed_orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(wider_machine)
    as_text: Mapped[str] = StateMachineColumn(wider_machine, storage="varchar")


class Ours(DeclarativeBase):
    """What this release knows of it."""


class Older(Ours):
    __tablename__ = "deployed_orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine)
    as_text: Mapped[str] = StateMachineColumn(machine, storage="varchar")


@pytest.fixture
def archived(session: Session) -> Older:
    session.add(Newer(id=1, state="Archived", as_text="Archived"))
    session.flush()
    return session.get_one(Older, 1)


def test_loading_an_undeclared_state_does_not_fail(session, archived):
    assert (archived.state, archived.as_text) == ("Archived", "Archived")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("column", ["state", "as_text"])
def test_firing_on_an_undeclared_state_raises_and_tells_it(session, archived, way, column):
    before = stored(session, Older)
    fires = {
        "fire": lambda: archived.fire("Stop", column=column),
        "try_fire": lambda: archived.try_fire("Stop", session, column=column),
        "fire_key": lambda: fire_key(Older, 1, "Stop", session, column=column),
        "try_fire_key": lambda: try_fire_key(Older, 1, "Stop", session, column=column),
    }

    with pytest.raises(UnknownState) as unknown:
        fires[way]()

    assert ("Archived", list(STATES)) == (unknown.value.state, list(unknown.value.declared))
    assert before == stored(session, Older)


def test_an_undeclared_state_leaves_no_event(session, archived):
    assert (archived.can_fire("Stop", column="state"), archived.available_events()) == (False, [])


def test_an_undeclared_state_does_not_keep_the_row_from_being_merged(session, archived):
    assert session.merge(Older(id=1)).state == "Archived"


@pytest.mark.servers_only
def test_firing_on_what_a_lax_server_made_of_a_bad_value_tells_the_empty_string(session):
    session.connection().exec_driver_sql("SET @mode = @@sql_mode, SESSION sql_mode = ''")
    try:
        session.connection().exec_driver_sql(
            "INSERT IGNORE INTO renamed_orders (order_no, sum, order_phase) VALUES (1, 0, 'Bogus')"
        )
    finally:
        session.connection().exec_driver_sql("SET SESSION sql_mode = @mode")

    with pytest.raises(UnknownState) as unknown:
        fire_key(Renamed, 1, "Stop", session)

    assert unknown.value.state == ""


# --- states with names that have to be quoted, and many of them


def odd_model(base: Any, storage: Any) -> Any:
    class Odd(base):
        __tablename__ = "odd_orders"
        id: Mapped[int] = mapped_column(primary_key=True)
        state: Mapped[str] = StateMachineColumn(odd_machine)
        as_text: Mapped[str] = StateMachineColumn(odd_machine, storage=storage)

    return Odd


MODES = {
    "as configured": None,
    "strict": "STRICT_ALL_TABLES",
    "lax": "",
    "backslashes plain": "NO_BACKSLASH_ESCAPES",
    "ANSI": "ANSI,STRICT_TRANS_TABLES",
}


@pytest.fixture(scope="module", params=list(MODES))
def odd_engine(request, url, backend):
    if (url.get_backend_name() == "sqlite" or backend == "locking") and request.param != "as configured":
        pytest.skip("SQLite has no sql_mode; one backend is enough to see what the modes do")
    mode = MODES[request.param]
    options = {} if mode is None else {"connect_args": {"init_command": f"SET sql_mode = '{mode}'"}}
    engine = make_engine(url, **options)
    yield engine if backend == "own" else engine.execution_options(fsm_backend="locking")
    engine.dispose()


@pytest.fixture(scope="module")
def odd(odd_engine):
    base = type("Own", (DeclarativeBase,), {})
    with odd_engine.connect():
        escapes = getattr(odd_engine.dialect, "_backslash_escapes", True)
    # MySQL spells the quotes of a CHECK with backslashes when it stores it, and then cannot read it in this mode.
    model = odd_model(base, "varchar" if escapes or odd_engine.dialect.is_mariadb else "enum")
    base.metadata.drop_all(odd_engine)
    base.metadata.create_all(odd_engine)
    yield model
    base.metadata.drop_all(odd_engine)


@pytest.fixture
def odd_session(odd_engine, odd):
    with Session(odd_engine) as session:
        session.add_all(odd(id=i, state=state, as_text=state) for i, state in enumerate(ODD_STATES, start=1))
        session.flush()
        session.expunge_all()
        yield session


@pytest.mark.parametrize("column", ["state", "as_text"])
def test_odd_state_names_come_back_as_they_were(odd_session, odd, column):
    assert list(ODD_STATES) == list(odd_session.scalars(select(getattr(odd, column)).order_by(odd.id)))


@pytest.mark.parametrize("column", ["state", "as_text"])
def test_odd_state_names_are_moved_from_and_to(odd_session, odd, column):
    edges = [try_fire_key(odd, i, "Next", odd_session, column=column) for i in range(1, len(ODD_STATES) + 1)]

    assert list(pairwise(ODD_STATES)) == [(moved.source, moved.target) for moved in edges[:-1]]
    assert (ODD_STATES[-1], "state") == (edges[-1].state, edges[-1].reason)
    assert [*ODD_STATES[1:], ODD_STATES[-1]] == list(odd_session.scalars(select(getattr(odd, column)).order_by(odd.id)))


@pytest.mark.parametrize("column", ["state", "as_text"])
def test_odd_event_names_are_fired(odd_session, odd, column):
    moved = odd_session.get_one(odd, 5).fire("Ban'%s:x\\", column=column)

    assert ("Ban'%s:x\\", ODD_STATES[4], ODD_STATES[0]) == (moved.event, moved.source, moved.target)


@pytest.mark.parametrize("column", ["state", "as_text"])
def test_odd_state_names_are_compared_in_queries(odd_session, odd, column):
    attribute = getattr(odd, column)

    assert list(range(1, len(ODD_STATES))) == sorted(odd_session.scalars(select(odd.id).where(attribute.can("Next"))))
    assert list(ODD_STATES[1:-1]) == list(odd_session.scalars(select(attribute.after("Next")).order_by(odd.id)))[:-2]
    for i, state in enumerate(ODD_STATES, start=1):
        assert [i] == list(odd_session.scalars(select(odd.id).where(attribute == state)))


@pytest.mark.parametrize("column", ["state", "as_text"])
def test_the_default_of_a_row_without_a_state_may_have_an_odd_name(odd_session, odd, column):
    odd_session.execute(text("INSERT INTO odd_orders (id) VALUES (100)"))

    assert ODD_STATES[0] == odd_session.scalar(select(getattr(odd, column)).where(odd.id == 100))


class Long(Base):
    """As many states as one byte holds, and more; both ways to store them."""

    __tablename__ = "long_orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    s255: Mapped[str] = StateMachineColumn(long_machines[255])
    s300: Mapped[str] = StateMachineColumn(long_machines[300])
    v300: Mapped[str] = StateMachineColumn(long_machines[300], storage="varchar")


@pytest.mark.parametrize("column", ["s255", "s300", "v300"])
@pytest.mark.parametrize("at", [0, 1, 127, 253])
def test_a_machine_may_have_hundreds_of_states(session, column, at):
    session.add(Long(id=1, **{column: f"state {at:03}"}))
    session.flush()

    moved = fire_key(Long, 1, "Next", session, column=column)

    assert (f"state {at:03}", f"state {at + 1:03}") == (moved.source, moved.target)
    assert moved.target == session.scalar(select(getattr(Long, column)))


@pytest.mark.parametrize(("column", "last"), [("s255", "state 254"), ("s300", "state 299"), ("v300", "state 299")])
def test_the_last_of_hundreds_of_states_is_told_in_a_refusal(session, column, last):
    session.add(Long(id=1, **{column: last}))
    session.flush()

    with pytest.raises(TransitionNotAllowed) as refused:
        fire_key(Long, 1, "Next", session, column=column)

    assert (last, int(last[-3:])) == (refused.value.state, len(refused.value.allowed_from))
    assert len(str(refused.value)) < 1_000


# --- several machines, enum classes


@pytest.fixture
def crossing(session: Session) -> Crossing:
    crossing = Crossing(id=1)
    session.add(crossing)
    session.flush()
    return crossing


@pytest.mark.parametrize("column", ["walkers", Crossing.walkers])
def test_one_of_two_machines_with_the_event_is_named(session, crossing, column):
    moved = crossing.fire("Turn", column=column)

    assert (moved.source, moved.target) == (Light.RED, Light.GREEN)
    assert (crossing.cars, crossing.walkers, crossing.repair) == (Light.RED, Light.GREEN, Job.NEW)
    assert stored(session, Crossing)[1,] == {"id": 1, "cars": Light.RED, "walkers": Light.GREEN, "repair": Job.NEW}


@pytest.mark.parametrize("way", ["fire", "fire_key"])
def test_a_refusal_of_the_machine_that_was_named_is_raised(session, crossing, way):
    crossing.fire("Turn", column="walkers")
    fires = {
        "fire": lambda: crossing.fire("Stay", column="walkers"),
        "fire_key": lambda: fire_key(Crossing, 1, "Stay", session, column="walkers"),
    }

    with pytest.raises(TransitionNotAllowed) as refused:
        fires[way]()

    assert (refused.value.state, refused.value.allowed_from) == (Light.GREEN, [Light.RED])
    assert str(refused.value) == "crossings 1 refused 'Stay': it is 'GREEN'; 'Stay' leaves 'RED'."


@pytest.mark.parametrize("ask", ["fire", "try_fire", "can_fire"])
def test_an_event_of_two_machines_needs_the_column(session, sent, crossing, ask):
    with sent() as statements, pytest.raises(TypeError, match="column='cars' or column='walkers'"):
        getattr(crossing, ask)("Turn")

    assert statements.number == 0


@pytest.mark.parametrize("column", ["nothing", "id", Renamed.phase, 7, "repair'"])
def test_a_column_that_is_no_machine_of_the_model_is_refused(session, sent, crossing, column):
    with sent() as statements, pytest.raises(TypeError, match=r"is not a state machine of Crossing"):
        crossing.fire("Turn", column=column)

    assert statements.number == 0


def test_an_event_of_one_machine_needs_no_column(session, crossing):
    assert ((moved := crossing.fire("Finish")).source, moved.target) == (Job.NEW, Job.DONE)
    assert Job.DONE is session.scalar(select(Crossing.repair))


def test_the_events_of_all_machines_are_available(session, crossing):
    assert crossing.available_events() == ["Turn", "Stay", "Turn", "Stay", "Finish"]
    assert crossing.available_events(column="repair") == ["Finish"]


def test_members_are_stored_by_name_or_by_their_string(session, crossing):
    row = session.connection().exec_driver_sql("SELECT cars, walkers, repair FROM crossings").one()

    assert tuple(row) == ("RED", "RED", "brand new")


def test_members_are_shown_in_memory_and_loaded(session, crossing):
    session.expire_all()

    assert (crossing.cars, crossing.walkers, crossing.repair) == (Light.RED, Light.RED, Job.NEW)
    assert isinstance(crossing.repair, Job)


def test_a_refusal_shows_members(session, crossing):
    crossing.fire("Turn", column="cars")
    refused = crossing.try_fire("Stay", column="cars")

    assert (refused.state, refused.allowed_from) == (Light.GREEN, [Light.RED])


def test_a_string_that_equals_a_member_becomes_the_member(session):
    assert Crossing(repair="all done").repair is Job.DONE


def test_the_name_of_a_member_becomes_the_member(session):
    """As with sqlalchemy.Enum: forms send names."""
    assert Crossing(repair="DONE").repair is Job.DONE
    assert Crossing(cars="GREEN").cars is Light.GREEN


@pytest.mark.parametrize("value", [Light.GREEN, "GREEN", 2])
def test_a_member_of_another_class_is_no_state(value):
    with pytest.raises(ValueError, match=r"Crossing\.repair"):
        Crossing(repair=value)


def test_members_are_compared_in_queries(session, crossing):
    crossing.fire("Turn", column="cars")

    assert Light.RED is session.scalar(select(Crossing.cars.after("Turn")).where(Crossing.cars == Light.GREEN))
    assert list(
        session.scalars(select(Crossing.id).where(Crossing.cars.in_([Light.GREEN]), ~Crossing.cars.can("Stay")))
    ) == [1]


# --- assignment


@pytest.mark.parametrize("state", STATES)
def test_any_declared_state_may_be_given_when_the_object_is_made(session, state):
    session.add(Renamed(number=1, phase=state))
    session.flush()

    assert state == stored(session, Renamed)[1,]["order_phase"]


@pytest.mark.parametrize("value", ["Bogus", "running", "Running ", "", b"Running", 1, True, ["Running"], {}, object()])
def test_an_undeclared_state_is_refused_at_once(value):
    with pytest.raises(ValueError, match=r"Renamed\.phase"):
        Renamed(number=1, phase=value)


@pytest.mark.parametrize("value", ["Bogus", 1, None])
def test_an_unprotected_state_takes_declared_states_only(session, value):
    free = Free(id=1)
    session.add(free)
    session.flush()

    with pytest.raises((ValueError, StateAssignmentError)):
        free.state = value
    assert free.state == "Initializing"


class Free(Base):
    """Unprotected: the application may assign what it likes."""

    __tablename__ = "free_orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine, protected=False)


def test_an_unprotected_state_is_assigned_and_flushed_before_the_next_fire(session):
    free = Free(id=1)
    session.add(free)
    session.flush()
    free.state = "Stopped"

    assert ((moved := free.fire("Delete")).source, moved.target) == ("Stopped", "Deleted")
    assert stored(session, Free)[1,]["state"] == "Deleted"


def test_a_state_that_is_there_already_may_be_assigned(session):
    order = Renamed(number=1, phase="Running")
    session.add(order)
    session.flush()

    order.phase = "Running"

    assert not session.is_modified(order)


@pytest.mark.parametrize("how", ["expired", "load_only", "merged", "merged into load_only"])
def test_a_state_that_is_not_loaded_may_be_assigned_if_the_row_has_it(session, how):
    session.add(Renamed(number=1, phase="Running"))
    session.flush()
    session.expunge_all()
    copy = session.get(Renamed, 1)
    session.expunge(copy)
    query = select(Renamed)
    if "load_only" in how:
        query = query.options(load_only(Renamed.number))
    order = session.scalars(query).one()
    if "load_only" not in how:
        session.expire(order)

    if "merged" in how:
        assert session.merge(copy) is order
    else:
        order.phase = "Running"

    assert (order.phase, inspect(order).attrs.phase.history.has_changes()) == ("Running", False)


@pytest.mark.parametrize("how", ["expired", "load_only"])
def test_another_state_is_refused_where_it_is_not_loaded(session, how):
    session.add(Renamed(number=1, phase="Running"))
    session.flush()
    session.expunge_all()
    order = session.scalars(select(Renamed).options(*([load_only(Renamed.number)] if how == "load_only" else []))).one()
    if how == "expired":
        session.expire(order)

    with pytest.raises(StateAssignmentError):
        order.phase = "Stopped"

    assert (order.phase, session.is_modified(order)) == ("Running", False)


def test_an_expired_state_of_a_detached_instance_is_refused(session):
    order = Renamed(number=1, phase="Running")
    session.add(order)
    session.flush()
    session.expire(order)
    session.expunge(order)

    with pytest.raises(StateAssignmentError):
        order.phase = "Running"


def test_a_state_may_not_be_deleted(session):
    order = Renamed(number=1, phase="Running")
    session.add(order)
    session.flush()

    with pytest.raises(StateAssignmentError):
        del order.phase


def test_a_refused_assignment_leaves_the_state(session):
    order = Renamed(number=1, phase="Running")
    session.add(order)
    session.flush()

    with pytest.raises(StateAssignmentError):
        order.phase = "Deleted"

    assert (order.phase, session.is_modified(order)) == ("Running", False)


def test_a_detached_copy_is_merged_with_its_other_edits(session):
    order = Renamed(number=1, phase="Running")
    session.add(order)
    session.flush()
    session.expunge(order)
    order.total = 7

    merged = session.merge(order)
    session.flush()

    assert (merged.phase, stored(session, Renamed)[1,]["sum"]) == ("Running", 7)


def test_a_stale_copy_does_not_merge_its_state(session):
    order = Renamed(number=1, phase="Running")
    session.add(order)
    session.flush()
    session.expunge(order)
    fire_key(Renamed, 1, "Stop", session)

    with pytest.raises(StateAssignmentError):
        session.merge(order)
    assert stored(session, Renamed)[1,]["order_phase"] == "Stopped"


def test_a_new_object_is_merged_with_its_state(session):
    session.merge(Renamed(number=1, phase="Running"))
    session.flush()

    assert stored(session, Renamed)[1,]["order_phase"] == "Running"


@pytest.mark.parametrize(
    "shape", [SHAPES["renamed"], SHAPES["dataclass"], SHAPES["joined child"], SHAPES["imperative"]]
)
def test_an_instance_survives_pickling_and_fires_in_another_session(session, shape):
    instance = shape.make(state="Running")
    session.add(instance)
    session.flush()
    session.refresh(instance)
    session.expunge(instance)

    copied = pickle.loads(pickle.dumps(instance))  # noqa: S301
    session.add(copied)

    assert ((moved := copied.fire("Stop")).source, moved.target) == ("Running", "Stopped")


def test_a_member_survives_pickling(session, crossing):
    session.refresh(crossing)

    assert pickle.loads(pickle.dumps(crossing)).repair is Job.NEW  # noqa: S301


# --- a dataclass


def test_a_dataclass_takes_the_state_by_keyword_and_shows_it():
    assert Data(id=1, state="Running").state == "Running"
    assert "state='Running'" in repr(Data(id=1, state="Running"))


def test_a_dataclass_is_made_without_a_state(session):
    data = Data(1)
    session.add(data)
    session.flush()

    assert data.state == "Initializing"


# --- declarations that cannot be


@pytest.mark.parametrize("name", ["fire", "try_fire", "can_fire", "available_events"])
def test_a_method_that_the_model_has_already_is_a_clash(name):
    class Own(DeclarativeBase):
        pass

    with pytest.raises(InvalidMachine, match=f"'{name}'"):
        type(
            "Clash",
            (Own,),
            {
                "__tablename__": "clashes",
                "__annotations__": {"id": Mapped[int], "state": Mapped[str]},
                "id": mapped_column(Integer, primary_key=True),
                "state": StateMachineColumn(machine),
                name: lambda self: None,
            },
        )


def test_a_column_with_the_name_of_a_method_is_a_clash():
    class Own(DeclarativeBase):
        pass

    with pytest.raises(InvalidMachine, match="'fire'"):

        class Clash(Own):
            __tablename__ = "clashes"
            id: Mapped[int] = mapped_column(primary_key=True)
            fire: Mapped[str] = StateMachineColumn(machine)


def test_a_clash_leaves_the_other_models_alone(session):
    class Own(DeclarativeBase):
        pass

    class Sound(Own):
        __tablename__ = "sound_orders"
        id: Mapped[int] = mapped_column(primary_key=True)
        state: Mapped[str] = StateMachineColumn(machine)

    with pytest.raises(InvalidMachine):

        class Clash(Own):
            __tablename__ = "clashes"
            id: Mapped[int] = mapped_column(primary_key=True)
            state: Mapped[str] = StateMachineColumn(machine)
            fire = "at will"

    Own.registry.configure()
    assert Sound(id=1, state="Running").can_fire("Stop")


@pytest.mark.parametrize(
    ("arguments", "options", "error"),
    [
        (("Running",), {}, TypeError),
        ((None,), {}, TypeError),
        ((machine,), {"nullable": True}, ValueError),
        ((machine,), {"storage": "integer"}, ValueError),
    ],
)
def test_a_declaration_that_cannot_be_says_so_at_once(arguments, options, error):
    with pytest.raises(error):
        StateMachineColumn(*arguments, **options)


def test_a_bound_state_is_checked_in_core_too(session):
    with pytest.raises(StatementError, match="'Bogus'"):
        session.execute(insert(Imperative).values(id=1, state="Bogus"))


def test_a_bulk_insert_takes_the_default(session):
    session.execute(insert(Renamed), [{"number": 1, "total": 1}, {"number": 2, "total": 2}])

    assert [row["order_phase"] for row in stored(session, Renamed).values()] == ["Initializing"] * 2


def test_a_plain_update_in_core_is_the_users_own_business(session):
    session.add(Renamed(number=1))
    session.flush()
    session.execute(update(Renamed).values(phase="Deleted"))

    assert stored(session, Renamed)[1,]["order_phase"] == "Deleted"


def test_a_column_may_have_other_options(session):
    class Own(DeclarativeBase):
        pass

    class Indexed(Own):
        __tablename__ = "indexed_orders"
        id: Mapped[int] = mapped_column(primary_key=True)
        note: Mapped[str] = mapped_column(String(10))
        state: Mapped[str] = StateMachineColumn(machine, index=True, comment="where it is", default="Running")

    assert (Indexed.__table__.c.state.index, Indexed.__table__.c.state.comment) == (True, "where it is")
    assert Indexed.__table__.c.state.default.arg == "Running"


def test_a_new_object_shows_the_initial_state_before_any_flush(session):
    """And keeps nothing: merge() of a partial object copies no state into the row that is there."""
    crossing = Crossing()
    assert (crossing.cars, crossing.repair) == (Light.RED, Job.NEW)
    assert "repair" not in crossing.__dict__
    assert not inspect(crossing).attrs.repair.history.has_changes()
