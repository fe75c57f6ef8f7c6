"""A machine for people to look at: :class:`Graph` is what there is to draw, each module a way to draw it."""

from __future__ import annotations

from .dot import dot
from .graph import Arrow, Counts, Edge, Graph, Rows, Times
from .mermaid import mermaid
from .notebook import html, html_table, markdown
from .picture import DrawingTimeout, png, svg
from .table import REFUSED, cells, markdown_table

__all__ = [
    "REFUSED",
    "Arrow",
    "Counts",
    "DrawingTimeout",
    "Edge",
    "Graph",
    "Rows",
    "Times",
    "cells",
    "dot",
    "html",
    "html_table",
    "markdown",
    "markdown_table",
    "mermaid",
    "png",
    "svg",
]
