"""``check``: does this database fit this machine?"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..operations.doctor import SEVERITIES, Finding, check_database, described
from .database import REFUSED, UrlOption, database, shown_url
from .fire import TargetArgument
from .lookup import state_at
from .output import JsonOption, cell, print_json


def check(
    target: TargetArgument,
    url: UrlOption = None,
    is_json: JsonOption = False,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings fail, too.")] = False,
    rows: Annotated[
        bool,
        typer.Option("--rows/--no-rows", help="Count the rows in each state, which reads the whole table."),
    ] = True,
) -> None:
    """Look whether a database fits a machine: its column, rows, triggers and history, and the server's settings.

    Nothing is changed. Exit status: 0 when nothing is wrong (notes and warnings may be there), 1 when something is, and
    with --strict for a warning, 2 when the call is wrong or the database cannot be used.
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
            typer.echo(f"{finding.severity}: {cell(finding.what)}\n    {cell(finding.advice)}")
        summary = ", ".join(f"{number} {name}{'' if number == 1 else 's'}" for name, number in counts.items())
        typer.echo(f"{about['target']} on {about['server']}: {summary}")
    if counts["error"] or (strict and counts["warning"]):
        raise typer.Exit(REFUSED)


def _document(finding: Finding) -> dict[str, Any]:
    document = {name: getattr(finding, name) for name in ("severity", "kind", "what", "advice")}
    return document | ({"rows": dict(finding.rows)} if finding.rows else {})
