"""The picture of the README shows the machine of the README. docs/images/draw.py draws it."""

from __future__ import annotations

import re
from html import unescape

from tests.docs.pages import PROJECT
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
