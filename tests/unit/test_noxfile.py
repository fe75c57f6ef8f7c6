"""The chores: no password of a URL is written, CI names chores that exist, and the release checklist finds what is missing."""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).parents[2]
NOXFILE = (PROJECT / "noxfile.py").read_text(encoding="utf-8")


@pytest.fixture
def python() -> str:
    """A Python that has nox: the one that ./dev made, or this one."""
    for candidate in (PROJECT / ".venv-dev" / "bin" / "python", Path(sys.executable)):
        has_nox = [str(candidate), "-c", "import nox"]
        if candidate.exists() and subprocess.run(has_nox, check=False, capture_output=True).returncode == 0:
            return str(candidate)
    pytest.skip("nox is not installed, and ./dev has not made .venv-dev")


def test_a_failed_session_does_not_show_the_password_of_its_url(python):
    url = "mysql+pymysql://ann:open@sesame@127.0.0.1:1/shop?ssl_key_password=sesame"
    done = subprocess.run(
        [python, "-m", "nox", "-s", "demo", "--no-venv", "--no-install", "--", f"--url={url}"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    printed = done.stdout + done.stderr

    assert done.returncode != 0
    assert "demo --url=mysql+pymysql://ann:***@127.0.0.1:1/shop?…" in printed
    assert "sesame" not in printed


def test_arguments_with_a_url_go_past_the_log_of_nox():
    """`session.run` logs its arguments; what takes a URL is called by `run_python`."""
    for module in ("sqlalchemy_fsm_mysql", "benchmarks"):
        assert f'session.run("python", "-m", "{module}"' not in NOXFILE.replace(', "--servers")', "")


# Chores


def chores() -> set[str]:
    """The names of the nox sessions."""
    names = set()
    for function in ast.parse(NOXFILE).body:
        for decorator in getattr(function, "decorator_list", []):
            call = ast.unparse(decorator)
            if call.startswith("nox.session"):
                names.add(named.group(1) if (named := re.search(r"name='([\w-]+)'", call)) else function.name)
    return names


def called(text: str) -> set[str]:
    """The chores that `./dev NAME` in *text* calls; a matrix's session is that of its chore."""
    return set(re.findall(r"\./dev \"?([a-z][a-z_-]*[a-z])", text))


def steps_of(workflow: str) -> set[str]:
    """The chores of a workflow of GitHub Actions, with those of its matrix."""
    document = yaml.safe_load((PROJECT / ".github" / "workflows" / workflow).read_text("utf-8"))
    jobs = list(document["jobs"].values())
    commands = [step.get("run", "") for job in jobs for step in job["steps"]]
    sessions = [name for job in jobs for name in job.get("strategy", {}).get("matrix", {}).get("session", [])]
    return called("\n".join(commands)) | {name.split()[0] for name in sessions}


@pytest.mark.parametrize("workflow", ["ci.yml", "release.yml"])
def test_a_workflow_calls_chores_that_exist(workflow):
    assert steps_of(workflow) - chores() == set()


def test_github_runs_what_ci_run_runs():
    """But for those that need the servers and the browser which .ci/run installs."""
    ours = called((PROJECT / ".ci" / "run").read_text("utf-8"))

    assert ours - chores() == set()
    assert ours - steps_of("ci.yml") == {"cluster", "browser"}


def test_read_the_docs_makes_the_pages_by_a_chore_that_exists():
    text = (PROJECT / ".readthedocs.yaml").read_text("utf-8")

    assert yaml.safe_load(text)["version"] == 2
    assert called(text) == {"docs"}


def test_issue_forms_are_yaml_and_ask_for_the_report():
    forms = {
        path.name: yaml.safe_load(path.read_text("utf-8")) for path in PROJECT.glob(".github/ISSUE_TEMPLATE/*.yml")
    }

    assert set(forms) == {"bug.yml", "feature.yml", "config.yml"}
    assert any("sqlalchemy-fsm-mysql report" in str(field) for field in forms["bug.yml"]["body"])


# The release checklist

ADDRESS = "https://example.org/fsm"
READY = {
    "CHANGELOG.md": "## [1.2.3] - 2026-01-31\n",
    "CITATION.cff": f"version: 1.2.3\nrepository-code: {ADDRESS}\n",
    "README.md": "pip install sqlalchemy-fsm-mysql",
    "docs/install.md": "pip install sqlalchemy-fsm-mysql",
    "docs/tutorial.md": "pip install sqlalchemy-fsm-mysql",
}
SCRIPT = """
import json, sys
import noxfile
project, files, answers = json.load(sys.stdin)
found = noxfile.release_problems(project, files.__getitem__, lambda *words: answers.get(words[0], ""))
print(json.dumps(list(found)))
"""


def problems(python, urls=None, status="", tag="", **files):
    project = {"version": "1.2.3", "urls": {"Repository": ADDRESS} if urls is None else urls}
    names = {"changelog": "CHANGELOG.md", "citation": "CITATION.cff", "readme": "README.md"}
    texts = READY | {names[name]: text for name, text in files.items()}
    given = json.dumps([project, texts, {"status": status, "tag": tag}])
    done = subprocess.run([python, "-c", SCRIPT], cwd=PROJECT, input=given, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_release_that_is_ready_has_nothing_to_do(python):
    assert problems(python) == []


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"status": " M README.md"}, "commit the changes"),
        ({"tag": "v1.2.3"}, "raise the version"),
        ({"changelog": "## [Unreleased]\n"}, "name the section of CHANGELOG.md"),
        ({"citation": f"version: 1.2.2\nrepository-code: {ADDRESS}\n"}, "write 'version: 1.2.3'"),
        ({"citation": "version: 1.2.3\n"}, f"write 'repository-code: {ADDRESS}'"),
        ({"readme": "alpha software without a release yet"}, "README.md, docs/install.md and docs/tutorial.md install"),
        ({"readme": "git clone REPOSITORY"}, f"write {ADDRESS} for REPOSITORY in README.md"),
        ({"urls": {}}, "enter the repository's address in pyproject.toml"),
    ],
)
def test_release_checklist_finds_what_is_missing(python, wrong, told):
    (problem,) = problems(python, **wrong)

    assert problem.startswith(told)


@pytest.mark.long
def test_ctrl_c_ends_the_demo_with_its_result(python):
    """nox kills what it runs 0.3 s after Ctrl-C: too soon for the demo, and for tests that drop their databases."""
    version = [python, "-c", "import sys; print(*sys.version_info[:2])"]
    if subprocess.run(version, check=True, capture_output=True, text=True).stdout.split() != [
        *map(str, sys.version_info[:2])
    ]:
        pytest.skip("nox has a Python of another version, which cannot import what these tests have installed")
    demo = subprocess.Popen(
        [python, "-m", "nox", "-s", "demo", "--no-venv", "--no-install", "--", "--seconds", "60", "--workers", "2"],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert demo.stdout
    for line in demo.stdout:
        if " moved, " in line:
            break
    os.killpg(demo.pid, signal.SIGINT)  # as a terminal does
    printed, _ = demo.communicate(timeout=60)

    assert "All checks passed." in printed
    assert demo.returncode == 0


@pytest.mark.parametrize(
    ("named", "programs", "user", "is_installed"),
    [
        ("", (), 1000, True),
        ("", ("apt-get",), 1000, True),  # which only root can use
        ("", ("apt-get",), 0, False),
        ("", ("mariadbd",), 1000, False),
        ("mysql+pymysql://root@127.0.0.1/test", (), 1000, False),
        ("seekdb", ("mysqld",), 0, True),
    ],
)
def test_seekdb_is_installed_where_it_is_named_or_nothing_else_is_to_be_had(
    monkeypatch, named, programs, user, is_installed
):
    import noxfile

    monkeypatch.setenv("FSM_TEST_URLS", named)
    monkeypatch.setattr(noxfile.shutil, "which", lambda name, path=None: name if name in programs else None)
    monkeypatch.setattr(noxfile.os, "geteuid", lambda: user)
    ran: list[tuple[str, ...]] = []

    class Session:
        def log(self, text: str) -> None:
            assert "seekdb" in text

        def run(self, *command: str, **options: object) -> None:
            ran.append(command)

    noxfile.install_seekdb(Session())

    assert [command[-1] for command in ran] == (["pylibseekdb>=1.4"] if is_installed else [])
