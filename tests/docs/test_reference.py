"""docs/reference/ has every public name: its parameters, its errors, an example that runs, and a guide that names it."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import sqlalchemy_fsm_mysql
from sqlalchemy_fsm_mysql import diagram, observation, testing, web
from tests.docs.pages import PROJECT
from tests.docs.prose import Sentence

sys.path.insert(0, str(PROJECT / "docs" / "extensions"))
parameters = importlib.import_module("parameters")

REFERENCE = PROJECT / "docs" / "reference"
PARTS = re.compile(r"^```(.*)\n((?:(?!```).*\n)*)```$", re.MULTILINE)
DIRECTIVE = re.compile(r"^\.\. (module|currentmodule|automodule|auto\w+):: (\S+)", re.MULTILINE)
MODULE = {"module", "currentmodule", "automodule"}
PUBLIC = {
    *sqlalchemy_fsm_mysql.__all__,
    *testing.__all__,
    # Two ways to mark a refused cell in a table, and the type of *times*.
    *set(diagram.__all__) - {"REFUSED", "Times"},
    # Called by the library's own floors.
    *set(observation.__all__) - {"watching"},
    # The types of what the functions of web take.
    *set(web.__all__) - {"ANSWERED", "Answerable"},
    *("add_states", "migrate_states", "drop_states", "convert_states", "add_since_column", "adopt_column"),
    *("abandon_adoption", "finish_adoption", "States", "instrument", "uninstrument", "count_retry"),
}


class Entry(NamedTuple):
    """One name on a page of the reference, with the text and the blocks of code that follow it."""

    page: str
    module: str
    name: str
    after: str

    @property
    def last(self) -> str:
        return self.name.rpartition(".")[2]

    @property
    def object(self) -> Any:
        parts = self.name.split(".")
        for home in (self.module, *(".".join(parts[:end]) for end in range(len(parts) - 1, 0, -1))):
            try:
                found = importlib.import_module(home)
                names = self.name.removeprefix(f"{home}.").split(".")
                for name in names:
                    found = getattr(found, name)
            except (ImportError, AttributeError):
                continue
            return found
        raise AssertionError(f"{self.page}: there is no {self.name}")


@cache
def entries() -> tuple[Entry, ...]:
    found = []
    for page in sorted(REFERENCE.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        module, directives = "sqlalchemy_fsm_mysql", [part for part in PARTS.finditer(text) if "eval-rst" in part[1]]
        for part, following in zip_longest(directives, directives[1:]):
            after = text[part.end() : following.start() if following else None]
            for kind, name in DIRECTIVE.findall(part[2]):
                if kind in MODULE:
                    module = name
                else:
                    found.append(Entry(page.name, module, name, after))
    return tuple(found)


def example_of(entry: Entry) -> str:
    """The code after the entry. `text` marks what needs a server of its own, or a library that the tests do not have."""
    return "\n".join(part[2] for part in PARTS.finditer(entry.after) if re.match(r"python|text", part[1]))


# Classes whose fields the reader meets in the example of the function that returns them.
RETURNED = {"AnyState", "Change", "Phase", "WatchedEdge", "Finding", "Dwell", "CoalescerFigures", "StateComparator"}
TYPED_DICTS = {"MovedData", "RefusedData", "MovedRowsData"}


def test_every_public_name_is_in_the_reference() -> None:
    names = {entry.last for entry in entries()}

    assert len(PUBLIC) > 90
    assert PUBLIC - names == set()


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: f"{entry.page}-{entry.last}")
def test_every_name_has_an_example(entry: Entry) -> None:
    """Right after its entry, and the example uses the name."""
    code = example_of(entry)

    assert code.strip()
    assert entry.last in RETURNED | TYPED_DICTS | {"OutcomeHidden"} or re.search(rf"\b{entry.last}\b", code)


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: f"{entry.page}-{entry.last}")
def test_every_name_links_a_guide_that_names_it(entry: Entry) -> None:
    """The page of the reference links it: beside the name, or at its top for all names of the page."""
    text = (REFERENCE / entry.page).read_text(encoding="utf-8")
    top = text.partition("```")[0]
    links = re.findall(r"\]\((\.\./[\w/-]+\.md)", entry.after + top)
    guides = [(REFERENCE / link).resolve().read_text(encoding="utf-8") for link in links]

    assert guides
    named = entry.last.removesuffix("Data") if entry.last in TYPED_DICTS else entry.last
    known = {"AnyState": "ANY", "Change": "diff_machines", "Phase": "phase", "Finding": "finding", "Dwell": "dwell"}
    known |= {"WatchedEdge": "watched_edges", "CoalescerFigures": "figures", "MovedRowsData": "to_dict"}
    known |= {"StateComparator": "can(", "MovedData": "to_dict", "RefusedData": "to_dict", "FSMError": "raises"}
    assert any(known.get(entry.last, named) in guide for guide in guides), links


def callables() -> list[tuple[str, Any]]:
    """Every function, method and class of the reference that a user calls."""
    found = []
    for entry in entries():
        thing = entry.object
        if inspect.isclass(thing):
            if entry.last in parameters.CONSTRUCTED:
                found.append((entry.last, thing))
            if entry.last in {"Machine", "Stateful", "Coalescer", "StateComparator"}:
                methods = vars(thing).items()
                found += [
                    (f"{entry.last}.{name}", getattr(thing, name)) for name, each in methods if is_public(name, each)
                ]
        elif inspect.isfunction(thing) or inspect.ismethod(thing):
            found.append((entry.last, thing))
    return found


def is_public(name: str, method: Any) -> bool:
    is_called = inspect.isfunction(method) or isinstance(method, (classmethod, staticmethod))
    return is_called and not name.startswith("_") and name not in {"operate", "reverse_operate"}


# pytest passes the parameters of a fixture; OpenTelemetry's and stamina's own objects speak for themselves.
BY_OTHERS = {
    "fsm_url",
    "fsm_metadata",
    "fsm_engine",
    "fsm_session",
    "instrument",
    "count_retry",
    "observe",
    "stop_observing",
}


@pytest.mark.parametrize(("name", "function"), callables(), ids=lambda value: value if isinstance(value, str) else "")
def test_every_parameter_has_a_type_and_a_meaning(name: str, function: Any) -> None:
    """The site shows them as a list below the docstring: docs/extensions/parameters.py."""
    if name in BY_OTHERS:
        pytest.skip("others pass its arguments")
    names = [each.name for each in parameters.parameters_of(function)]

    assert [each for each in names if parameters.meaning_of(name, each) is None] == []


def test_no_parameter_is_described_that_is_gone() -> None:
    there = {(name, each.name) for name, function in callables() for each in parameters.parameters_of(function)}
    own = {parameter for _, parameter in there}
    gone = []
    for key in parameters.PARAMETERS:
        owner, _, parameter = key.rpartition(".")
        owners = {name for name, each in there if each == parameter}
        if parameter not in own or (owner and not any(owner in name.split(".") for name in owners)):
            gone.append(key)

    assert gone == []


def test_errors_are_named_in_one_dialect() -> None:
    """`Raises:` begins a paragraph, so the site can link the errors in it."""
    raising = [name for name, function in callables() if "Raises:" in (function.__doc__ or "")]
    inline = [name for name in raising if not re.search(r"\n\s*\n\s*Raises:", dict(callables())[name].__doc__)]

    assert len(raising) > 40
    assert inline == []


def docstrings() -> dict[str, str]:
    """The docstrings that the site shows: those of each entry, and of the methods that a class defines itself."""
    found: dict[str, Any] = {}
    for entry in entries():
        if isinstance(entry.object, type) or inspect.isfunction(entry.object):
            found[entry.last] = entry.object.__doc__
        if isinstance(entry.object, type):
            for name, method in vars(entry.object).items():
                if not name.startswith("_"):
                    found[f"{entry.last}.{name}"] = getattr(getattr(method, "__func__", method), "__doc__", None)
    return {name: text for name, text in found.items() if isinstance(text, str)}


def sentences_of(docstring: str) -> Iterator[Sentence]:
    """Those of its paragraphs and lists, without examples, code and the list of errors; code and arguments are `x`."""
    for paragraph in re.split(r"\n\s*\n|\n(?=- )", inspect.cleandoc(docstring)):
        if not paragraph.startswith((">>>", "    ", "Raises:", "::")):
            text = re.sub(r":\w+:`[^`]*`|``[^`]*``|`[^`]*`|\*\w+\*", "`x`", " ".join(paragraph.split()))
            for sentence in re.split(r"(?<=[.!?])[)\"”]? +(?=[A-Z`(\"“])", text):
                yield Sentence(PROJECT, 0, sentence)


@pytest.mark.parametrize("name", docstrings())
def test_docstrings_are_plain_prose(name: str) -> None:
    """The rules of tests/docs/prose.py are those of the docstrings, too."""
    broken = [(rule, sentence.text) for sentence in sentences_of(docstrings()[name]) for rule in sentence.broken()]

    assert broken == []


def test_this_page_of_tests_reads_the_reference() -> None:
    assert len(entries()) > 110
    assert {Path(entry.page).stem for entry in entries()} >= {"machine", "model", "rows", "errors", "alembic", "web"}
