"""The machine: states, events, and which transition an event takes from which state. Pure Python, no SQL.

>>> machine = Machine(
...     initial="Running",
...     events=[
...         Event("Stop", {("Running", "Stopped"): "Stopped"}),
...         Event("Delete", {"Stopped": "Deleted"}),
...     ],
... )
>>> machine.targets("Stop")
{'Running': 'Stopped', 'Stopped': 'Stopped'}
>>> machine.events_from("Stopped"), machine.final
(['Stop', 'Delete'], ('Deleted',))

A machine is checked as a whole when it is made, and never changes afterwards; every question to it is a
lookup in a table made then. A state is known by the object that the machine declares: a string that equals a
str-valued member is answered with the member.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, cast

from ..errors import InvalidMachine
from ..errors.texts import State, listed, shown
from .events import Effect, Event
from .questions import Questions
from .states import state_text
from .tables import declared_by, tables
from .validation import problems


class Machine(Questions):
    """A finite state machine: states, events, and transitions. It is checked as a whole, and immutable.

    Two machines with the same declaration are equal; functions are equal if they are the same function. A machine has
    no connection.

    - *initial* is the state of a new row. *initial_states* are further states in which a row can be inserted.
    - *events* are the `Event` objects, in the order in which they are listed.
    - *states* gives the order of the states, which is also the order of the ENUM column: an iterable of states, or an
      `enum.Enum` class, whose members are then the states. By default it is the order of first appearance, the initial
      state first.
    - *name* appears in messages.
    - *groups* names sets of states, ``{"open": ("new", "paid")}``. A group can contain groups, and its name can be used
      as a source.
    - *on_enter* and *on_exit* are effects of a state, a group or `ANY`, ``{"paid": effect}``. Every transition that
      crosses the border writes them, forced ones included. If several effects write one column, the most specific wins:
      that of the transition, the event, the state, the inner group, the outer group, `ANY`; entering before leaving.
    - *aliases* maps another spelling to a state, for a rename while servers run: with ``aliases={"Error": "Failed"}``,
      rows with ``Error`` are understood, and every write stores ``Failed``.
    - *retired* are states that rows can still have and that no transition enters. They are listed last unless *states*
      names them.

    Attributes: `.events` maps names to Events, and `.groups` maps names to tuples of states. `.final` has the states
    that no event leaves for another one. `.stored_states` has all texts that the database can contain: the states, then
    the aliases. `.grouping` shows which group is inside which, `.borders` the effects of a change of state.

    Raises: InvalidMachine, which lists every problem, when the declaration is wrong; TypeError when an argument is of a
    wrong type, such as *events* without an order.
    """

    __slots__ = ()

    def __init__(
        self,
        *,
        initial: State,
        events: Iterable[Event],
        states: Iterable[State] | None = None,
        name: str | None = None,
        groups: Mapping[str, Iterable[State]] | None = None,
        initial_states: Iterable[State] = (),
        # Any: a state or the name of a group; Mapping is invariant in its keys.
        on_enter: Mapping[Any, Effect] | None = None,
        on_exit: Mapping[Any, Effect] | None = None,
        aliases: Mapping[str, State] | None = None,
        retired: Iterable[State] = (),
    ) -> None:
        if name is not None and not isinstance(name, str):
            raise TypeError(f"the name of a machine is a str or None, not {shown(name)}")
        if aliases is not None and not isinstance(aliases, Mapping):
            raise TypeError(f"aliases are a dict of spelling to state, not {shown(aliases)}")
        declaration = declared_by(
            initial,
            events,
            states,
            aliases=aliases or {},
            retired=retired,
            groups=groups,
            initial_states=initial_states,
            on_enter=on_enter,
            on_exit=on_exit,
        )
        found = problems(declaration)
        if found:
            raise InvalidMachine(found, name)
        for attribute, table in tables(declaration).items():
            object.__setattr__(self, attribute, table)
        object.__setattr__(self, "name", name)
        # A guard need not be hashable.
        object.__setattr__(self, "_hash", hash((self.states, self.initial, name, *self.events, *self.groups)))

    def _key(self) -> tuple[object, ...]:
        """All that was declared; what two equal machines have alike."""
        return (
            self.states,
            self.initial,
            self.initial_states,
            self.name,
            tuple(self.events.values()),
            self.grouping.written,
            dict(self.on_enter),
            dict(self.on_exit),
            dict(self.aliases),
            self.retired,
        )

    # A statement's cache key holds the column's type, and with it the machine: the hash is computed once.
    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Machine):
            return NotImplemented
        return self._hash == other._hash and self._key() == other._key()

    def __repr__(self) -> str:
        name = "" if self.name is None else f"{self.name!r}: "
        return f"<Machine {name}{listed(map(state_text, self.states))}; {listed(map(repr, self.events))}>"

    def _repr_html_(self) -> str:
        """The view of notebooks: the picture where Graphviz is installed, else the table."""
        from ..diagram import html

        return html(self)

    def _repr_markdown_(self) -> str:
        from ..diagram import markdown

        return markdown(self)

    def to_json(self) -> str:
        """This machine as JSON, for a CI job to compare with the last release's machine by `diff_machines`.

        Returns: a str. The same machine gives the same text. Guards and effects are kept by their names and the names
        of their payload only. A member of an Enum class is written as the text that the database stores.
        """
        from . import document

        return document.to_json(self)

    @classmethod
    def from_json(cls, text: str) -> Machine:
        """The machine that `to_json` has written. It can be compared, but not fired.

        Its guards and effects are `Absent`.

        Raises: ValueError when *text* is not as `to_json` writes it; InvalidMachine, which is a ValueError, when its
        machine is wrong.
        """
        from . import document

        return document.from_json(cls, text)

    # A machine never changes, so it needs no copy. A copied column type keeps its machine.
    def __copy__(self) -> Machine:
        return self

    def __deepcopy__(self, memo: object) -> Machine:
        return self

    # Not by attributes: the tables are read-only views, and the machine is checked where it arrives.
    def __reduce__(self) -> tuple[Callable[[], Machine], tuple[()]]:
        events = tuple(self.events.values())
        return (
            partial(
                Machine,
                initial=self.initial,
                events=events,
                states=self.states,
                name=self.name,
                groups=cast(Mapping[str, Iterable[State]], dict(self.grouping.written)),
                initial_states=self.initial_states,
                on_enter=dict(self.on_enter),
                on_exit=dict(self.on_exit),
                aliases=dict(self.aliases),
                retired=self.retired,
            ),
            (),
        )
