"""What applications do around an event: relationships in guards, hooks of a flush, unusual mappings, profilers."""

from __future__ import annotations

import enum
import sys
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import (
    Column,
    Engine,
    ForeignKey,
    String,
    Table,
    case,
    create_engine,
    delete,
    event,
    select,
    true,
    update,
)
from sqlalchemy.ext.declarative import ConcreteBase
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    aliased,
    column_property,
    configure_mappers,
    mapped_column,
    registry,
    relationship,
)

from sqlalchemy_fsm_mysql import (
    Event,
    Machine,
    RowNotFound,
    StateAssignmentError,
    StateMachineColumn,
    TransactionRequired,
    Transition,
    TransitionHistory,
    claim,
    fire_key,
    fire_or_create,
    fire_where,
    try_fire_key,
)
from tests.conformance.support import stored
from tests.reference import machine as reference

ONE_DRIVER = True  # nothing here depends on what a driver does


class Base(DeclarativeBase):
    """The tables of this module."""


# --- guards that ask relationships, or take a list


tagged = Table(
    "app_tagged",
    Base.metadata,
    Column("parcel_id", ForeignKey("app_parcels.id"), primary_key=True),
    Column("tag_id", ForeignKey("app_tags.id"), primary_key=True),
)


class Tag(Base):
    __tablename__ = "app_tags"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20))


class Sender(Base):
    __tablename__ = "app_senders"

    id: Mapped[int] = mapped_column(primary_key=True)
    credit: Mapped[int]


class Item(Base):
    __tablename__ = "app_items"

    id: Mapped[int] = mapped_column(primary_key=True)
    parcel_id: Mapped[int] = mapped_column(ForeignKey("app_parcels.id"))
    weight: Mapped[int]


class Parcel(Base):
    __tablename__ = "app_parcels"

    id: Mapped[int] = mapped_column(primary_key=True)
    sender_id: Mapped[int] = mapped_column(ForeignKey("app_senders.id"))
    state: Mapped[str] = StateMachineColumn(
        Machine(
            initial="packed",
            events=[
                Event("weigh", [Transition("packed", "sent", guard=lambda p, most: ~p.items.any(Item.weight > most))]),
                Event("pay", [Transition("packed", "sent", guard=lambda p, cost: p.sender.has(Sender.credit >= cost))]),
                Event("sort", [Transition("packed", "sent", guard=lambda p, tag: p.tags.any(name=tag))]),
                Event("batch", [Transition("packed", "sent", guard=lambda p, ids: p.id.in_(ids))]),
                Event("return", {"sent": "packed"}),
            ],
        )
    )
    items: Mapped[list[Item]] = relationship()
    sender: Mapped[Sender] = relationship()
    tags: Mapped[list[Tag]] = relationship(secondary=tagged)


HOLDS = {"weigh": {"most": 10}, "pay": {"cost": 5}, "sort": {"tag": "fragile"}, "batch": {"ids": [1, 2]}}
FAILS = {"weigh": {"most": 9}, "pay": {"cost": 6}, "sort": {"tag": "cheap"}, "batch": {"ids": [2, 3]}}


@pytest.fixture
def parcel(session: Session) -> Parcel:
    parcel = Parcel(id=1, items=[Item(weight=10)], sender=Sender(credit=5), tags=[Tag(name="fragile")])
    session.add(parcel)
    session.flush()
    return parcel


@pytest.mark.parametrize("name", list(HOLDS))
def test_a_guard_gives_its_payload_to_what_it_asks(session: Session, parcel: Parcel, name: str) -> None:
    assert try_fire_key(Parcel, 1, name, session, **FAILS[name]).reason == "guard"
    assert parcel.fire(name, session, **HOLDS[name]).target == "sent"


@pytest.mark.parametrize("name", list(HOLDS))
def test_a_set_is_moved_by_such_a_guard(session: Session, parcel: Parcel, name: str) -> None:
    assert fire_where(Parcel, name, session, true(), **FAILS[name]).moved == 0
    assert fire_where(Parcel, name, session, true(), **HOLDS[name]).moved == 1


@pytest.mark.parametrize("name", list(HOLDS))
def test_a_query_asks_for_rows_by_such_a_guard(session: Session, parcel: Parcel, name: str) -> None:
    other = aliased(Parcel)

    for entity in (Parcel, other):
        assert session.scalars(select(entity).where(entity.state.can(name, **HOLDS[name]))).all() == [parcel]
        assert session.scalars(select(entity).where(entity.state.can(name, **FAILS[name]))).all() == []
        assert session.scalars(select(entity).where(entity.state.can(name)), HOLDS[name]).all() == [parcel]


# --- within a flush


class Order(Base):
    __tablename__ = "app_orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(reference)
    note: Mapped[str] = mapped_column(String(20), default="")


@pytest.mark.parametrize("when", ["before_flush", "after_flush"])
@pytest.mark.parametrize("way", ["fire", "fire_key"])
def test_an_event_is_fired_from_a_hook_of_the_flush(session: Session, when: str, way: str) -> None:
    """The session is flushing already, and as before a query it is not asked to again."""
    order = Order(id=1)
    session.add(order)
    session.flush()
    fired = []

    @event.listens_for(session, when)
    def fire(session: Session, *_: object) -> None:
        if not fired:
            fired.append(fire_key(Order, 1, "Ready", session) if way == "fire_key" else order.fire("Ready", session))

    session.add(Order(id=2))
    session.flush()
    session.flush()

    assert (order.state, stored(session, Order)[1,]["state"]) == ("Running", "Running")


# --- mappings


class Ticket(Base):
    """The discriminator is an expression."""

    __tablename__ = "app_tickets"

    id: Mapped[int] = mapped_column(primary_key=True)
    level: Mapped[int] = mapped_column(default=0)
    version: Mapped[int] = mapped_column()
    state: Mapped[str] = StateMachineColumn(reference)

    __mapper_args__ = {
        "version_id_col": version,
        "polymorphic_on": case((level == 1, "urgent"), (level == 2, "dull"), else_="any"),
        "polymorphic_identity": "any",
    }


class Urgent(Ticket):
    __mapper_args__ = {"polymorphic_identity": "urgent"}


class Dull(Ticket):
    __mapper_args__ = {"polymorphic_identity": "dull"}


@pytest.fixture
def tickets(session: Session) -> list[Ticket]:
    tickets = [Ticket(id=1), Urgent(id=2, level=1), Dull(id=3, level=2)]
    session.add_all(tickets)
    session.flush()
    return tickets


def test_a_row_whose_class_is_computed_is_fired(session: Session, tickets: list[Ticket]) -> None:
    assert [ticket.fire("Ready", session).target for ticket in tickets] == ["Running"] * 3
    assert [ticket.state for ticket in tickets] == ["Running"] * 3


def test_a_row_whose_class_is_computed_is_created(session: Session) -> None:
    assert fire_or_create(Urgent(id=4, level=1), "Ready", session).instance.state == "Running"


def test_a_row_whose_class_is_computed_is_read_again_after_a_foreign_edit(
    session: Session, tickets: list[Ticket]
) -> None:
    session.connection().execute(update(Ticket.__table__).values(version=9))

    tickets[1].fire("Ready", session)

    assert (tickets[1].state, tickets[1].version) == ("Running", 10)


def test_a_sibling_by_a_computed_class_is_not_found(session: Session, tickets: list[Ticket]) -> None:
    with pytest.raises(RowNotFound):
        fire_key(Urgent, 3, "Ready", session)

    assert fire_where(Urgent, "Ready", session, true()).moved == 1
    assert [row["state"] for row in stored(session, Ticket).values()] == ["Initializing", "Running", "Initializing"]


class Kind(Base):
    __tablename__ = "app_kinds"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20))


class Animal(Base):
    """The discriminator is in a table of its own, and asked for by a subquery."""

    __tablename__ = "app_animals"

    id: Mapped[int] = mapped_column(primary_key=True)
    kind_id: Mapped[int] = mapped_column(ForeignKey("app_kinds.id"))
    kind: Mapped[str] = column_property(
        select(Kind.name).where(Kind.id == kind_id.column).scalar_subquery().label("kind")
    )
    state: Mapped[str] = StateMachineColumn(reference)

    __mapper_args__ = {"polymorphic_on": kind, "polymorphic_identity": "animal"}


class Cat(Animal):
    __mapper_args__ = {"polymorphic_identity": "cat"}


class Dog(Animal):
    __mapper_args__ = {"polymorphic_identity": "dog"}


def test_a_sibling_by_another_tables_word_is_not_found(session: Session) -> None:
    session.add_all([Kind(id=1, name="cat"), Kind(id=2, name="dog")])
    session.flush()
    session.add_all([Cat(id=1, kind_id=1), Dog(id=2, kind_id=2)])
    session.flush()

    with pytest.raises(RowNotFound):
        fire_key(Cat, 2, "Ready", session)
    assert fire_key(Cat, 1, "Ready", session).target == "Running"
    assert fire_where(Dog, "Ready", session, true()).moved == 1


class Staff(ConcreteBase, Base):
    __tablename__ = "app_staff"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(reference)

    __mapper_args__ = {"polymorphic_identity": "staff", "concrete": True}


class Manager(Staff):
    __tablename__ = "app_managers"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(reference)

    __mapper_args__ = {"polymorphic_identity": "manager", "concrete": True}


def test_rows_of_concrete_inheritance_are_fired(session: Session) -> None:
    configure_mappers()
    session.add_all([Staff(id=1), Manager(id=2)])
    session.flush()

    for person in session.scalars(select(Staff)).all():
        assert person.fire("Ready", session).target == "Running"
    assert fire_key(Manager, 2, "Stop", session).target == "Stopped"


class Job(Base):
    """A state with a history, in a table of which there is a copy."""

    __tablename__ = "app_jobs"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(reference)


class JobTransition(TransitionHistory, Base):
    __tablename__ = "app_job_transitions"
    __records__ = "Job.state"


class Archived:
    """Mapped to a copy of the table."""


class Task(Base):
    """Its history has columns of the application, which Python fills."""

    __tablename__ = "app_tasks"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(reference)


made = count(1)


class TaskTransition(TransitionHistory, Base):
    __tablename__ = "app_task_transitions"
    __records__ = "Task.state"

    host: Mapped[str] = mapped_column(String(20), default="web1")
    number: Mapped[int] = mapped_column(default=lambda: next(made))


@pytest.mark.parametrize("way", ["fire", "fire_where", "fire_where in chunks", "claim"])
def test_the_applications_columns_of_a_history_have_their_defaults(session: Session, way: str) -> None:
    """They are those of SQLAlchemy; a function is called once for each statement."""
    session.add_all([Task(id=1), Task(id=2)])
    session.flush()
    before = next(made)
    if way == "fire":
        fire_key(Task, 1, "Ready", session)
    elif way == "claim":
        claim(Task, "Ready", session, Task.id == 1, limit=1)
    else:
        every = true() if way == "fire_where" else Task.id.in_(select(Task.id))
        assert fire_where(Task, "Ready", session, every).moved == 2

    written = session.scalars(select(TaskTransition)).all()
    assert {row.host for row in written} == {"web1"}
    assert {row.number for row in written} <= {before + 1, before + 2}


registry(metadata=Base.metadata).map_imperatively(
    Archived, Job.__table__.to_metadata(Base.metadata, name="app_archived_jobs")
)


def test_a_copy_of_a_table_does_not_share_its_history(session: Session) -> None:
    """Column.info is copied along, and what the library keeps there is of one column."""
    job, archived = Job(id=1), Archived()
    archived.id = 1
    session.add_all([job, archived])
    session.flush()

    assert (archived.fire("Ready", session).sequence, job.fire("Ready", session).sequence) == (None, 1)
    assert len(job.history(session)) == 1


class Colour(enum.Enum):
    RED = 1
    GREEN = 2


class Light(Base):
    """The states are members that are no strings."""

    __tablename__ = "app_lights"

    id: Mapped[int] = mapped_column(primary_key=True)
    note: Mapped[str] = mapped_column(String(20), default="")
    state: Mapped[Colour] = StateMachineColumn(
        Machine(
            initial=Colour.RED,
            states=Colour,
            aliases={"STOP": Colour.RED},
            events=[Event("go", {Colour.RED: Colour.GREEN}), Event("stop", {Colour.GREEN: Colour.RED})],
        )
    )


@pytest.mark.parametrize(
    "criterion", [Light.state.can("go"), Light.state == Colour.RED, Light.state.in_([Colour.RED])], ids=str
)
def test_instances_know_what_a_statement_changed_by_their_state(session: Session, criterion: object) -> None:
    """SQLAlchemy evaluates the criterion in memory, where the state is the member and not the text."""
    light = Light(id=1)
    session.add(light)
    session.flush()

    session.execute(update(Light).where(criterion).values(note="seen"))
    assert light.note == "seen"
    session.execute(delete(Light).where(criterion))
    assert light not in session


class Deferred(Base):
    """The state is not loaded with the rest."""

    __tablename__ = "app_deferred"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(reference, deferred=True)
    note: Mapped[str] = mapped_column(String(20), default="")


@pytest.fixture
def deferred(session: Session) -> Iterator[None]:
    session.add(Deferred(id=1))
    session.flush()
    session.expunge_all()
    return


def test_a_copy_is_merged_where_the_state_is_not_loaded(session: Session, deferred: None) -> None:
    """The state is the same, and no UPDATE writes it: somebody may have moved the row in between."""
    merged = session.merge(Deferred(id=1, state="Initializing", note="merged"))
    session.connection().execute(update(Deferred.__table__).values(state="Running"))
    session.flush()

    row = stored(session, Deferred)[1,]
    assert (merged.note, row["note"], row["state"]) == ("merged", "merged", "Running")


def test_another_state_is_not_merged_where_it_is_not_loaded(session: Session, deferred: None) -> None:
    with pytest.raises(StateAssignmentError):
        session.merge(Deferred(id=1, state="Running"))


def test_a_copied_type_keeps_its_variants() -> None:
    type_ = Order.__table__.c.state.type.with_variant(String(99), "sqlite")

    assert type_.copy()._variant_mapping == type_._variant_mapping


# --- SQLite, told not to begin transactions


@pytest.fixture
def unbegun(tmp_path: Path) -> Iterator[Engine]:
    """The driver commits each statement, and SQLAlchemy does not know."""
    engine = create_engine(f"sqlite:///{tmp_path}/a.db", connect_args={"isolation_level": None, "timeout": 0.1})
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all([Order(id=1), Job(id=1)])
        session.commit()
    yield engine
    engine.dispose()


def test_nobody_writes_between_what_an_event_reads_and_writes(unbegun: Engine) -> None:
    """The read is answered, and before the write another connection tries to move the row."""
    tried: list[object] = []
    other = create_engine(unbegun.url, connect_args={"timeout": 0.1})

    @event.listens_for(unbegun, "after_cursor_execute")
    def interfere(connection: object, cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("SELECT") and not tried:
            with Session(other) as session:
                tried.append(session.connection().dialect.name)
                with pytest.raises(Exception, match="locked"):
                    session.execute(update(Order).values(state="Deleted"))

    with Session(unbegun) as session:
        assert fire_key(Order, 1, "Ready", session).target == "Running"
    other.dispose()
    assert tried


def test_a_history_needs_a_transaction(unbegun: Engine) -> None:
    with Session(unbegun) as session, pytest.raises(TransactionRequired):
        fire_key(Job, 1, "Ready", session)


def test_a_transaction_that_the_application_begins_is_one(unbegun: Engine) -> None:
    """As SQLAlchemy's pages advise for pysqlite: the driver begins nothing, and a listener sends BEGIN."""
    event.listen(unbegun, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))

    with Session(unbegun) as session:
        assert fire_key(Job, 1, "Ready", session).sequence == 1
        session.rollback()
        assert session.get_one(Job, 1).state == "Initializing"


# --- profilers


def test_a_profiler_of_all_threads_is_left_alone() -> None:
    """yappi measures below what sys.getprofile() shows; threading.getprofile() has its function."""
    asked: list[str] = []
    machine = Machine(
        initial="a",
        events=[Event("go", [Transition("a", "b", guard=lambda o: asked.append(str(sys.getprofile())) or o.id > 0)])],
    )

    class Own(DeclarativeBase):
        pass

    class Probe(Own):
        __tablename__ = "app_probes"
        id: Mapped[int] = mapped_column(primary_key=True)
        state: Mapped[str] = StateMachineColumn(machine)

    threading.setprofile(lambda *_: None)
    try:
        Probe.state.can("go")
    finally:
        threading.setprofile(None)
    assert asked == ["None"]
