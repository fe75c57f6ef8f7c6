"""The modules that a declaration imports. Each costs a program its time at every start, whether it ever fires or not."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

LIBRARY = "sqlalchemy_fsm_mysql"

IMPORT = "from sqlalchemy_fsm_mysql import Event, Machine, StateMachineColumn, fire_key"

MODEL = """
from sqlalchemy.orm import DeclarativeBase, Mapped, configure_mappers, mapped_column

class Base(DeclarativeBase): ...

class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(
        Machine(
            initial="new",
            groups={"open": ["new", "paid"]},
            events=[
                Event("Pay", {"new": "paid"}, guard=lambda order, amount: order.id < amount),
                Event("Cancel", {"open": "gone"}, effect=lambda order: {"id": order.id}),
            ],
        )
    )

configure_mappers()
"""

REPORT = """
import dataclasses, json
new = {name: sys.modules[name] for name in set(sys.modules) - before}
ours = {name.removeprefix("sqlalchemy_fsm_mysql.") for name in new if name.startswith("sqlalchemy_fsm_mysql.")}
made = {
    each.__name__ for name, module in new.items() if name.startswith("sqlalchemy_fsm_mysql")
    for each in vars(module).values() if isinstance(each, type) and "__dataclass_fields__" in vars(each)
}
others = [name for name in new if not name.startswith("sqlalchemy_fsm_mysql")]
print(json.dumps({"ours": sorted(ours), "others": sorted(others), "dataclasses": sorted(made)}))
"""

# The modules of a declaration, by floor. To add one is to slow down the start of every program: see "Start" in
# docs/performance.md. What a fire, a database or an operation needs is imported where it is first needed.
DECLARATION = {
    "core": "listening target",
    "databases": "compiled database exact identifiers kinds mysql mysql.types transactions types",
    "errors": "roots server texts",
    "machine": "declaration events groups guards machine names payload questions states tables validation"
    " validation_of_functions",
    "orm": "attribute calls choice column comparator functions listening mapped placement protection since stateful",
    "sql": "clock exact values",
}


def imported_by(program: str) -> dict[str, Any]:
    """The modules that *program* imports on top of ``sqlalchemy.orm``, and the dataclasses that they make."""
    script = f"import sys, sqlalchemy.orm\nbefore = set(sys.modules)\n{program}\n{REPORT}"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("program", [IMPORT, IMPORT + MODEL], ids=["import", "model"])
def test_declaration_imports_no_module_of_a_fire_or_a_database(program: str) -> None:
    allowed = {*DECLARATION, *(f"{floor}.{name}" for floor, names in DECLARATION.items() for name in names.split())}

    found = imported_by(program)

    assert set(found["ours"]) - allowed == set()
    assert set(found["others"]) <= {"sqlalchemy.ext", "sqlalchemy.ext.compiler", "unicodedata", "json", "dataclasses"}


def test_declaration_makes_few_dataclasses() -> None:
    """Each compiles its methods, which takes as long as reading two modules: see "Start" in docs/evidence/performance.md."""
    made = imported_by(IMPORT)["dataclasses"]

    # Those that a user writes and compares, and the two that have as many fields as a machine.
    assert set(made) <= {"Declaration", "Event", "Guard", "Machine", "Questions", "Transition"}
