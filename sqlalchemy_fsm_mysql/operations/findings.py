"""One thing that the doctor found, and how its checks name columns and states."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Column

from ..errors.texts import listed, shown

__all__ = ["SEVERITIES", "Finding", "label_of", "named", "names_of"]

SEVERITIES = ("error", "warning", "note")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that the doctor found.

    - `severity`: ``"error"`` (the program will fail, or the data is wrong), ``"warning"`` (it can go wrong) or
      ``"note"``.
    - `kind`: the name of the check, which stays the same between releases.
    - `what`: the fact, in a sentence.
    - `advice`: the remedy, in a sentence.
    - `rows`: the numbers of rows by state, for a finding about rows.
    """

    severity: str
    kind: str
    what: str
    advice: str
    rows: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.severity}: {self.what}; {self.advice}"


def names_of(column: Column[Any]) -> tuple[str, str]:
    """The names of the column's table and of the column."""
    return str(column.table.name), str(column.name)


def label_of(column: Column[Any]) -> str:
    """The column as findings name it: ``orders.state``."""
    return ".".join(names_of(column))


def named(states: Iterable[Any]) -> str:
    """*states* in quotes, with commas between them."""
    return listed(map(shown, states))
