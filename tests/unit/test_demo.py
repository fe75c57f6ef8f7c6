"""The demo: it runs, it says what it found, and it finds what is wrong."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest
from rich.color import Color, ColorSystem
from rich.console import Console
from sqlalchemy import create_engine, inspect, text

from sqlalchemy_fsm_mysql.demo import Base, machine, race, screen
from sqlalchemy_fsm_mysql.demo.check import Contest, Stored, Tally, findings, path_problem
from sqlalchemy_fsm_mysql.demo.orders import TABLE
from sqlalchemy_fsm_mysql.demo.play import play
from sqlalchemy_fsm_mysql.demo.stage import NoStage

GO, BACK, STAY = ("Go", "a", "b"), ("Back", "b", "a"), ("Stay", "a", "a")


def played(url=None, *, workers=2, rows=2, seconds=0.5):
    """The exit status of a demo, and what it printed, in one line."""
    console = Console(file=io.StringIO(), width=200)
    status = play(console, url=url, workers=workers, rows=rows, seconds=seconds)
    return status, " ".join(console.file.getvalue().split())


def start(*arguments):
    command = [sys.executable, "-m", "sqlalchemy_fsm_mysql", "demo", *arguments]
    # A shell starts what runs in the background with SIGINT ignored, and children inherit that.
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


# The whole


@pytest.mark.long
def test_demo_holds_and_shows_the_table():
    demo = start("--seconds", "1", "--workers", "2")
    out, err = demo.communicate(timeout=60)

    assert (demo.returncode, err) == (0, ""), out
    assert "All checks passed." in out
    assert re.search(r"Running +Error [\d,]+ +Running [\d,]+ +Stopped [\d,]+ +– [\d,]+", out)


@pytest.mark.long
def test_interrupted_demo_ends_at_once_and_is_checked_all_the_same():
    demo = start("--seconds", "60", "--workers", "2")
    for line in demo.stdout:
        if " moved, " in line:
            break
    demo.send_signal(signal.SIGINT)
    begin = time.monotonic()
    out, err = demo.communicate(timeout=30)

    assert (demo.returncode, err) == (0, ""), out
    assert "All checks passed." in out
    assert time.monotonic() - begin < 20


@pytest.mark.long
def test_ctrl_c_at_the_worst_moment_loses_no_report(monkeypatch):
    """The report has come, and is not counted yet."""
    add, done = Tally.add, []

    def interrupted(self, other):
        if not done:
            done.append(True)
            os.kill(os.getpid(), signal.SIGINT)
        add(self, other)

    monkeypatch.setattr(Tally, "add", interrupted)
    begin = time.monotonic()
    status, printed = played(seconds=60)

    assert (status, done) == (0, [True]), printed
    assert "All checks passed." in printed
    assert time.monotonic() - begin < 30


def test_demo_interrupted_before_the_race_says_so(monkeypatch, tmp_path):
    """A message, and no table is left behind."""

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("sqlalchemy_fsm_mysql.demo.play._wait_for_all", interrupt)
    url = f"sqlite:///{tmp_path}/orders.db"
    console = Console(file=io.StringIO(), width=200)
    with pytest.raises(KeyboardInterrupt):
        play(console, url=url, workers=1, rows=2, seconds=0.5)

    assert console.file.getvalue().endswith("\nEnded before the race began; its table is dropped.\n")
    assert not inspect(create_engine(url)).has_table(TABLE)


def lose_one(received):
    received.steps[next(iter(received.steps))] -= 1


def double_one(received):
    received.steps[next(iter(received.steps))] += 1


def invent_an_edge(received):
    received.steps[1, ("Ready", "Deleted", "Running")] += 1


def invent_a_refusal(received):
    received.refused["Stop", "Running"] += 1


@pytest.mark.long
@pytest.mark.parametrize("falsify", [lose_one, double_one, invent_an_edge, invent_a_refusal])
def test_one_false_report_fails_the_demo(monkeypatch, falsify):
    add, done = Tally.add, []

    def add_falsified(self, other):
        if other.steps and not done:
            done.append(falsify(other))
        add(self, other)

    monkeypatch.setattr(Tally, "add", add_falsified)
    status, out = played()

    assert status == 1, out
    assert "FAIL" in out
    assert "All checks passed" not in out


@pytest.mark.long
def test_process_that_dies_fails_the_demo(monkeypatch):
    monkeypatch.setattr(race, "run", "".format)  # takes all, says nothing, and returns
    status, out = played()

    assert status == 1, out
    assert re.search(r"process \d ended without a report \(exit code 0\)", out)


@pytest.mark.long
def test_demo_tells_the_error_that_a_process_met(tmp_path):
    url = f"sqlite:///{tmp_path / 'orders.db'}"
    create = Base.metadata.create_all

    def create_another(engine):
        create(engine)
        with engine.begin() as connection:
            connection.execute(
                text(f"CREATE TRIGGER spoil BEFORE UPDATE ON {TABLE} BEGIN SELECT RAISE(ABORT, 'spoiled'); END")
            )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Base.metadata, "create_all", create_another)
        status, out = played(url)

    assert status == 1, out
    assert re.search(r"process \d ended by IntegrityError: .*spoiled", out)


@pytest.mark.long
def test_naive_code_loses_moves_on_the_rows_where_the_library_loses_none():
    """Four processes on one row: the losses are those of the naive columns alone."""
    status, out = played(workers=4, rows=1, seconds=1.5)

    assert status == 0, out
    assert re.search(
        r"sqlalchemy_fsm_mysql ([\d,]+) \1 0 read, decide, write [\d,]+ [\d,]+ [1-9][\d,]* \(\d+%\) Naive code reports",
        out,
    )


@pytest.mark.long
def test_all_that_stays_fits_a_terminal_of_80_columns_and_24_lines():
    """From the first line to the prompt after the last: nothing scrolls off."""
    console = Console(file=io.StringIO(), width=80)
    play(console, url=None, workers=8, rows=4, seconds=0.5)
    # A terminal does not keep the lines of the race, which a busy machine makes last longer than a second.
    lines = [line for line in console.file.getvalue().splitlines() if not re.match(r" *\d+ s  ", line)]

    assert lines[0].startswith("8 processes, 4 orders, 0.5 seconds.")
    assert lines[-1].startswith("All checks passed. The library lost no update.")
    assert len(lines) <= 23, lines
    assert max(map(len, lines)) <= 80


def test_losses_are_not_shown_before_they_are_known():
    """The first reports arrive after the rows have changed: a 0 there would say that nothing was lost."""

    def lost(elapsed):
        console = Console(file=io.StringIO(), width=80)
        console.print(screen._moment(screen.Snapshot(elapsed, 6.0, Tally(), {}, {}, 0.0, Contest(9, 0, 8, 0))))
        return re.findall(r"(?:mysql|write) +\d +(\S+) +(\S+)", console.file.getvalue())

    assert lost(0.4) == [("…", "…")] * 2
    assert lost(1.2) == [("9", "0"), ("8", "0")]


def test_large_numbers_do_not_widen_the_result():
    million = 1_234_567
    tally = Tally(
        Counter({(1, (event, "Running", "Stopped")): million for event in machine.events}), naive_moved=million
    )
    console = Console(file=io.StringIO(), width=80)
    screen.show_table(console, machine, tally)
    console.print(
        screen.contest_table(Contest(million, 0, million, million)), screen.verdict(Contest(1, 0, million, million))
    )

    assert max(map(len, console.file.getvalue().splitlines())) <= 80
    assert "…" not in console.file.getvalue()


def test_counts_are_whole_in_60_columns():
    tally = Tally(Counter({(1, ("Ready", "Initializing", "Running")): 12_345}))
    console = Console(file=io.StringIO(), width=60)
    screen.show_table(console, machine, tally)

    assert "12,345" in console.file.getvalue()
    assert "…" not in console.file.getvalue()


@pytest.mark.parametrize(
    ("contest", "said"),
    [
        (Contest(9, 0, 8, 4), "Naive code lost 4 (50%)."),
        (Contest(9, 0, 8, 0), "Nor did naive code, this time."),
    ],
)
def test_last_line_tells_what_each_has_lost(contest, said):
    assert screen.verdict(contest).plain == f"All checks passed. The library lost no update. {said}"


@pytest.mark.parametrize("depth", [ColorSystem.TRUECOLOR, ColorSystem.EIGHT_BIT])
@pytest.mark.parametrize("name", ["GREEN", "RED", "BROWN", "TEAL", "GREY"])
def test_colours_can_be_read_on_white_and_on_black(name, depth):
    """No colour has WCAG's 4.5 on both by more than a hair, so 3.8 is asked. A terminal's yellow has 1.1 on white."""
    assert min(contrasts(getattr(screen, name), depth)) >= 3.8
    assert min(contrasts("bright_yellow", depth)) < 1.5


def contrasts(colour, depth):
    shown = Color.parse(colour).downgrade(depth).get_truecolor()
    parts = [each / 255 for each in shown]
    red, green, blue = [each / 12.92 if each <= 0.03928 else ((each + 0.055) / 1.055) ** 2.4 for each in parts]
    light = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return 1.05 / (light + 0.05), (light + 0.05) / 0.05


def test_losses_are_the_moves_that_the_rows_have_not_counted():
    tally = Tally(Counter({(1, STOP): 3}), naive_moved=10)

    assert Contest(3, 1, 10, 4) == Contest.of(tally, {1: Stored("Stopped", 2, 4), 2: Stored("Stopped", 0, 2)})


# Where it plays


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("nonsense", "This is not a database URL"),
        ("sqlite://", "cannot share"),
        ("sqlite:///:memory:", "cannot share"),
        ("mysql+pymysql://root@127.0.0.1", "names no database"),
        ("mysql+pymysql://root:secret@127.0.0.1:1/test", "cannot be used"),
        ("nodialect://host/test", "cannot be used"),
        ("mysql+asyncmy://root@127.0.0.1/test", "for asyncio"),
    ],
)
def test_unusable_url_is_told(place, reason):
    with pytest.raises(NoStage, match=reason) as told:
        played(place)
    assert "secret" not in str(told.value)


def test_foreign_table_is_left_alone(tmp_path):
    url = f"sqlite:///{tmp_path / 'theirs.db'}"
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text(f"CREATE TABLE {TABLE} (id INTEGER, precious TEXT)"))
        connection.execute(text(f"INSERT INTO {TABLE} VALUES (1, 'yes')"))

    with pytest.raises(NoStage, match="left alone"):
        played(url)

    with engine.connect() as connection:
        assert connection.execute(text(f"SELECT precious FROM {TABLE}")).scalar() == "yes"
    engine.dispose()


@pytest.mark.long
def test_table_of_a_killed_demo_is_replaced_and_gone_afterwards(tmp_path):
    url = f"sqlite:///{tmp_path / 'orders.db'}"
    engine = create_engine(url)
    Base.metadata.create_all(engine)

    status, out = played(url)

    assert status == 0, out
    assert not inspect(engine).has_table(TABLE)
    engine.dispose()


# What it checks


@pytest.mark.parametrize(
    ("steps", "final"),
    [({}, "a"), ({STAY: 3}, "a"), ({GO: 1}, "b"), ({GO: 2, BACK: 1, STAY: 5}, "b"), ({GO: 2, BACK: 2}, "a")],
)
def test_steps_that_are_one_path(steps, final):
    assert path_problem(steps, "a", final) is None


@pytest.mark.parametrize(
    ("steps", "final"),
    [
        ({}, "b"),
        ({GO: 1}, "a"),
        ({GO: 2}, "b"),
        ({GO: 2, BACK: 1}, "a"),
        ({("Ready", "c", "d"): 1, ("NotReady", "d", "c"): 1}, "a"),
        ({("Stay", "c", "c"): 1}, "a"),
    ],
)
def test_steps_that_are_no_path(steps, final):
    assert path_problem(steps, "a", final)


STOP, DELETE = ("Stop", "Initializing", "Stopped"), ("Delete", "Stopped", "Deleted")
STORED = {1: Stored("Deleted", 2), 2: Stored("Initializing", 0)}
TALLY = Tally(Counter({(1, STOP): 1, (1, DELETE): 1}), Counter({("Ready", "Deleted"): 4}))


def failed(tally=TALLY, stored=STORED, **more):
    return [
        number
        for number, finding in enumerate(findings(machine, tally, stored, begun_with=1, **more))
        if not finding.holds
    ]


def test_right_report_holds():
    assert failed() == []


@pytest.mark.parametrize(
    ("stored", "numbers"),
    [
        ({1: Stored("Deleted", 3), 2: STORED[2]}, [2]),
        ({1: Stored("Stopped", 2), 2: STORED[2]}, [3, 4]),
        ({1: STORED[1]}, [4]),
        ({1: STORED[1], 2: Stored("Gone", 0)}, [3]),
        ({2: STORED[2]}, [2, 4]),
    ],
)
def test_stored_rows_that_do_not_fit_the_report(stored, numbers):
    assert failed(stored=stored) == numbers


def test_findings_tell_repeated_fires_and_replaced_orders():
    again = Tally(TALLY.steps, TALLY.refused, again=1)
    claims = [finding.claim for finding in findings(machine, again, STORED, begun_with=1)]

    assert claims[0] == "No process died; 1 fire ran again after a deadlock or a lock timeout."
    assert claims[4].endswith(": 1 + 1 = 2 orders.")


def test_lost_process_fails_its_own_check():
    assert failed(lost_workers=("process 3 died",)) == [0]
