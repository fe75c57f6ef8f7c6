"""The picture of the README shows the machine of the README: docs/images/draw.py. Charts can be read in both themes.

The Mermaid text of docs/diagrams.md is that of the page's machine.
"""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

from benchmarks.page import INK, PALE_INK, readable_in_the_dark
from sqlalchemy_fsm_mysql.diagram import mermaid
from tests.docs.pages import PROJECT, Page, blocks
from tests.reference import machine

PICTURE = PROJECT / "docs" / "images" / "orders.svg"
EDGE = re.compile(r'class="edge">\n<title>(.*?)</title>(.*?)</g>', re.DOTALL)


def test_the_picture_shows_every_transition_and_no_other() -> None:
    text = PICTURE.read_text(encoding="utf-8")
    drawn = set()
    for title, inside in EDGE.findall(text):
        source, target = unescape(title).strip().split("->")
        names = re.findall(r"<text[^>]*>(.*?)</text>", inside)
        drawn |= {(source, name.strip(), target) for name in names or [""]}
    declared = {(s, event, t) for event in machine.events for s, t in machine.targets(event).items()}

    assert drawn == declared | {("begin", "", machine.initial)}


def test_the_mermaid_text_is_that_of_the_machine_above_it(tmp_path: Path) -> None:
    path = PROJECT / "docs" / "diagrams.md"
    page = Page(path, tmp_path)
    page.examples()[0].evaluate()
    (shown,) = [block.content for block in blocks(path.read_text(encoding="utf-8")) if block.info.strip() == "mermaid"]

    assert shown.strip() == mermaid(page.namespace["machine"]).strip()


def test_the_text_of_a_chart_can_be_read_on_white_and_in_the_dark() -> None:
    """Each chart has the two inks of benchmarks/page.py, with a contrast of 4.5 on the page of each theme."""
    charts = sorted((PROJECT / "docs" / "images").glob("performance-*.svg"))

    assert len(charts) == 4
    for chart in charts:
        svg = chart.read_text(encoding="utf-8")
        assert INK in svg
        assert readable_in_the_dark("<style></style>")[len("<style>") :] in svg
    assert contrast(INK, "#ffffff") >= 4.5
    assert contrast(PALE_INK, "#131416") >= 4.5


def contrast(one: str, other: str) -> float:
    def light(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = [each / 12.92 if each <= 0.03928 else ((each + 0.055) / 1.055) ** 2.4 for each in parts]
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)
