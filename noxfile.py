"""The project's chores, each in an environment of its own; ``./dev NAME`` runs one.

What the sessions install comes from pyproject.toml: the extras a user has too, and the dependency groups.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import nox

nox.needs_version = ">=2024.10.9"
nox.options.reuse_venv = "yes"
# nox looks for uv, and a newcomer reads as an error that it was not found.
logging.getLogger("nox").addFilter(lambda record: "uv binary not found" not in record.getMessage())
nox.options.sessions = ["tests", "lint", "types", "build"]
# Only tests_matrix names interpreters, and covers those that are there. When CI is set, nox would fail.
nox.options.error_on_missing_interpreters = False

PROJECT = nox.project.load_toml("pyproject.toml")
NEWEST = "SQLAlchemy>=2.1,<2.2"
NEWEST_20 = "SQLAlchemy>=2.0.30,<2.1"
OLDEST = "SQLAlchemy==2.0.30"
# SQLAlchemy 2.0.30 does not import on Python 3.13.
OLDEST_ON_313 = "SQLAlchemy==2.0.31"
PACKAGE_WITH_EXTRAS = ".[alembic,aiomysql,asyncmy,cli,diagram,otel,pymysql,sphinx,testing]"

# The installed package, without this folder on sys.path: the main job, and the marker for type checkers.
SMOKE = """
from importlib.resources import files

from sqlalchemy import create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy_fsm_mysql import Event, Machine, StateMachineColumn

machine = Machine(initial="new", events=[Event("Pay", {"new": "paid"})])

class Base(DeclarativeBase):
    pass

class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine)

engine = create_engine("sqlite://")
Base.metadata.create_all(engine)
with Session(engine) as session:
    order = Order(id=1)
    session.add(order)
    moved = order.fire("Pay", session)
    session.commit()
    assert (moved.source, moved.target) == ("new", "paid"), moved
    assert session.scalar(select(Order.state)) == "paid"
assert files("sqlalchemy_fsm_mysql").joinpath("py.typed").is_file()
print("the installed package fires")
"""


def group(name: str) -> tuple[str, ...]:
    """The requirements of a dependency group."""
    return nox.project.dependency_groups(PROJECT, name)


def masked(argument: str) -> str:
    """*argument* for the log: a URL without its password and its options, which may have one too."""
    if "://" not in argument:
        return argument
    return re.sub(r"\?.*", "?…", re.sub(r"(://[^:/]*):.*@", r"\1:***@", argument))


def run_python(session: nox.Session, *arguments: str) -> None:
    """Run the session's Python with *arguments*, one of which may be a URL; at Ctrl-C, wait until it has ended.

    Not by session.run: nox writes each command into its log, and a failed one with ``log=False`` as well. At Ctrl-C it
    kills after 0.3 seconds, which is too short for a demo to show its result, or for tests to drop their databases.
    """
    session.log(" ".join(["python", *map(masked, arguments)]))
    folder = session.bin_paths[0] if session.bin_paths else str(Path(sys.executable).parent)
    environment = {name: value for name, value in {**os.environ, **session.env}.items() if value is not None}
    environment["PATH"] = os.pathsep.join([folder, environment.get("PATH", os.defpath)])
    process = subprocess.Popen([str(Path(folder) / "python"), *arguments], env=environment)  # noqa: S603 - the developer's own words
    while True:
        try:
            status = process.wait()
            break
        except KeyboardInterrupt:  # the terminal has sent it to the process, too
            continue
    if status:
        session.error(f"exit status {status}")


@nox.session
def demo(session: nox.Session) -> None:
    """Race events on a few rows, watch, check: needs nothing but Python."""
    seekdb = [SEEKDB] if "seekdb" in session.posargs else []
    install_once(session, *seekdb, "--editable", ".[cli,pymysql]")
    run_python(session, "-m", "sqlalchemy_fsm_mysql", "demo", *session.posargs)


def install_once(session: nox.Session, *arguments: str) -> None:
    """Install, unless the environment has it already: the second demo needs no package index."""
    wanted = hashlib.sha256("\n".join([*arguments, Path("pyproject.toml").read_text("utf-8")]).encode()).hexdigest()
    stamp = Path(session.bin_paths[0], "installed") if session.bin_paths else None
    if stamp is None or not stamp.exists() or stamp.read_text() != wanted:
        session.log("installing into .nox, once: about a minute, and a package index is needed")
        session.install("--quiet", *arguments)
    if stamp is not None:
        stamp.write_text(wanted)


@nox.session(name="alembic-example")
def alembic_example(session: nox.Session) -> None:
    """A machine that changes from release to release, under a writer: on SQLite, and on the tests' servers."""
    session.install("--quiet", *group("test"), NEWEST, "--editable", PACKAGE_WITH_EXTRAS)
    install_mysqlclient(session)
    run_python(session, "-m", "alembic_example", *(session.posargs or ["--rows", "20000"]))
    if not session.posargs:
        session.run("python", "-m", "alembic_example", "--servers")


@nox.session
def tests(session: nox.Session) -> None:
    """The quick profile; --all: all tests on the newest SQLAlchemy; in .ci/run they are a run for each server."""
    run_tests(session, NEWEST)


@nox.session(python=["3.10", "3.11", "3.12", "3.13", "3.14"])
@nox.parametrize("sqlalchemy", [nox.param(name, id=name) for name in ("oldest", "newest-2.0", "newest")])
def tests_matrix(session: nox.Session, sqlalchemy: str) -> None:
    """The tests on every supported Python that is there, with the oldest SQLAlchemy, the newest 2.0 and the newest."""
    if session.python == "3.14" and sqlalchemy == "oldest":
        session.skip("the oldest SQLAlchemy is older than Python 3.14")
    oldest = OLDEST_ON_313 if session.python == "3.13" else OLDEST
    run_tests(session, {"oldest": oldest, "newest-2.0": NEWEST_20, "newest": NEWEST}[sqlalchemy])


@nox.session(python=["3.13t", "3.14t"])
def free_threaded(session: nox.Session) -> None:
    """The races and the conformance suite on each Python without the GIL that is there, where threads run at once."""
    needed = ("aiosqlite", "hypothesis", "pytest")
    chosen = [requirement for requirement in group("test") if requirement.startswith(needed)]
    session.install("--quiet", *chosen, NEWEST, "greenlet", "--editable", ".[alembic,cli,pymysql]")
    install_mysqlclient(session)
    places = ("tests/race/test_threads.py", "tests/race", "tests/conformance")
    # The tests of asyncio import greenlet, whose version 3.2 turns the GIL on in 3.13t unless this keeps it off. Then
    # a switch of greenlets crashes, so they are left out.
    options = ("-k", "not async") if not session.posargs else ()
    session.run("python", "-m", "pytest", *(session.posargs or places), *options, env={"PYTHON_GIL": "0"})


QUICK = (
    "quick profile: each test once on SQLite and on each server found, without races, faults and migrations."
    " It takes about a minute and a half with one server on two CPUs, after the installation."
    " ./dev tests --all runs everything, in about twenty minutes."
)
ALL = (
    "all tests, on SQLite and on each server found, among them races, faults and migrations: about twenty minutes on"
    " two CPUs, after the installation. The servers that they kill are private ones in temporary folders."
)


def run_tests(session: nox.Session, sqlalchemy: str) -> None:
    """Install, and run the tests of each database side by side; with arguments for pytest, one run of them."""
    is_quick = session.name == "tests" and not session.posargs
    if is_quick or "--all" in session.posargs:
        session.log(QUICK if is_quick else ALL)
    alembic = [] if sqlalchemy in {NEWEST, NEWEST_20} else ["alembic==1.13.0"]
    wanted = (*group("test"), *group("web"), sqlalchemy, *alembic, "--editable", PACKAGE_WITH_EXTRAS)
    install_once(session, *wanted)
    install_mysqlclient(session)
    install_seekdb(session)
    arguments = [argument for argument in session.posargs if argument != "--all"]
    if arguments:
        run_python(session, "-m", "pytest", *arguments)
        return
    is_measured = session.name == "tests" and not is_quick and "CI" in os.environ
    options = {"--quick": is_quick, "--coverage": is_measured, "--ends": session.name != "tests"}
    run_python(session, "-m", "tests.shares", *(name for name, is_on in options.items() if is_on))


def install_mysqlclient(session: nox.Session) -> None:
    """Have the driver wherever it builds; where not, say that it goes untested."""
    # Source-only on Linux: pip needs the client's headers, Python's, pkg-config and a compiler.
    said = session.run(
        *("python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
        *PROJECT["project"]["optional-dependencies"]["mysqlclient"],
        success_codes=[0, 1],
        silent=True,
    )
    probe = "import importlib.util as u; print('built' if u.find_spec('MySQLdb') else 'missing')"
    if "built" in str(session.run("python", "-c", probe, silent=True)):
        return
    session.log("\n".join(str(said).splitlines()[-5:]))
    session.warn("=" * 78)
    session.warn("mysqlclient could not be built here and is NOT COVERED BY THIS RUN. On Debian and Ubuntu:")
    session.warn("apt-get install default-libmysqlclient-dev libmariadb3 pkg-config gcc python3-dev")
    session.warn("=" * 78)


SEEKDB = "pylibseekdb>=1.4"


def install_seekdb(session: nox.Session) -> None:
    """OceanBase's seekdb, a server in a wheel, where FSM_TEST_URLS names it, or no other server is to be had.

    Docker, if it answers, comes before it (tests/servers.py): then the wheel is not used.
    """
    named = os.environ.get("FSM_TEST_URLS", "").strip()
    places = os.pathsep.join([*os.get_exec_path(), "/usr/sbin", "/usr/local/sbin"])
    is_here = any(shutil.which(name, path=places) for name in ("mysqld", "mariadbd"))
    is_installable = shutil.which("apt-get") and getattr(os, "geteuid", lambda: 0)() == 0
    if ("seekdb" not in named.split(",")) if named else (is_here or is_installable):
        return
    session.log("no server is named or installed here, and none can be by apt: installing OceanBase's seekdb, a wheel")
    session.run("python", "-m", "pip", "install", "--quiet", SEEKDB, success_codes=[0, 1], silent=True)


# A driver a process: one that crashes takes no other with it.
DRIVERS = ("mysqldb", "pymysql", "mysqlconnector", "mariadbconnector", "asyncmy", "aiomysql", "aiosqlite", "sqlite")


@nox.session
def drivers(session: nox.Session) -> None:
    """The conformance suite on every driver; with arguments, on those named. At the end, how many tests ran on each."""
    wanted = [name for name in DRIVERS if not session.posargs or name in session.posargs]
    if unknown := set(session.posargs) - set(DRIVERS):
        session.error(f"no driver {', '.join(sorted(unknown))}; there are {', '.join(DRIVERS)}")
    session.install("--quiet", *group("test"), *group("drivers"), NEWEST, "--editable", PACKAGE_WITH_EXTRAS)
    install_mysqlclient(session)
    session.run("python", "-m", "pip", "install", "--quiet", "mariadb>=1.1", success_codes=[0, 1], silent=True)
    results = {}
    for name in wanted:
        target = name if "sqlite" in name else f"-{name}"
        said = session.run(
            *("python", "-m", "pytest", "tests/conformance", "--all-drivers", f"--target={target}", "-q"),
            success_codes=[0, 1, 3, 4, 139, -11],
            silent=True,
        )
        lines = str(said).splitlines()
        (last,) = lines[-1:] or ["it said nothing"]
        results[name] = last
        if not is_green(last):
            session.log("\n".join(line for line in lines[-80:] if not set(line) <= set(".sxX[]% 0123456789")))
    for name, result in results.items():
        session.log(f"{name}: {result}")
    bad = [name for name, said in results.items() if not is_green(said)]
    if bad:
        session.error(f"not green, or not there: {', '.join(bad)}")


def is_green(said: str) -> bool:
    """Whether pytest's last line tells of tests that passed, and of none that failed; xfailed is not failed."""
    return " passed" in said and not re.search(r"\d (failed|errors?)\b", said)


@nox.session
def cluster(session: nox.Session) -> None:
    """Races, tokens and lost nodes on Galera and Group Replication; needs ../shared/servers. Arguments go to pytest.

    FSM_CLUSTER_SECONDS=600 races ten minutes for each fault; without it, all tests together take about four.
    """
    session.install("--quiet", *group("test"), NEWEST, "--editable", PACKAGE_WITH_EXTRAS)
    kinds = os.environ.get("FSM_CLUSTER", "galera,group")
    session.run("python", "-m", "pytest", "tests/cluster", *session.posargs, env={"FSM_CLUSTER": kinds})


# Both drivers and both backends on each server.
EVERY_PAIR = {"FSM_EVERY_PAIR": "1"}
# The servers of ../shared/servers; without them, whatever the tests find.
SHARED = ("mysql97", "mariadb118", "mariadb1011")


def shared_servers() -> str:
    """The names of the servers that can be unpacked here, as FSM_MARCH takes them; empty when there are none."""
    return ",".join(SHARED) if (Path(__file__).parents[1] / "shared" / "servers" / "server").exists() else ""


@nox.session
def faults(session: nox.Session) -> None:
    """Every fault and wrong version on every server, in five minutes. FSM_MARCH_FIRES=310000 marches longer."""
    session.install("--quiet", *group("test"), NEWEST, "--editable", PACKAGE_WITH_EXTRAS)
    install_mysqlclient(session)
    march = {**EVERY_PAIR, "FSM_MARCH_FIRES": os.environ.get("FSM_MARCH_FIRES", "3000")}
    march["FSM_MARCH"] = os.environ.get("FSM_MARCH", shared_servers())
    within = ["--session-timeout=900"] if "FSM_MARCH_FIRES" not in os.environ else []
    session.run("python", "-m", "pytest", "tests/faults", *within, *session.posargs, env={"FSM_FAULTS": "1", **march})


@nox.session
def fuzz(session: nox.Session) -> None:
    """FSM_FUZZ_CASES names and values (100,000) on every server, driver, sql_mode and client character set."""
    session.install("--quiet", *group("test"), NEWEST, "--editable", PACKAGE_WITH_EXTRAS)
    install_mysqlclient(session)
    cases = os.environ.get("FSM_FUZZ_CASES", "102000")
    session.run("python", "-m", "pytest", "tests/fuzz", *session.posargs, env={**EVERY_PAIR, "FSM_FUZZ_CASES": cases})


@nox.session
def evidence(session: nox.Session) -> None:
    """A million fires under faults, all wrong versions, 100,000 inputs, for docs/evidence/faults.md. Twenty minutes."""
    session.install("--quiet", *group("test"), NEWEST, "--editable", PACKAGE_WITH_EXTRAS)
    install_mysqlclient(session)
    records = Path("docs/evidence/faults.jsonl")
    # Not create_tmp(), which makes it the tests' folder too: its path is too long for a server's socket.
    fresh = Path(session.virtualenv.location) / "evidence.jsonl"
    fresh.unlink(missing_ok=True)
    environment = EVERY_PAIR | {
        "FSM_EVIDENCE": str(fresh.resolve()),
        "FSM_FAULTS": "1",
        "FSM_FUZZ_CASES": os.environ.get("FSM_FUZZ_CASES", "102000"),
        "FSM_MARCH": os.environ.get("FSM_MARCH", shared_servers()),
        "FSM_MARCH_FIRES": os.environ.get("FSM_MARCH_FIRES", "310000"),
    }
    # Each by itself: a failure of one is recorded too, and the page has to show it.
    for folder in ("tests/faults", "tests/race", "tests/fuzz"):
        session.run("python", "-m", "pytest", folder, "-q", env=environment, success_codes=[0, 1])
    records.write_bytes(fresh.read_bytes())
    page = session.run("python", "-m", "tests.evidence.page", str(records), silent=True)
    Path("docs/evidence/faults.md").write_text(str(page), encoding="utf-8")
    session.run("python", "-m", "pytest", "tests/unit/test_evidence.py", "-q")


@nox.session
def bench(session: nox.Session) -> None:
    """Speeds side by side on the server of a URL, in five minutes; writes the pages on performance. See --help."""
    session.install("--quiet", *group("bench"), *group("peers"), NEWEST, "--editable", ".")
    install_mysqlclient(session)
    run_python(session, "-m", "benchmarks", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff's rules (bandit's among them) and format, shell syntax, known vulnerabilities. A test has the imports."""
    session.install("--quiet", *group("lint"))
    session.run("ruff", "check", ".", *session.posargs)
    session.run("ruff", "format", "--check", ".")
    session.run("sh", "-n", "dev", external=True)
    session.run("bash", "-n", ".ci/run", external=True)
    audit(session)


def audit(session: nox.Session) -> None:
    """Known vulnerabilities of what the package depends on are an error; a service that does not answer is told."""
    how = ("--format=json", "--progress-spinner=off", ".")
    said = str(session.run("pip-audit", *how, success_codes=[0, 1], silent=True))
    found = next((json.loads(line) for line in said.splitlines() if line.startswith('{"dependencies"')), None)
    if found is None:
        session.warn(f"known vulnerabilities: NOT COVERED BY THIS RUN. {said.strip().splitlines()[-1:]}")
        return
    skipped = [each["name"] for each in found["dependencies"] if "skip_reason" in each]
    if skipped:
        session.warn(f"known vulnerabilities of {', '.join(skipped)}: NOT COVERED BY THIS RUN, nobody here knows them")
    known = {each["name"]: [v["id"] for v in each["vulns"]] for each in found["dependencies"] if each.get("vulns")}
    if known:
        session.error(f"known vulnerabilities: {known}")


LEAST_TYPED = 0.98


@nox.session
def types(session: nox.Session) -> None:
    """mypy --strict on the package and on a user's code, pyright and basedpyright on the latter."""
    session.install("--quiet", *group("types"), NEWEST, "--editable", PACKAGE_WITH_EXTRAS)
    session.run("mypy", "--strict", *session.posargs)
    session.run("pyright", env={"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"})
    session.run("basedpyright")
    # The share of the names that the package exports whose types every checker infers alike.
    how = ("--ignoreexternal", "--verifytypes", "sqlalchemy_fsm_mysql", "--outputjson")
    said = str(session.run("pyright", *how, success_codes=[0, 1], silent=True))
    score = json.loads(said[said.index("{") :])["typeCompleteness"]["completenessScore"]
    if score < LEAST_TYPED:
        session.error(f"{score:.1%} of the exported names have a known type, and {LEAST_TYPED:.0%} is the least")
    session.log(f"{score:.1%} of the exported names have a known type")


@nox.session
def peers(session: nox.Session) -> None:
    """docs/moving/, and the table of libraries, with these libraries: they do what the pages say."""
    session.install("--quiet", *group("test"), *group("web"), NEWEST, "--editable", PACKAGE_WITH_EXTRAS)
    session.install("--quiet", *group("peers"))
    for fsm in ("sqlalchemy-fsm==2.2.0", "sqlalchemy-fsm==3.0.0rc1"):
        session.install("--quiet", fsm)
        for chosen in ("moving", "alternatives"):  # apart: a process configures Django once
            command = ("python", "-m", "pytest", "tests/docs", "-k", chosen, "--target=sqlite")
            session.run(*command, env={"FSM_PEERS": "1"})


@nox.session
def ecosystem(session: nox.Session) -> None:
    """The recipes, the pages on the web and tests/ecosystem, with the libraries that applications use beside this."""
    session.install("--quiet", *group("test"), *group("ecosystem"), NEWEST, "--editable", PACKAGE_WITH_EXTRAS)
    places = ("tests/ecosystem", "tests/docs/test_examples.py", "tests/unit/test_outcome_data.py")
    only = () if session.posargs else ("-k", "recipes or web.md or ecosystem or outcome_data", "--target=mariadb")
    session.run("python", "-m", "pytest", *places, *only, *session.posargs, env={"FSM_ECOSYSTEM": "1"})
    if session.posargs:
        return
    # Flask-Admin does not import on SQLAlchemy 2.1, nor does Flask-SQLAlchemy's mode for dataclasses.
    session.install("--quiet", NEWEST_20)
    only = ("-k", "flask_admin or flask-admin or flask_sqlalchemy", "--target=mariadb")
    session.run("python", "-m", "pytest", *places, *only, env={"FSM_ECOSYSTEM": "1"})


@nox.session
def browser(session: nox.Session) -> None:
    """The pages of examples/, clicked in a headless Chromium: apt-get install chromium chromium-driver."""
    groups = [*group("test"), *group("web"), *group("browser")]
    session.install("--quiet", *groups, NEWEST, "--editable", PACKAGE_WITH_EXTRAS)
    session.run("python", "-m", "pytest", "tests/browser", *session.posargs, env={"FSM_BROWSER": "1"})


@nox.session
def newcomer(session: nox.Session) -> None:
    """README.md and the tutorial, command by command, from a fresh clone and in an environment of their own."""
    session.install("--quiet", *group("test"), NEWEST, "--editable", PACKAGE_WITH_EXTRAS)
    session.run("python", "-m", "tests.docs.newcomer", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """The pages as HTML, in site/ or --output FOLDER. Broken links, warnings and findings of the prose linter fail."""
    folder = option(session, "--output", "site")
    session.install("--quiet", *group("docs"), *group("browser"), NEWEST, "--editable", PACKAGE_WITH_EXTRAS)
    session.run("python", "-m", "tests.docs.prose")
    # -E: pages that were read before have lost the words that docs/extensions/search_words.py gives to the search.
    session.run("sphinx-build", "-E", "-n", "-W", "--keep-going", "-q", "-b", "html", "docs", folder)
    # Without the conftest of the tests, which wants their servers.
    options = ("--noconftest", "-q", "-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib")
    site = {"FSM_SITE": str(Path(folder).resolve())}
    places = ["tests/docs/test_site.py"]
    if shutil.which("chromedriver"):
        places.append("tests/browser/test_documentation.py")
    else:
        session.warn("no chromedriver on PATH: HOW THE PAGES LOOK IS NOT COVERED BY THIS RUN")
    session.run("python", "-m", "pytest", *options, *places, env=site)
    session.log(f"the pages are in {folder}/index.html")


@nox.session
def modes(session: nox.Session) -> None:
    """The conformance suite on SQLite without asserts, and in Python's development mode with every warning an error."""
    session.install("--quiet", *group("test"), NEWEST, "--editable", PACKAGE_WITH_EXTRAS)
    suite = ("-m", "pytest", "tests/conformance", "--target=sqlite", "-q")
    # pytest rewrites the asserts of test modules, so those count with -O as well; it warns of the others.
    session.run("python", "-O", *suite, "-W", "ignore::pytest.PytestConfigWarning", *session.posargs)
    session.run("python", "-X", "dev", "-W", "error", *suite, *session.posargs)


# The time of every file in the archives: any will do, if it is the same for all builds.
EPOCH = "1767225600"


@nox.session(reuse_venv=False)
def build(session: nox.Session) -> None:
    """The sdist, the wheel made of it twice with the same bytes, and the wheel at work in an environment of its own."""
    output = option(session, "--output", "")
    folder = Path(session.create_tmp()) / "dist"
    shutil.rmtree(folder, ignore_errors=True)
    session.install("--quiet", *group("build"))
    wheel = reproduced(session, folder)
    names = check_wheel(session, wheel)
    session.run("twine", "check", "--strict", *map(str, sorted(wheel.parent.iterdir())))

    clean = folder.parent / "clean"
    session.run("python", "-m", "venv", "--clear", str(clean))
    python = str(clean / ("Scripts" if sys.platform == "win32" else "bin") / "python")
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    session.run(*pip, str(wheel), external=True)
    smoke = clean / "smoke.py"
    smoke.write_text(SMOKE)
    session.run(python, "-I", "-W", "error", str(smoke), external=True)
    session.run(python, "-I", "-O", "-X", "dev", "-W", "error", str(smoke), external=True)
    session.run(*pip, f"{wheel}[cli]", external=True)
    session.run(python, "-I", "-m", "sqlalchemy_fsm_mysql", "--version", external=True)
    session.log(f"{len(names)} files in {wheel.name}")
    if output:
        shutil.copytree(wheel.parent, output, dirs_exist_ok=True)


def option(session: nox.Session, name: str, default: str) -> str:
    """The value of the only option that the session takes."""
    if not session.posargs:
        return default
    if len(session.posargs) != 2 or session.posargs[0] != name:  # noqa: PLR2004 - the option and its value
        session.error(f"usage: ./dev {session.name} [{name} FOLDER]")
    return session.posargs[1]


def reproduced(session: nox.Session, folder: Path) -> Path:
    """The wheel. An error, unless a copy elsewhere, in another time zone and umask, is built to the same bytes."""
    copy = folder.parent / "another place"
    shutil.rmtree(copy, ignore_errors=True)
    names = str(session.run("git", "ls-files", "-z", external=True, silent=True)).split("\0")
    for name in filter(None, names):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(Path(name).read_bytes())
        (copy / name).chmod(0o755 if os.access(name, os.X_OK) else 0o600)
    digests = []
    for source, zone in ((Path.cwd(), "UTC"), (copy, "Asia/Kathmandu")):
        target = folder / zone.replace("/", "-")
        environment = {"SOURCE_DATE_EPOCH": EPOCH, "TZ": zone}
        session.run("python", "-m", "build", "--outdir", str(target), str(source), silent=True, env=environment)
        digests.append({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in target.iterdir()})
    if digests[0] != digests[1]:
        session.error(f"two builds differ: {digests}")
    for name, digest in digests[0].items():
        session.log(f"{digest}  {name}")
    (wheel,) = (folder / "UTC").glob("*.whl")
    return wheel


def check_wheel(session: nox.Session, wheel: Path) -> list[str]:
    """The names in *wheel*: the package and its metadata, and no path of this machine."""
    archive = zipfile.ZipFile(wheel)
    names = archive.namelist()
    strays = [name for name in names if not name.startswith(("sqlalchemy_fsm_mysql/", "sqlalchemy_fsm_mysql-"))]
    strays += [name for name in names if "test_" in name or "conftest" in name or name.endswith(".pyc")]
    if strays:
        session.error(f"the wheel holds {strays}")
    ours = (str(Path.cwd()), str(Path.home()) + os.sep, session.virtualenv.location)
    if told := [name for name in names for path in ours if path.encode() in archive.read(name)]:
        session.error(f"paths of this machine are in {told}")
    return names


@nox.session
def release(session: nox.Session) -> None:
    """The release checklist. --dry-run changes nothing; without it, the tag of the version is made at the end."""
    if session.posargs not in ([], ["--dry-run"]):
        session.error("usage: ./dev release [--dry-run]")
    version = PROJECT["project"]["version"]
    session.log(f"release checklist of {version}; lint, types, docs and build follow, and take some minutes")
    problems = list(release_problems(PROJECT["project"], read, git))
    failed = []
    for name in ("lint", "types", "docs", "build"):
        try:
            session.run("./dev", name, external=True)
        except nox.command.CommandFailed:
            failed.append(f"./dev {name} fails, see above")
    for name in ("lint", "types", "docs", "build"):
        session.log(f"{'TO DO' if any(f'./dev {name} ' in each for each in failed) else 'ok   '} ./dev {name}")
    for problem in (*problems, *failed):
        session.warn(f"TO DO {problem}")
    if problems or failed:
        session.error(f"{version} cannot be released yet: {len(problems) + len(failed)} to do, listed above")
    if session.posargs:
        session.log(
            f"{version} is ready. CI has to be green for {git('rev-parse', '--short', 'HEAD')}; then: ./dev release"
        )
        return
    session.run("git", "tag", "--annotate", f"v{version}", "--message", version, external=True)
    session.log(f"Push the tag, and the workflow release.yml publishes it: git push origin v{version}")


def release_problems(project: Mapping[str, Any], read: Callable[[str], str], git: Callable[..., str]) -> Iterator[str]:
    """Whatever stands between this commit and a release of *project*; *read* returns a file's text."""
    version, address = project["version"], project.get("urls", {}).get("Repository", "")
    if git("status", "--porcelain"):
        yield "commit the changes in the working tree"
    if git("tag", "--list", f"v{version}"):
        yield f"raise the version in pyproject.toml: the tag v{version} exists"
    if not re.search(rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$", read("CHANGELOG.md"), re.MULTILINE):
        yield f"name the section of CHANGELOG.md '## [{version}] - YYYY-MM-DD'; it is called Unreleased until then"
    if f"version: {version}\n" not in read("CITATION.cff"):
        yield f"write 'version: {version}' in CITATION.cff"
    if "without a release yet" in read("README.md"):
        yield "README.md, docs/install.md and docs/tutorial.md install from a clone: write pip install"
    if not address.startswith("https://"):
        yield "enter the repository's address in pyproject.toml, [project.urls] Repository: the only place that has it"
        return
    for name in ("README.md", "docs/install.md", "docs/tutorial.md"):
        if "git clone REPOSITORY" in read(name):
            yield f"write {address} for REPOSITORY in {name}"
    if f"repository-code: {address}\n" not in read("CITATION.cff"):
        yield f"write 'repository-code: {address}' in CITATION.cff"


def read(name: str) -> str:
    return Path(name).read_text(encoding="utf-8")


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout.strip()  # noqa: S603
