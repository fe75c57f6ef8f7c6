"""SQLAlchemy-Continuum and SQLAlchemy-History beside a state column: fires make versions, and edits do not hang on them.

Both install listeners on all mappers, so each is tried in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL

PROGRAM = """
import json, sys
from datetime import datetime
from importlib import import_module
from sqlalchemy import Connection, String, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, configure_mappers, mapped_column
from sqlalchemy_fsm_mysql import Event, Machine, Stateful, StateMachineColumn, fire_due, fire_key, fire_where
from sqlalchemy_fsm_mysql.orm.versioning import record_versions

package, url, strategy, is_enforced = sys.argv[1:]
library = import_module(package)
library.make_versioned(user_cls=None, options={"strategy": strategy})

class Base(DeclarativeBase):
    pass

class Order(Stateful, Base):
    __tablename__ = "versioned_orders"
    __versioned__ = {}
    id: Mapped[int] = mapped_column(primary_key=True)
    note: Mapped[str] = mapped_column(String(20), default="")
    paid: Mapped[int] = mapped_column(default=0)
    closes_at: Mapped[datetime | None]
    state: Mapped[str] = StateMachineColumn(
        Machine(
            initial="new",
            events=[
                Event("Pay", {"new": "paid"}, effect=lambda order: {"paid": order.paid + 1}),
                Event("Ship", {"paid": "shipped"}),
                Event("Close", {"paid": "closed"}, after=lambda order: order.closes_at),
                Event("Open", {"closed": "paid"}),
            ],
        ),
        enforced=is_enforced == "enforced",
    )

configure_mappers()
if strategy != "none":
    record_versions(Order.state, library.versioning_manager)
engine = create_engine(url)
Base.metadata.drop_all(engine)
Base.metadata.create_all(engine)
Version = library.version_class(Order)
found = {}

def versions(key):
    with Session(engine) as session:
        rows = session.scalars(select(Version).where(Version.id == key).order_by(Version.transaction_id)).all()
        return [(row.note, row.state, row.paid, row.operation_type) for row in rows]

try:
    with Session(engine) as session:
        order = Order(id=1, note="a")
        session.add(order)
        session.commit()
        order.fire("Pay")                    # a version of its own
        session.commit()
        order.note = "b"                     # an edit and a fire are one version
        order.fire("Ship")
        session.commit()
        found["each"] = versions(1)
        session.add(Order(id=2, note="x"))   # an insert and a fire stay an insert
        session.flush()
        fire_key(Order, 2, "Pay", session)
        session.commit()
        found["insert"] = versions(2)
        session.add(Order(id=3))
        session.commit()
        fire_key(Order, 3, "Pay", session)   # rolled back with it
        session.rollback()
        found["rolled back"] = versions(3)
        session.add(Order(id=4, closes_at=datetime(2024, 1, 1)))
        session.flush()
        fire_key(Order, 4, "Pay", session)
        session.commit()
        fire_due(Order, session)             # calls hooks
        session.commit()
        fire_where(Order, "Open", session, Order.id == 4)  # calls none
        session.commit()
        found["sets"] = versions(4)
        order.note = "c"                     # a shipped order can be edited and deleted
        session.commit()
        session.delete(order)
        session.commit()
        found["life"] = versions(1)[2:]
    with engine.connect() as connection:
        try:
            fire_key(Order, 2, "Ship", connection)
        except TypeError as error:
            found["connection"] = str(error)
finally:
    Base.metadata.drop_all(engine)
    engine.dispose()
print(json.dumps(found))
"""


def run(package: str, url: URL, strategy: str, enforced: str, folder: Path) -> dict[str, Any]:
    script = folder / "versions.py"
    script.write_text(PROGRAM, encoding="utf-8")
    place = url.render_as_string(hide_password=False)
    command = [sys.executable, "-W", "ignore", str(script), package, place, strategy, enforced]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100, env=None)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("strategy, enforced", [("validity", "enforced"), ("subquery", "plain")])
@pytest.mark.parametrize("package", ["sqlalchemy_continuum", "sqlalchemy_history"])
def test_a_fire_makes_a_version(package: str, strategy: str, enforced: str, url: URL, tmp_path: Path) -> None:
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    found = run(package, url, strategy, enforced, tmp_path)

    assert found["each"] == [["a", "new", 0, 0], ["a", "paid", 1, 1], ["b", "shipped", 1, 1]]
    assert found["insert"] == [["x", "paid", 1, 0]]
    assert found["rolled back"] == [["", "new", 0, 0]]
    assert found["sets"] == [["", "paid", 1, 0], ["", "closed", 1, 1]]
    assert [row[1:2] + row[3:] for row in found["life"]] == [["shipped", 1], ["shipped", 1], ["shipped", 2]]
    assert "use a session" in found["connection"]


def test_another_object_is_no_manager() -> None:
    from sqlalchemy_fsm_mysql.orm.versioning import record_versions

    with pytest.raises(TypeError, match="takes the library's versioning_manager, not 3"):
        record_versions(None, 3)
