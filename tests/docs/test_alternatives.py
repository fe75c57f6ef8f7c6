"""The cells of docs/why/alternatives.md that code can check: ours in the usual tests, the peers' in ``./dev peers``."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sqlalchemy_fsm_mysql as ours
from tests.docs.pages import PROJECT, is_installed

PAGE = PROJECT / "docs" / "why" / "alternatives.md"


def table() -> dict[str, dict[str, str]]:
    """The cells of the table of libraries, by column and row."""
    text = PAGE.read_text(encoding="utf-8").partition("\n## Other state machine libraries\n")[2].partition("\n### ")[0]
    lines = [line.strip().strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    (_, *columns), _, *rows = [[cell.strip() for cell in line] for line in lines]
    return {column: {row[0]: row[number + 1] for row in rows} for number, column in enumerate(columns)}


def there(module: str, *names: str) -> bool:
    """Whether *module* can be imported and has all *names*; a name with a dot is an attribute of a class."""
    try:
        found: Any = importlib.import_module(module)
    except ImportError:
        return False
    for name in names:
        owner = found
        for part in name.split("."):
            if not hasattr(owner, part):
                return False
            owner = getattr(owner, part)
    return True


def takes(function: Callable[..., Any], parameter: str) -> bool:
    return parameter in inspect.signature(function).parameters


def files_of(package: str) -> str:
    """The source of *package*, to look for what has no name."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    folder = spec.submodule_search_locations
    assert folder
    return "\n".join(path.read_text(encoding="utf-8") for path in Path(folder[0]).rglob("*.py"))


def transitions() -> dict[str, bool]:
    assert there("transitions.extensions.states", "Timeout")
    return {
        "groups, nested states": there("transitions.extensions", "HierarchicalMachine"),
        "parallel regions": "parallel" in files_of("transitions"),
        "history states of charts": "history" in files_of("transitions").lower(),
        "effects of entering and leaving": "on_enter" in files_of("transitions"),
        "asyncio": there("transitions.extensions", "AsyncMachine"),
        "diagrams": there("transitions.extensions", "GraphMachine"),
        "SCXML": "scxml" in files_of("transitions").lower(),
        "web interface": False,
    }


def python_statemachine() -> dict[str, bool]:
    from statemachine import State

    return {
        "groups, nested states": there("statemachine.state", "State.Compound"),
        "parallel regions": takes(State, "parallel"),
        "history states of charts": there("statemachine.state", "HistoryState"),
        "effects of entering and leaving": takes(State, "enter"),
        "asyncio": there("statemachine.engines.async_"),
        "diagrams": there("statemachine.contrib.diagram", "DotGraphMachine"),
        "SCXML": there("statemachine.io.scxml"),
        "web interface": False,
    }


def sqlalchemy_fsm() -> dict[str, bool]:
    from sqlalchemy_fsm import transition

    return {
        "groups, nested states": takes(transition, "parent"),
        "parallel regions": "parallel" in files_of("sqlalchemy_fsm"),
        "effects of entering and leaving": "on_enter" in files_of("sqlalchemy_fsm"),
        "history of each row": "__tablename__" in files_of("sqlalchemy_fsm"),
        "asyncio": there("sqlalchemy_fsm", "async_transition"),
        "diagrams": there("sqlalchemy_fsm.extras.graph"),
        "permissions on transitions": takes(transition, "permissions"),
        "timers": "timedelta" in files_of("sqlalchemy_fsm"),
    }


def django_fsm_2() -> dict[str, bool]:
    import django
    from django.conf import settings

    if not settings.configured:
        settings.configure(
            DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
            INSTALLED_APPS=["django_fsm"],
            DEFAULT_AUTO_FIELD="django.db.models.AutoField",
        )
        django.setup()
    from django_fsm import transition

    assert there("django_fsm", "ConcurrentTransitionMixin")
    return {
        "target computed by Python code": there("django_fsm", "GET_STATE"),
        "groups, nested states": "nested" in files_of("django_fsm"),
        "effects of entering and leaving": "on_enter" in files_of("django_fsm"),
        "asyncio": "async def" in files_of("django_fsm"),
        "diagrams": there("django_fsm.management.commands.graph_transitions"),
        "permissions on transitions": takes(transition, "permission"),
        "timers": "timedelta" in files_of("django_fsm"),
        "web interface": there("django_fsm.admin", "FSMAdminMixin"),
    }


def this_library() -> dict[str, bool]:
    return {
        "groups, nested states": takes(ours.Machine, "groups"),
        "parallel regions": (PROJECT / "docs" / "guide" / "statecharts.md").exists(),
        "history states of charts": takes(ours.Machine, "history"),
        "effects of entering and leaving": takes(ours.Machine, "on_enter"),
        "timers": takes(ours.Event, "after"),
        "history of each row": inspect.isclass(ours.TransitionHistory),
        "asyncio": "AsyncSession" in files_of("sqlalchemy_fsm_mysql"),
        "diagrams": there("sqlalchemy_fsm_mysql.diagram", "svg", "mermaid", "dot"),
        "SCXML": "scxml" in files_of("sqlalchemy_fsm_mysql").lower(),
        "change of states while servers run": there("sqlalchemy_fsm_mysql.alembic.ops", "AddStatesOp.add_states"),
        "target computed by Python code": False,
    }


PEERS = {
    "transitions": transitions,
    "python-statemachine": python_statemachine,
    "sqlalchemy-fsm": sqlalchemy_fsm,
    "django-fsm-2": django_fsm_2,
}


def wrong(column: str, facts: dict[str, bool], *, is_old: bool = False) -> dict[str, str]:
    """The cells that say another thing than the installed library. *is_old*: what is marked 3.0 is not there."""
    cells = table()[column]
    found = {}
    for row, fact in facts.items():
        cell = cells[row]
        says_yes = cell.startswith("yes") and not (is_old and "3.0" in cell)
        if not re.match(r"(yes|no)\b", cell) or says_yes != fact:
            found[row] = f"{cell}, but it is {fact}"
    return found


def test_our_own_column_is_true() -> None:
    assert wrong("this library", this_library()) == {}


@pytest.mark.parametrize("peer", PEERS)
def test_column_of_a_peer_is_true(peer: str) -> None:
    if not is_installed(peer):
        pytest.skip(f"{peer} is for ./dev peers")

    assert wrong(peer, PEERS[peer](), is_old=is_installed(peer, "2") and peer == "sqlalchemy-fsm") == {}


def test_a_wrong_cell_is_found() -> None:
    assert wrong("this library", {"SCXML": True, "asyncio": True}) == {"SCXML": "no, but it is True"}


def test_no_claim_goes_beyond_what_is_known() -> None:
    """ "The first" and "the only" are claims about all software there is."""
    pages = [PROJECT / "README.md", *(PROJECT / "docs").rglob("*.md")]
    claim = re.compile(
        r"\b(the|is) (first|only) (\w+ )?(library|state machine|extension|package|one (that|to))\b", re.IGNORECASE
    )
    found = [f"{page.name}: {hit[0]}" for page in pages for hit in claim.finditer(page.read_text(encoding="utf-8"))]

    assert found == []
    assert "go-mysql-fsm" in PAGE.read_text(encoding="utf-8")
