"""The checks of the triggers on a state column: ours, and other people's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Column, Connection

from ...databases import database_of
from ...databases.triggers import KINDS, InstalledTrigger, table_digest
from ...errors.texts import listed
from ...machine.rules import Rules
from ..enforcement import installed_rules, orphaned_triggers, own_triggers, rules_of
from ..findings import Finding, label_of

__all__ = ["of_triggers"]


def of_triggers(connection: Connection, column: Column[Any]) -> Iterator[Finding]:
    """Whether the triggers are there, can run, and allow every edge of the machine."""
    database = database_of(connection)
    if not database.enforcer.can_enforce:
        return
    yield from _of_orphans(connection, column)
    found = own_triggers(connection, column)
    if found:
        yield from _of_ours(connection, column, found)
    elif column.type.enforced:  # type: ignore[attr-defined]  # a StateType
        if database.catalogue.may_see_triggers(connection, column.table):
            kinds = " and ".join(KINDS).upper()
            what = f"{label_of(column)} is declared as enforced, but has no trigger for {kinds}"
            yield Finding("error", "triggers missing", what, "run enforce_machine()")
        else:
            what = f"this account cannot see the triggers of {label_of(column)}: it lacks the privilege TRIGGER"
            yield Finding("warning", "triggers unseen", what, "run the doctor with an account that has it")
    yield from _of_definers(connection, column)
    yield from _of_foreign(connection, column)


def _of_ours(connection: Connection, column: Column[Any], found: list[InstalledTrigger]) -> Iterator[Finding]:
    label, rules = label_of(column), rules_of(column)
    missing = [kind for kind in KINDS if kind not in {one.kind for one in found}]
    if missing:
        what = f"{label} is enforced only in part: it has no trigger for {' and '.join(missing).upper()}"
        yield Finding("error", "triggers missing", what, "run enforce_machine()")
    if any(one.mode == "watch" for one in found):
        what = (
            f"the triggers of {label} refuse nothing: they watch, and write undeclared transitions to fsm_watched_edges"
        )
        yield Finding("note", "triggers watch", what, "look at watched_edges(), then run enforce_machine()")
        return
    allowed = None if missing else installed_rules(connection, column)
    if allowed is not None:
        refused, more = allowed.lacks(rules), rules.lacks(allowed)
        if refused:
            names = listed(one.name for one in found)
            what = f"{label} has triggers of another machine ({names}), which refuse {_listed(refused)}"
            advice = "run enforce_machine(), with also= while servers of another release run"
            yield Finding("error", "other triggers", what, advice)
        if more:
            what = f"the triggers of {label} also allow {_listed(more)}, which the machine does not have"
            advice = "this is right during a deploy; run enforce_machine() afterwards"
            yield Finding("note", "wider triggers", what, advice)
    elif not missing and {one.fingerprint for one in found} != {rules.fingerprint}:
        names = listed(one.name for one in found)
        what = (
            f"{label} has triggers of another machine or an earlier version ({names}), whose transitions cannot be read"
        )
        yield Finding("error", "other triggers", what, "run enforce_machine(), when all servers have this machine")
    if any(one.table != table_digest(column.table.name) for one in found):
        what = f"the triggers of {label} were made under another name of the table, so force_state() cannot bypass them"
        yield Finding("warning", "triggers renamed", what, "run enforce_machine(), which creates them again")


def _listed(rules: Rules) -> str:
    edges = [f"{source!r} to {target!r}" for source, target in rules.edges]
    return listed([*edges, *(f"new rows in {text!r}" for text in rules.begins)])


def _of_orphans(connection: Connection, column: Column[Any]) -> Iterator[Finding]:
    orphans = orphaned_triggers(connection, column.table)
    if orphans:
        names = listed(one.name for one in orphans)
        what = f"{column.table.name} has triggers of a column that does not exist ({names}): every write to it fails"
        yield Finding("error", "broken triggers", what, "run enforce_machine() or release_machine(), which drop them")


def _of_definers(connection: Connection, column: Column[Any]) -> Iterator[Finding]:
    database = database_of(connection)
    found = database.enforcer.triggers(connection, column.table)
    for definer in sorted({one.definer for one in found if one.definer is not None}):
        problem = database.catalogue.definer_problem(connection, column.table, definer)
        if problem is not None:
            what = (
                f"the triggers of {column.table.name} run as {definer}, which {problem}: every write to the table fails"
            )
            yield Finding(
                "error", "definer", what, "run release_machine(), then enforce_machine() with another account"
            )


def _of_foreign(connection: Connection, column: Column[Any]) -> Iterator[Finding]:
    name = re.escape(column.name)
    sets = re.compile(rf"\bSET\b[^;]*\bNEW\s*\.\s*(?:`{name}`|{name}\b)\s*:?=", re.IGNORECASE)
    for trigger in database_of(connection).enforcer.foreign_triggers(connection, column.table):
        if trigger.timing == "before" and sets.search(trigger.body):
            what = (
                f"the trigger {trigger.name} sets {label_of(column)} itself, so the stored state can differ from the"
                " outcome of a fire"
            )
            yield Finding("warning", "foreign trigger", what, "change or drop this trigger")
