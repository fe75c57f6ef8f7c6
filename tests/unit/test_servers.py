"""The pieces of tests/servers.py, and the fixtures that stand on it."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import traceback
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import URL, Engine, make_url, text
from sqlalchemy.exc import SQLAlchemyError

from sqlalchemy_fsm_mysql.testing.servers import ServerUnavailable, private_server, which
from tests import servers

PYMYSQL = make_url("mysql+pymysql://root@127.0.0.1:3306/test")
POSTGRES = make_url("postgresql+psycopg://postgres@127.0.0.1:5432/postgres")


def closed(reason: str) -> servers.Way:
    """A way to a server that is not open."""

    def way(stack: ExitStack) -> list[URL]:
        raise servers.Unavailable(reason)

    return way


@pytest.mark.parametrize(
    ("version", "name"),
    [
        ("9.7.4-2", "mysql97"),
        ("8.0.36-0ubuntu0.22.04.1", "mysql80"),
        ("11.8.9-MariaDB-0+deb13u1 from Debian", "mariadb118"),
        ("5.5.5-10.11.18-MariaDB-0+deb12u1-log", "mariadb1011"),
        ("5.5.62", "mysql55"),
        ("5.7.25-OceanBase seekdb-v1.4.0.0", "seekdb14"),
        ("nonsense", "unknown"),
    ],
)
def test_name_follows_the_reported_version(version, name):
    assert servers.server_name(version) == name


def test_every_server_is_a_target_with_every_driver(monkeypatch):
    monkeypatch.setattr(servers, "installed_drivers", lambda drivers: drivers)
    found = [servers.Server(PYMYSQL, "mysql97", "9.7.4", "by hand")]

    assert {name: url.drivername for name, url in servers.targets(found).items()} == {
        "mysql97-mysqldb": "mysql+mysqldb",
        "mysql97-pymysql": "mysql+pymysql",
    }


def test_a_server_is_a_target_with_the_drivers_of_its_own_kind_only(monkeypatch):
    monkeypatch.setattr(servers, "installed_drivers", lambda drivers: drivers)
    found = [servers.Server(POSTGRES, "postgresql1518", "PostgreSQL 15.18", "by hand")]
    drivers = ("mysqldb", "pymysql", "psycopg")

    assert [url.drivername for url in servers.targets(found, drivers).values()] == ["postgresql+psycopg"]


@pytest.mark.parametrize(
    ("address", "is_usual"),
    [
        ("mysql+pymysql://root@one/x", True),
        ("mariadb+pymysql://root@one/x", True),
        ("mysql+mysqldb://root@one/x", False),
        ("postgresql+psycopg://root@one/x", True),
        ("sqlite://", True),
        ("sqlite+aiosqlite://", False),
    ],
)
def test_one_driver_of_each_kind_has_the_tests_that_need_only_one(address, is_usual):
    assert servers.is_by_usual_driver(make_url(address)) is is_usual


def test_environment_names_several_servers(monkeypatch):
    monkeypatch.setenv("FSM_TEST_URLS", "mysql+mysqldb://root@one/x, mariadb+pymysql://root@two:3307,")

    assert [url.host for url in servers.from_environment(ExitStack())] == ["one", "two"]


def test_environment_refuses_another_kind_of_database(monkeypatch):
    monkeypatch.setenv("FSM_TEST_URLS", "postgresql://root:hush@one/x")

    with pytest.raises(servers.NoServer, match="only mysql") as refused:
        servers.from_environment(ExitStack())
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    ["mysql+pymysql:/root:hush@one", "root:hush@one:3306", "mysql://root:hush@one:none/x", "mysql://root:a@hush/x@one"],
)
def test_environment_that_is_no_url_is_told_without_its_password(monkeypatch, text):
    monkeypatch.setenv("FSM_TEST_URLS", text)

    with pytest.raises(servers.NoServer) as refused:
        servers.from_environment(ExitStack())
    assert "hush" not in "".join(traceback.format_exception(refused.value))


def test_server_is_shown_without_password_and_options():
    url = make_url("mysql+pymysql://root:hush@one/x?ssl_key_password=hush")

    assert (
        str(servers.Server(url, "mysql97", "9.7.4", "Docker"))
        == "mysql97 9.7.4 (Docker: mysql+pymysql://root:***@one/x)"
    )


def test_seekdb_is_the_last_way_and_the_run_says_so(monkeypatch, capsys):
    """Every other way leads to MySQL or MariaDB, which the library is for."""
    assert list(servers.WAYS) == ["FSM_TEST_URLS", "Docker", "a private server", "apt-get", "seekdb"]
    pytest.importorskip("pylibseekdb")
    monkeypatch.delenv("FSM_TEST_URLS", raising=False)

    others = {name: closed("not here") for name in servers.WAYS if name != "seekdb"}
    with ExitStack() as stack:
        (server,) = servers.find({**others, "seekdb": servers.WAYS["seekdb"]}, stack)

    assert server.name.startswith("seekdb")
    assert "no other server found: the tests run on OceanBase's seekdb" in capsys.readouterr().err


def test_no_server_says_what_was_tried_and_what_to_do():
    """Nothing is skipped in silence: every way says why it is closed, and the advice follows."""
    with pytest.raises(servers.NoServer) as refused:
        servers.find({"Docker": closed("no engine answers"), "apt-get": closed("only root can install")}, ExitStack())

    message = str(refused.value)
    assert "Docker: no engine answers" in message
    assert "apt-get: only root can install" in message
    assert "FSM_TEST_URLS=mysql+pymysql://" in message


def test_named_server_that_does_not_answer_is_an_error_without_its_password():
    port = servers.free_port()
    silent = make_url(f"mysql+pymysql://root:hush@127.0.0.1:{port}")

    with pytest.raises(servers.NoServer, match=f"{port} does not answer") as refused:
        servers.find({"FSM_TEST_URLS": lambda stack: [silent]}, ExitStack())
    assert "hush" not in str(refused.value)


def test_no_outgoing_connection_is_given_the_port_of_a_server():
    """Else a killed server may find its port taken when it is started again."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as client:
        given = client.getsockname()[1]

        assert all(servers.free_port() < given for _ in range(20))


@pytest.mark.long
@pytest.mark.skipif(not (which("mysqld") or which("mariadbd")), reason="no mysqld or mariadbd is installed here")
def test_server_that_does_not_start_is_an_error_with_the_end_of_its_log():
    with pytest.raises(ServerUnavailable, match="(?s)ended at once.*ERROR"), private_server("--innodb-page-size=3"):
        pass


@pytest.mark.long
def test_guard_cleans_up_after_a_killed_process(tmp_path):
    """A run that is killed leaves neither its server nor its folder."""
    folder = tmp_path / "data"
    folder.mkdir()
    script = (
        "import os, pathlib, signal, subprocess, sys\n"
        "from sqlalchemy_fsm_mysql.testing import servers\n"
        "server = subprocess.Popen(['sleep', '600'], stdout=subprocess.DEVNULL)\n"
        "stop = servers.guard(server, pathlib.Path(sys.argv[1]))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(servers.__file__).parents[1]

    subprocess.run([sys.executable, "-c", script, str(folder)], cwd=root, check=False)

    gone = subprocess.run(
        ["sh", "-c", 'while [ -e "$1" ]; do sleep 0.05; done', "sh", str(folder)], timeout=20, check=False
    )
    assert gone.returncode == 0


def test_engine_works_in_a_database_of_its_own(engine):
    assert re.search(r"fsm_test_\d+|sqlite", str(engine.url.database))


@pytest.mark.servers_only
def test_engine_reads_what_is_committed(engine):
    with engine.connect() as connection:
        assert connection.get_isolation_level() == "READ COMMITTED"


@pytest.mark.servers_only
def test_database_is_dropped_at_the_end(url):
    with servers.own_database(url) as own:
        with servers.make_engine(own).connect() as connection:
            assert connection.scalar(text("SELECT DATABASE()")) == own.database
            connection.engine.dispose()
        assert own.database != url.database

    with pytest.raises(SQLAlchemyError, match="Unknown database"):
        connect_to(servers.make_engine(own))


@pytest.mark.servers_only
def test_questions_counts_what_stands_between_two_calls(engine):
    """A SELECT and a ROLLBACK are two questions; asking is none, on a pooled connection's second use too."""
    for _ in range(2):
        with engine.connect() as connection:
            before = servers.questions(connection)
            assert servers.questions(connection) == before

            connection.execute(text("SELECT 1"))
            connection.rollback()

            assert servers.questions(connection) - before == 2


def connect_to(engine: Engine) -> None:
    with engine.connect():
        pass
