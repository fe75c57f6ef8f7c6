"""Declarations: states, events and transitions, checked as a whole. Pure Python, without SQLAlchemy.

``machine.py`` is the frozen table that answers every question; ``events.py``, ``states.py``, ``groups.py``,
``guards.py`` and ``payload.py`` are what it is made of; ``declaration.py`` is a machine as written, and
``validation.py`` finds what is wrong with it; ``document.py`` writes and reads JSON; ``evolution.py`` compares two
releases; ``rules.py`` is what triggers enforce.
"""

from .events import Event as Event
from .events import Transition as Transition
from .groups import BorderEffect as BorderEffect
from .guards import Guard as Guard
from .machine import Machine as Machine
from .payload import Absent as Absent
from .states import ANY as ANY
from .states import AnyState as AnyState
