"""A machine for people to look at: :class:`Graph` is what there is to draw, each module a way to draw it."""

from __future__ import annotations

from .graph import Counts, Edge, Graph
from .table import REFUSED, cells, markdown_table

__all__ = ["REFUSED", "Counts", "Edge", "Graph", "cells", "markdown_table"]
