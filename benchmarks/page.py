"""From figures to docs/performance.md: the tables between its markers, and the charts beside it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .contestants import CONTESTANTS, PEERS

Figures = dict[str, Any]

# Goals: what is compared, the work that has it, how to read it off, its bound, and whether that is the least or the most.
GOALS: list[tuple[str, str, Callable[[Any], float], float, str]] = [
    ("`fire_key` + COMMIT, CPU, relative to the same UPDATE by hand in a session", "one_fire", lambda f: f["contestants"]["fire_key"]["cpu_ratio"], 0.95, "most"),
    ("the same, wall", "one_fire", lambda f: f["contestants"]["fire_key"]["wall_ratio"], 1.0, "most"),
    ("CPU of `fire` + COMMIT, relative to the same by hand with the object loaded", "one_fire", lambda f: f["contestants"]["fire"]["cpu_ratio"], 1.00, "most"),
    ("the same, wall", "one_fire", lambda f: f["contestants"]["fire"]["wall_ratio"], 1.00, "most"),
    ("wall time of the fastest safe competitor, relative to `fire_key`", "one_fire", lambda f: fastest_peer(f, "wall"), 1.8, "least"),
    ("CPU of the fastest safe competitor, relative to `fire_key`", "one_fire", lambda f: fastest_peer(f, "cpu"), 1.8, "least"),
    ("`fire_key` on a Connection + COMMIT, CPU, relative to the same UPDATE by hand in a session", "single_calls", lambda f: f["one_row"]["fire_key_connection"]["cpu_ratio"], 0.65, "most"),
    ("the same, relative to the same UPDATE by hand on a Connection", "single_calls", lambda f: f["on_connections"]["fire_key_connection"]["cpu_ratio"], 1.25, "most"),
    ("`fire_key` on a Connection in AUTOCOMMIT, wall, relative to UPDATE and COMMIT by mysqlclient", "single_calls", lambda f: f["one_row"]["fire_key_connection_autocommit"]["wall_ratio"], 1.0, "most"),
    ("`fire_keys` of 1,000 keys, µs of CPU for each row", "single_calls", lambda f: f["many_keys"]["fire_keys_connection"]["cpu_of_a_row"], 15, "most"),
    ("the same, wall, relative to 1,000 `fire_key` in one transaction", "single_calls", lambda f: f["many_keys"]["fire_keys_connection"]["wall_ratio"], 0.05, "most"),
    ("`claim` of 10 with effects, 15 columns, CPU, relative to SKIP LOCKED by hand", "single_calls", lambda f: f["small_sets"]["claim"]["cpu_ratio"], 1.15, "most"),
    ("the same, wall", "single_calls", lambda f: f["small_sets"]["claim"]["wall_ratio"], 1.15, "most"),
    ("`fire_where` of 10 keys, 15 columns, CPU, relative to the UPDATE by hand", "single_calls", lambda f: f["small_sets"]["fire_where"]["cpu_ratio"], 1.25, "most"),
    ("queue of 8 workers in batches of 10, jobs a second, relative to the queue by hand", "queue", lambda f: 1 / f["queue"]["ratio"], 0.9, "least"),
    ("`run_transaction`, CPU, relative to `with factory.begin()`", "single_calls", lambda f: f["units"]["run_transaction"]["cpu_ratio"], 1.15, "most"),
    ("`fire_or_create`, CPU, relative to Core's upsert in a session", "single_calls", lambda f: f["units"]["fire_or_create"]["cpu_ratio"], 1.15, "most"),
    ("`fire_key` with a history, CPU, relative to both statements by hand", "single_calls", lambda f: f["one_row"]["fire_key_history"]["cpu_ratio"], 1.15, "most"),
    ("`fire_key` in AUTOCOMMIT, wall, 0.5 ms away, relative to mysqlclient's UPDATE and COMMIT", "far_away", lambda f: f["autocommit_to_driver"], 1.0, "most"),
    ("`fire` in an open transaction, CPU, relative to the Core statement by hand", "in_transaction", lambda f: f["fire"]["cpu_ratio"], 1.15, "most"),
    ("statements of a fire", "on_the_wire", lambda f: f["fire_key"], 1, "most"),
    ("statements of a fire with a history", "on_the_wire", lambda f: f["history"], 2, "most"),
    ("statements of a fire with a token", "on_the_wire", lambda f: f["token"], 3, "most"),
    ("one hot row, 8 processes, moves a second, relative to the lock pattern", "races", lambda f: f["hot"]["fire_key"]["ratio"], 2.2, "least"),
    ("updates lost on the hot row", "races", lambda f: f["hot"]["fire_key"]["lost"] + f["hot"]["fire_key_autocommit"]["lost"], 0, "most"),
    ("the same with 1 ms of round trip", "races", lambda f: f["hot_far"]["fire_key"]["ratio"], 2.0, "least"),
    ("the same in AUTOCOMMIT", "races", lambda f: f["hot_far"]["fire_key_autocommit"]["ratio"], 4.5, "least"),
    ("10,000 rows, 8 processes, moves a second, relative to the lock pattern", "races", lambda f: f["random"]["fire_key"]["ratio"], 1.5, "least"),
    ("`fire_where` of a million rows, wall, relative to the UPDATE by hand", "whole_sets", lambda f: f["plain"]["fire_where"]["ratio"], 1.05, "most"),
    ("`fire_where` with a history, wall, relative to both statements by hand", "whole_sets", lambda f: f["history"]["fire_where"]["ratio"], 1.10, "most"),
    ("a loop of fires, wall, relative to `fire_where`", "whole_sets", lambda f: f["loop_ratio"], 100, "least"),
    ("`claim`, 8 workers, wall, relative to SKIP LOCKED by hand", "claims", lambda f: f["claim"]["ratio"], 1.10, "most"),
    ("200 states, CPU, relative to 5 states", "machines", lambda f: max(f[k]["cpu_ratio"] for k in f if k.startswith("200")), 1.2, "most"),
    ("20 guards, CPU, relative to none", "machines", lambda f: f["20 guards"]["cpu_ratio"], 1.2, "most"),
    ("the largest table, wall, relative to the smallest", "table_sizes", lambda f: max(each["wall_ratio"] for each in f.values() if "wall_ratio" in each), 1.2, "most"),
    ("CPU of a fire, 8 processes relative to 1", "races", lambda f: f["processes"]["8"]["cpu"] / f["processes"]["1"]["cpu"], 1.2, "most"),
    ("import on top of `sqlalchemy.orm`, ms of CPU", "start", lambda f: f["import_ms"]["median"], 30, "most"),
    ("the same with the garbage collection that falls due in it", "start", lambda f: f["import_collecting_ms"]["median"], 30, "most"),
    ("mapping a machine of 100 states, ms of CPU", "start", lambda f: f["mapping_ms"]["median"], 20, "most"),
    ("growth of the process by a long run, MiB", "memory", lambda f: f["grown_mib"], 1.0, "most"),
]  # fmt: skip

SAFE_PEERS = [name for name in PEERS if CONTESTANTS[name].is_safe]  # type: ignore[attr-defined]


def fastest_peer(figures: Any, unit: str) -> float:
    """The cost of the fastest safe contestant that is not this library, as a multiple of `fire_key`'s."""
    there = figures["contestants"]
    return float(min(there[name][unit] for name in SAFE_PEERS if name in there) / there["fire_key"][unit])


def goals(makes: Mapping[str, Figures]) -> str:
    """A table of the goals, a column for each of *makes*; one that is missed is bold."""
    lines = [f"| work | goal | {' | '.join(makes)} |", "|---|---|" + "---|" * len(makes)]
    for label, work, read, bound, kind in GOALS:
        measured = [read(figures[work]) if work in figures else None for figures in makes.values()]
        cells = ["" if value is None else result(value, bound, kind) for value in measured]
        if any(cells):
            lines.append(f"| {label} | {'≤' if kind == 'most' else '≥'} {number(bound)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def result(value: float, bound: float, kind: str) -> str:
    is_met = value <= bound if kind == "most" else value >= bound
    return number(value) if is_met else f"**{number(value)}**"


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.2f}"


def single_table(figures: Figures, work: str) -> str:
    lines = ["| one fire and commit | wall µs | CPU µs | wall × | CPU × | |", "|---|---|---|---|---|---|"]
    there = figures[work]["contestants"]
    for name, told in sorted(there.items(), key=lambda item: float(item[1]["wall"])):
        safe = "" if told["safe"] else "loses updates"
        lines.append(
            f"| {told['label']} | {told['wall']:,.0f} | {told['cpu']:,.0f} | {spread(told, 'wall_ratio')} | "
            f"{spread(told, 'cpu_ratio')} | {safe} |"
        )
        _ = name
    return "\n".join(lines)


def spread(told: dict[str, Any], key: str) -> str:
    """A ratio with its quartiles."""
    if key not in told:
        return ""
    return f"{told[key]:.2f} ({told[f'{key}_low']:.2f}–{told[f'{key}_high']:.2f})"


def race_table(told: dict[str, Any]) -> str:
    lines = ["| 8 processes | moves a second | × | updates lost |", "|---|---|---|---|"]
    for name, each in sorted(told.items(), key=lambda item: -float(item[1]["rate"])):
        label = CONTESTANTS[name].label  # type: ignore[attr-defined]
        lost = f"**{each['lost']:,} of {each['moves']:,}**" if each["lost"] else "0"
        lines.append(f"| {label} | {each['rate']:,.0f} | {spread(each, 'ratio')} | {lost} |")
    return "\n".join(lines)


def growth_table(told: dict[str, Any]) -> str:
    lines = ["| | wall × | CPU × |", "|---|---|---|"]
    lines += [f"| {name} | {spread(each, 'wall_ratio')} | {spread(each, 'cpu_ratio')} |" for name, each in told.items()]
    return "\n".join(lines)


def sets_table(told: dict[str, Any]) -> str:
    lines = [f"| {told['rows']:,} rows | seconds | × |", "|---|---|---|"]
    for kind, suffix in (("plain", ""), ("history", ", with a history")):
        for way, each in told.get(kind, {}).items():
            lines.append(f"| {way}{suffix} | {each['seconds']:.2f} | {spread(each, 'ratio')} |")
    return "\n".join(lines)


# The rows of the table of single calls: what it is, relative to what, and where its figures are.
_SINGLE_CALLS = (
    ("`fire_key` on a `Connection` + COMMIT", "the UPDATE by hand in a session", "one_row", "fire_key_connection"),
    ("the same", "the UPDATE by hand on a `Connection`", "on_connections", "fire_key_connection"),
    ("`fire_key` on a `Connection` in AUTOCOMMIT", "mysqlclient, UPDATE and COMMIT", "one_row", "fire_key_connection_autocommit"),
    ("`fire_key` in a session + COMMIT", "the UPDATE by hand in a session", "one_row", "fire_key"),
    ("`fire_key` with a history + COMMIT", "both statements by hand in a session", "one_row", "fire_key_history"),
    ("`fire_keys` of 1,000 keys + COMMIT, `Connection`", "1,000 `fire_key` in one session", "many_keys", "fire_keys_connection"),
    ("`fire_keys` of 1,000 keys + COMMIT, session", "1,000 `fire_key` in one session", "many_keys", "fire_keys"),
    ("`claim` of 10 with effects + COMMIT", "SKIP LOCKED and UPDATE by hand", "small_sets", "claim"),
    ("`fire_where` of 10 keys + COMMIT", "the UPDATE by hand", "small_sets", "fire_where"),
    ("`run_transaction`", "`with factory.begin()`", "units", "run_transaction"),
    ("`fire_or_create` + COMMIT", "Core's upsert in a session", "units", "fire_or_create"),
    ("`fire_or_create` with values, `Connection` + COMMIT", "Core's upsert in a session", "units", "fire_or_create_connection"),
)  # fmt: skip


def single_calls_table(told: dict[str, Any]) -> str:
    lines = ["| work | relative to | CPU × | wall × |", "|---|---|---|---|"]
    for label, base, work, name in _SINGLE_CALLS:
        each = told[work][name]
        lines.append(f"| {label} | {base} | {spread(each, 'cpu_ratio')} | {spread(each, 'wall_ratio')} |")
    return "\n".join(lines)


def start_table(told: dict[str, Any]) -> str:
    labels = {
        "orm_ms": "`import sqlalchemy.orm`",
        "import_ms": "`from sqlalchemy_fsm_mysql import Event, Machine, StateMachineColumn, fire_key` on top",
        "import_collecting_ms": "the same with the garbage collection that falls due in it",
        "mapping_ms": "mapping a machine of 100 states and 100 events, more than a String",
        "first_fire_ms": "the first `fire_key` of a process, on SQLite: its modules, and the event's statements",
    }
    lines = ["| | ms of CPU |", "|---|---|"]
    for name, label in labels.items():
        if name not in told:  # measured before the benchmark had it
            continue
        lines.append(f"| {label} | {told[name]['median']:.1f} ({told[name]['low']:.1f}–{told[name]['high']:.1f}) |")
    return "\n".join(lines)


def where(makes: Mapping[str, Figures]) -> str:
    return "\n\n".join(of_one_make(figures["where"]) for figures in makes.values())


def of_one_make(told: dict[str, Any]) -> str:
    settings = ", ".join(f"{name}={value}" for name, value in told["settings"].items())
    return (
        f"{told['at']}: {told['server']} ({settings}), {told['driver']}, SQLAlchemy {told['sqlalchemy']}, Python "
        f"{told['python']}, server and clients on the same {told['processors']} processors."
    )


PARTS: dict[str, tuple[str, Callable[[Figures], str]]] = {
    "one_fire": ("one_fire", lambda figures: single_table(figures, "one_fire")),
    "far_away": ("far_away", lambda figures: single_table(figures, "far_away")),
    "hot": ("races", lambda figures: race_table(figures["races"]["hot"])),
    "hot_far": ("races", lambda figures: race_table(figures["races"]["hot_far"])),
    "random": ("races", lambda figures: race_table(figures["races"]["random"])),
    "whole_sets": ("whole_sets", lambda figures: sets_table(figures["whole_sets"])),
    "single_calls": ("single_calls", lambda figures: single_calls_table(figures["single_calls"])),
    "start": ("start", lambda figures: start_table(figures["start"])),
    "machines": ("machines", lambda figures: growth_table(figures["machines"])),
    "table_sizes": ("table_sizes", lambda figures: growth_table(figures["table_sizes"])),
}


def write(makes: Mapping[str, Figures], docs: Path) -> None:
    """Put the tables between the markers of performance.md, and draw the charts: goals of all *makes*, the rest of the first."""
    path = docs / "performance.md"
    page = path.read_text(encoding="utf-8")
    page = between(page, "where", where(makes))
    page = between(page, "goals", goals(makes))
    figures = next(iter(makes.values()))
    for name, (work, table) in PARTS.items():
        if work in figures:
            page = between(page, name, table(figures))
    path.write_text(page, encoding="utf-8")
    for name, values, label in charts(figures):
        draw(docs / "images" / name, values, label)


def between(page: str, name: str, content: str) -> str:
    """*page* with *content* between the two markers of *name*.

    Raises: ValueError when they are not there.
    """
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(page):
        raise ValueError(f"the page has no {begin} … {end}")
    return pattern.sub(lambda _: f"{begin}\n\n{content}\n\n{end}", page)


def charts(figures: Figures) -> Iterator[tuple[str, dict[str, float], str]]:
    if "one_fire" in figures:
        there = figures["one_fire"]["contestants"].values()
        yield (
            "performance-one-fire.svg",
            {each["label"]: each["cpu"] for each in there},
            "client CPU of one fire and commit, µs",
        )
    if "races" in figures:
        hot = figures["races"]["hot"]
        lossy = {name for name, each in hot.items() if each["lost"]}
        labels = {name: CONTESTANTS[name].label for name in hot}  # type: ignore[attr-defined]
        rates = {f"{labels[name]}{' (loses updates)' * (name in lossy)}": each["rate"] for name, each in hot.items()}
        yield "performance-hot-row.svg", rates, "moves a second, 8 processes on one row"


def draw(path: Path, values: dict[str, float], label: str) -> None:
    """Horizontal bars, longest last; this library's are coloured."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "sqlalchemy_fsm_mysql"  # the same figures give the same file
    # Read on a white page and on a dark one.
    names = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    mpl.rcParams.update(dict.fromkeys(names, "#7a828a"))
    from matplotlib import pyplot as plt

    ordered = sorted(values.items(), key=lambda item: item[1], reverse=True)
    figure, axes = plt.subplots(figsize=(8, 0.8 + 0.32 * len(ordered)))
    colours = ["#3f8fbf" if name.startswith(("fire", "Coalescer")) else "#9aa3ab" for name, _ in ordered]
    axes.barh([name for name, _ in ordered], [value for _, value in ordered], color=colours)
    axes.set_xlabel(label)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None}, transparent=True)
    plt.close(figure)
