"""``check``: the doctor, which compares a database with a machine."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..databases.urls import shown_url
from ..errors.texts import counted
from ..operations.doctor import SEVERITIES, Finding, check_database, described
from ..operations.lookup import state_at
from .database import UrlOption, database
from .output import JsonOption, cell, print_json, tell
from .status import Status
from .targets import TargetArgument


def check(
    target: TargetArgument,
    url: UrlOption = None,
    is_json: JsonOption = False,
    strict: Annotated[bool, typer.Option("--strict", help="Also exit with status 1 for a warning.")] = False,
    rows: Annotated[
        bool,
        typer.Option("--rows/--no-rows", help="Count the rows in each state, which reads the whole table."),
    ] = True,
) -> None:
    """Check that a database fits a machine: its column, rows, triggers and history, and the server's settings.

    The command changes nothing. The exit status is 0 without an error (there can be notes and warnings), 1 with an
    error or, with --strict, a warning, 2 when the call is wrong, and 4 when the database cannot be reached or used.
    """
    mapped = state_at(target)
    column: Any = getattr(mapped.model, mapped.attribute)
    with database(url) as engine, engine.connect() as connection:
        about = {"target": mapped.label, "url": shown_url(engine.url), "server": described(connection)}
        findings = check_database(column, connection, count_rows=rows)
    counts = {severity: sum(one.severity == severity for one in findings) for severity in SEVERITIES}
    if is_json:
        print_json(
            {
                **about,
                **{f"{name}s": number for name, number in counts.items()},
                "findings": [*map(_document, findings)],
            }
        )
    else:
        for finding in findings:
            tell(f"{finding.severity}: {cell(finding.what)}\n    {cell(finding.advice)}")
        summary = ", ".join(counted(number, name) for name, number in counts.items())
        tell(f"{about['target']} on {about['server']}: {summary}")
    if counts["error"] or (strict and counts["warning"]):
        raise typer.Exit(Status.REFUSED)


def _document(finding: Finding) -> dict[str, Any]:
    document = {name: getattr(finding, name) for name in ("severity", "kind", "what", "advice")}
    return document | ({"rows": dict(finding.rows)} if finding.rows else {})
