"""``adopt``: what it sees in a column of somebody else's, and the revision that it writes, which is run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from tests.alembic.support import Project, drop_all

pytestmark = pytest.mark.servers_only

MODELS = """
import enum

from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy_fsm_mysql import Event, Machine, StateMachineColumn


class State(enum.IntEnum):
    new = 1
    paid = 2
    cancelled = 3


def machine(new, paid, cancelled, **options):
    return Machine(
        initial=new, events=[Event("Pay", {new: paid}), Event("Cancel", {(new, paid): cancelled})], **options
    )


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine("new", "paid", "cancelled"))
    status: Mapped[str] = StateMachineColumn(machine("new", "paid", "cancelled"), storage="varchar")


class Numbered(Base):
    __tablename__ = "numbered"
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[State] = StateMachineColumn(machine(*State, states=State))


class Kept(Base):
    __tablename__ = "kept"
    id: Mapped[int] = mapped_column(primary_key=True)
    status: Mapped[State] = StateMachineColumn(machine(*State, states=State), storage="integer", protected=False)
    state: Mapped[State] = StateMachineColumn(machine(*State, states=State), storage="integer")
"""
FOLDED = "CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci"


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"adopted_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


@pytest.fixture
def table(engine: Engine) -> Any:
    """``table("status VARCHAR(20)", ["Paid"])`` makes ``orders``."""
    drop_all(engine)

    def create(definition: str, values: list[Any], name: str = "orders") -> None:
        with engine.begin() as connection:
            connection.exec_driver_sql(f"CREATE TABLE {name} (id INT PRIMARY KEY AUTO_INCREMENT, {definition})")
            for value in values:
                connection.exec_driver_sql(f"INSERT INTO {name} (status) VALUES (%s)", (value,))

    yield create
    drop_all(engine)


def test_a_look_shows_the_values_and_the_phases(run: Any, module: str, engine: Engine, table: Any) -> None:
    table(f"status VARCHAR(20) {FOLDED} NULL", ["New", "Paid", "PAID", "Paid", None, "", "on hold"])

    answer = run("adopt", f"{module}:Order.state", "--from", "status", "--url", url_of(engine))

    assert answer.status == 1
    assert "Paid\t2\tpaid" in answer.out
    assert "NULL (no value)\t1\tnew" in answer.out
    assert "on hold\t1\t?" in answer.out
    assert "1. add state, empty, by ALGORITHM=INSTANT" in answer.out
    assert "--map 'on hold=STATE'" in answer.err


def test_the_revision_that_it_writes_runs_up_and_down(
    run: Any, module: str, engine: Engine, table: Any, tmp_path: Path
) -> None:
    table(f"status VARCHAR(20) {FOLDED} NULL", ["New", "Paid", "PAID", None, "", "on hold"])
    project = Project(tmp_path / "migrations", engine)
    file = project.folder / "versions" / "0001_adopt.py"
    options = ("--map", "on hold=cancelled", "--map", "Void=cancelled", "--url", url_of(engine), "--write", file)

    answer = run("adopt", f"{module}:Order.state", "--from", "status", *options)
    assert answer.status == 0
    project.upgrade()

    with engine.connect() as connection:
        states = connection.exec_driver_sql("SELECT state FROM orders ORDER BY id").scalars().all()
    assert states == ["new", "paid", "paid", "new", "new", "cancelled"]
    project.downgrade("base")
    with engine.connect() as connection:
        assert "state" not in connection.exec_driver_sql("SELECT * FROM orders").keys()  # noqa: SIM118 - of a result


def test_numbers_are_known_by_the_enum(run: Any, module: str, engine: Engine, table: Any) -> None:
    table("status TINYINT NOT NULL", [1, 2, 2, 3, 9], name="numbered")

    answer = run("adopt", f"{module}:Numbered.state", "--from", "status", "--url", url_of(engine), "--json")

    document = json.loads(answer.out)
    assert answer.status == 1
    assert [(one["value"], one["rows"], one["state"]) for one in document["values"]] == [
        (2, 2, "paid"),
        (1, 1, "new"),
        (3, 1, "cancelled"),
        (9, 1, None),
    ]


def test_ids_are_known_by_the_table_of_states(run: Any, module: str, engine: Engine, table: Any) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE order_states (id INT PRIMARY KEY, name VARCHAR(20) NOT NULL)")
        connection.exec_driver_sql("INSERT INTO order_states VALUES (10, 'New'), (20, 'Paid'), (30, 'Cancelled')")
    table("status INT NOT NULL, FOREIGN KEY (status) REFERENCES order_states (id)", [10, 20])

    answer = run("adopt", f"{module}:Order.state", "--from", "status", "--url", url_of(engine))

    assert answer.status == 0
    assert "mapping={10: 'new', 20: 'paid', 30: 'cancelled'}" in answer.out


def test_a_column_that_fits_is_taken_as_it_is(run: Any, module: str, engine: Engine, table: Any) -> None:
    table(f"status VARCHAR(20) {FOLDED} NOT NULL", ["new", "paid"])

    fitting = run("adopt", f"{module}:Order.status", "--url", url_of(engine))
    with engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO orders (status) VALUES ('Paid')")
    other = run("adopt", f"{module}:Order.status", "--url", url_of(engine))

    assert (fitting.status, other.status) == (0, 2)
    assert 'Declare it with storage="varchar"' in fitting.out
    assert "is the old column itself" in other.err


@pytest.mark.parametrize("kind", ["TINYINT", "SMALLINT UNSIGNED", "INT", "BIGINT"])
def test_numbers_that_fit_are_taken_as_they_are(run: Any, module: str, engine: Engine, table: Any, kind: str) -> None:
    table(f"status {kind} NOT NULL", [1, 2], name="kept")

    fitting = run("adopt", f"{module}:Kept.status", "--url", url_of(engine))
    with engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO kept (status) VALUES (9)")
    other = run("adopt", f"{module}:Kept.status", "--url", url_of(engine))

    assert (fitting.status, other.status) == (0, 2)
    assert 'Declare it with storage="integer"; no column is added.' in fitting.out
    assert "is the old column itself" in other.err


def test_names_are_taken_over_as_numbers(run: Any, module: str, engine: Engine, table: Any, tmp_path: Path) -> None:
    table(f"status VARCHAR(20) {FOLDED} NULL", ["New", "paid", None], name="kept")
    project = Project(tmp_path / "migrations", engine)
    file = project.folder / "versions" / "0001_adopt.py"
    options = ("--map", "Void=cancelled", "--url", url_of(engine), "--write", file)

    answer = run("adopt", f"{module}:Kept.state", "--from", "status", *options)
    assert answer.status == 0
    assert "storage='integer'" in file.read_text()
    project.upgrade()

    with engine.connect() as connection:
        states = connection.exec_driver_sql("SELECT state FROM kept ORDER BY id").scalars().all()
    assert states == [1, 2, 1]
    project.downgrade("base")


def test_values_that_are_hard_to_see_and_to_write(run: Any, module: str, engine: Engine, table: Any) -> None:
    """Spaces at the end, the text NULL beside NULL, a quote, and an equals sign."""
    table(f"status VARCHAR(20) {FOLDED} NULL", ["paid ", None, "NULL", "it's", "a=b", "x"])
    given = ["--map", "x=new", "--map", "a=b=new", "--map", "Void=cancelled"]

    def adopt(*more: str) -> Any:
        return run("adopt", f"{module}:Order.state", "--from", "status", "--url", url_of(engine), *given, *more)

    first = adopt("--map", "it's=new")
    assert "'paid '\t1\tpaid" in first.out
    assert "NULL (no value)\t1\tnew" in first.out
    assert "'NULL'\t1\t?" in first.out
    assert first.err.startswith("'NULL' has no state: give it one by --map \"'NULL'=STATE\",")
    assert '--map "it\'s=STATE"' in adopt("--map", "'NULL'=new").err

    last = adopt("--map", "it's=new", "--map", "'NULL'=cancelled", "--map", "Piad=paid")
    assert last.status == 0
    assert "'NULL': 'cancelled'" in last.out
    assert "the mapping has 'Void', 'Piad', which no row has" in last.out


def test_wrong_calls_say_what_would_work(run: Any, module: str, engine: Engine, table: Any, tmp_path: Path) -> None:
    table(f"status VARCHAR(20) {FOLDED} NOT NULL", ["New", "Paid"])
    file = tmp_path / "there.py"
    file.write_text("# a revision that was run")

    def adopt(*options: Any) -> Any:
        return run("adopt", f"{module}:Order.state", "--url", url_of(engine), *options)

    without = adopt()
    assert (without.status, without.err) == (2, "orders has no column state: give --from, the column to take over.\n")
    again = adopt("--from", "status", "--write", file)
    assert (again.status, file.read_text()) == (2, "# a revision that was run")
    assert "exists already, and may have been run: delete it, or name another file." in again.err
    nowhere = adopt("--from", "status", "--write", tmp_path / "nowhere" / "x.py")
    assert nowhere.status == 2
    assert "cannot be written: No such file or directory." in nowhere.err


def test_new_code_never_writes_null_where_a_value_will_do(run: Any, module: str, engine: Engine, table: Any) -> None:
    """No row has the number of the initial state, and NULL stands for it."""
    table("status TINYINT NULL", [None, 2], name="numbered")

    answer = run("adopt", f"{module}:Numbered.state", "--from", "status", "--url", url_of(engine))

    assert "new as 1, cancelled as 3" in answer.out
    assert "no row is in 'new', so '1' is a guess" in answer.out


def test_new_code_writes_the_value_that_is_spelled_as_the_state(
    run: Any, module: str, engine: Engine, table: Any
) -> None:
    """A given value without a row comes before a stray one with a row, and of equally frequent ones the state's name."""
    table("status VARCHAR(20) NULL", ["New", "new", "NEW", "??", "Paid"])
    given = ("--map", "??=cancelled", "--map", "Cancelled=cancelled")

    answer = run("adopt", f"{module}:Order.state", "--from", "status", "--url", url_of(engine), *given)

    assert "new as new, paid as Paid, cancelled as Cancelled" in answer.out


def test_an_adoption_that_goes_on_and_what_uses_the_column_are_told(
    run: Any, module: str, engine: Engine, table: Any, tmp_path: Path
) -> None:
    table("status VARCHAR(20) NOT NULL, note INT, CONSTRAINT paid_note CHECK (status <> 'x' OR note > 0)", ["New"])
    project = Project(tmp_path / "migrations", engine)
    options = ("--from", "status", "--url", url_of(engine))

    before = run("adopt", f"{module}:Order.state", *options, "--write", project.folder / "versions" / "0001_adopt.py")
    project.upgrade()
    after = run("adopt", f"{module}:Order.state", *options)

    assert "is used by the CHECK paid_note: make it use state before op.finish_adoption()" in before.out
    assert "the adoption has begun" not in before.out
    assert "the adoption has begun; op.adopt_column() with another mapping replaces that of state" in after.out


def url_of(engine: Engine) -> str:
    return engine.url.render_as_string(hide_password=False)
