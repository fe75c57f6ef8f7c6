"""What the tests of Alembic stand on: a project with an env.py in a folder of its own, and the tables it migrates."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, MetaData, inspect, text

import sqlalchemy_fsm_mysql.alembic  # noqa: F401 - as env.py does
from tests.alembic.models import machine_of, orders

__all__ = ["machine_of", "orders"]

ENV = """
from alembic import context

import sqlalchemy_fsm_mysql.alembic

config = context.config
options = dict(target_metadata=config.attributes["metadata"], **config.attributes.get("options", {}))

if context.is_offline_mode():
    context.configure(
        url=config.get_main_option("sqlalchemy.url"), literal_binds=True, dialect_opts={"paramstyle": "named"}, **options
    )
    with context.begin_transaction():
        context.run_migrations()
else:
    with config.attributes["engine"].connect() as connection:
        context.configure(connection=connection, **options)
        with context.begin_transaction():
            context.run_migrations()
"""
TEMPLATE = '''
"""${message}"""
from alembic import op
import sqlalchemy as sa
${imports if imports else ""}

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade():
    ${upgrades if upgrades else "pass"}


def downgrade():
    ${downgrades if downgrades else "pass"}
'''


class Project:
    """A folder with revisions, and the database that they are for."""

    def __init__(self, folder: Path, engine: Engine, **options: Any) -> None:
        self.folder, self.engine = folder, engine
        self.output = io.StringIO()
        (folder / "versions").mkdir(parents=True)
        (folder / "env.py").write_text(ENV)
        (folder / "script.py.mako").write_text(TEMPLATE)
        self.config = Config(stdout=io.StringIO(), output_buffer=self.output)
        self.config.set_main_option("script_location", str(folder))
        url = engine.url.render_as_string(hide_password=False)
        self.config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
        self.config.attributes.update(engine=engine, options=options)

    def autogenerate(self, metadata: MetaData, *, copies_table: bool = True) -> str:
        """The text of a new revision that makes the database fit *metadata*: its two functions.

        With *copies_table*, the steps that copy the table are accepted, as by the developer who has read them.
        """
        self.config.attributes["metadata"] = metadata
        number = len(list((self.folder / "versions").glob("*.py"))) + 1
        revision = command.revision(self.config, f"revision {number}", autogenerate=True, rev_id=f"{number:04d}")
        text = Path(revision.path).read_text()
        if copies_table:
            text = text.replace("copies_table=False", "copies_table=True")
            Path(revision.path).write_text(text)
        return text[text.index("def upgrade") :]

    def write(self, upgrade: str, downgrade: str = "pass") -> None:
        """A revision by hand."""
        versions = self.folder / "versions"
        number = len(list(versions.glob("*.py"))) + 1
        before = repr(f"{number - 1:04d}") if number > 1 else "None"
        (versions / f"{number:04d}_.py").write_text(
            f"from alembic import op\nimport sqlalchemy as sa\nimport sqlalchemy_fsm_mysql.alembic\n"
            f"revision = '{number:04d}'\ndown_revision = {before}\n"
            f"def upgrade():\n    {upgrade}\ndef downgrade():\n    {downgrade}\n"
        )

    def upgrade(self, to: str = "head") -> None:
        self.config.attributes.setdefault("metadata", MetaData())
        command.upgrade(self.config, to)

    def downgrade(self, to: str = "-1") -> None:
        command.downgrade(self.config, to)

    def check(self, metadata: MetaData) -> None:
        """Raises when the database does not fit *metadata*."""
        self.config.attributes["metadata"] = metadata
        command.check(self.config)

    def sql(self, span: str, direction: str = "upgrade") -> str:
        """What --sql writes."""
        self.output.seek(0)
        self.output.truncate()
        getattr(command, direction)(self.config, span, sql=True)
        return self.output.getvalue()

    @property
    def heads(self) -> list[str]:
        return ScriptDirectory.from_config(self.config).get_heads()


@contextmanager
def migrating(engine: Engine) -> Iterator[Operations]:
    """Operations as within a revision."""
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        with context.begin_transaction(_per_migration=True):
            yield Operations(context)


def shown_table(engine: Engine, name: str = "orders") -> str:
    """The table's DDL as the database shows it."""
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            query = text("SELECT sql FROM sqlite_master WHERE name = :name")
            return str(connection.execute(query, {"name": name}).scalar_one())
        # Without parameters, because a name may have a percent sign.
        shown = connection.exec_driver_sql(f"SHOW CREATE TABLE {name}", execution_options={"no_parameters": True})
        return re.sub(r" AUTO_INCREMENT=\d+", "", shown.one()[1])


def fill(engine: Engine, rows: Mapping[int, str], table: str = "orders") -> None:
    with engine.begin() as connection:
        values = [{"id": key, "state": state} for key, state in rows.items()]
        connection.execute(text(f"INSERT INTO {table} (id, state) VALUES (:id, :state)"), values)


def stored(engine: Engine, table: str = "orders") -> dict[Any, str]:
    """The state of each row."""
    with engine.connect() as connection:
        rows = connection.execute(text(f"SELECT id, state FROM {table} ORDER BY id"))
        return dict(map(tuple, rows))


def run_script(engine: Engine, script: str) -> None:
    """Run what --sql wrote, as the mysql client would: statement by statement, each committed."""
    lines = [line for line in script.splitlines() if not line.startswith("--")]
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for statement in re.split(r";\n", "\n".join(lines) + "\n"):
            if statement.strip():
                connection.exec_driver_sql(statement.strip(), execution_options={"no_parameters": True})


def drop_all(engine: Engine) -> None:
    with engine.connect() as connection:
        if engine.dialect.name != "sqlite":
            connection.exec_driver_sql("SET SESSION foreign_key_checks = 0")
        for name in inspect(connection).get_table_names():
            connection.exec_driver_sql(f"DROP TABLE {engine.dialect.identifier_preparer.quote(name)}")
        if engine.dialect.name != "sqlite":
            connection.exec_driver_sql("SET SESSION foreign_key_checks = 1")
        connection.commit()


@contextmanager
def told(*names: str) -> Iterator[list[str]]:
    """The messages logged meanwhile."""
    messages: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    listener = Listener()
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(listener)
        logger.setLevel(logging.INFO)
    try:
        yield messages
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(listener)
            logger.setLevel(level)
