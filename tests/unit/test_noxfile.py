"""No chore writes the password of a URL: nox would log every command, and a failed one again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]


def test_a_failed_session_does_not_show_the_password_of_its_url():
    pytest.importorskip("nox")
    url = "mysql+pymysql://ann:open@sesame@127.0.0.1:1/shop?ssl_key_password=sesame"
    done = subprocess.run(
        [sys.executable, "-m", "nox", "-s", "demo", "--no-venv", "--no-install", "--", f"--url={url}"],
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
    """`session.run` logs its arguments; what takes a URL is called by `run_with_url`."""
    text = (PROJECT / "noxfile.py").read_text(encoding="utf-8")

    for module in ("sqlalchemy_fsm_mysql", "benchmarks"):
        assert f'session.run("python", "-m", "{module}"' not in text.replace(', "--servers")', "")
