"""The built site: ``./dev docs`` builds it, and sets FSM_SITE to its folder."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from functools import cache
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

SITE = Path(os.environ.get("FSM_SITE", ""))
pytestmark = pytest.mark.skipif(not os.environ.get("FSM_SITE"), reason="./dev docs builds the site and sets FSM_SITE")
DOCS = Path(__file__).parents[2] / "docs"

# What Sphinx's search scripts want of a browser.
BROWSER = """
var window = globalThis, console = {log() {}, info() {}, debug() {}};
var localStorage = {setItem() {}}, SPHINX_HIGHLIGHT_ENABLED = false;
var DOCUMENTATION_OPTIONS = {URL_ROOT: "./", FILE_SUFFIX: ".html", LINK_SUFFIX: ".html", BUILDER: "html"};
var document = {getElementById: () => null, addEventListener() {}, querySelectorAll: () => [],
    documentElement: {dataset: {content_root: "./"}}};
var _ = text => text, _ready = () => {};
"""
FIND = """
(query => {
    const found = Search._performSearch(...Search._parseQuery(query)).reverse();
    return JSON.stringify(found.map(each => each[0]));
})(%s)
"""


@pytest.fixture(scope="module")
def find() -> Iterator[Callable[[str], list[str]]]:
    """The pages that the site's search lists for a query, best first: by its own scripts and index."""
    from py_mini_racer import MiniRacer

    with MiniRacer() as browser:
        browser.eval(BROWSER)
        for script in ("_static/language_data.js", "_static/searchtools.js", "searchindex.js"):
            browser.eval((SITE / script).read_text(encoding="utf-8"))
        # Each page once.
        yield lambda query: list(dict.fromkeys(json.loads(browser.eval(FIND % json.dumps(query)))))


@pytest.mark.parametrize(
    ("query", "page"),
    [
        ("1205", "troubleshooting"),
        ("add a state", "evolution"),
        ("alembic autogenerate", "evolution"),
        ("alembic enum", "evolution"),
        ("async", "guide/async"),
        ("audit log", "guide/history"),
        ("benchmark", "performance"),
        ("bulk update", "guide/sets"),
        ("celery", "recipes/celery"),
        ("Data truncated for column", "troubleshooting"),
        ("deadlock", "guide/transactions"),
        ("drop a state", "evolution"),
        ("enum", "guide/machines"),
        ("fastapi", "recipes/fastapi"),
        ("fire_where", "guide/sets"),
        ("galera", "clusters"),
        ("guard", "guide/guards"),
        ("hooks", "guide/mails"),
        ("idempotency", "guide/webhooks"),
        ("job queue skip locked", "guide/jobs"),
        ("kafka", "guide/mails"),
        ("lock wait timeout", "troubleshooting"),
        ("lost update", "why/alternatives"),
        ("on_enter", "guide/machines"),
        ("optimistic locking", "why/alternatives"),
        ("outbox", "guide/mails"),
        ("proxysql", "proxies"),
        ("pytest fixture", "recipes/pytest"),
        ("rename a state", "guide/renaming"),
        ("rename state", "guide/renaming"),
        ("retry", "guide/transactions"),
        ("retry on deadlock", "guide/transactions"),
        ("row lock", "why/isolation"),
        ("SELECT FOR UPDATE", "why/alternatives"),
        ("send email after commit", "guide/mails"),
        ("SKIP LOCKED", "guide/jobs"),
        ("StaleDataError", "why/alternatives"),
        ("substates", "guide/statecharts"),
        ("temporal", "why/alternatives"),
        ("timeout", "guide/time"),
        ("transitions library", "moving/from-transitions"),
        ("TransitionNotAllowed", "reference/errors"),
        ("trigger", "enforcement"),
        ("version_id_col", "why/alternatives"),
        ("webhook twice", "guide/webhooks"),
        ("with_for_update", "why/alternatives"),
    ],
)
def test_the_search_finds_the_page_that_answers(find: Callable[[str], list[str]], query: str, page: str) -> None:
    """It is among the first three, in Sphinx's own order."""
    assert page in find(query)[:3], find(query)[:6]


class Links(HTMLParser):
    """The links of a page, and the ids on it."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.scripts: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids.update(filter(None, [given.get("id"), given.get("name") if tag == "a" else None]))
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag in {"script", "img", "link"} and given.get("rel") != "canonical":
            self.scripts.append(given.get("src") or given.get("href") or "")


read = cache(Links)


def pages() -> list[Path]:
    return [page for page in sorted(SITE.rglob("*.html")) if not {"_modules", "_static"} & set(page.parts)]


def test_every_link_within_the_site_leads_to_its_place() -> None:
    lost = []
    for page in pages():
        for link in read(page).links:
            if re.match(r"\w+:|//", link):
                continue
            path, _, name = unquote(link).partition("#")
            target = (page.parent / path).resolve() if path else page
            if not target.is_file() or (name and target.suffix == ".html" and name not in read(target).ids):
                lost.append(f"{page.relative_to(SITE)}: {link}")

    assert len(pages()) > 90
    assert lost == []


def test_every_link_to_a_test_opens_its_readable_source() -> None:
    """Highlighted, at the line of the function; a download or a plain file is not readable."""
    wanted = {
        (path.resolve().relative_to(DOCS.parent).as_posix(), name)
        for page in DOCS.rglob("*.md")
        for link, name in re.findall(r"\]\((\.\.[^)#\s]+\.py)#?(\w*)\)", page.read_text(encoding="utf-8"))
        if (path := page.parent / link)
    }
    lost = []
    for path, name in sorted(wanted):
        page = SITE / "source" / path.replace(".py", ".html")
        text = page.read_text(encoding="utf-8") if page.is_file() else ""
        line = re.search(rf'<span id="{name}"></span>(.*)', text) if name else None
        code = unescape(re.sub("<[^>]*>", "", line[1])).strip() if line else ""
        is_readable = 'class="highlight' in text and 'class="k"' in text
        if not is_readable or (name and not re.match(rf"(async )?(def|class) {name}\b", code)):
            lost.append(f"{path}#{name}")
    python = [link for page in pages() for link in read(page).links if link.partition("#")[0].endswith(".py")]

    assert len(wanted) > 100
    assert (lost, python) == ([], [])


def test_no_page_loads_anything_from_elsewhere() -> None:
    foreign = [(page.name, script) for page in pages() for script in read(page).scripts if re.match(r"\w+:|//", script)]

    assert [each for each in foreign if not each[1].startswith("data:")] == []


def test_mermaid_comes_with_the_site_for_pages_that_have_a_block() -> None:
    """2.7 MB, so no other page loads it; and its licence: docs/extensions/mermaid_blocks.py."""
    static = SITE / "_static"
    scripts = {"mermaid.min.js", "mermaid_blocks.js"}
    loaded = {}
    for page in pages():
        names = {script.partition("?")[0].rpartition("/")[2] for script in read(page).scripts}
        if names & scripts:
            loaded[page] = names & scripts
    drawn = [page for page in pages() if 'class="highlight-mermaid' in page.read_text(encoding="utf-8")]

    assert SITE / "diagrams.html" in drawn
    assert loaded == dict.fromkeys(drawn, scripts)
    assert 'globalThis["mermaid"]' in (static / "mermaid.min.js").read_text(encoding="utf-8")
    assert "MIT" in (static / "mermaid.LICENSE.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", sorted((DOCS / "guide").glob("*.md")), ids=lambda page: page.stem)
def test_each_guide_links_the_reference(page: Path) -> None:
    """The names in its text are links: docs/extensions/code_links.py."""
    links = read(SITE / "guide" / f"{page.stem}.html").links

    assert [link for link in links if "reference/" in link and "#" in link]


def test_an_operation_of_alembic_is_shown_as_a_revision_calls_it() -> None:
    """With its docstring, which Alembic moves to `op`: docs/extensions/operations.py."""
    page = re.sub(r"<[^>]+>", "", (SITE / "reference" / "alembic.html").read_text(encoding="utf-8"))

    assert "proxied" not in page
    assert re.search(r"op\.add_states\(\s*table_name", page)
    assert "Append states to those" in page
