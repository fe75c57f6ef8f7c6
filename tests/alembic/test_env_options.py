"""The options of env.py and the models of real projects: from the first revision to a change of states, and back."""

from __future__ import annotations

import pytest
from sqlalchemy import ForeignKey, MetaData, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqlalchemy_fsm_mysql import Event, Machine, StateMachineColumn, TransitionHistory
from sqlalchemy_fsm_mysql.errors import MigrationRefused
from tests.alembic.support import ENV, fill, stored

FIRST = Machine(initial="new", events=[Event("Pay", {"new": "paid"}), Event("Fail", {"new": "Error"})])
SECOND = Machine(
    initial="new",
    events=[Event("Pay", {"new": "paid"}), Event("Fail", {"new": "Failed"}), Event("Hold", {"new": "held"})],
    aliases={"Error": "Failed"},
)
NAMES = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


def plain(machine, *, names=None, **options):
    """A table with two machines and a history."""
    beside = [Event("Go", {"a": "b"})] + ([] if machine is FIRST else [Event("On", {"b": "c"})])

    class Base(DeclarativeBase):
        metadata = MetaData(naming_convention=names)

    class Order(Base):
        __tablename__ = "orders"
        id: Mapped[int] = mapped_column(primary_key=True)
        state: Mapped[str] = StateMachineColumn(machine, **options)
        other: Mapped[str] = StateMachineColumn(Machine(initial="a", events=beside), **options)

    class OrderTransition(TransitionHistory, Base):
        __tablename__ = "order_transitions"
        __records__ = Order.state

    return Base.metadata


def inherited(machine, **options):
    """A mixin's column, one of a subclass with a table of its own, and one of a subclass without."""

    class Base(DeclarativeBase):
        pass

    class Mixin:
        state: Mapped[str] = StateMachineColumn(machine, **options)

    class Order(Mixin, Base):
        __tablename__ = "orders"
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str] = mapped_column(String(10), server_default="order")
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "order"}

    class Invoice(Order):
        __tablename__ = "invoices"
        id: Mapped[int] = mapped_column(ForeignKey("orders.id"), primary_key=True)
        invoice_state: Mapped[str] = StateMachineColumn(machine, **options)
        __mapper_args__ = {"polymorphic_identity": "invoice"}

    class Memo(Order):
        memo_state: Mapped[str | None] = StateMachineColumn(machine, **options)
        __mapper_args__ = {"polymorphic_identity": "memo"}

    return Base.metadata


# What makes the models, their options, and the options of context.configure().
CASES = {
    "plain": (plain, {}, {}),
    "enforced": (plain, {"enforced": True}, {}),
    "varchar, enforced": (plain, {"enforced": True, "storage": "varchar"}, {}),
    "naming conventions": (plain, {"names": NAMES, "storage": "varchar"}, {}),
    "render_as_batch": (plain, {"enforced": True}, {"render_as_batch": True}),
    "compare_server_default": (plain, {"storage": "varchar"}, {"compare_server_default": True}),
    "transaction_per_migration": (plain, {}, {"transaction_per_migration": True}),
    "inheritance": (inherited, {"enforced": True}, {}),
    "module prefixes": (plain, {}, {"user_module_prefix": "mytypes.", "sqlalchemy_module_prefix": "sa."}),
}


@pytest.mark.servers_only
@pytest.mark.parametrize("case", CASES)
def test_a_project_goes_up_and_down(project, engine, case):
    make, options, configured = CASES[case]
    project.config.attributes["options"] = {
        "include_name": lambda name, kind, parents: not (kind == "table" and name == "alembic_version"),
        **configured,
    }
    project.autogenerate(make(FIRST, **options))
    project.upgrade()
    project.check(make(FIRST, **options))
    fill(engine, {1: "new"})

    _up_to(project, lambda: make(SECOND, **options))
    assert stored(engine) == {1: "new"}
    project.downgrade("base")


def _up_to(project, metadata):
    """Upgrade by one revision after another, as the phases need it, until nothing is left to be done."""
    for _ in range(4):
        written = project.autogenerate(metadata())
        project.upgrade()
        if "op." not in written:
            break
    project.check(metadata())


@pytest.mark.servers_only
def test_an_async_env_py_migrates(project, engine):
    connects = ENV[ENV.index("    with config.attributes") :]
    project.folder.joinpath("env.py").write_text(
        ENV.replace(
            connects,
            """
    import asyncio

    from sqlalchemy.ext.asyncio import create_async_engine

    def migrate(connection):
        context.configure(connection=connection, **options)
        with context.begin_transaction():
            context.run_migrations()

    async def main():
        engine = create_async_engine(config.attributes["engine"].url.set(drivername="mysql+asyncmy"))
        async with engine.connect() as connection:
            await connection.run_sync(migrate)
        await engine.dispose()

    asyncio.run(main())
""",
        )
    )
    project.autogenerate(plain(FIRST, enforced=True))
    project.upgrade()
    fill(engine, {1: "new", 2: "new"})
    project.write("op.add_states('orders', 'state', ['late']); op.migrate_states('orders', 'state', {'new': 'late'})")

    project.upgrade()

    assert stored(engine) == {1: "late", 2: "late"}


def test_a_transaction_around_all_migrations_is_refused_by_name(project, engine):
    """``engine.begin()`` in env.py, in the place of ``engine.connect()``."""
    text = ENV.replace('config.attributes["engine"].connect()', 'config.attributes["engine"].begin()')
    project.folder.joinpath("env.py").write_text(text)
    project.autogenerate(plain(FIRST))
    project.upgrade()
    project.write("op.migrate_states('orders', 'state', {'new': 'paid'})")

    with pytest.raises(MigrationRefused, match="env.py has begun a transaction around all migrations"):
        project.upgrade()
