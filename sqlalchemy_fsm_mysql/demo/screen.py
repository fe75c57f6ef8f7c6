"""The output of the demo: a live table, or plain lines, while the processes race; then figures and findings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..diagram import REFUSED, Graph
from ..machine import Machine
from .check import Contest, Finding, Stored, Tally

# Each can be read on white and on black. A terminal's own yellow and cyan cannot be read on white.
GREEN, RED, BROWN, TEAL, GREY = "#008a00", "#e00000", "#a86200", "#00838f", "#767676"
COLOURS = {"Initializing": TEAL, "Running": GREEN, "Error": RED, "Stopped": BROWN, "Deleted": GREY}
NARROW = 72  # columns that the table of states and events needs to have each cell on one line
SHOWN_ORDERS = 12
EARLY = 1.0  # seconds, until which most processes have not reported: their losses are not known
NOTE = Text("Naive code reports each move, even one that another process overwrites.", GREY)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A moment of the race: *live* are the orders not deleted, *states* how many orders are in each state."""

    elapsed: float  # seconds
    seconds: float
    tally: Tally
    live: dict[int, Stored]
    states: dict[str, int]
    per_second: float
    contest: Contest


class Show(Protocol):
    def __call__(self, snapshot: Snapshot) -> None: ...


@contextmanager
def showing(console: Console) -> Iterator[Show]:
    """A function that shows a snapshot: in place on a terminal, elsewhere as a line a second."""
    if not console.is_terminal or console.is_dumb_terminal:
        yield _lines(console)
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield lambda snapshot: live.update(_moment(snapshot), refresh=True)


def _lines(console: Console) -> Show:
    due = 1.0

    def show(snapshot: Snapshot) -> None:
        nonlocal due
        if snapshot.elapsed < due:
            return
        due = int(snapshot.elapsed) + 1.0
        states = "  ".join(f"{state} {number}" for state, number in snapshot.states.items())
        tally = snapshot.tally
        console.print(
            f"{snapshot.elapsed:3.0f} s  {tally.fired:,} fires ({snapshot.per_second:,.0f} a second):"
            f" {tally.moved:,} moved, {tally.refused.total():,} refused | {states}"
            f" | lost: library {snapshot.contest.lost:,}, naive code {snapshot.contest.naive_lost:,}",
            soft_wrap=True,
            highlight=False,
        )

    return show


def _moment(snapshot: Snapshot) -> RenderableType:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("Order", justify="right")
    table.add_column("State", min_width=max(map(len, COLOURS)))
    table.add_column("Moves", justify="right", min_width=6)
    for key, row in list(snapshot.live.items())[:SHOWN_ORDERS]:
        table.add_row(f"#{key}", _state(row.state), f"{row.steps:,}")
    hidden = len(snapshot.live) - SHOWN_ORDERS
    if hidden > 0:
        table.add_row("…", f"and {hidden} more", "")
    counts = Text("  ").join(_state(state).append(f" {number:,}") for state, number in snapshot.states.items())
    bar = Table.grid(padding=(0, 1))
    left = max(0.0, snapshot.seconds - snapshot.elapsed)
    bar.add_row(
        ProgressBar(total=snapshot.seconds, completed=min(snapshot.elapsed, snapshot.seconds), width=40),
        Text(f"{left:.0f} s left; Ctrl-C ends it sooner", style=GREY),
    )
    figures = _figures(snapshot.tally, snapshot.per_second)
    return Group(table, counts, figures, contest_table(snapshot.contest, snapshot.elapsed >= EARLY), bar)


def _figures(tally: Tally, per_second: float) -> Text:
    figures = Text()
    figures.append(f"{tally.fired:,}", "bold").append(" fires  =  ")
    figures.append(f"{tally.moved:,}", "bold").append(" moved  +  ")
    figures.append(f"{tally.refused.total():,}", "bold").append(" refused      ")
    return figures.append(f"{per_second:,.0f}", "bold").append(" a second")


def contest_table(contest: Contest, is_known: bool = True) -> Table:
    """The moves and the lost updates of the library, and of naive code on the same rows.

    Dots stand for what the rows have and for what is lost while that is not known.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("")
    table.add_column("moves reported", justify="right")
    table.add_column("in the rows", justify="right")
    table.add_column("lost updates", justify="right")
    for name, moved, stored, lost in (
        ("sqlalchemy_fsm_mysql", contest.moved, contest.stored, contest.lost),
        ("read, decide, write", contest.naive_moved, contest.naive_stored, contest.naive_lost),
    ):
        table.add_row(name, f"{moved:,}", *((f"{stored:,}", _lost(lost, moved)) if is_known else ("…", "…")))
    return table


def verdict(contest: Contest) -> Text:
    """The last line of a race that every check has passed."""
    naive = f"Naive code lost {_share(contest.naive_lost, contest.naive_moved)}."
    if not contest.naive_lost:
        naive = "Nor did naive code, this time."
    return Text.assemble(("All checks passed. ", f"bold {GREEN}"), f"The library lost no update. {naive}")


def _lost(lost: int, moved: int) -> Text:
    if not lost:
        return Text("0", f"bold {GREEN}")
    return Text(_share(lost, moved), f"bold {RED}")


def _share(lost: int, moved: int) -> str:
    return f"{lost:,} ({lost / moved:.0%})"


def _state(state: str) -> Text:
    return Text(state, COLOURS.get(state, f"bold {RED}"))


def show_table(console: Console, machine: Machine, tally: Tally) -> None:
    """The machine's state × event table with the counts of each cell."""
    graph, edges = Graph.of(machine), tally.edges()
    is_wide = console.width >= NARROW
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("from", no_wrap=True, min_width=max(map(len, graph.states)) + 2)
    for event in graph.events:
        # Where a cell does not fit on a line, its count goes below the state.
        longest = max(len(edge.target) for state in graph.states for edge in graph.leaving(state, event))
        table.add_column(event, no_wrap=is_wide, min_width=longest + 2)
    for state in graph.states:
        table.add_row(_state(state), *(_cell(graph, state, event, edges, tally) for event in graph.events))
    title = ("The machine: the target of each event, and how often. ", "bold")
    console.print(Text.assemble(title, f"{REFUSED} is a refusal."))
    console.print(table)


def _cell(graph: Graph, state: str, event: str, edges: dict[tuple[str, str, str], int], tally: Tally) -> Text:
    cell = Text()
    for edge in graph.leaving(state, event):
        cell.append(f"{edge.target} ", COLOURS.get(edge.target, ""))
        cell.append(f"{edges.get((event, state, edge.target), 0):,}", "bold")
    if not cell:
        cell.append(f"{REFUSED} {tally.refused[event, state]:,}", GREY)
    return cell


def show_findings(console: Console, findings: Sequence[Finding], fires: str) -> None:
    """Each claim with its verdict; at most three violations of each. *fires* says how many were reported."""
    console.print(Text.assemble((fires, "bold"), " by the library, compared with the stored rows:"))
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column()
    for finding in findings:
        verdict = Text("  ok", f"bold {GREEN}") if finding.holds else Text("FAIL", f"bold {RED}")
        table.add_row(verdict, Text(finding.claim))
        for violation in finding.violations[:3]:
            table.add_row("", Text(f"! {violation}", RED))
        if len(finding.violations) > 3:  # noqa: PLR2004 - as many as are shown
            table.add_row("", Text(f"! and {len(finding.violations) - 3:,} more", RED))
    console.print(table)
