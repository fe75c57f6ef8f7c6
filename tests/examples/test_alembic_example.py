"""The example of Alembic does what its README shows, on every target."""

from __future__ import annotations

import re

import pytest

from alembic_example.__main__ import MESSAGES, Example
from tests.alembic.support import Project, drop_all
from tests.conftest import database_of
from tests.servers import make_engine


@pytest.fixture
def engine(url, tmp_path_factory):
    """A database of the example's own, which drops all tables that it finds."""
    if url.get_driver_name() == "mysqldb":
        pytest.skip("one driver a server is enough")
    with database_of(url, tmp_path_factory) as own:
        engine = make_engine(own)
        yield engine
        engine.dispose()


def test_the_example_goes_up_and_down(engine, capsys):
    drop_all(engine)

    Example(engine, 300).run()

    printed = capsys.readouterr().out
    differences = re.findall(r"differences to release (\d): (.*)", printed)
    fired = re.findall(r"release \d fired at the same time: (\{.*\}), slowest", printed)
    assert differences == [(str(release), "none") for release in range(1, 6)]
    assert "rows: {'Error': 200, 'Running': 100}" in printed or "rows: {'Running': 100, 'Error': 200}" in printed
    assert "cannot drop states that rows are in" in printed
    assert "replay of 300 rows' history: 0 wrong" in printed
    assert len(fired) == 3
    assert all(set(eval(outcomes)) <= {"moved", "refused"} for outcomes in fired)  # noqa: S307 - what we have just printed
    assert printed.splitlines()[-1] == "alembic downgrade base"


def test_the_revisions_are_what_autogenerate_writes(engine, tmp_path):
    """Without their headers, which are each project's own."""
    from alembic_example.__main__ import HERE
    from alembic_example.jobs import RELEASES, models

    if engine.dialect.name == "sqlite" or engine.dialect.is_mariadb:
        pytest.skip("what is written for an ENUM does not depend on the server")
    drop_all(engine)
    project = Project(tmp_path / "migrations", engine)
    for release in RELEASES:
        written = project.autogenerate(models(release)[0].metadata)
        (kept,) = (HERE / "versions").glob(f"{release:04d}_*.py")
        assert calls(written) == calls(kept.read_text()), MESSAGES[release - 1]
        project.upgrade()
        if release == 3:
            with engine.begin() as connection:
                connection.exec_driver_sql("INSERT INTO jobs (id, state) VALUES (1, 'Error')")
    drop_all(engine)


def calls(revision):
    """The calls of its functions, however they are laid out; without the remarks on the size of the table at hand."""
    functions = re.sub(r"(?m)^ *# (The server|The step|about) .*$", "", revision[revision.index("def upgrade") :])
    return re.sub(r"\s+|,(?=\s*[)\]}])", "", functions).replace("->None", "").replace('"', "'")
