"""``report``: versions and settings for a bug report, and nothing that identifies a machine or a row."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine

from sqlalchemy_fsm_mysql.databases import is_embedded


def test_report_without_a_database_has_the_versions(run: Any) -> None:
    answer = run("report")

    assert (answer.status, answer.err) == (0, "")
    assert f"python: {platform.python_version()}" in answer.out
    assert "  SQLAlchemy: 2." in answer.out
    assert "server:" not in answer.out


def test_report_as_json_has_the_findings_of_a_model(run: Any, shop: Any, tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/shop.db")
    shop.Base.metadata.create_all(engine)
    engine.dispose()

    answer = run("report", f"{shop.__name__}:Order.state", "--url", engine.url, "--json")
    document = json.loads(answer.out)

    assert answer.status == 0
    assert document["server"].startswith("sqlite 3.")
    assert document["driver"] == "pysqlite"
    assert all(": " in finding for finding in document["findings"])
    assert str(tmp_path) not in answer.out


def test_a_database_without_settings_says_so(run: Any, tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    answer = run("report", "--url", f"sqlite:///{tmp_path}/empty.db")

    assert answer.status == 0
    assert "settings: none\n" in answer.out


def test_model_without_a_database_is_wrong_usage(run: Any, shop: Any) -> None:
    answer = run("report", f"{shop.__name__}:Order.state")

    assert answer.status == 2
    assert "give --url" in answer.told


def test_settings_of_a_server_are_reported_without_its_address(run: Any, engine: Engine) -> None:
    engine.connect().close()  # makes the file of SQLite
    answer = run("report", "--url", engine.url.render_as_string(hide_password=False), "--json")

    assert answer.status == 0, answer.err
    document = json.loads(answer.out)
    assert document["driver"] == engine.driver
    if not is_embedded(engine.url):
        assert {"sql_mode", "innodb_flush_log_at_trx_commit"} <= set(document["settings"])
        assert f":{engine.url.port}" not in answer.out
    assert str(engine.url.database) not in answer.out
