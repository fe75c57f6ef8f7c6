"""The tests of each database as a run of their own, side by side: ``./dev tests`` is ``python -m tests.shares``.

The share 0 is SQLite, with every test without a target; the share 1 is the first server. The quick profile divides the
share 0 in two. A test waits a third of its time for its server, so two runs at a time use two CPUs better than one. The
servers are found once, and those that had to be started live until the last share has ended. Arguments that are not listed
here go to each pytest.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.quick import LEFT_OUT, covered
from tests.servers import NoServer, Server, servers

# More than two at a time would make the tests of races slow.
AT_ONCE = 2
# The quick profile has no races.
QUICK_AT_ONCE = 3
NO_TESTS = 5  # pytest's exit status


@dataclass(slots=True)
class Share:
    """The tests of one database: its number, its name for people, and its run once it has begun.

    *part* leaves those with a target, or those without one.
    """

    number: int
    name: str
    folder: Path
    part: str | None = None
    process: subprocess.Popen[bytes] | None = None

    def start(self, options: argparse.Namespace) -> None:
        """Run pytest on the share's tests, into a log of its own."""
        measuring = ["-m", "coverage", "run", f"--data-file=.coverage.{self.number}"]
        how = measuring if self.number == 0 and options.coverage else []
        profile = ["--quick"] if options.quick else []
        profile += [f"--part={self.part}"] if self.part else []
        command = [sys.executable, *how, "-m", "pytest", f"--server={self.number}", *profile, *options.rest]
        environment = {**os.environ, "FSM_SUMMARY": str(self.summary)}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)

    @property
    def log(self) -> Path:
        """The file that pytest writes to."""
        return self.folder / f"{self.name}.log"

    @property
    def summary(self) -> Path:
        """The file in which conftest.py leaves what was skipped."""
        return self.folder / f"{self.name}.json"

    @property
    def text(self) -> str:
        """All that pytest has printed."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    @property
    def progress(self) -> str:
        """The name, and the part of the tests that has run."""
        percents = re.findall(r"\[ *(\d+)%\]", self.text)
        return f"{self.name} {percents[-1]} %" if percents else f"{self.name} (collecting)"

    @property
    def result(self) -> str:
        """The last line of pytest: ``1204 passed, 18 skipped in 71.20s``."""
        lines = self.text.strip().splitlines() or ["it printed nothing"]
        return lines[-1].strip("= ")

    def is_green(self, options: argparse.Namespace) -> bool:
        """Whether every test passed. With arguments, a share can have no test of them."""
        status = self.process.returncode if self.process else 1
        return status == 0 or (status == NO_TESTS and bool(options.rest))


def main() -> int:
    """Run the shares. Returns 0 when all passed, 1 when a test failed, 4 when there was no server."""
    options = arguments()
    found: tuple[Server, ...] = ()
    try:
        found = servers()
    except NoServer as reason:
        say(str(reason))
        if not options.quick or os.environ.get("FSM_TEST_URLS"):
            return 4
        say("\nThis run goes on with SQLite alone, and will end as failed: MySQL and MariaDB are not covered.\n")
    urls = ",".join(server.url.render_as_string(hide_password=False) for server in found)
    os.environ["FSM_TEST_URLS"] = urls
    for server in found:
        say(f"server: {server}")
    with tempfile.TemporaryDirectory() as folder:
        shares = [Share(0, "SQLite", Path(folder))]
        shares += [Share(number, server.name, Path(folder)) for number, server in enumerate(found, 1)]
        # The oldest and the newest server: those between differ from them for the newest SQLAlchemy only.
        shares = [shares[number] for number in sorted({0, min(1, len(found)), len(found)})] if options.ends else shares
        if options.quick:
            shares[:1] = [
                Share(0, "without a database", Path(folder), "rest"),
                Share(0, "SQLite", Path(folder), "targets"),
            ]
        run_all(shares, options)
        if options.coverage:
            for command in (["combine", "--keep", ".coverage.0"], ["report"]):
                subprocess.run([sys.executable, "-m", "coverage", *command], check=True)
        return report(shares, found, options)


def arguments() -> argparse.Namespace:
    """The options of this call; `rest` are those for pytest."""
    parser = argparse.ArgumentParser(prog="python -m tests.shares", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the quick profile: tests/quick.py")
    parser.add_argument("--ends", action="store_true", help="of the servers only the first and the last")
    parser.add_argument("--coverage", action="store_true", help="measure branch coverage of the share of SQLite")
    options, options.rest = parser.parse_known_args()
    return options


def cpus() -> int:
    """The CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_all(shares: Sequence[Share], options: argparse.Namespace) -> None:
    """Run the shares, as many at a time as the CPUs take, and print how far they are."""
    # SQLite's share has the tests without a target, too. In the full profile it is the shortest, and fills up the end.
    waiting = [*shares] if options.quick else [*shares[1:], shares[0]]
    at_once, pause = (max(QUICK_AT_ONCE, cpus()), 10) if options.quick else (AT_ONCE, 60)
    running: list[Share] = []
    began, said = time.monotonic(), time.monotonic()
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                running.append(waiting.pop(0))
                running[-1].start(options)
            time.sleep(0.2)
            if time.monotonic() > said + pause:
                said = time.monotonic()
                say(f"{said - began:4.0f} s: {', '.join(share.progress for share in running)}")
            for share in [share for share in running if share.process and share.process.poll() is not None]:
                running.remove(share)
                if not options.quick or not share.is_green(options):
                    say(share.text)
                say(f"{share.name}: {share.result}")
    finally:
        # Ctrl-C reaches the runs, too: each ends its own servers and databases.
        for share in running:
            if share.process and share.process.poll() is None:
                share.process.wait()


def report(shares: Sequence[Share], found: Sequence[Server], options: argparse.Namespace) -> int:
    """Print what was covered and what was not. Returns the exit status."""
    summaries = [json.loads(share.summary.read_text("utf-8")) for share in shares if share.summary.exists()]
    names = {share.name for share in shares}
    skipped: Counter[str] = Counter()
    for summary in summaries:
        skipped.update(summary["skipped"])
    missing = sorted({driver for summary in summaries for driver in summary["missing_drivers"]})
    say("\n".join(["", *covered([server for server in found if server.name in names], skipped, missing)]))
    if options.quick:
        say(f"left out by the quick profile: {LEFT_OUT}. ./dev tests --all runs everything.")
    failed = [share.name for share in shares if not share.is_green(options)]
    say(
        f"FAILED on {', '.join(failed)}: see above"
        if failed
        else f"all passed on {', '.join(share.name for share in shares if share.part != 'rest')}"
    )
    if not found:
        say("FAILED: no server was tested; the beginning of this run says how to get one")
    return 1 if failed else 0 if found else 4


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted: the tests that had not run yet are not covered")
