"""All comparisons in one run, on any MySQL or MariaDB; figures as JSON, and the tables and charts of both pages on performance.

    python -m benchmarks mysql+mysqldb://root@127.0.0.1:3306/test [--quick | --full] [--only one_fire,crowd]

The database of the URL is written to: tables bench_… are dropped and created. A durable server gives the figures that
matter. By default it takes about five minutes. The JSON file has figures of one MySQL and one MariaDB; what is not run keeps
those that are there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import text

from . import crowd, growth, page, prices, sets, single, tables
from .delay import delayed

ROOT = Path(__file__).parents[1]
# The page has the goals of each, and everything else of the first that was measured.
MAKES = ("MySQL", "MariaDB")
RACERS = (
    "locked",
    "by_hand",
    "fire_key",
    "fire_key_autocommit",
    "optimistic",
    "sqlalchemy_fsm",
    "django",
    "django_locked",
)

Sizes = dict[str, Any]
QUICK: Sizes = {
    "rounds": 6, "calls": 4, "seconds": 0.4, "races": 2, "rows": 20_000, "turns": 1, "jobs": 2_000, "fires": 1_000,
    "tables": [1_000, 10_000], "runs": 3,
}  # fmt: skip
DEFAULT: Sizes = {
    "rounds": 60, "calls": 10, "seconds": 1.0, "races": 5, "rows": 1_000_000, "turns": 2, "jobs": 100_000, "fires": 20_000,
    "tables": [1_000, 100_000, 1_000_000], "runs": 11,
}  # fmt: skip
FULL: Sizes = DEFAULT | {
    "tables": [1_000, 100_000, 10_000_000],
    "fires": 1_000_000,
    "rounds": 200,
    "races": 11,
    "turns": 5,
}


def one_fire(url: str, size: Sizes) -> Any:
    return single.one_fire(url, rounds=size["rounds"], calls=size["calls"])


def far_away(url: str, size: Sizes) -> Any:
    return single.far_away(url, rounds=size["rounds"] // 3, calls=size["calls"], seconds=0.0005)


def in_transaction(url: str, size: Sizes) -> Any:
    return single.in_transaction(url, rounds=size["rounds"], calls=2 * size["calls"])


def on_the_wire(url: str, size: Sizes) -> Any:
    return single.on_the_wire(url)


def races(url: str, size: Sizes) -> Any:
    """One hot row near and far, and 10,000 rows at random, with 8 processes; random rows with 1 to 8."""
    engine = tables.engine_of(url)
    tables.fill(engine, 10_000)
    settings = {"rounds": size["races"], "seconds": size["seconds"], "base": "locked"}
    told: dict[str, Any] = {"missing": []}
    names = [name for name in RACERS if has(name, told["missing"])]
    with crowd.crew(8) as pipes:
        near = dict.fromkeys(names, url)
        told["hot"] = crowd.race(engine, pipes, near, rows=1, **settings)
        told["random"] = crowd.race(engine, pipes, near, rows=10_000, **settings)
        with delayed(url, 0.001) as slow:
            far = dict.fromkeys(("locked", "fire_key", "fire_key_autocommit"), slow)
            told["hot_far"] = crowd.race(engine, pipes, far, rows=1, **settings)
        told["processes"] = {
            str(number): crowd.race(
                engine, pipes[:number], {"fire_key": url}, rows=10_000, **settings | {"base": "fire_key"}
            )["fire_key"]
            for number in (1, 2, 4, 8)
        }
    engine.dispose()
    return told


def has(name: str, missing: list[str]) -> bool:
    """Whether the library of the contestant *name* is installed; noted in *missing* if not."""
    modules = {"django": "django_fsm", "django_locked": "django_fsm", "sqlalchemy_fsm": "sqlalchemy_fsm"}
    try:
        __import__(modules.get(name, "sqlalchemy"))
    except ImportError:
        missing.append(name)
        return False
    return True


def whole_sets(url: str, size: Sizes) -> Any:
    return sets.sets(url, rows=size["rows"], rounds=size["turns"])


def single_calls(url: str, size: Sizes) -> Any:
    return prices.measured(url, rounds=size["rounds"], calls=size["calls"])


def queue(url: str, size: Sizes) -> Any:
    return sets.queue(url, jobs=max(1_000, size["jobs"] // 20), workers=8, rounds=2 * size["turns"])


def claims(url: str, size: Sizes) -> Any:
    return sets.claims(url, jobs=size["jobs"], workers=8, rounds=size["turns"])


def machines(url: str, size: Sizes) -> Any:
    return growth.machines(url, rounds=size["rounds"], calls=size["calls"])


def table_sizes(url: str, size: Sizes) -> Any:
    return growth.rows(url, sizes=size["tables"], rounds=size["rounds"], calls=size["calls"])


def start(url: str, size: Sizes) -> Any:
    return growth.start(runs=size["runs"])


def memory(url: str, size: Sizes) -> Any:
    return growth.memory(url, fires=size["fires"])


WORKS: dict[str, Callable[[str, Sizes], Any]] = {
    work.__name__: work
    for work in (
        one_fire, far_away, in_transaction, on_the_wire, races, single_calls, whole_sets, claims, queue, machines, table_sizes, start, memory
    )
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--quick", action="store_const", const=QUICK, dest="size", help="a minute, to see that it works")
    sizes.add_argument("--full", action="store_const", const=FULL, dest="size", help="10,000,000 rows, 1,000,000 fires")
    parser.add_argument("--only", default=",".join(WORKS), help="works to run, separated by commas: %(default)s")
    parser.add_argument("--json", type=Path, default=ROOT / "docs" / "performance.json")
    parser.add_argument(
        "--no-page", action="store_true", help="leave the pages on performance and their charts as they are"
    )
    options = parser.parse_args()
    size = options.size or DEFAULT
    unknown = set(options.only.split(",")) - set(WORKS)
    if unknown:
        parser.error(f"no work {', '.join(sorted(unknown))}; there are {', '.join(WORKS)}")

    makes = json.loads(options.json.read_text()) if options.json.exists() else {}
    told = where(options.url)
    figures = makes.setdefault(told["make"], {})
    for name in options.only.split(","):
        begin = time.monotonic()
        figures[name] = WORKS[name](options.url, size)
        print(f"{name}: {time.monotonic() - begin:.0f} s", flush=True)
    figures["where"] = told
    options.json.write_text(json.dumps(makes, indent=1, sort_keys=True) + "\n")
    if not options.no_page:
        page.write({make: makes[make] for make in MAKES if make in makes}, ROOT / "docs")
    print(page.goals({told["make"]: figures}))


def where(url: str) -> dict[str, Any]:
    """The server, its settings that matter, and the client."""
    engine = tables.engine_of(url)
    with engine.connect() as connection:
        version = connection.scalar(text("SELECT VERSION()"))
        names = ("innodb_flush_log_at_trx_commit", "sync_binlog", "log_bin", "innodb_buffer_pool_size")
        settings = {name: str(connection.scalar(text(f"SELECT @@{name}"))) for name in names}
        make = MAKES[connection.dialect.is_mariadb]  # type: ignore[attr-defined]
    driver = engine.dialect.driver
    engine.dispose()
    return {
        "make": make,
        "server": f"{make} {version}",
        "settings": settings,
        "driver": driver,
        "sqlalchemy": sqlalchemy.__version__,
        "python": platform.python_version(),
        "processors": os.cpu_count(),
        "at": datetime.now(timezone.utc).date().isoformat(),
    }


if __name__ == "__main__":
    main()
