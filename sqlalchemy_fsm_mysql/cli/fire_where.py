"""``fire-where``: one event on every row that matches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from sqlalchemy import ColumnElement, Engine, func, select, true
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from ..databases.urls import cause_of, shown_url
from ..errors import FSMError
from ..errors.texts import counted, escaped, stored_form
from ..operations.lookup import state_at
from ..orm import sets as bulk
from ..orm.mapped import MappedState
from ..sql.events import EventSQL
from .database import UrlOption, database
from .output import JsonOption, fail, print_json, print_table, tell
from .status import Status, status_of
from .targets import (
    ActorOption,
    DetailsOption,
    EventArgument,
    PayloadArgument,
    TargetArgument,
    event_at,
    require_history,
)
from .values import LARGEST, WHERE_HELP, condition, json_value, payload


def fire_where(
    target: TargetArgument,
    event: EventArgument,
    given: PayloadArgument = None,
    where: Annotated[
        list[str] | None,
        typer.Option("--where", "-w", metavar="CONDITION", help=WHERE_HELP, show_default=False),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All rows, instead of --where.")] = False,
    url: UrlOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count the rows, and change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before the rows are moved.")] = False,
    batch_size: Annotated[
        int,
        typer.Option(
            min=1, max=1_000_000, metavar="N", help="The number of rows of a batch. Each batch is committed by itself."
        ),
    ] = 1000,
    max_rows: Annotated[
        int | None,
        typer.Option(
            min=1, max=LARGEST, metavar="N", help="Refuse to begin when more rows match.", show_default="no limit"
        ),
    ] = None,
    actor: ActorOption = None,
    details: DetailsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fire an event on every row that matches and that the event can move.

    The command counts the rows and asks for confirmation. Then it moves them in batches, in the order of the primary
    key, and commits each batch. If you stop it, the committed batches stay, and the same command moves the rest. Hooks
    are not called.

    The exit status is 0 when it is done (also when no row matched), 1 when it was not confirmed or more than
    --max-rows match, 2 when the call is wrong, and 4 when the database cannot be reached or used.
    """
    mapped = state_at(target)
    sql = event_at(mapped, event)
    if bool(where) == every:
        raise typer.BadParameter("give --where or --all, and not both: they select the rows.", param_hint="--where")
    criteria = [condition(mapped, text) for text in where or ()] or [true()]
    values = payload(mapped, sql, given or ())
    require_history(mapped, actor=actor, details=details)
    options = {"actor": actor, "details": None if details is None else json_value(details, "--details")}
    with database(url) as engine:
        ways = _counted(engine, mapped, sql, criteria, values)
        rows = sum(ways.values())
        if max_rows is not None and rows > max_rows:
            fail(f"{rows:,} rows of {mapped.table_name} match, which is over --max-rows {max_rows}.", Status.REFUSED)
        if dry_run or not rows:
            _tell(mapped, sql, ways, as_json=as_json, dry_run=True)
            return
        if not yes:
            _confirm(engine, mapped, sql, ways)
        sweep = _Sweep(engine, mapped, sql, criteria, {**options, **values}, rows)
        _tell(mapped, sql, sweep.run(batch_size), as_json=as_json, dry_run=False)


_Ways = Mapping[tuple[str, str], int]


def _counted(
    engine: Engine, mapped: MappedState, sql: EventSQL, criteria: list[ColumnElement[bool]], values: dict[str, Any]
) -> _Ways:
    """The number of rows of each transition that the event would make."""
    state: Any = getattr(mapped.model, mapped.attribute)
    moves = select(state.label("source"), state.after(sql.name, **values).label("target"))
    each = moves.where(state.can(sql.name, **values), *criteria).subquery()
    query = select(each.c.source, each.c.target, func.count()).group_by(each.c.source, each.c.target)
    numbers: Counter[tuple[str, str]] = Counter()
    with Session(engine) as session:
        for source, target, number in session.execute(query, bind_arguments={"mapper": mapped.mapper}):
            numbers[stored_form(source), stored_form(target)] += number
    return dict(sorted(numbers.items()))


def _confirm(engine: Engine, mapped: MappedState, sql: EventSQL, ways: _Ways) -> None:
    rows = sum(ways.values())
    for (source, target), number in ways.items():
        tell(f"{number:>12,}  {source} -> {target}", err=True)
    question = f"Fire {sql.name!r} on {counted(rows, 'row')} of {mapped.table_name} in {shown_url(engine.url)}?"
    if not typer.confirm(escaped(question), default=False, err=True):
        fail("Nothing was changed.", Status.REFUSED)


class _Sweep:
    """One run of the event over all rows, in the order of the primary key."""

    def __init__(
        self,
        engine: Engine,
        mapped: MappedState,
        sql: EventSQL,
        criteria: list[ColumnElement[bool]],
        options: dict[str, Any],
        rows: int,
    ) -> None:
        self.engine, self.mapped, self.sql, self.criteria, self.options = engine, mapped, sql, criteria, options
        self.rows, self.committed = rows, 0

    def run(self, batch_size: int) -> _Ways:
        """The number of rows of each transition. An error ends the command, which tells how many are committed."""
        screen = Console(stderr=True)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Session(self.engine) as session, Progress(*columns, console=screen, disable=not screen.is_terminal) as bar:
            task = bar.add_task(self.sql.name, total=self.rows)

            def step(moved: int, _: int | None) -> None:
                session.commit()
                self.committed = moved
                bar.update(task, completed=moved)

            try:
                done = bulk.fire_where(
                    self.mapped.model,
                    self.sql.name,
                    session,
                    *self.criteria,
                    column=self.mapped.attribute,
                    batch_size=batch_size,
                    progress=step,
                    **self.options,
                )
            except KeyboardInterrupt:
                session.rollback()
                fail(f"Stopped. At least {self._so_far()}", Status.INTERRUPTED)
            except FSMError as error:
                fail(f"{error}\n{self._so_far()}", status_of(error))
            except DBAPIError as error:
                fail(f"{cause_of(error, self.engine.url)}\n{self._so_far()}", Status.DATABASE)
        ways = {(stored_form(source), stored_form(to)): rows for (source, to), rows in done.by_transition.items()}
        return dict(sorted(ways.items()))

    def _so_far(self) -> str:
        return f"{counted(self.committed, 'row')} were moved and committed. The same command moves the rest."


def _tell(mapped: MappedState, sql: EventSQL, ways: _Ways, *, as_json: bool, dry_run: bool) -> None:
    rows = sum(ways.values())
    if as_json:
        each = [{"source": source, "target": target, "rows": number} for (source, target), number in ways.items()]
        document = {
            "table": mapped.table_name,
            "event": sql.name,
            "rows": rows,
            "by_transition": each,
            "dry_run": dry_run,
        }
        print_json(document)
        return
    done = "would be moved; nothing was changed" if dry_run else "were moved"
    if ways:
        print_table(("rows", "source", "target"), [(number, *way) for way, number in ways.items()])
    tell(f"{sql.name}: {counted(rows, 'row')} of {mapped.table_name} {done}.", err=True)
