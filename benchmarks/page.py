"""From figures to docs/performance.md and docs/evidence/performance.md: the tables between their markers, and the charts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .contestants import CONTESTANTS, PEERS

Figures = dict[str, Any]

# Goals, by the heading of their table: what is compared, the work that has it, how to read it off, its bound, and whether
# that is the least or the most.
GOALS: dict[str, list[tuple[str, str, Callable[[Any], float], float, str]]] = {
    "One fire": [
        ("CPU of `fire_key` + COMMIT, relative to the same UPDATE by hand in a session", "one_fire", lambda f: f["contestants"]["fire_key"]["cpu_ratio"], 0.95, "most"),
        ("wall time of `fire_key` + COMMIT, relative to the same UPDATE by hand in a session", "one_fire", lambda f: f["contestants"]["fire_key"]["wall_ratio"], 1.0, "most"),
        ("CPU of `fire` + COMMIT, relative to the same UPDATE by hand with the object loaded", "one_fire", lambda f: f["contestants"]["fire"]["cpu_ratio"], 1.00, "most"),
        ("wall time of `fire` + COMMIT, relative to the same UPDATE by hand with the object loaded", "one_fire", lambda f: f["contestants"]["fire"]["wall_ratio"], 1.00, "most"),
        ("wall time of the fastest safe competitor, relative to `fire_key`", "one_fire", lambda f: fastest_peer(f, "wall"), 1.8, "least"),
        ("CPU of the fastest safe competitor, relative to `fire_key`", "one_fire", lambda f: fastest_peer(f, "cpu"), 1.8, "least"),
        ("CPU of `fire_key` on a `Connection` + COMMIT, relative to the same UPDATE by hand in a session", "single_calls", lambda f: f["one_row"]["fire_key_connection"]["cpu_ratio"], 0.65, "most"),
        ("CPU of `fire_key` on a `Connection` + COMMIT, relative to the same UPDATE by hand on a `Connection`", "single_calls", lambda f: f["on_connections"]["fire_key_connection"]["cpu_ratio"], 1.25, "most"),
        ("wall time of `fire_key` on a `Connection` in AUTOCOMMIT, relative to UPDATE and COMMIT by mysqlclient", "single_calls", lambda f: f["one_row"]["fire_key_connection_autocommit"]["wall_ratio"], 1.0, "most"),
        ("wall time of `fire_key` in AUTOCOMMIT, 0.5 ms away, relative to UPDATE and COMMIT by mysqlclient", "far_away", lambda f: f["autocommit_to_driver"], 1.0, "most"),
        ("CPU of `fire` in an open transaction, relative to the Core statement by hand", "in_transaction", lambda f: f["fire"]["cpu_ratio"], 1.15, "most"),
        ("CPU of `fire_key` with a history, relative to both statements by hand", "single_calls", lambda f: f["one_row"]["fire_key_history"]["cpu_ratio"], 1.15, "most"),
        ("CPU of `run_transaction`, relative to `with factory.begin()`", "single_calls", lambda f: f["units"]["run_transaction"]["cpu_ratio"], 1.15, "most"),
        ("CPU of `fire_or_create`, relative to Core's upsert in a session", "single_calls", lambda f: f["units"]["fire_or_create"]["cpu_ratio"], 1.15, "most"),
        ("statements of a fire", "on_the_wire", lambda f: f["fire_key"], 1, "most"),
        ("statements of a fire with a history", "on_the_wire", lambda f: f["history"], 2, "most"),
        ("statements of a fire with a history and a token", "on_the_wire", lambda f: f["token"], 3, "most"),
    ],
    "Many rows": [
        ("CPU of `fire_keys` of 1,000 keys, µs for each row", "single_calls", lambda f: f["many_keys"]["fire_keys_connection"]["cpu_of_a_row"], 15, "most"),
        ("wall time of `fire_keys` of 1,000 keys, relative to 1,000 `fire_key` in one transaction", "single_calls", lambda f: f["many_keys"]["fire_keys_connection"]["wall_ratio"], 0.05, "most"),
        ("CPU of `claim` of 10 with effects, 15 columns, relative to SKIP LOCKED by hand", "single_calls", lambda f: f["small_sets"]["claim"]["cpu_ratio"], 1.15, "most"),
        ("wall time of `claim` of 10 with effects, 15 columns, relative to SKIP LOCKED by hand", "single_calls", lambda f: f["small_sets"]["claim"]["wall_ratio"], 1.15, "most"),
        ("wall time of `claim` by 8 workers, relative to SKIP LOCKED by hand", "claims", lambda f: f["claim"]["ratio"], 1.10, "most"),
        ("jobs a second of a queue of 8 workers in batches of 10, relative to the queue by hand", "queue", lambda f: 1 / f["queue"]["ratio"], 0.9, "least"),
        ("CPU of `fire_where` of 10 keys, 15 columns, relative to the UPDATE by hand", "single_calls", lambda f: f["small_sets"]["fire_where"]["cpu_ratio"], 1.25, "most"),
        ("wall time of `fire_where` of a million rows, relative to the UPDATE by hand", "whole_sets", lambda f: f["plain"]["fire_where"]["ratio"], 1.05, "most"),
        ("wall time of `fire_where` of a million rows with a history, relative to both statements by hand", "whole_sets", lambda f: f["history"]["fire_where"]["ratio"], 1.10, "most"),
        ("wall time of a loop of a million fires, relative to `fire_where`", "whole_sets", lambda f: f["loop_ratio"], 100, "least"),
    ],
    "Many processes": [
        ("moves a second of `fire_key` on one hot row, 8 processes, relative to the lock pattern", "races", lambda f: f["hot"]["fire_key"]["ratio"], 2.2, "least"),
        ("updates lost on the hot row, also in AUTOCOMMIT", "races", lambda f: f["hot"]["fire_key"]["lost"] + f["hot"]["fire_key_autocommit"]["lost"], 0, "most"),
        ("moves a second of `fire_key` on one hot row with 1 ms of round trip, relative to the lock pattern", "races", lambda f: f["hot_far"]["fire_key"]["ratio"], 2.0, "least"),
        ("moves a second in AUTOCOMMIT on one hot row with 1 ms of round trip, relative to the lock pattern", "races", lambda f: f["hot_far"]["fire_key_autocommit"]["ratio"], 4.5, "least"),
        ("moves a second of `fire_key` on 10,000 rows, 8 processes, relative to the lock pattern", "races", lambda f: f["random"]["fire_key"]["ratio"], 1.5, "least"),
        ("CPU of a fire by 8 processes, relative to 1 process", "races", lambda f: f["processes"]["8"]["cpu"] / f["processes"]["1"]["cpu"], 1.2, "most"),
    ],
    "Growth and start": [
        ("CPU of a fire in a machine of 200 states, relative to 5 states", "machines", lambda f: max(f[k]["cpu_ratio"] for k in f if k.startswith("200")), 1.2, "most"),
        ("CPU of a fire with 20 guards, relative to none", "machines", lambda f: f["20 guards"]["cpu_ratio"], 1.2, "most"),
        ("wall time of a fire in the largest table, relative to the smallest", "table_sizes", lambda f: max(each["wall_ratio"] for each in f.values() if "wall_ratio" in each), 1.2, "most"),
        ("import on top of `sqlalchemy.orm`, ms of CPU", "start", lambda f: f["import_ms"]["median"], 30, "most"),
        ("the same import with the garbage collection that falls due in it, ms of CPU", "start", lambda f: f["import_collecting_ms"]["median"], 30, "most"),
        ("mapping a machine of 100 states, ms of CPU", "start", lambda f: f["mapping_ms"]["median"], 20, "most"),
        ("growth of the process by a long run, MiB", "memory", lambda f: f["grown_mib"], 1.0, "most"),
    ],
}  # fmt: skip

SAFE_PEERS = [name for name in PEERS if CONTESTANTS[name].is_safe]  # type: ignore[attr-defined]


def fastest_peer(figures: Any, unit: str) -> float:
    """The cost of the fastest safe contestant that is not this library, as a multiple of `fire_key`'s."""
    there = figures["contestants"]
    return float(min(there[name][unit] for name in SAFE_PEERS if name in there) / there["fire_key"][unit])


def goals(makes: Mapping[str, Figures]) -> str:
    """A table for each heading of the goals, with a column for each of *makes*; a result that missed its goal is bold."""
    return "\n\n".join(f"### {heading}\n\n{table}" for heading in GOALS if (table := goals_of(heading, makes)))


def goals_of(heading: str, makes: Mapping[str, Figures]) -> str:
    """The table under *heading*, or nothing if none of its goals was measured."""
    lines = [f"| measured | goal | {' | '.join(makes)} |", "|---|---|" + "---|" * len(makes)]
    for label, work, read, bound, kind in GOALS[heading]:
        measured = [read(figures[work]) if work in figures else None for figures in makes.values()]
        cells = ["" if value is None else result(value, bound, kind) for value in measured]
        if any(cells):
            lines.append(f"| {label} | {'≤' if kind == 'most' else '≥'} {number(bound)} | {' | '.join(cells)} |")
    return "\n".join(lines) if lines[2:] else ""


def result(value: float, bound: float, kind: str) -> str:
    is_met = value <= bound if kind == "most" else value >= bound
    return number(value) if is_met else f"**{number(value)}**"


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.2f}"


# The rows of the first table of docs/performance.md: the code to compare with, the call in its place, and their costs.
_LOCKED_PEERS = ("sqlalchemy_fsm_locked", "transitions", "django_locked")
_SUMMARY: tuple[tuple[str, str, str, Callable[[Any, str], list[float]]], ...] = (
    ("`session.get(…, with_for_update=True)`, assign, commit", "`fire_key`", "one_fire", lambda f, unit: of_fire_key(f, unit, "locked")),
    ("`version_id_col` with a retry", "`fire_key`", "one_fire", lambda f, unit: of_fire_key(f, unit, "optimistic")),
    ("sqlalchemy-fsm, transitions or django-fsm-2, with a row lock", "`fire_key`", "one_fire", lambda f, unit: of_fire_key(f, unit, *_LOCKED_PEERS)),
    ("python-statemachine with a row lock", "`fire_key`", "one_fire", lambda f, unit: of_fire_key(f, unit, "python_statemachine")),
    ("the same UPDATE by hand in a session", "`fire_key`", "one_fire", lambda f, unit: [f["contestants"]["fire_key"][f"{unit}_ratio"]]),
    ("the same UPDATE by hand in a session", "`fire_key` on a `Connection`", "single_calls", lambda f, unit: [f["one_row"]["fire_key_connection"][f"{unit}_ratio"]]),
    ("the UPDATE and an INSERT of a history row, by hand in a session", "`fire_key` with a history", "single_calls", lambda f, unit: [f["one_row"]["fire_key_history"][f"{unit}_ratio"]]),
    ("UPDATE and COMMIT by mysqlclient, without SQLAlchemy", "`fire_key` on a `Connection` in AUTOCOMMIT", "single_calls", lambda f, unit: [f["one_row"]["fire_key_connection_autocommit"][f"{unit}_ratio"]]),
    ("a loop of 1,000 `fire_key` in one session", "`fire_keys` on a `Connection`", "single_calls", lambda f, unit: [f["many_keys"]["fire_keys_connection"][f"{unit}_ratio"]]),
    ("`SELECT … SKIP LOCKED` and UPDATE of 10 jobs, by hand", "`claim`", "single_calls", lambda f, unit: [f["small_sets"]["claim"][f"{unit}_ratio"]]),
    ("UPDATE of 10 rows by hand", "`fire_where`", "single_calls", lambda f, unit: [f["small_sets"]["fire_where"][f"{unit}_ratio"]]),
    ("Core's upsert in a session", "`fire_or_create`", "single_calls", lambda f, unit: [f["units"]["fire_or_create"][f"{unit}_ratio"]]),
)  # fmt: skip


def summary(makes: Mapping[str, Figures]) -> str:
    """The cost of this library's calls, as multiples of the code that they replace: the range over *makes*."""
    lines = ["| you have now | use | wall time × | client's CPU × |", "|---|---|---|---|"]
    for before, call, work, read in _SUMMARY:
        measured = [figures[work] for figures in makes.values() if work in figures]
        wall, cpu = (
            sorted(f"{ratio:.2f}" for each in measured for ratio in read(each, unit)) for unit in ("wall", "cpu")
        )
        if wall:
            lines.append(f"| {before} | {call} | {spanned(wall)} | {spanned(cpu)} |")
    return "\n".join(lines)


def spanned(ratios: list[str]) -> str:
    """The least and the greatest of sorted *ratios*, or the one that there is."""
    return ratios[0] if ratios[0] == ratios[-1] else f"{ratios[0]}–{ratios[-1]}"


def of_fire_key(figures: Any, unit: str, *names: str) -> list[float]:
    """The cost of `fire_key` as a multiple of that of each contestant in *names*."""
    there = figures["contestants"]
    return [there["fire_key"][unit] / there[name][unit] for name in names if name in there]


def single_table(figures: Figures, work: str) -> str:
    lines = ["| one fire and COMMIT | wall, µs | CPU, µs | wall × | CPU × |", "|---|---|---|---|---|"]
    there = figures[work]["contestants"]
    for name, told in sorted(there.items(), key=lambda item: float(item[1]["wall"])):
        label = CONTESTANTS[name].label if told["safe"] else f"{CONTESTANTS[name].label} (loses updates)"  # type: ignore[attr-defined]
        lines.append(
            f"| {label} | {told['wall']:,.0f} | {told['cpu']:,.0f} | {spread(told, 'wall_ratio')} | "
            f"{spread(told, 'cpu_ratio')} |"
        )
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


def growth_table(told: dict[str, Any], what: str) -> str:
    lines = [f"| {what} | wall × | CPU × |", "|---|---|---|"]
    lines += [f"| {name} | {spread(each, 'wall_ratio')} | {spread(each, 'cpu_ratio')} |" for name, each in told.items()]
    return "\n".join(lines)


def sets_table(told: dict[str, Any]) -> str:
    lines = [f"| {told['rows']:,} rows | seconds | × |", "|---|---|---|"]
    labels = {"by hand": "UPDATE by hand", "fire_where": "`fire_where`"}
    for kind, suffix in (("plain", ""), ("history", ", with a history")):
        for way, each in told.get(kind, {}).items():
            lines.append(f"| {labels[way]}{suffix} | {each['seconds']:.2f} | {spread(each, 'ratio')} |")
    return "\n".join(lines)


# The rows of the table of single calls: what it is, relative to what, and where its figures are.
_SINGLE_CALLS = (
    ("`fire_key` on a `Connection` + COMMIT", "the UPDATE by hand in a session", "one_row", "fire_key_connection"),
    ("`fire_key` on a `Connection` + COMMIT", "the UPDATE by hand on a `Connection`", "on_connections", "fire_key_connection"),
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
    lines = ["| call | relative to | CPU × | wall × |", "|---|---|---|---|"]
    for label, base, work, name in _SINGLE_CALLS:
        each = told[work][name]
        lines.append(f"| {label} | {base} | {spread(each, 'cpu_ratio')} | {spread(each, 'wall_ratio')} |")
    return "\n".join(lines)


def start_table(told: dict[str, Any]) -> str:
    labels = {
        "orm_ms": "`import sqlalchemy.orm`",
        "import_ms": "`from sqlalchemy_fsm_mysql import Event, Machine, StateMachineColumn, fire_key` on top",
        "import_collecting_ms": "the same import with the garbage collection that falls due in it",
        "mapping_ms": "mapping a machine of 100 states and 100 events, in addition to a String",
        "first_fire_ms": "the first `fire_key` of a process, on SQLite: importing its modules and compiling the event's statements",
    }
    lines = ["| start of a program | ms of CPU |", "|---|---|"]
    for name, label in labels.items():
        if name not in told:  # measured before the benchmark had it
            continue
        lines.append(f"| {label} | {told[name]['median']:.1f} ({told[name]['low']:.1f}–{told[name]['high']:.1f}) |")
    return "\n".join(lines)


def where(makes: Mapping[str, Figures]) -> str:
    """A table of the servers and clients, with a column for each of *makes*."""
    of = [figures["where"] for figures in makes.values()]
    rows = {
        "measured on": [each["at"] for each in of],
        "server": [each["server"] for each in of],
        **{f"`{name}`": [each["settings"].get(name, "") for each in of] for name in sorted(of[0]["settings"])},
        "driver": [each["driver"] for each in of],
        "SQLAlchemy": [each["sqlalchemy"] for each in of],
        "Python": [each["python"] for each in of],
        "processors, shared by server and clients": [str(each["processors"]) for each in of],
    }
    lines = [f"| | {' | '.join(makes)} |", "|---|" + "---|" * len(makes)]
    return "\n".join([*lines, *(f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items())])


PARTS: dict[str, tuple[str, Callable[[Figures], str]]] = {
    "one_fire": ("one_fire", lambda figures: single_table(figures, "one_fire")),
    "far_away": ("far_away", lambda figures: single_table(figures, "far_away")),
    "hot": ("races", lambda figures: race_table(figures["races"]["hot"])),
    "hot_far": ("races", lambda figures: race_table(figures["races"]["hot_far"])),
    "random": ("races", lambda figures: race_table(figures["races"]["random"])),
    "whole_sets": ("whole_sets", lambda figures: sets_table(figures["whole_sets"])),
    "single_calls": ("single_calls", lambda figures: single_calls_table(figures["single_calls"])),
    "start": ("start", lambda figures: start_table(figures["start"])),
    "machines": ("machines", lambda figures: growth_table(figures["machines"], "a fire in a machine of")),
    "table_sizes": ("table_sizes", lambda figures: growth_table(figures["table_sizes"], "a fire in a table of")),
}


def write(makes: Mapping[str, Figures], docs: Path) -> None:
    """Put the tables between the markers of both pages, and draw the charts.

    Summary and goals have a column or a range of all *makes*, every other table and chart has the first. Raises: ValueError
    if no page has the markers of a table.
    """
    for path, page in pages(makes, docs).items():
        path.write_text(page, encoding="utf-8")
    for name, values, label in charts(next(iter(makes.values()))):
        draw(docs / "images" / name, values, label)


def pages(makes: Mapping[str, Figures], docs: Path) -> dict[Path, str]:
    """Both pages with their tables, by path."""
    tables = {"where": where(makes), "summary": summary(makes), "goals": goals(makes)}
    figures = next(iter(makes.values()))
    tables |= {name: table(figures) for name, (work, table) in PARTS.items() if work in figures}
    made = {
        path: path.read_text(encoding="utf-8")
        for path in (docs / "performance.md", docs / "evidence" / "performance.md")
    }
    for name, table in tables.items():
        path = next(
            (path for path, page in made.items() if f"<!-- {name} -->" in page), docs / "evidence" / "performance.md"
        )
        made[path] = between(made[path], name, table)
    return made


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
        there = figures["one_fire"]["contestants"]
        yield (
            "performance-one-fire.svg",
            {CONTESTANTS[name].label: each["cpu"] for name, each in there.items()},  # type: ignore[attr-defined]
            "client CPU of one fire and commit, µs",
        )
    if "races" in figures:
        hot = figures["races"]["hot"]
        lossy = {name for name, each in hot.items() if each["lost"]}
        labels = {name: CONTESTANTS[name].label for name in hot}  # type: ignore[attr-defined]
        rates = {f"{labels[name]}{' (loses updates)' * (name in lossy)}": each["rate"] for name, each in hot.items()}
        yield "performance-hot-row.svg", rates, "moves a second, 8 processes on one row"


# The text of a chart on a white page, and on a dark one.
INK, PALE_INK = "#57606a", "#adb5bd"


def draw(path: Path, values: dict[str, float], label: str) -> None:
    """Horizontal bars, longest last; this library's are coloured."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "sqlalchemy_fsm_mysql"  # the same figures give the same file
    names = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    mpl.rcParams.update(dict.fromkeys(names, INK))
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
    path.write_text(readable_in_the_dark(path.read_text(encoding="utf-8")), encoding="utf-8")


def readable_in_the_dark(svg: str) -> str:
    """*svg* with paler text where the reader's theme is dark: no grey has enough contrast on white and on black."""
    rules = "".join(f'[style*="{part}: {INK}"]{{{part}:{PALE_INK} !important}}' for part in ("fill", "stroke"))
    return svg.replace("</style>", f"@media (prefers-color-scheme: dark){{{rules}}}</style>", 1)
