"""Text compared byte by byte, whatever the collation of its column.

``CASE state WHEN 'new'`` and ``state = _binary'new'`` follow the column's collation, in which 'New', 'new ' and 'nëw'
may be equal. A cast of the column to bytes does not.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, LargeBinary
from sqlalchemy.types import TypeEngine

__all__ = ["AsBytes"]


class AsBytes(ColumnElement[bytes]):
    """The UTF-8 bytes of a text column, or NULL."""

    inherit_cache = False
    type: TypeEngine[Any] = LargeBinary()

    def __init__(self, text: ColumnElement[Any]) -> None:
        self.text = text

    @property
    def _from_objects(self) -> Any:
        return self.text._from_objects  # noqa: SLF001 - what makes SELECT name the column's table
