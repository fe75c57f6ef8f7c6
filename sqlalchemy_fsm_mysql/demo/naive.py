"""Read, decide in Python, write: the way that loses updates, on the same rows as the library."""

from __future__ import annotations

from sqlalchemy import column, select, table, update
from sqlalchemy.orm import Session

from .orders import TABLE, machine

# Not Order.__table__: that one adds 1 to `steps` in each UPDATE, which counts the library's moves alone.
_orders = table(TABLE, column("id"), column("naive_state"), column("naive_steps"))


def fired(session: Session, key: int, event: str) -> bool:
    """Fire *event* on an order as code without a lock does it. Whether the order was moved, as far as it knows."""
    is_order = _orders.c.id == key
    state, steps = session.execute(select(_orders.c.naive_state, _orders.c.naive_steps).where(is_order)).one()
    session.commit()
    target = machine.targets(event).get(state)
    if target is None:
        return False
    # Between the SELECT and this UPDATE other processes write the row. Their moves are overwritten.
    session.execute(update(_orders).where(is_order).values(naive_state=target, naive_steps=steps + 1))
    session.commit()
    return True
