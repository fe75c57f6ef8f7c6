"""Instructions of the client for single calls, counted by Valgrind: the same on a busy machine as on an idle one.

    python -m benchmarks.instructions mysql+mysqldb://root@127.0.0.1:3306/test [--calls 100] [--only one_row,units]

It runs itself under ``valgrind --tool=callgrind``, which counts what the process executes, and neither the server nor
the kernel. An instruction is no time, but the ratios are steady within a percent.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from . import prices

WORKS = ("one_row", "units", "small_sets")
_COUNTING = "FSM_BENCHMARKS_COUNTING"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--only", default=",".join(WORKS))
    options = parser.parse_args()
    if _COUNTING in os.environ:
        for work in options.only.split(","):
            count(options.url, work, options.calls, Path(os.environ[_COUNTING]))
        return
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        parser.error("valgrind is not installed")
    with tempfile.TemporaryDirectory() as folder:
        command = [valgrind, "--quiet", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={folder}/out"]
        arguments = [sys.executable, "-m", "benchmarks.instructions", *sys.argv[1:]]
        subprocess.run([*command, *arguments], env={**os.environ, _COUNTING: folder}, check=True)


def count(url: str, work: str, calls: int, folder: Path) -> None:
    """Print the instructions of a call of each way of *work*, and the ratio to its base."""
    arguments = (8 * prices.BATCH * (calls + 10),) if work == "small_sets" else ()
    counted: dict[str, float] = {}
    with getattr(prices, work)(url, *arguments) as (ways, bases):
        for name, way in ways.items():
            for _ in range(10):  # caches are filled
                way()
            control("-i", "on")
            control("-z")
            for _ in range(calls):
                way()
            control("-d", name)
            control("-i", "off")
            counted[name] = total(folder) / calls
    for name, number in counted.items():
        base = bases.get(name, name)
        print(f"{name:32} {number:>12,.0f}  {number / counted[base]:.2f} of {base}", flush=True)
    if work == "one_row":
        ratio = counted["fire_key_connection"] / counted["by_hand_connection"]
        print(f"fire_key_connection of by_hand_connection: {ratio:.2f}", flush=True)


def control(*command: str) -> None:
    tool = shutil.which("callgrind_control")
    assert tool is not None
    subprocess.run([tool, *command, str(os.getpid())], check=True, stdout=subprocess.DEVNULL)


def total(folder: Path) -> int:
    """The instructions of the latest dump."""
    dumps = sorted(folder.glob("out.*"), key=lambda path: path.stat().st_mtime_ns)
    found = re.search(r"^(?:summary|totals): (\d+)", dumps[-1].read_text(), re.MULTILINE)
    assert found is not None
    return int(found.group(1))


if __name__ == "__main__":
    main()
