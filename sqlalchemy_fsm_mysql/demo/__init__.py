"""The demo: independent processes race events on a few rows, and a check compares their reports with the database.

:mod:`.orders` has the machine and the model of the README. :mod:`.race` runs the processes, :mod:`.naive` is the
read-decide-write code that they run beside the library, :mod:`.check` compares reports and rows, and :mod:`.screen`
prints.
"""

from __future__ import annotations

from .orders import Base, Order, machine

__all__ = ["Base", "Order", "machine"]
