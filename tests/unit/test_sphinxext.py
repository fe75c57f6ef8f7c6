"""The directive ``fsm-diagram``, in documentation that Sphinx really builds."""

from __future__ import annotations

import os
import re
import shutil
from io import StringIO
from pathlib import Path

import pytest

pytest.importorskip("sphinx")
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace

needs_graphviz = pytest.mark.skipif(
    shutil.which("dot") is None, reason="NOT COVERED BY THIS RUN: Graphviz is not installed"
)

MODULE = """
from sqlalchemy_fsm_mysql import Event, Machine

machine = Machine(initial="new", events=[Event("Pay", {"new": "%s"})])
"""
ORDERS = "sqlalchemy_fsm_mysql.demo:Order.state"


class Docs:
    """A folder of documentation."""

    def __init__(self, folder: Path) -> None:
        self.source, self.out = folder / "docs", folder / "out"
        self.source.mkdir()

    def build(self, text: str, extensions: tuple[str, ...] = ()) -> str:
        """What Sphinx warned of; it is a warning that fails a strict build."""
        every = ["sqlalchemy_fsm_mysql.sphinxext", *extensions]
        (self.source / "conf.py").write_text(f"extensions = {every!r}\ngraphviz_output_format = 'svg'\n")
        index = self.source / "index.rst"
        if not index.exists() or index.read_text() != text:
            index.write_text(text)
        warned = StringIO()
        with docutils_namespace():
            app = Sphinx(
                self.source, self.source, self.out, self.out / ".doctrees", "html", status=StringIO(), warning=warned
            )
            app.build()
        return warned.getvalue()

    @property
    def page(self) -> str:
        return (self.out / "index.html").read_text()


@pytest.fixture
def docs(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    return Docs(tmp_path)


# Sphinx's dependencies warn of what they will drop.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")


@needs_graphviz
def test_picture_with_a_caption(docs):
    warned = docs.build(
        f"Orders\n======\n\n.. fsm-diagram:: {ORDERS}\n   :caption: The life of an order\n   :name: life\n"
    )

    assert warned == ""
    assert "The life of an order" in docs.page
    assert 'id="life"' in docs.page
    (picture,) = re.findall(r'data="(_images/graphviz-[0-9a-f]+\.svg)"', docs.page)
    assert ">Initializing</text>" in (docs.out / picture).read_text()
    assert "Running to Stopped by Stop" in docs.page


def test_table(docs):
    warned = docs.build(f"Orders\n======\n\n.. fsm-diagram:: {ORDERS}\n   :format: table\n   :caption: Orders\n")

    assert warned == ""
    cells = re.findall(r"<t[dh][^>]*><p>(.*?)</p></t[dh]>", docs.page)
    assert cells[5:10] == ["Initializing", "Initializing", "Running", "Stopped", "–"]


def test_mermaid_by_its_extension(docs):
    pytest.importorskip("sphinxcontrib.mermaid")
    page = f"Orders\n======\n\n.. fsm-diagram:: {ORDERS}\n   :format: mermaid\n   :direction: tb\n"

    assert docs.build(page, ("sphinxcontrib.mermaid",)) == ""
    assert "stateDiagram-v2\n    direction TB" in docs.page


def test_mermaid_without_its_extension_is_told(docs):
    warned = docs.build(f"Orders\n======\n\n.. fsm-diagram:: {ORDERS}\n   :format: mermaid\n")

    assert "needs sphinxcontrib.mermaid among the extensions" in warned


@pytest.mark.parametrize(
    ("directive", "says"),
    [
        (".. fsm-diagram:: nowhere:Order", "there is no module 'nowhere'"),
        (f".. fsm-diagram:: {ORDERS}\n   :format: gif", "graphviz"),
        (f".. fsm-diagram:: {ORDERS}\n   :direction: up", "lr"),
    ],
)
def test_wrong_directive_is_told_with_its_line(docs, directive, says):
    warned = docs.build(f"Orders\n======\n\n{directive}\n")

    assert "index.rst:4" in warned
    assert says in warned


def test_page_is_built_again_when_the_module_has_changed(docs, tmp_path, monkeypatch):
    import sys

    module = tmp_path / "shop_of_the_docs.py"
    page = "Orders\n======\n\n.. fsm-diagram:: shop_of_the_docs:machine\n   :format: table\n"
    for number, state in enumerate(("paid", "settled")):
        module.write_text(MODULE % state)
        os.utime(module, (4e9 + number, 4e9 + number))
        assert docs.build(page) == ""
        assert state in docs.page
        sys.modules.pop("shop_of_the_docs", None)
