"""README.md and docs/ run: see tests/docs/pages.py for what each kind of block means."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sqlalchemy import URL

import sqlalchemy_fsm_mysql
import sqlalchemy_fsm_mysql.testing
from tests.docs.pages import PAGES, PROJECT, RUNS, SHOWN, Page, blocks, marks
from tests.servers import execute, own_database

every_page = pytest.mark.parametrize("path", PAGES, ids=[str(path.relative_to(PROJECT)) for path in PAGES])


@every_page
def test_every_example_of_the_page_runs(path: Path, tmp_path: Path) -> None:
    """A failure's traceback names the page and the line in it."""
    Page(path, tmp_path).run()


@pytest.mark.servers_only
@pytest.mark.timeout(300)  # a page may start twenty programs
@every_page
def test_every_example_of_the_page_runs_on_a_server(path: Path, tmp_path: Path, url: URL) -> None:
    """The same, with each engine on a server; and what only a server can do."""
    is_mariadb = "MariaDB" in str(execute(url, "SELECT VERSION()"))
    with own_database(url) as own:
        Page(path, tmp_path, own, is_mariadb=is_mariadb).run()


@every_page
def test_no_example_is_passed_over(path: Path) -> None:
    """A block is of a kind that is run, or no code; a misspelt mark, or four blanks in place of a fence, would hide it."""
    assert marks(path) <= {*RUNS, *SHOWN}


@every_page
def test_every_block_that_is_to_run_is_seen(path: Path, tmp_path: Path) -> None:
    """Two readers of Markdown agree: the one that runs the page, and one that knows indented blocks, lists and quotes."""
    to_run = [block.content for block in blocks(path.read_text(encoding="utf-8")) if block.info.strip() in RUNS]

    assert [str(example.parsed) for example in Page(path, tmp_path).examples()] == to_run


@pytest.mark.parametrize(
    "hidden",
    [
        "Look:\n\n    x = 1\n",
        "```\nx = 1\n```\n",
        "- Look:\n\n      x = 1\n",
        "> Look:\n>\n>     x = 1\n",
        "```pyhton\nx = 1\n```\n",
        "~~~ pycon\nx = 1\n~~~\n",
    ],
)
def test_a_block_of_no_known_kind_is_found(hidden: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# A page\n\n```python\nx = 1\n```\n\n{hidden}", encoding="utf-8")

    assert len(marks(page) - {*RUNS, *SHOWN}) == 1


@every_page
def test_markdown_that_is_shown_stands_in_the_page(path: Path) -> None:
    """So the site's build, which takes a warning for an error, runs it."""
    all_blocks = blocks(path.read_text(encoding="utf-8"))
    shown = [block.content for block in all_blocks if block.info.strip() == "md"]
    there = {f"{block.markup}{block.info}\n{block.content}{block.markup}\n" for block in all_blocks}

    assert [text for text in shown if text not in there] == []


# [text](target), but not of an image's link to the web; and the anchors as MyST and GitHub make them of headings.
LINK = re.compile(r"\]\((?!\w+:)([^)\s]*)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def anchors(page: Path) -> set[str]:
    if page.suffix == ".py":
        return set(re.findall(r"^def (test_\w+)", page.read_text(encoding="utf-8"), flags=re.MULTILINE))
    headings = HEADING.findall(re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_every_link_leads_somewhere(path: Path) -> None:
    """A page of the site leads to another one, or to a test, which the site offers as a file."""
    within = (PROJECT / "docs", PROJECT / "tests") if path.parent != PROJECT else (PROJECT,)
    dead = []
    for link in LINK.findall(path.read_text(encoding="utf-8")):
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        is_there = target.exists() and any(target.is_relative_to(folder) for folder in within)
        if not is_there or (anchor and anchor not in anchors(target)):
            dead.append(link)

    assert dead == []


TOCTREE = re.compile(r"^```{toctree}\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_every_page_is_in_a_table_of_contents() -> None:
    docs = PROJECT / "docs"
    listed = {docs / "index.md"}
    for page in docs.rglob("*.md"):
        for lines in TOCTREE.findall(page.read_text(encoding="utf-8")):
            listed |= {page.parent / f"{line}.md" for line in lines.split() if not line.startswith(":")}

    assert {page for page in docs.rglob("*.md") if page not in listed} == set()


def test_every_public_name_is_in_the_reference() -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in (PROJECT / "docs" / "reference").glob("*.md"))
    shown = set(re.findall(r"^\.\. auto\w+:: (\w+)$", pages, re.MULTILINE))

    assert {*sqlalchemy_fsm_mysql.__all__, *sqlalchemy_fsm_mysql.testing.__all__} - shown == set()
