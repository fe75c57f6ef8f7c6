"""The demo: processes that know nothing of each other race events on a few rows, then all is checked.

:mod:`.orders` is the example of the README, the machine and its model. :mod:`.race` runs the processes,
:mod:`.check` holds what they reported against what the database stores, and :mod:`.screen` shows it.
"""

from __future__ import annotations

from .orders import Base, Order, machine

__all__ = ["Base", "Order", "machine"]
