"""Lists that are written twice, and would grow apart unnoticed: fields and docstrings, checks and pages, modules and the map."""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sqlalchemy_fsm_mysql import outcomes
from sqlalchemy_fsm_mysql.databases.mysql.catalogue import MySQLCatalogue
from sqlalchemy_fsm_mysql.errors import RowNotFound

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "sqlalchemy_fsm_mysql"
OUTCOMES = [kind for kind in vars(outcomes).values() if isinstance(kind, type) and dataclasses.is_dataclass(kind)]
SAMPLES = [
    outcomes.Moved(object, 1, "Pay", "new", "paid"),
    outcomes.Refused(object, 1, "Pay", "new", "state", ["paid"]),
    outcomes.Missing(object, 1, "Pay"),
    outcomes.MovedRows(
        object,
        "Pay",
        1,
        {("new", "paid"): 1},
        errors=(RowNotFound(table="orders", key=2, event="Pay"),),
        keys={1: ("new", "paid")},
    ),
]
# The caller's own objects, which to_dict() cannot show.
NO_DATA = {"instance", "payload"}
# Every place of the package that makes an outcome, with the fields that have their default there: what the place cannot
# know, and what another sets by replace().
LEFT_OUT: dict[tuple[str, str], set[str]] = {
    ("core/fires.py", "Moved"): {"replayed", "created"},
    ("core/fires.py", "Refused"): set(),
    ("core/many_keys.py", "Missing"): set(),
    ("core/many_keys.py", "Moved"): {"token", "replayed", "created"},
    ("core/sets.py", "Moved"): {"token", "replayed", "sequence", "created"},
    ("core/sets.py", "MovedRows"): {"errors"},
    ("core/tokens.py", "Moved"): {"instance", "payload", "created"},
    ("operations/due.py", "MovedRows"): {"keys"},
    ("orm/lanes.py", "MovedRows"): {"keys"},
    ("orm/many_keys.py", "MovedRows"): {"errors", "keys"},
}
# Said by the class itself: on which model, which row, which event.
OBVIOUS = {"model", "event"}


def doctor() -> Iterator[ast.AST]:
    """Every node of the doctor's modules."""
    paths = [PACKAGE / "operations" / "doctor.py", *sorted(PACKAGE.glob("operations/checks/*.py"))]
    assert paths
    for path in paths:
        yield from ast.walk(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("kind", OUTCOMES, ids=lambda kind: kind.__name__)
def test_every_field_of_an_outcome_is_documented(kind: type) -> None:
    """docs/reference shows the docstring: a field that it does not name is not documented at all."""
    names = {field.name for field in dataclasses.fields(kind) if not field.name.startswith("_")} - OBVIOUS
    named = set(re.findall(r"`(\w+)`", kind.__doc__ or ""))

    assert names - named == set()


@pytest.mark.parametrize("outcome", SAMPLES, ids=lambda outcome: type(outcome).__name__)
def test_every_field_of_an_outcome_is_in_its_dict(outcome: Any) -> None:
    """to_dict() leaves out what is no data, and nothing else; the class is its "model", as a name."""
    names = {field.name for field in dataclasses.fields(outcome) if not field.name.startswith("_")}

    assert names - set(outcome.to_dict()) == NO_DATA & names
    assert {type(sample) for sample in SAMPLES} >= set(OUTCOMES)


def test_every_place_that_makes_an_outcome_decides_on_each_field() -> None:
    """A new field has a default, so a place that forgets it would make outcomes without it, and nothing would fail."""
    fields = {kind.__name__: [field.name for field in dataclasses.fields(kind)] for kind in OUTCOMES}
    left_out: dict[tuple[str, str], set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in fields:
                names, place = fields[ast.unparse(node.func)], path.relative_to(PACKAGE).as_posix()
                given = {*names[: len(node.args)], *(keyword.arg for keyword in node.keywords)}
                left_out.setdefault((place, ast.unparse(node.func)), set()).update(set(names) - given)

    assert left_out == LEFT_OUT


def test_every_field_of_an_outcome_is_in_the_signature_for_type_checkers() -> None:
    """An outcome whose states have the model's type has an __init__() under TYPE_CHECKING, written by hand."""
    tree = ast.parse((PACKAGE / "outcomes" / "__init__.py").read_text(encoding="utf-8"))
    written = {}
    for kind in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        for node in ast.walk(kind):
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                written[kind.name] = [argument.arg for argument in node.args.args[1:]]
    fields = {kind.__name__: [field.name for field in dataclasses.fields(kind)] for kind in OUTCOMES}

    assert {"Moved", "Refused"} <= set(written) & set(fields)
    assert {name: names for name, names in written.items() if name in fields and names != fields[name]} == {}


def test_every_variable_that_a_check_reads_is_asked_for() -> None:
    """A variable that the catalogue does not ask the server for is never there, and its check finds nothing."""
    read = set()
    for node in doctor():
        is_read = isinstance(node, ast.Call) and re.search(r"\.(says|variables\.get)$", ast.unparse(node.func))
        if isinstance(node, ast.Call) and is_read:
            read.update(ast.literal_eval(part) for part in node.args[:1] if isinstance(part, ast.Constant))
        # for name in ("read_only", …): … known.variables[name]
        if isinstance(node, ast.comprehension) and isinstance(node.iter, ast.Tuple):
            read.update(part.value for part in node.iter.elts if isinstance(part, ast.Constant))

    variables = {name for name in read if isinstance(name, str) and re.fullmatch(r"[a-z]+(_[a-z]+)+", name)}
    assert len(variables) > 10
    assert variables - set(MySQLCatalogue.VARIABLES) == set()


def test_every_check_of_the_doctor_is_entered() -> None:
    """A check that neither a list nor another function names is never run."""
    checks = {
        node.name
        for node in doctor()
        if isinstance(node, ast.FunctionDef) and node.returns and ast.unparse(node.returns) == "Iterator[Finding]"
    }
    named = {node.id for node in doctor() if isinstance(node, ast.Name)}

    assert len(checks) > 20
    assert checks - named == set()


def test_every_kind_of_finding_stands_in_the_page() -> None:
    """People look a finding up by its kind."""
    page = (ROOT / "docs" / "doctor.md").read_text(encoding="utf-8")
    kinds = set()
    for node in doctor():
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Finding":
            kind = node.args[1]
            kinds.update([kind.value] if isinstance(kind, ast.Constant) else [])

    assert len(kinds) > 15
    assert {kind for kind in kinds if f"`{kind}`" not in page} == set()


def test_every_module_is_on_the_map() -> None:
    """The map of docs/architecture.md has every module of the package, and no other."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    block = page.partition("```text\nsqlalchemy_fsm_mysql/\n")[2].partition("```")[0]
    mapped, folder = set(), ""
    for line in block.splitlines():
        name = line.split()[0]
        is_floor = line.startswith("  ") and not line.startswith("    ")
        if is_floor:
            folder = name if name.endswith("/") else ""
        if name.endswith(".py"):
            mapped.add(name if is_floor else folder + name)
    there = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")}
    modules = {path for path in there if not path.endswith("/__init__.py")}

    assert mapped == modules


def test_every_module_of_the_suite_is_in_the_table_of_contributing() -> None:
    """The table says which tests belong to a change: one that it does not name is not run; one that is gone misleads."""
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = page.partition("| you change | run |")[2].partition("\n\n")[0]
    named = set(re.findall(r"\btest_\w+\.py", table))
    every = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    suite = {path.name for path in (ROOT / "tests" / "conformance").glob("test_*.py")}

    assert (suite - named, named - every) == (set(), set())


def test_every_folder_of_tests_is_in_the_tree_of_the_map() -> None:
    """docs/architecture.md says what each folder of tests is for."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    tree = page.partition("```text\ntests/\n")[2].partition("```")[0]
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/*.py")}

    assert {folder for folder in folders if f"  {folder}/" not in tree} == set()


# What the recipes need besides the libraries that they are about.
TOOLS_OF_RECIPES = {
    "fakeredis",
    "httpx",
    "httpx2",
    "ipykernel",
    "itsdangerous",
    "nbclient",
    "pylibseekdb",
    "python-multipart",
}
SPELLINGS = {"factory-boy": "factory_boy", "strawberry-graphql": "strawberry"}


def test_every_library_of_the_ecosystem_is_in_the_table() -> None:
    """docs/recipes/libraries.md says of each with which version it was tried, and by which test."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    group = project.partition("\necosystem = [\n")[2].partition("\n]")[0]
    libraries = set(re.findall(r'^    "([\w-]+)', group, re.MULTILINE)) - TOOLS_OF_RECIPES
    page = (ROOT / "docs" / "recipes" / "libraries.md").read_text(encoding="utf-8").partition("\n## ")[0]
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| ")][1:]
    named = {name.lower() for row in rows for name in row[0].removeprefix("| ").split(", ")}

    assert len(libraries) > 15
    assert {SPELLINGS.get(name, name) for name in libraries} - named == set()
    assert [row[0] for row in rows if not re.search(r"\d", row[1]) or not re.search(r"\.md|tests/", row[3])] == []


def test_the_two_lists_of_floors_agree() -> None:
    """The folders come in one order on the map of docs/architecture.md and in tests/test_architecture.py."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    block = page.partition("```text\nsqlalchemy_fsm_mysql/\n")[2].partition("```")[0]
    floors = [line.split()[0] for line in block.splitlines() if re.match(r"  \S", line)]
    names = [floor.rstrip("/").removesuffix(".py") for floor in floors if not floor.startswith("__")]
    tree = ast.parse((ROOT / "tests" / "test_architecture.py").read_text(encoding="utf-8"))
    (ranks,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "RANKS"
    )

    rank = {name: i for i, names in enumerate(ranks) for name in names}
    assert set(names) == {name for name in rank if not name.startswith("__")}
    assert [rank[name] for name in names] == sorted(rank[name] for name in names)


def test_the_top_level_has_few_entries() -> None:
    """Who opens the package sees the floors: sixteen of them, and the files that Python wants there."""
    entries = {path.name for path in PACKAGE.iterdir()} - {"__init__.py", "__main__.py", "py.typed", "__pycache__"}

    assert len(entries) <= 16, sorted(entries)


def test_no_module_is_too_long_and_no_class_is_too_large() -> None:
    """One module, one idea; no class that does everything."""
    long = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if text.count("\n") > 450:
            long[path.name] = text.count("\n")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef):
                methods = {part.name for part in node.body if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef))}
                if len(methods) > 15:
                    long[f"{path.name}: {node.name}"] = len(methods)

    assert long == {}


def test_docstrings_name_their_subject() -> None:
    """The patterns of prose that a reader has to read twice do not come back."""
    pattern = re.compile(
        r'"""(What|Who|Whether nobody)\b|\b(nobody|whoever)\b|\b(is|are|was|were) told\b', re.IGNORECASE
    )
    found = [
        f"{path.relative_to(PACKAGE)}:{number}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if pattern.search(line)
    ]

    assert found == []


def test_docstrings_have_one_dialect() -> None:
    """Errors stand in a sentence, "Raises: UnknownEvent when …", and arguments in the text: no sections, no field lists."""
    pattern = re.compile(
        r"^\s*(Raises|Returns|Args|Arguments|Yields|Parameters):\s*$|^\s*:(param|raises|returns?|rtype)\b"
    )
    found = [
        f"{path.relative_to(PACKAGE)}:{number}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if pattern.search(line)
    ]

    assert found == []


def test_what_is_awaited_is_typed_as_a_coroutine() -> None:
    """Type checkers find a forgotten ``await`` of a Coroutine, and not of any other Awaitable."""
    found = [
        f"{path.relative_to(PACKAGE)}: {node.name}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.returns and ast.unparse(node.returns).startswith("Awaitable[")
    ]

    assert found == []
