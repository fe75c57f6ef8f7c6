"""Imports run one way, from the command line down to the errors; the pure modules need no SQLAlchemy."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "sqlalchemy_fsm_mysql"

# Lowest first. A module imports from lower ranks and from its own; a subpackage has one rank.
RANKS = (
    {"errors"},
    {"outcomes"},
    {"observation"},
    {"machine"},
    {"diagram"},
    {"sql"},
    {"databases"},
    {"core"},
    {"orm"},
    {"operations"},
    {"alembic", "cli", "demo", "sphinxext", "testing", "web", "__main__", "__init__"},
)
RANK = {name: rank for rank, names in enumerate(RANKS) for name in names}

# A notebook asks the machine for its picture; the diagram knows a machine as a type only.
EXCEPTIONS = {("machine.machine", "diagram")}

PURE = ("errors", "outcomes", "observation", "machine", "machine.evolution", "machine.rules", "diagram")


def is_for_type_checkers(node: ast.AST) -> bool:
    """Whether *node* is ``if TYPE_CHECKING:``, or ``if typing.TYPE_CHECKING:``."""
    return isinstance(node, ast.If) and ast.unparse(node.test).rpartition(".")[2] == "TYPE_CHECKING"


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below *node*, within functions too, without what only type checkers read."""
    for child in ast.iter_child_nodes(node):
        if is_for_type_checkers(child):
            for otherwise in child.orelse:
                yield otherwise
                yield from statements(otherwise)
        else:
            yield child
            yield from statements(child)


def module_name(path: Path) -> str:
    """The dotted name within the package: ``backends.mysql``; a subpackage is its folder's name."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def owner(dotted: str) -> str:
    """The module of ours that holds the name *dotted*: itself, or the nearest one above it."""
    while dotted and dotted not in MODULES:
        dotted = dotted.rpartition(".")[0]
    return dotted or "__init__"


def imports(module: str) -> set[str]:
    """The modules of ours that *module* imports when it runs."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    is_package = MODULES[module].name == "__init__.py"
    here = [PACKAGE.name, *("" if module == "__init__" else module).split(".")]
    package = [part for part in here if part][: None if is_package else -1]
    found = set()
    for node in statements(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            names = [".".join([*base, *filter(None, [node.module]), alias.name]) for alias in node.names]
        else:
            continue
        ours = [name.partition(".")[2] for name in names if name.partition(".")[0] == PACKAGE.name]
        found.update(owner(name) for name in ours)
    return found - {module}


def test_every_module_has_a_rank():
    """A new module is entered in RANKS, and in docs/architecture.md."""
    assert {module.partition(".")[0] for module in MODULES} - set(RANK) == set()


def test_imports_run_one_way():
    upwards = [
        f"{module} imports {imported}"
        for module in MODULES
        for imported in sorted(imports(module))
        if RANK[imported.partition(".")[0]] > RANK[module.partition(".")[0]] and (module, imported) not in EXCEPTIONS
    ]
    assert upwards == []


def test_imports_have_no_cycle():
    try:
        TopologicalSorter({module: imports(module) for module in MODULES}).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(reversed(error.args[1])))


@pytest.mark.parametrize("module", [name for name in PURE if name in MODULES])
def test_pure_module_needs_no_sqlalchemy(module):
    """The package's __init__ is passed by: a stub with the real folder as its path stands for it."""
    script = (
        "import importlib, sys, types\n"
        "sys.modules['sqlalchemy'] = None\n"
        "package = types.ModuleType(sys.argv[1])\n"
        "package.__path__ = [sys.argv[2]]\n"
        "sys.modules[sys.argv[1]] = package\n"
        "importlib.import_module(f'{sys.argv[1]}.{sys.argv[3]}')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, PACKAGE.name, str(PACKAGE), module],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


def reads_of_dialects(tree: ast.AST) -> Iterator[str]:
    """Each expression in *tree* that asks which database it is by a name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in {"get_backend_name", "is_mariadb", "get_dialect_name"}:
            yield ast.unparse(node)
        if isinstance(node, ast.Attribute) and node.attr == "name" and "dialect" in ast.unparse(node.value).lower():
            yield ast.unparse(node)
        if isinstance(node, ast.Constant) and node.value == "is_mariadb":
            yield "'is_mariadb'"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "startswith":
            argument = node.args[0] if node.args else None
            if isinstance(argument, ast.Constant) and str(argument.value).startswith(("sqlite", "mysql", "mariadb")):
                yield ast.unparse(node)
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("compiles") and len(node.args) > 1:
            yield ast.unparse(node)
        if isinstance(node, ast.Compare) and any(
            isinstance(part, ast.Constant) and part.value in ("mysql", "mariadb", "sqlite", "postgresql")
            for part in (node.left, *node.comparators)
        ):
            yield ast.unparse(node)


def reads_of_servers(tree: ast.AST) -> Iterator[str]:
    """Each expression in *tree* that knows an error of a server by its number, or asks for a server's variable."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and any("error_code" in ast.unparse(part) for part in ast.walk(node)):
            yield ast.unparse(node)
        if isinstance(node, ast.Constant) and "SELECT @@" in str(node.value):
            yield ast.unparse(node)


@pytest.mark.parametrize(
    "source",
    [
        "connection.dialect.name == 'sqlite'",
        "dialect.name.startswith('x')",
        "url.get_backend_name()",
        "getattr(dialect, 'is_mariadb', False)",
        "engine.dialect.is_mariadb",
        "drivername.startswith('sqlite')",
        "@compiles(utc_now, 'mysql')\ndef now(element, compiler): ...",
        "found == 'mariadb'",
    ],
)
def test_reading_a_dialects_name_is_recognized(source):
    assert list(reads_of_dialects(ast.parse(source))) != []


@pytest.mark.parametrize(
    "source",
    ["error_code(error) == 1205", "error_code(error) not in _DENIED", "text('SELECT @@innodb_rollback_on_timeout')"],
)
def test_knowing_a_server_is_recognized(source):
    assert list(reads_of_servers(ast.parse(source))) != []


@pytest.mark.parametrize("reads", [reads_of_dialects, reads_of_servers])
def test_only_databases_knows_a_dialect_or_a_server(reads):
    found = [
        f"{module}: {read}"
        for module, path in MODULES.items()
        if module.partition(".")[0] != "databases"
        for read in reads(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert found == []


def test_no_module_is_longer_than_450_lines_and_no_class_of_databases_has_more_than_15_methods():
    for module, path in MODULES.items():
        if module.partition(".")[0] == "databases":
            source = path.read_text(encoding="utf-8")
            assert (module, source.count("\n") <= 450) == (module, True)
            for node in ast.walk(ast.parse(source)):
                if isinstance(node, ast.ClassDef):
                    methods = [child for child in node.body if isinstance(child, ast.FunctionDef)]
                    assert (node.name, len(methods) <= 15) == (node.name, True)


def is_narrowing(test: ast.expr) -> bool:
    """Whether *test* only tells a type checker a type: ``x is not None``, ``isinstance(x, …)``, ``callable(x)``."""
    if isinstance(test, ast.Call):
        return ast.unparse(test.func) in {"isinstance", "callable"}
    return (
        isinstance(test, ast.Compare)
        and isinstance(test.ops[0], ast.IsNot)
        and ast.unparse(test).endswith("is not None")
    )


def test_no_assert_carries_control_flow():
    """``python -O`` drops asserts, so what one checks is known before, and none is caught."""
    deciding = [
        f"{module}: {ast.unparse(node)}"
        for module, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Assert) and not is_narrowing(node.test))
        or (
            isinstance(node, ast.ExceptHandler) and node.type is not None and "AssertionError" in ast.unparse(node.type)
        )
        or (isinstance(node, ast.Name) and node.id == "__debug__")
    ]
    assert deciding == []
