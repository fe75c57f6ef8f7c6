"""Names of constraints and triggers within the length that the servers allow."""

from __future__ import annotations

import hashlib

__all__ = ["IDENTIFIER_LENGTH", "check_name", "check_names", "name_digest", "short_identifier"]

IDENTIFIER_LENGTH = 64


def short_identifier(name: str) -> str:
    """*name* within MySQL's 64 characters; a digest of the whole name takes the place of the end that is cut off."""
    if len(name) <= IDENTIFIER_LENGTH:
        return name
    return f"{name[: IDENTIFIER_LENGTH - 9]}_{name_digest(name)}"


def name_digest(*names: str) -> str:
    """Eight hexadecimal digits that stand for *names*."""
    return hashlib.sha256("\0".join(names).encode()).hexdigest()[:8]


def check_name(table: str, column: str) -> str:
    """The name of the CHECK over the states of *column*, which no column of another table has.

    >>> check_name("orders", "state"), check_name("orders", "payment_state")
    ('ck_orders_state_states', 'ck_orders_payment_state_states_1a927bee')
    """
    name = f"ck_{table}_{column}_states"
    # orders.payment_state and orders_payment.state give the same name, so a name with an underscore gets a digest.
    return short_identifier(f"{name}_{name_digest(table, column)}" if "_" in table + column else name)


def check_names(table: str, column: str) -> tuple[str, ...]:
    """The names that the CHECK over the states of *column* may have: the current one, and that of earlier versions."""
    return tuple(dict.fromkeys((check_name(table, column), short_identifier(f"ck_{table}_{column}_states"))))
