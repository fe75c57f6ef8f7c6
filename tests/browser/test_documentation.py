"""The pages of the documentation in a headless Chromium, on a desktop, a tablet and a phone, light and dark.

``./dev docs`` builds the pages, sets FSM_SITE to their folder, and runs this where Chromium is installed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.browser.measure import THEMES, WIDTHS, browsing, drawn, page_problems, serving, show, wear

SITE = Path(os.environ.get("FSM_SITE", ""))
pytestmark = pytest.mark.skipif(not os.environ.get("FSM_SITE"), reason="./dev docs builds the site and sets FSM_SITE")

# Pages that are made of Python files are alike: the longest of each kind stand for all.
ALIKE = ("_modules", "source")
LONGEST = 2

# What the measurement has to find, each in the page below.
WRONG = """<!doctype html><html><head><title>Wrong</title>
<meta name="viewport" content="width=device-width, initial-scale=1"></head>
<body data-theme="light"><main><div><article><h1 id="a">One</h1><h3 id="a">Three</h3>
<p style="color: #aaa; background: #fff">pale</p>
<p class="dark-only">only pale in the dark</p>
<style>[data-theme=dark] .dark-only { color: #555; background: #222 }</style>
<img src="none.png"><a href="/"></a><script src="http://127.0.0.1:9/foreign.js"></script>
<div class="highlight"><pre>no button</pre></div><div class="highlight-mermaid"><pre>no script</pre></div>
<svg><g class="node"><rect width="90" height="9" fill="#999"/><text fill="#888">pale on its shape</text></g></svg>
<div style="width: 60rem">wider than a phone and a tablet</div>
<div style="width: 5rem; overflow: hidden"><div style="width: 20rem">cut off here</div></div>
<table><tr><td style="width: 40px">a column that is as narrow as its words, which are many</td><td>%s</td></tr></table>
</article></div></main><header><a href="/" style="display: block; height: 9px">x</a></header></body></html>
""" % ("wide " * 400)
KINDS = {
    "console",
    "description",
    "duplicate id",
    "foreign resource",
    "head",
    "headings",
    "image does not load",
    "link without a name",
    "no alt",
    "no copy button",
    "not drawn",
    *(f"{theme} contrast" for theme in THEMES),
    *(f"{width} cut off" for width in WIDTHS),
    *(f"{width} {kind}" for width in ("phone", "tablet") for kind in ("page scrolls sideways", "wider than the page")),
    "phone narrow column",
    "phone small target",
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, ...]]:
    with ExitStack() as opened:
        yield tuple(opened.enter_context(browsing(tmp_path_factory.mktemp("profile"))) for _ in range(2))


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving(SITE) as address:
        yield address


def pages() -> list[str]:
    """All pages that somebody wrote, and a few of those that were made of files."""
    found = [page for page in sorted(SITE.rglob("*.html")) if "_static" not in page.parts]
    written = [page for page in found if page.relative_to(SITE).parts[0] not in ALIKE]
    for kind in ALIKE:
        made = [page for page in found if page.relative_to(SITE).parts[0] == kind]
        written += sorted(made, key=lambda page: page.stat().st_size)[-LONGEST:]
    return [page.relative_to(SITE).as_posix().replace("search.html", "search.html?q=state") for page in written]


@pytest.mark.timeout(400)
def test_every_page_is_readable_in_each_width_and_theme(pair: tuple[Any, ...], address: str) -> None:
    measured = pages()

    def problems(number: int) -> list[str]:
        return [
            f"{page}: {problem}"
            for page in measured[number :: len(pair)]
            for problem in page_problems(pair[number], f"{address}/{page}")
        ]

    with ThreadPoolExecutor(len(pair)) as pool:
        found = [problem for part in pool.map(problems, range(len(pair))) for problem in part]

    assert len(measured) > 90
    assert found == []


def test_the_measurement_finds_what_is_wrong(pair: tuple[Any, ...], tmp_path: Path) -> None:
    (tmp_path / "wrong.html").write_text(WRONG, encoding="utf-8")
    with serving(tmp_path) as address:
        found = list(page_problems(pair[0], f"{address}/wrong.html"))

    assert {problem.partition(":")[0] for problem in found} >= KINDS, found


def test_the_first_page_answers_before_one_scrolls(pair: tuple[Any, ...], address: str) -> None:
    """The code from the machine to the refusal, the picture, and why: on a laptop, 1280 × 800."""
    browser = pair[0]
    show(browser, 1280, 800)
    browser.get(f"{address}/index.html")
    bottoms = browser.execute_script(
        """
        const bottom = node => { const range = document.createRange(); range.selectNodeContents(node);
            return range.getBoundingClientRect().bottom; };
        const text = words => [...document.querySelectorAll('article p, article pre span')].find(
            each => each.textContent.includes(words));
        return {picture: bottom(document.querySelector('article img').parentElement), why: bottom(text('Why')),
            machine: bottom(text('Machine')), refusal: bottom(text('try_fire'))};
        """
    )

    assert {name: bottom for name, bottom in bottoms.items() if not 0 < bottom <= 800} == {}


@pytest.mark.parametrize("theme", THEMES)
def test_a_picture_has_the_theme_that_the_reader_chose(pair: tuple[Any, ...], address: str, theme: str) -> None:
    """Where the system has the other one: a picture with text for a white page is not shown on a dark page."""
    browser = pair[0]
    (other,) = set(THEMES) - {theme}
    browser.get(f"{address}/performance.html")
    wear(browser, other)
    browser.execute_script("document.body.dataset.theme = arguments[0]", theme)
    schemes = browser.execute_script("return [...document.images].map(each => getComputedStyle(each).colorScheme)")

    assert set(schemes) == {theme}


@pytest.mark.parametrize("theme", THEMES)
def test_a_mermaid_block_is_drawn_below_its_text(pair: tuple[Any, ...], address: str, theme: str) -> None:
    """In the system's theme, and again when the reader chooses the other one, or goes back to the system's."""
    browser = pair[0]
    (other,) = set(THEMES) - {theme}
    browser.get(f"{address}/diagrams.html")
    wear(browser, other)
    inks = {}
    for chosen, shown in (("auto", other), (theme, theme), ("auto", other)):
        browser.execute_script("document.body.dataset.theme = arguments[0]", chosen)
        assert drawn(browser, shown) == []
        seen = browser.execute_script(
            """
            const drawing = document.querySelector('.highlight-mermaid + .mermaid-drawing');
            const texts = place => [...drawing.querySelectorAll(`svg ${place}`)].map(each => each.textContent.trim());
            return {states: texts('.nodeLabel'), arrows: texts('.edgeLabel p'), name: drawing.ariaLabel,
                all: document.querySelectorAll('.mermaid-drawing').length,
                ink: getComputedStyle(drawing.querySelector('.nodeLabel')).color,
                page: getComputedStyle(document.body).color};
            """
        )

        assert set(seen["states"]) >= {"Open", "Paid", "Refunded"}
        assert seen["arrows"] == ["Pay", "Refund [is_whole] / book"]
        assert (seen["all"], seen["ink"]) == (1, seen["page"])
        assert seen["name"]
        inks[shown] = seen["ink"]

    assert len(set(inks.values())) == len(THEMES)


def test_a_search_lists_a_page_once_and_says_what_it_has(pair: tuple[Any, ...], address: str) -> None:
    """Its own text and an entry of search_words.py find the same page."""
    browser = pair[0]
    show(browser, WIDTHS["desktop"])
    for query in ("deadlock", "SELECT FOR UPDATE", "outbox"):
        browser.get(f"{address}/search.html?q={query}")
        listed = browser.execute_async_script(
            """
            const done = arguments[0];
            const look = () => {
                const found = [...document.querySelectorAll('#search-results li')];
                if (/finished/.test(document.querySelector('.search-summary')?.textContent) && found[0]?.querySelector('p'))
                    done(found.map(each => each.querySelector('a').getAttribute('href').replace(/#search-.*/, '')));
                else setTimeout(look, 50);
            };
            look();
            """
        )

        assert len(set(listed)) == len(listed) > 2, (query, listed)
