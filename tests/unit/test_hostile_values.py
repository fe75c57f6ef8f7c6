"""Keys, actors, details, tokens and states that are escape sequences and second lines: no repr, message, line of the log
or span passes them on. Commands and drawings are tried in tests/cli/test_hostile_rows.py, pages in tests/examples."""

from __future__ import annotations

import logging
import re
import subprocess
import sys

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sqlalchemy import String, create_engine, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_fsm_mysql import (
    Event,
    FSMError,
    Machine,
    StateMachineColumn,
    TransitionHistory,
    fire_key,
    try_fire_key,
)
from sqlalchemy_fsm_mysql.diagram import dot, html_table, markdown_table, mermaid
from sqlalchemy_fsm_mysql.observation import otel

HOSTILE = "\x1b]0;pwned\x07\x1b[2J\n# forged\x9b2J\u202e[red]<script>"
STEERING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]|^# forged", re.MULTILINE)


class Base(DeclarativeBase):
    pass


class Letter(Base):
    __tablename__ = "letters"
    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    state: Mapped[str] = StateMachineColumn(
        Machine(initial="new", events=[Event("Send", {"new": "sent"})]), storage="varchar"
    )


class LetterTransition(TransitionHistory, Base):
    __tablename__ = "letter_transitions"
    __records__ = "Letter.state"


@pytest.fixture
def session():
    """A session on a table without CHECK, with a row in an undeclared state."""
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.execute(text("DROP TABLE letters"))
        session.execute(text("CREATE TABLE letters (name VARCHAR(200) PRIMARY KEY, state VARCHAR(64) NOT NULL)"))
        for key, state in ((HOSTILE, "new"), ("stranger", HOSTILE)):
            session.execute(text("INSERT INTO letters VALUES (:key, :state)"), {"key": key, "state": state})
        yield session
    engine.dispose()


@pytest.fixture
def spans():
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    otel.instrument(tracer_provider=provider)
    yield exporter
    otel.uninstrument()


def fired(session):
    """Every outcome and error of fires with hostile arguments."""
    given = {"actor": "ann", "details": {HOSTILE: HOSTILE}}
    yield fire_key(Letter, HOSTILE, "Send", session, token="t", **given)
    yield fire_key(Letter, HOSTILE, "Send", session, token="t", **given)
    yield try_fire_key(Letter, HOSTILE, "Send", session)
    for key, event, more in (
        (HOSTILE, "Send", {}),
        (HOSTILE + "?", "Send", {}),
        ("stranger", "Send", {}),
        (HOSTILE, HOSTILE, {}),
        (HOSTILE, "Send", {"actor": HOSTILE * 9}),
        (HOSTILE, "Send", {"token": HOSTILE}),
        (HOSTILE, "Send", {HOSTILE: 1}),
    ):
        try:
            fire_key(Letter, key, event, session, **more)
        except (FSMError, TypeError, ValueError) as error:
            yield error


def test_no_repr_message_line_or_span_passes_on_a_hostile_value(session, spans, caplog):
    formatter = logging.Formatter("%(message)s %(fsm_key)s %(fsm_source)s %(fsm_target)s %(fsm_event)s")
    with caplog.at_level(logging.DEBUG, "sqlalchemy_fsm_mysql"):
        outcomes = list(fired(session))
    lines = [formatter.format(record) for record in caplog.records]
    attributes = [str(value) for span in spans.get_finished_spans() for value in span.attributes.values()]
    attributes += [
        str(value) for span in spans.get_finished_spans() for one in span.events for value in one.attributes.values()
    ]
    texts = [*map(repr, outcomes), *map(str, outcomes), *lines, *attributes]

    assert len(outcomes) == 10
    assert len(lines) >= 6
    assert len(attributes) >= 30
    assert [one for one in texts if STEERING.search(one)] == []
    assert all("\n" not in one for one in (*lines, *attributes))


def test_no_drawing_passes_on_an_undeclared_state_or_event():
    machine = Letter.state.type.machine
    rows, counts = {HOSTILE: 1, "new": 1}, {(HOSTILE, "new", HOSTILE): 3}
    drawings = [draw(machine, counts=counts, rows=rows) for draw in (dot, mermaid, markdown_table)]

    assert all("pwned" in drawing for drawing in drawings)
    assert [drawing for drawing in drawings if STEERING.search(drawing)] == []
    assert "<script>" not in html_table(machine)


@pytest.mark.parametrize(
    ("missing", "module", "extra"),
    [
        ("opentelemetry", "observation.otel", "otel"),
        ("alembic", "alembic", "alembic"),
        ("docutils", "sphinxext", "sphinx"),
        ("sphinx", "sphinxext", "sphinx"),
    ],
)
def test_a_missing_extra_is_named(missing, module, extra):
    script = f"import sys; sys.modules[{missing!r}] = None; import sqlalchemy_fsm_mysql.{module}"
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)

    assert done.stderr.splitlines()[-1].endswith(f"pip install 'sqlalchemy-fsm-mysql[{extra}]'")
