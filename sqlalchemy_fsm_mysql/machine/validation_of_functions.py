"""Problems of the functions and texts of a declaration: guards, effects, payload, deadlines, descriptions.

The rules here are run by `validation.problems`, with those on states, events and transitions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta
from itertools import chain
from typing import TYPE_CHECKING, Any

from ..errors.texts import listed, shown
from .declaration import Declaration, arrow
from .guards import AFTER, MAX_GUARDS, MAX_SENTENCE_CHARACTERS, Guard, is_named
from .names import name_problems
from .payload import Absent, Takes, default_problems, parameter_problems
from .states import AnyState, find_state, state_text

if TYPE_CHECKING:
    from .events import Event, Transition

MAX_DESCRIPTION_CHARACTERS = 1_000
# A clock that runs for more than a century is a mistake in the unit.
MAX_AFTER = timedelta(days=36_525)


def payload_names(declaration: Declaration) -> Iterator[str]:
    """Guards and effects take the mapped class, then the payload by name, which has one default at most."""
    for event in declaration.events:
        for role, function in event.callables():
            for problem in parameter_problems(function):
                yield f"event {shown(event.name)}: {role} {problem}"
        for problem in default_problems(declaration.functions(event)):
            yield f"event {shown(event.name)}: {problem}"


def border_effects(declaration: Declaration) -> Iterator[str]:
    """Effects of entering and leaving belong to a state, a group, or ANY, and take payload by name."""
    for role, of, effect in declaration.borders:
        what = f"on_{role} of {'ANY' if isinstance(of, AnyState) else state_text(of)}"
        is_known = find_state(declaration.declared, of) is not None or declaration.groups.named(of) is not None
        if not is_known and not isinstance(of, AnyState):
            yield f"{what}: this is not declared; {declaration.known_names()}, and ANY is every state"
        for problem in parameter_problems(effect):
            yield f"{what}: the effect {problem}"


def unrecorded_events(declaration: Declaration) -> Iterator[str]:
    """A history must replay to the row's state, so only what changes no state may be left out of it."""
    for event, ways in declaration.spread:
        if event.recorded:
            continue
        for transition, sources in ways:
            target = find_state(declaration.declared, transition.target)
            leaving = [source for source in sources if source != target]
            if leaving:
                yield (
                    f"{arrow(event, transition)} changes the state, which recorded=False would hide from the history:"
                    " record the event, or let it lead back to its source only"
                )


def guard_names(declaration: Declaration) -> Iterator[str]:
    """A refusal says by name which guards were not true, so a name means one function wherever the row is."""
    for event in declaration.events:
        what = f"event {shown(event.name)}"
        given = [event.guards, *(transition.guards for transition in event.transitions)]
        for guard in _each_once(chain.from_iterable(given)):
            yield from _guard_problems(what, event, guard)
        yield from dict.fromkeys(_same_names(what, event))
        names = {guard.name for guard in chain.from_iterable(given)} | ({AFTER} if event.is_timed else set())
        if len(names) > MAX_GUARDS:
            yield (
                f"{what} has {len(names)} guards with different names, and {MAX_GUARDS} is the most: make one function"
                " of some, or two events"
            )


def _each_once(guards: Iterable[Guard]) -> Iterable[Guard]:
    return {(id(guard.function), guard.name): guard for guard in guards}.values()


def _guard_problems(what: str, event: Event, guard: Guard) -> Iterator[str]:
    name = guard.name or ""
    yield from (
        problem
        for problem in name_problems(f"{what}: the guard {shown(name)}", name, any_script=True)
        if "made only of digits" not in problem
    )
    if event.is_timed and name == AFTER:
        yield f"{what}: the guard {shown(name)} has the name of the guard that after= makes: rename it"
    sentence = guard.sentence
    if sentence is None:
        return
    if not sentence.strip() or not sentence.isprintable():
        yield f"{what}: the sentence of the guard {shown(name)} is empty or not all printable"
    if len(sentence) > MAX_SENTENCE_CHARACTERS:
        yield (
            f"{what}: the sentence of the guard {shown(name)} is {len(sentence)} characters long:"
            f" {MAX_SENTENCE_CHARACTERS} is the most"
        )


def _same_names(what: str, event: Event) -> Iterator[str]:
    """Names that their author gave to two functions, which one row may be judged by."""
    given: list[Event | Transition] = [event, *event.transitions]
    chosen = {guard.name for part in given if is_named(part.guard) for guard in part.guards}
    functions: dict[str | None, Any] = {}
    for guard in chain.from_iterable(part.guards for part in given):
        # A machine read from JSON has lost the difference between two functions.
        if guard.name not in chosen or isinstance(guard.function, Absent):
            continue
        first = functions.setdefault(guard.name, guard.function)
        if first is not guard.function and first != guard.function:
            yield f"{what} has two guards called {shown(guard.name)}: rename one, so that a refusal distinguishes them"


def timed_events(declaration: Declaration) -> Iterator[str]:
    """A timed event becomes due by itself, so nothing can be needed that only a caller gives."""
    for event in declaration.events:
        what = f"event {shown(event.name)}"
        if event.after is None:
            continue
        if isinstance(event.after, timedelta):
            if not timedelta(0) < event.after <= MAX_AFTER:
                yield f"{what}: after={event.after!r} is not between a microsecond and {MAX_AFTER.days:,} days"
        else:
            problems = list(parameter_problems(event.after))
            yield from (f"{what}: the function of after {problem}" for problem in problems)
            if not problems and Takes.of(event.after).names:
                yield f"{what}: the function of after takes a payload, which is never given: it takes the class alone"
        try:
            required = Takes.of(*declaration.functions(event)).required
        except (TypeError, ValueError):
            continue  # told by `payload_names`
        if required:
            yield (
                f"{what} has after= and needs the payload {listed(map(shown, required))}, which is not given when it"
                " becomes due: give it a default"
            )


def descriptions(declaration: Declaration) -> Iterator[str]:
    """A description is a text that a diagram can show."""
    for event in declaration.events:
        text = event.description
        if text is None:
            continue
        what = f"event {shown(event.name)}: the description"
        if not text.strip() or not all(part.isprintable() for part in text.split()):
            yield f"{what} is empty or not all printable"
        if len(text) > MAX_DESCRIPTION_CHARACTERS:
            yield f"{what} is {len(text):,} characters long: {MAX_DESCRIPTION_CHARACTERS:,} is the most"
