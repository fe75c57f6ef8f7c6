"""The kinds of changes between two releases of a machine, and the phases in which N servers take each."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["RECIPES", "Change", "Phase", "change"]


@dataclass(frozen=True, slots=True)
class Phase:
    """One step of the deployment of a change.

    `kind` is expand, enforce, deploy, data or contract. `what` is the task.
    """

    kind: str
    what: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.what}"


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a machine, with the phases that deploy it safely.

    `kind` is a key of `RECIPES`, `what` a sentence, and `phases` a tuple of `Phase` in their order.
    """

    kind: str
    what: str
    phases: tuple[Phase, ...]

    def __str__(self) -> str:
        return "\n".join([self.what, *(f"  {number}. {phase}" for number, phase in enumerate(self.phases, start=1))])


_OPEN = Phase("enforce", "where triggers enforce the machine: allow those of both releases")
_CLOSE = Phase("enforce", "where triggers enforce the machine: allow the new ones only")
_EXPAND = Phase("expand", "append '{after}' to the column's states (last in the ENUM: no copy of the table)")
_WRITE_AFTER = Phase(
    "deploy",
    'a release with aliases={{"{before}": "{after}"}}: it understands both, and writes \'{after}\'; on all servers',
)
_DATA = Phase("data", "set the rows that have '{before}' to '{after}', in batches by key")
_FORGET = Phase("deploy", "a release without the alias, on all servers")
_CONTRACT = Phase("contract", "remove '{before}' from the column's states, once no row has it")
_ALL = Phase("deploy", "the release, on all servers")
_EMPTY = Phase(
    "data",
    "wait until no row is in '{before}', or set those rows to another state, in batches by key; to split them among"
    " several states, by migrate_states(where=…)",
)
_DROP = Phase("deploy", "the release without '{before}', on all servers")

# A change's kind -> the sentence about it, and its phases. {before} and {after} are stored names.
RECIPES: dict[str, tuple[str, tuple[Phase, ...]]] = {
    "state renamed": (
        "state '{before}' is renamed to '{after}'",
        (
            _EXPAND,
            Phase(
                "deploy",
                'a release with aliases={{"{after}": "{before}"}}: it understands both, and writes \'{before}\';'
                " on all servers",
            ),
            _WRITE_AFTER,
            _DATA,
            _FORGET,
            _CONTRACT,
        ),
    ),
    # The release before understands both spellings already.
    "spelling switched": (
        "state '{before}' is written as '{after}'",
        (_WRITE_AFTER, _DATA, _FORGET, _CONTRACT),
    ),
    "states merged": (
        "state '{before}' is merged into '{after}'",
        (
            Phase("deploy", "a release in which nothing leads to '{before}' (retired), on all servers"),
            _WRITE_AFTER,
            _DATA,
            _FORGET,
            _CONTRACT,
        ),
    ),
    "state added": (
        "state '{after}' is added",
        (
            _EXPAND,
            Phase("deploy", "a release that knows '{after}' and leads nowhere to it (retired), on all servers"),
            _OPEN,
            Phase("deploy", "the release that leads to '{after}', on all servers"),
        ),
    ),
    "state announced": (
        "state '{after}' is added, and nothing leads to it yet",
        (_EXPAND, _ALL),
    ),
    "state brought into use": (
        "state '{after}' is no longer retired",
        (_OPEN, Phase("deploy", "the release that leads to '{after}'; all servers have to know the state already")),
    ),
    "state retired": (
        "state '{before}' is retired",
        (_ALL, Phase("enforce", "where triggers enforce the machine: allow the new ones only")),
    ),
    "state removed": (
        "state '{before}' is removed, and was not retired before",
        (
            Phase("deploy", "a release in which nothing leads to '{before}' (retired), on all servers"),
            _EMPTY,
            _DROP,
            _CLOSE,
            _CONTRACT,
        ),
    ),
    "retired state removed": (
        "the retired state '{before}' is removed",
        (_EMPTY, _DROP, _CLOSE, _CONTRACT),
    ),
    "alias added": (
        "'{after}' is understood as '{before}'",
        (_EXPAND, _ALL),
    ),
    "alias removed": (
        "'{before}' is no longer understood as '{after}'",
        (_DATA, _ALL, _CONTRACT),
    ),
    "initial changed": (
        "rows begin in '{after}', no longer in '{before}'",
        (_OPEN, _ALL, _CLOSE),
    ),
    "initial state added": (
        "rows may begin in '{after}', too",
        (_OPEN, _ALL),
    ),
    "initial state removed": (
        "rows no longer begin in '{before}'",
        (_ALL, _CLOSE),
    ),
    "group added": (
        "group '{after}' is added",
        (Phase("deploy", "the release, on all servers; then the queries that use in_group('{after}')"),),
    ),
    "group removed": (
        "group '{before}' is removed",
        (Phase("deploy", "remove in_group('{before}') from all code; then the release, on all servers"),),
    ),
    # The transitions themselves show which of them a group's states have.
    "group changed": (
        "{after}",
        (
            Phase(
                "deploy",
                "the release, on all servers; until then, which rows the group means, and whether its border's effects"
                " are written, depends on the server",
            ),
        ),
    ),
    "border effects changed": (
        "{after}",
        (Phase("deploy", "the release, on all servers; until then, what is written along depends on the server"),),
    ),
    "deadline changed": (
        "event '{before}' {after}",
        (
            Phase("deploy", "the release, on all servers; until then, when rows are due depends on the server"),
            Phase("data", "look at the rows that are due at once by the new rule: fire_due moves them"),
        ),
    ),
    "recording changed": (
        "event '{before}' {after}",
        (Phase("deploy", "the release, on all servers; until then, what the history has depends on the server"),),
    ),
    "event added": (
        "event '{after}' is added",
        (
            _OPEN,
            _ALL,
            Phase("deploy", "the code that fires '{after}': an older server raises UnknownEvent and sends nothing"),
        ),
    ),
    "event removed": (
        "event '{before}' is removed",
        (Phase("deploy", "remove '{before}' from all code that fires it"), _ALL, _CLOSE),
    ),
    "transition added": ("{after}", (_OPEN, _ALL)),
    "transition removed": ("{before}", (_ALL, _CLOSE)),
    "target changed": (
        "{before}; {after}",
        (
            _OPEN,
            Phase("deploy", "the release, on all servers; until then, where the row goes depends on the server"),
            _CLOSE,
        ),
    ),
    "guards changed": (
        "{before}; {after}",
        (Phase("deploy", "the release, on all servers; until then, whether the row moves depends on the server"),),
    ),
    "effects changed": (
        "{before}; {after}",
        (Phase("deploy", "the release, on all servers; until then, what is written along depends on the server"),),
    ),
    # A caller that leaves an optional name out is right in both releases.
    "payload widened": (
        "{before}; {after}",
        (Phase("deploy", "the release, on all servers; then what fires the event with the new names"),),
    ),
    "payload changed": (
        "{before}; {after}",
        (
            Phase(
                "deploy",
                "the release with what fires the event: a fire with another payload raises TypeError before any SQL",
            ),
        ),
    ),
}


def change(kind: str, before: str = "", after: str = "") -> Change:
    """The change of this *kind*, with the stored names *before* and *after* in its sentence and phases."""
    what, phases = RECIPES[kind]
    names = {"before": before, "after": after}
    return Change(kind, what.format(**names), tuple(Phase(phase.kind, phase.what.format(**names)) for phase in phases))
