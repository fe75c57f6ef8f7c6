"""Groups, the names of sets of states, and the effects of crossing a border of a state or a group.

A group may contain groups. It stands wherever a source does, and has a border: a transition enters the group when it
leads from outside to inside, and leaves it the other way. A state's border is crossed when source and target differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from ..errors.texts import State
from .states import AnyState, find_state, state_text

Role: TypeAlias = Literal["enter", "exit"]
ROLES: Final[tuple[Role, Role]] = ("enter", "exit")


class BorderEffect(NamedTuple):
    """An effect of `on_enter` or `on_exit`: `of` is the state, the group's name or `ANY` whose border it belongs to."""

    role: Role
    of: State | AnyState
    function: Callable[..., Mapping[str, Any]]  # Any: a SQL expression, and SQLAlchemy is not imported here
    is_group: bool = False

    def __str__(self) -> str:
        of = "ANY" if isinstance(self.of, AnyState) else state_text(self.of)
        return f"{'group ' if self.is_group else ''}{of}"


class Groups(NamedTuple):
    """The groups of a machine. `written` are the members as declared, `states` all states of each group."""

    written: Mapping[str, tuple[object, ...]]
    states: Mapping[str, tuple[State, ...]]

    @classmethod
    def of(cls, written: Mapping[str, tuple[object, ...]], declared: Mapping[State, State]) -> Groups:
        """The groups that are *written*, right or wrong: what is no state and no group is passed over."""
        states: dict[str, tuple[State, ...]] = {}
        for name in written:
            found: dict[State, None] = {}
            for member in _leaves(name, written):
                state = find_state(declared, member)
                if state is not None:
                    found[state] = None
            states[name] = tuple(found)
        return cls(written, states)

    def named(self, value: object) -> str | None:
        """The group that *value* names, None when it names none."""
        return value if isinstance(value, str) and value in self.written else None

    def subgroups(self, name: str) -> tuple[str, ...]:
        """The groups that *name* was declared to contain."""
        return tuple(found for member in self.written[name] if (found := self.named(member)) is not None)

    def is_inside(self, inner: str, outer: str) -> bool:
        """Whether *inner* is a part of *outer*: it was declared so, or has some of its states and no other.

        >>> groups = Groups.of({"all": ("open", "c"), "open": ("a", "b")}, {state: state for state in "abc"})
        >>> groups.is_inside("open", "all"), groups.is_inside("all", "open")
        (True, False)
        """
        fewer, more = set(self.states[inner]), set(self.states[outer])
        return fewer < more or (fewer == more and inner != outer and inner in _below(outer, self.written))

    def circles(self) -> Iterator[tuple[str, ...]]:
        """Groups that contain themselves, each circle once."""
        seen: set[str] = set()
        for name in self.written:
            below = _below(name, self.written)
            if name in below and name not in seen:
                circle = sorted(other for other in below if name in _below(other, self.written))
                seen.update(circle)
                yield tuple(circle)


class Borders:
    """Which effects of `on_enter` and `on_exit` a change of state has, the most specific first.

    A state comes before a group, an inner group before an outer one, a group before `ANY`; at each of the three,
    entering comes before leaving.
    """

    effects: tuple[BorderEffect, ...]

    __slots__ = ("_groups", "_inside", "effects")

    def __init__(self, effects: Iterable[BorderEffect], groups: Groups) -> None:
        self.effects = tuple(effects)
        self._groups = groups
        # By state: the effects of each border around it. Those of ANY are under None, being around every state.
        self._inside: dict[Role, dict[State | None, list[BorderEffect]]] = {role: {} for role in ROLES}
        for effect in self.effects:
            for state in self._around(effect):
                self._inside[effect.role].setdefault(state, []).append(effect)

    def crossed(self, source: State | None, target: State) -> tuple[BorderEffect, ...]:
        """The effects of the change from *source* to *target*; None for *source* is outside of every state."""
        if source == target or not self.effects:
            return ()
        crossed = [*self._across("enter", target, source), *self._across("exit", source, target)]
        return tuple(sorted(crossed, key=self._rank))

    def conflicts(self, one: BorderEffect, other: BorderEffect) -> bool:
        """Whether neither of the two, that one change of state has, is more specific: two groups, none in the other."""
        if one.role != other.role or not one.is_group or not other.is_group or one.function == other.function:
            return False
        first, second = str(one.of), str(other.of)
        return not self._groups.is_inside(first, second) and not self._groups.is_inside(second, first)

    def _around(self, effect: BorderEffect) -> tuple[State | None, ...]:
        if isinstance(effect.of, AnyState):
            return (None,)
        return self._groups.states[str(effect.of)] if effect.is_group else (effect.of,)

    def _across(self, role: Role, inside: State | None, outside: State | None) -> Iterator[BorderEffect]:
        effects = self._inside[role]
        yield from effects.get(None, ())
        if inside is None:
            return
        for effect in effects.get(inside, ()):
            if not effect.is_group or outside not in self._groups.states[str(effect.of)]:
                yield effect

    def _rank(self, effect: BorderEffect) -> tuple[int, int, int, int]:
        role = ROLES.index(effect.role)
        if isinstance(effect.of, AnyState):
            return 2, role, 0, 0
        if not effect.is_group:
            return 0, role, 0, 0
        name = str(effect.of)
        outer = sum(self._groups.is_inside(name, other) for other in self._groups.states)
        return 1, role, len(self._groups.states[name]), -outer


def _leaves(name: str, written: Mapping[str, tuple[object, ...]]) -> Iterator[object]:
    """The members of a group that are no groups, those of its groups in their place; each group is entered once."""
    entered = {name}
    waiting = list(reversed(written[name]))
    while waiting:
        member = waiting.pop()
        if not isinstance(member, str) or member not in written:
            yield member
        elif member not in entered:
            entered.add(member)
            waiting.extend(reversed(written[member]))


def _below(name: str, written: Mapping[str, tuple[object, ...]]) -> set[str]:
    """All groups within *name*; itself only when it is in a circle."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        inside = {member for member in written[waiting.pop()] if isinstance(member, str) and member in written}
        waiting.extend(inside - found)
        found |= inside
    return found
