"""What is declared: states, events and transitions, checked as a whole. Pure Python, without SQLAlchemy.

``machine.py`` is the frozen table that answers every question; ``events.py`` and ``states.py`` are what it is made of;
``validation.py`` finds what is wrong with a declaration; ``document.py`` writes and reads JSON; ``evolution.py``
compares two releases; ``rules.py`` is what triggers enforce.
"""

from .document import Absent as Absent
from .events import ANY as ANY
from .events import AnyState as AnyState
from .events import Event as Event
from .events import Transition as Transition
from .machine import Machine as Machine
