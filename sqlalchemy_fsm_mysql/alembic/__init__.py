"""Alembic, taught to change the states of a column. One line in ``env.py`` enables it::

    import sqlalchemy_fsm_mysql.alembic

Then ``alembic revision --autogenerate`` finds added, renamed and removed states, and writes the operations of
:mod:`.ops`; ``alembic check`` reports them as well. Alembic 1.13 and later.
"""

try:
    import alembic as _alembic  # noqa: F401 - to see whether it is there
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "Alembic is not installed. Install the extra 'alembic': pip install 'sqlalchemy-fsm-mysql[alembic]'",
        name=error.name,
    ) from error

from ..orm.history import ExactText as ExactText
from ..orm.since import Timestamp as Timestamp
from . import (
    adopting,
    adoption,
    compare,
    enforced,
    enforcing,
    finishing,
    implementation,
    ops,
    renaming,
    render,
    since,
)
from .types import States

__all__ = [
    "ExactText",
    "States",
    "Timestamp",
    "adopting",
    "adoption",
    "compare",
    "enforced",
    "enforcing",
    "finishing",
    "implementation",
    "ops",
    "renaming",
    "render",
    "since",
]
