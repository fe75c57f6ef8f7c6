"""Each function of the public API with thousands of wrong arguments: a documented error, and no statement that writes or fires."""

from __future__ import annotations

import asyncio
import enum
import gc
import json
import uuid
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import (
    JSON,
    Connection,
    Engine,
    LargeBinary,
    SQLColumnExpression,
    String,
    create_engine,
    event,
    select,
    true,
)
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, aliased, mapped_column, sessionmaker

import sqlalchemy_fsm_mysql as fsm
from sqlalchemy_fsm_mysql import (
    Coalescer,
    Event,
    FSMError,
    Guard,
    Leased,
    Machine,
    Stateful,
    StateMachineColumn,
    StateSinceColumn,
    StateType,
    Transition,
    TransitionHistory,
    check_database,
    claim,
    commit_with_fire,
    commit_with_fire_key,
    count_rows,
    count_transitions,
    diff_machines,
    dwell_times,
    enforce_machine,
    erase_actor,
    extend_lease,
    find_by_token,
    fire_due,
    fire_key,
    fire_keys,
    fire_or_create,
    fire_where,
    force_state,
    on_committed,
    on_moved,
    prune_history,
    release_machine,
    remove_hook,
    replay,
    require_database,
    run_due,
    run_transaction,
    try_commit_with_fire,
    try_commit_with_fire_key,
    try_fire_key,
    unlocked,
    utc_in,
)
from sqlalchemy_fsm_mysql.orm.comparator import StateComparator

MACHINE = Machine(
    initial="off",
    events=[
        Event("Go", {"off": "on", "on": "off"}),
        Event(
            "Write",
            {("off", "on"): "on"},
            effect=lambda row, note, amount, blob, tree: {"note": note, "amount": amount, "blob": blob, "tree": tree},
        ),
        Event("Pay", [Transition("off", "on", guard=lambda row, amount: row.amount == amount)]),
    ],
)


class Base(DeclarativeBase):
    pass


class Plain(Stateful, Base):
    __tablename__ = "wrong_plain"
    id: Mapped[int] = mapped_column(primary_key=True)
    note: Mapped[str | None] = mapped_column(String(20))
    amount: Mapped[int] = mapped_column(default=0)
    blob: Mapped[bytes | None] = mapped_column(LargeBinary)
    tree: Mapped[object | None] = mapped_column(JSON(none_as_null=True))
    state: Mapped[str] = StateMachineColumn(MACHINE)


class PlainHistory(TransitionHistory, Base):
    __tablename__ = "wrong_plain_history"
    __records__ = "Plain.state"


class Pair(Stateful, Base):
    __tablename__ = "wrong_pair"
    a: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    b: Mapped[str] = mapped_column(String(10), primary_key=True)
    state: Mapped[str] = StateMachineColumn(Machine(initial="x", events=[Event("Alpha", {"x": "y", "y": "x"})]))


class Timed(Stateful, Base):
    __tablename__ = "wrong_timed"
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(
        Machine(
            initial="new",
            events=[Event("Expire", {"new": "gone"}, after=timedelta(minutes=1)), Event("Go", {"new": "new"})],
        )
    )
    since: Mapped[datetime] = StateSinceColumn()


class Job(Leased, Stateful, Base):
    __tablename__ = "wrong_jobs"
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(MACHINE)


class Stateless(Base):
    __tablename__ = "wrong_stateless"
    id: Mapped[int] = mapped_column(primary_key=True)


class Abstract(Base):
    __abstract__ = True
    state: Mapped[str] = StateMachineColumn(MACHINE)


class Unmapped:
    state = "off"


class AnyAttribute:
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return AnyAttribute()

    def __call__(self, *_: Any, **__: Any) -> Any:
        return AnyAttribute()


class Color(enum.Enum):
    GO = "Go"


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def filled(values: list[Any]) -> list[Any]:
    """*values* without the empty collections, which are as good as none."""
    return [
        value for value in values if not isinstance(value, (bytes, str, list, tuple, dict, set, frozenset)) or value
    ]


ENGINE = create_engine("sqlite://")
CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)
# None of these is a value of anything that the table below asks for.
NONSENSE: list[Any] = [
    *("", " ", "go", "Go ", "Go\0", "\0", "\ud800", "x" * 256, "x" * 10**5, "\u202e", "é", "'", "%s", "\\", "Alpha"),
    *(True, False, -1, 2**63, 2**64, -(2**64), 10**5000, 0.0, 1.5, float("nan"), float("inf"), float("-inf"), 1j),
    *(Decimal("NaN"), Decimal("sNaN"), Decimal("1E+999"), Decimal(1), b"", b"Go", b"\xff", bytearray(b"Go")),
    *([], [1], ["Go"], {}, {"z": 1}, (), (1, 2, 3), (None,), set(), {1}, frozenset({1}), range(3), object()),
    *(Ellipsis, NotImplemented, int, str, len, lambda: 1, Color.GO, Color, AnyAttribute(), nested(5000), CIRCLE),
    *(Stateless, Abstract, Unmapped, Unmapped(), MACHINE, MACHINE.events["Go"], Plain.id, Plain.__table__, Base),
    *(aliased(Plain), select(Plain), datetime(2026, 1, 1), date(2026, 1, 1), uuid.UUID(int=1)),  # noqa: DTZ001
    *(Session, AsyncSession, sessionmaker(), async_sessionmaker(), memoryview(b"Go"), String(), type),
    *(
        ENGINE,
        create_async_engine("sqlite+aiosqlite://"),
        ENGINE.connect,
        AsyncConnection,
        Connection,
        async_scoped_session,
    ),
]
NO_JSON: list[Any] = [
    *(datetime(2026, 1, 1), date(2026, 1, 1), Decimal(1), b"x", {1}, object(), 1j, uuid.UUID(int=1)),  # noqa: DTZ001
    *(float("nan"), float("inf"), "\ud800", "a\udfffb", 10**400, 10**5000, nested(31), nested(5000), CIRCLE, Plain),
    *(range(3), Color.GO, len, Ellipsis, iter([1]), frozenset(), bytearray(), true(), Plain.id, MACHINE),
]
# The same in other places: as they are, in a list, in an object, as a second value, and deeper.
HIDDEN: list[Callable[[Any], Any]] = [
    lambda value: value, lambda value: [value], lambda value: {"a": value}, lambda value: [1, value], lambda value: {"a": [{"b": value}]},
]  # fmt: skip
DETAILS = [hide(value) for value in NO_JSON for hide in HIDDEN]
NO_ACTOR = [value for value in NONSENSE if not isinstance(value, str) or len(value) > 255 or value == "\ud800"]
NO_WORKER = [v for v in NONSENSE if not isinstance(v, str) or not 0 < len(v) <= 64 or v == "\ud800"]
NO_TOKEN = [
    value for value in NONSENSE if not isinstance(value, str) or not 1 <= len(value) <= 64 or not value.isprintable()
]
NO_EVENT = [value for value in NONSENSE if value is not MACHINE.events["Go"]]
NO_MODEL = [*NONSENSE, PlainHistory, "Plain"]
NO_KEY = [value for value in NONSENSE if isinstance(value, bool) or not isinstance(value, int)]
NO_INSTANCE = [*NONSENSE, Stateless(id=1), Plain]
NO_COLUMN = [value for value in NONSENSE if value is not None]
NO_NUMBER = [
    value for value in NONSENSE if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**63
]
NO_STATE = [*NONSENSE, None]
NO_CRITERION = [v for v in NONSENSE if v is not Plain.id and not hasattr(v, "__clause_element__")]
NO_TEXT = [value for value in NONSENSE if not isinstance(value, str) or value == "\ud800"]
NO_INTEGER = [value for value in NONSENSE if isinstance(value, bool) or not isinstance(value, int)]
NO_BYTES = [value for value in NONSENSE if not isinstance(value, (bytes, bytearray, memoryview))]
NO_LIMIT = [value for value in NO_NUMBER if value is not None]
NO_FEW = [value for value in NO_NUMBER if not isinstance(value, int) or value < 1]
NO_PLACE = NONSENSE
NO_KEYS = [v for v in filled(NONSENSE) if v not in ([1], (1, 2, 3), {1}, range(3))]
NO_HOOK = [*(value for value in NONSENSE if not callable(value)), lambda: 1, nested, asyncio.sleep]
NO_BIND = [value for value in NONSENSE if value is not ENGINE]
NO_STATE_COLUMN = NONSENSE
NO_MACHINE = [value for value in NONSENSE if value is not MACHINE and value != {}]
NO_SECONDS = [value for value in NONSENSE if type(value) is not int or value < 1 or value > 10**8]
NO_FUNCTION = [value for value in NONSENSE if not callable(value)]
NO_NAME = [
    *(value for value in NONSENSE if not isinstance(value, str)),
    "",
    " ",
    "Go ",
    "\0",
    "\ud800",
    "x" * 256,
    "\u202e",
    None,
]
NO_SENTENCE = [value for value in NONSENSE if not isinstance(value, str)]
GIVEN = {"note": None, "amount": 1, "blob": None, "tree": None}

Call = Callable[[Any, Any], Any]
EVERY_FIRE: dict[str, Callable[..., Any]] = {
    "fire": lambda s, event="Go", column=None, **said: s.info["one"].fire(event, s, column=column, **said),
    "try_fire": lambda s, event="Go", column=None, **said: s.info["one"].try_fire(event, s, column=column, **said),
    "fire_key": lambda s, event="Go", column=None, **said: fire_key(Plain, 1, event, s, column=column, **said),
    "try_fire_key": lambda s, event="Go", column=None, **said: try_fire_key(Plain, 1, event, s, column=column, **said),
    "commit_with_fire": lambda s, event="Go", column=None, **said: commit_with_fire(
        s.info["one"], event, s, column=column, **said
    ),
    "try_commit_with_fire": lambda s, event="Go", column=None, **said: try_commit_with_fire(
        s.info["one"], event, s, column=column, **said
    ),
    "try_commit_with_fire_key": lambda s, event="Go", column=None, **said: try_commit_with_fire_key(
        Plain, 1, event, s, column=column, **said
    ),
    "commit_with_fire_key": lambda s, event="Go", column=None, **said: commit_with_fire_key(
        Plain, 1, event, s, column=column, **said
    ),
    "fire_or_create": lambda s, event="Go", column=None, **said: fire_or_create(
        Plain(id=9), event, s, column=column, **said
    ),
    "fire_where": lambda s, event="Go", column=None, **said: fire_where(Plain, event, s, true(), column=column, **said),
    "max_rows": lambda s, event="Go", column=None, **said: fire_where(
        Plain, event, s, true(), column=column, max_rows=9, **said
    ),
    "fire_keys": lambda s, event="Go", column=None, **said: fire_keys(Plain, [1], event, s, column=column, **said),
    "claim": lambda s, event="Go", column=None, **said: claim(Plain, event, s, limit=1, column=column, **said),
}


def by(fire: Callable[..., Any], name: str, **more: Any) -> Call:
    return lambda s, value: fire(s, **{**more, name: value})


def machine_of(transition: Transition) -> Machine:
    return Machine(initial="a", events=[Event("Go", [transition])])


def coalesced(_: Any, *, model: Any = Plain, key: Any = 1, event: Any = "Go", **said: Any) -> Any:
    with Coalescer(ENGINE, max_wait=timedelta(0)) as fires:
        return fires.fire_key(model, key, event, **said)


def operation_calls() -> Iterator[tuple[str, Call, list[Any]]]:
    """As :func:`calls`, of the functions for operators and of the Coalescer."""
    no_engine = [value for value in NONSENSE if not isinstance(value, (Engine, AsyncEngine))]
    hour = timedelta(hours=1)
    yield "prune_history column", lambda s, value: prune_history(value, s, older_than=hour), NONSENSE
    yield "prune_history session", lambda _, value: prune_history(Plain.state, value, older_than=hour), NONSENSE
    yield (
        "prune_history older_than",
        lambda s, value: prune_history(Plain.state, s, older_than=value),
        [*NONSENSE, None],
    )
    yield "prune_history limit", lambda s, v: prune_history(Plain.state, s, older_than=hour, limit=v), [*NO_LIMIT, None]
    yield "dwell_times column", lambda s, value: dwell_times(value, s), NONSENSE
    yield "dwell_times session", lambda _, value: dwell_times(Timed.state, value), NONSENSE
    yield "dwell_times origin", lambda s, value: dwell_times(Timed.state, s, origin=value), NONSENSE
    for limit in ("since", "until"):
        yield (
            f"dwell_times {limit}",
            lambda s, value, name=limit: dwell_times(Plain.state, s, **{name: value}),
            [value for value in NONSENSE if not isinstance(value, datetime)],
        )
    yield "erase_actor column", lambda s, value: erase_actor(value, "ann", s), NONSENSE
    yield "erase_actor session", lambda _, value: erase_actor(Plain.state, "ann", value), NONSENSE
    yield "erase_actor actor", lambda s, value: erase_actor(Plain.state, value, s), [*NO_TEXT, None]
    yield "erase_actor replacement", lambda s, v: erase_actor(Plain.state, "ann", s, replacement=v), [*NO_ACTOR, "ann"]
    yield "erase_actor limit", lambda s, value: erase_actor(Plain.state, "ann", s, limit=value), [*NO_LIMIT, None]
    yield "Coalescer engine", lambda _, value: Coalescer(value), no_engine
    for limit in ("max_batch", "max_pending", "max_wait"):
        yield f"Coalescer {limit}", lambda _, value, name=limit: Coalescer(ENGINE, **{name: value}), NO_FEW
    for name, values in (("model", NO_MODEL), ("event", NO_EVENT), ("column", NO_COLUMN)):
        yield f"Coalescer.fire_key {name}", by(coalesced, name), values
    yield "Coalescer.fire_key key", by(coalesced, "key"), [key for key in NO_KEY if key != [1]]
    for name, values in (("actor", NO_ACTOR), ("token", NO_TOKEN), ("details", NO_JSON), ("zzz", NONSENSE)):
        yield f"Coalescer.fire_key {name}", by(coalesced, name), values


def calls() -> Iterator[tuple[str, Call, list[Any]]]:
    """A name, the function of a session and a wrong value, and the wrong values of it."""
    for name, fire in EVERY_FIRE.items():
        yield f"{name} event", by(fire, "event"), NO_EVENT
        yield f"{name} column", by(fire, "column"), NO_COLUMN
        yield f"{name} actor", by(fire, "actor"), NO_ACTOR
        yield f"{name} details", by(fire, "details"), DETAILS
        yield f"{name} unexpected", by(fire, "zzz"), NONSENSE
        yield f"{name} guard", by(fire, "amount", event="Pay"), NO_INTEGER
        yield (
            f"{name} note",
            by(fire, "note", event="Write", **{k: v for k, v in GIVEN.items() if k != "note"}),
            NO_TEXT,
        )
        yield (
            f"{name} blob",
            by(fire, "blob", event="Write", **{k: v for k, v in GIVEN.items() if k != "blob"}),
            NO_BYTES,
        )
        if name not in ("fire_where", "max_rows", "claim", "fire_keys"):
            yield f"{name} token", by(fire, "token"), NO_TOKEN
    for name, keyed in (("fire_key", fire_key), ("try_fire_key", try_fire_key)):
        yield f"{name} model", lambda s, value, f=keyed: f(value, 1, "Go", s), NO_MODEL
        yield f"{name} key", lambda s, value, f=keyed: f(Plain, value, "Go", s), [key for key in NO_KEY if key != [1]]
        yield f"{name} part", lambda s, value, f=keyed: f(Pair, (value, "x"), "Alpha", s), NO_KEY
        yield f"{name} session", lambda _, value, f=keyed: f(Plain, 1, "Go", value), NONSENSE
    yield "fire session", lambda s, value: s.info["one"].fire("Go", value), NONSENSE
    yield "try_fire session", lambda s, value: s.info["one"].try_fire("Go", value), NONSENSE
    yield "can_fire event", lambda s, value: s.info["one"].can_fire(value), NO_EVENT
    yield "can_fire column", lambda s, value: s.info["one"].can_fire("Go", column=value), NO_COLUMN
    yield "available_events column", lambda s, value: s.info["one"].available_events(column=value), NO_COLUMN
    yield "possible_events session", lambda s, value: s.info["one"].possible_events(value), NONSENSE
    yield "possible_events payload", lambda s, value: s.info["one"].possible_events(s, amount=value), NO_INTEGER
    yield "possible_events unexpected", lambda s, value: s.info["one"].possible_events(s, zzz=value), NONSENSE
    yield "history session", lambda s, value: s.info["one"].history(value), NONSENSE
    yield "history column", lambda s, value: s.info["one"].history(s, column=value), NO_COLUMN
    yield "fire_where model", lambda s, value: fire_where(value, "Go", s, true()), NO_MODEL
    yield "fire_where session", lambda _, value: fire_where(Plain, "Go", value, true()), NONSENSE
    yield "fire_where criteria", lambda s, value: fire_where(Plain, "Go", s, value), NO_CRITERION
    yield "fire_where none", lambda s, value: fire_where(value, "Go", s), NO_MODEL
    yield "fire_where batch_size", lambda s, value: fire_where(Plain, "Go", s, true(), batch_size=value), NO_NUMBER
    yield "fire_where max_rows", lambda s, value: fire_where(Plain, "Go", s, true(), max_rows=value), NO_NUMBER
    yield (
        "fire_where progress",
        lambda s, value: fire_where(Plain, "Go", s, true(), progress=value),
        [value for value in NONSENSE if not callable(value)],
    )
    yield "claim model", lambda s, value: claim(value, "Go", s, limit=1), NO_MODEL
    yield "claim session", lambda _, value: claim(Plain, "Go", value, limit=1), NONSENSE
    yield "claim limit", lambda s, value: claim(Plain, "Go", s, limit=value), NO_NUMBER
    yield (
        "claim order_by",
        lambda s, value: claim(Plain, "Go", s, limit=1, order_by=value),
        [value for value in NO_CRITERION if not isinstance(value, (tuple, list)) or len(value) > 0],
    )
    yield "fire_or_create instance", lambda s, value: fire_or_create(value, "Go", s), NO_INSTANCE
    yield "fire_or_create key", lambda s, value: fire_or_create(Plain(id=value), "Go", s), [*NO_KEY, None]
    yield (
        "fire_or_create value",
        lambda s, value: fire_or_create(Plain(id=9, amount=value), "Go", s),
        [
            *(
                [],
                [1],
                (1, 2),
                {},
                {"a": 1},
                {1},
                object(),
                float("nan"),
                float("inf"),
                Decimal("NaN"),
                Decimal("sNaN"),
            ),
            *(Plain, len, nested(3), "\ud800", 1j, Unmapped()),
        ],
    )
    yield "fire_or_create session", lambda _, value: fire_or_create(Plain(id=9), "Go", value), NONSENSE
    yield "force_state instance", lambda s, value: force_state(value, "on", s), NO_INSTANCE
    yield "force_state state", lambda s, value: force_state(s.info["one"], value, s), NO_STATE
    yield "force_state session", lambda s, value: force_state(s.info["one"], "on", value), NONSENSE
    yield "force_state column", lambda s, value: force_state(s.info["one"], "on", s, column=value), NO_COLUMN
    yield "force_state actor", lambda s, value: force_state(s.info["one"], "on", s, actor=value), NO_ACTOR
    yield "force_state details", lambda s, value: force_state(s.info["one"], "on", s, details=value), DETAILS
    yield "find_by_token column", lambda s, value: find_by_token(value, "t", s), NONSENSE
    yield "find_by_token token", lambda s, value: find_by_token(Plain.state, value, s), NO_TOKEN
    yield "find_by_token session", lambda _, value: find_by_token(Plain.state, "t", value), NONSENSE
    yield "fire_where limit", lambda s, value: fire_where(Plain, "Go", s, true(), limit=value), NO_LIMIT
    yield "fire_where keys", lambda s, value: fire_where(Plain, "Go", s, true(), keys=value, batch_size=0), NO_LIMIT
    yield "fire_due model", lambda s, value: fire_due(value, s), [v for v in NO_MODEL if v is not Timed]
    yield "fire_due session", lambda _, value: fire_due(Timed, value), NO_PLACE
    yield "fire_due event", lambda s, value: fire_due(Timed, s, event=value), NO_COLUMN
    yield "fire_due column", lambda s, value: fire_due(Timed, s, column=value), NO_COLUMN
    yield "fire_due limit", lambda s, value: fire_due(Timed, s, limit=value), NO_LIMIT
    yield "fire_due criteria", lambda s, value: fire_due(Timed, s, value), NO_CRITERION
    yield "fire_due actor", lambda s, value: fire_due(Timed, s, actor=value), NO_ACTOR
    yield "fire_due details", lambda s, value: fire_due(Timed, s, details=value), DETAILS
    no_factory = [value for value in NONSENSE if not callable(value) and not isinstance(value, (Engine, AsyncEngine))]
    yield "run_due sessions", lambda _, value: run_due(value, Timed, every=None), no_factory
    yield "run_due model", lambda _, value: run_due(ENGINE, value, every=None), [v for v in NO_MODEL if v is not Timed]
    yield "run_due event", lambda _, value: run_due(ENGINE, Timed, every=None, event=value), NO_COLUMN
    yield "run_due column", lambda _, value: run_due(ENGINE, Timed, every=None, column=value), NO_COLUMN
    yield "run_due limit", lambda _, value: run_due(ENGINE, Timed, every=None, limit=value), [*NO_LIMIT, None]
    yield "run_due every", lambda _, value: run_due(ENGINE, Timed, every=value), NO_COLUMN
    yield "run_due stop", lambda _, value: run_due(ENGINE, Timed, every=None, stop=value), NO_FUNCTION
    yield "run_due actor", lambda _, value: run_due(ENGINE, Timed, every=None, actor=value), NO_ACTOR
    yield "run_due details", lambda _, value: run_due(ENGINE, Timed, every=None, details=value), DETAILS
    yield "run_due criteria", lambda _, value: run_due(ENGINE, Timed, value, every=None), NO_CRITERION
    yield "run_due ready_file", lambda _, v: run_due(ENGINE, Timed, every=None, ready_file=v), NO_SENTENCE
    no_terms = {"lease": timedelta(minutes=1), "worker": "w"}
    yield "extend_lease job", lambda s, value: extend_lease(value, s, **no_terms), NO_INSTANCE
    yield "extend_lease session", lambda _, value: extend_lease(Job(id=1), value, **no_terms), NONSENSE
    yield "extend_lease column", lambda s, value: extend_lease(Job(id=1), s, column=value, **no_terms), NO_COLUMN
    for name, lend in (
        ("extend_lease", lambda s, **terms: extend_lease(Job(id=1), s, **{**no_terms, **terms})),
        ("claim", lambda s, **terms: claim(Job, "Go", s, limit=1, **{**no_terms, **terms})),
    ):
        yield f"{name} lease", by(lend, "lease"), NO_COLUMN
        yield f"{name} worker", by(lend, "worker"), NO_WORKER
    yield "commit_with_fire_key model", lambda s, value: commit_with_fire_key(value, 1, "Go", s), NO_MODEL
    yield "commit_with_fire_key session", lambda _, value: commit_with_fire_key(Plain, 1, "Go", value), NO_PLACE
    yield "fire_keys model", lambda s, value: fire_keys(value, [1], "Go", s), NO_MODEL
    yield "fire_keys keys", lambda s, value: fire_keys(Plain, value, "Go", s), NO_KEYS
    yield "fire_keys key", lambda s, value: fire_keys(Plain, [1, value], "Go", s), [key for key in NO_KEY if key != [1]]
    yield "fire_keys session", lambda _, value: fire_keys(Plain, [1], "Go", value), NO_PLACE
    yield from operation_calls()
    yield "due", lambda _, value: Timed.state.due(value), [*NONSENSE, None]
    yield "possible_events column", lambda s, value: s.info["one"].possible_events(s, column=value), NO_COLUMN
    yield "possible_events text", lambda s, value: s.info["one"].possible_events(s, **{**GIVEN, "note": value}), NO_TEXT
    yield "replay", lambda _, value: replay(value), filled(NONSENSE)
    yield "on_committed column", lambda _, value: on_committed(value), NONSENSE
    yield "on_moved function", lambda _, value: on_moved(Plain.state)(value), NO_HOOK
    yield (
        "on_committed function",
        lambda _, value: on_committed(Plain.state)(value),
        [v for v in NO_HOOK if v is not nested],
    )
    for name, check in (("check_database", check_database), ("require_database", require_database)):
        yield f"{name} column", lambda _, value, f=check: f(value, ENGINE), NONSENSE
        yield f"{name} bind", lambda _, value, f=check: f(Plain.state, value), NO_BIND
    yield "enforce_machine column", lambda _, value: enforce_machine(value, ENGINE), NO_STATE_COLUMN
    yield "enforce_machine bind", lambda _, value: enforce_machine(Plain.state, value), NO_BIND
    yield "enforce_machine mode", lambda _, value: enforce_machine(Plain.state, ENGINE, mode=value), [*NONSENSE, None]
    yield "enforce_machine also", lambda _, value: enforce_machine(Plain.state, ENGINE, also=[value]), NO_MACHINE
    yield "enforce_machine wait", lambda _, v: enforce_machine(Plain.state, ENGINE, lock_wait_timeout=v), NO_SECONDS
    yield (
        "release_machine column",
        lambda _, value: release_machine(value, ENGINE),
        [v for v in NONSENSE if v is not Plain.id],
    )
    yield "release_machine bind", lambda _, value: release_machine(Plain.state, value), NO_BIND
    yield "release_machine wait", lambda _, v: release_machine(Plain.state, ENGINE, lock_wait_timeout=v), NO_SECONDS
    yield "diff_machines", lambda _, value: diff_machines(value, MACHINE), [v for v in NONSENSE if v is not MACHINE]
    yield (
        "unlocked",
        lambda _, value: unlocked(value),
        [v for v in NONSENSE if not hasattr(v, "_annotate") and not hasattr(v, "__clause_element__")],
    )
    yield (
        "utc_in",
        lambda _, value: utc_in(value),
        [v for v in NONSENSE if not isinstance(v, (timedelta, SQLColumnExpression))],
    )
    yield (
        "StateMachineColumn machine",
        lambda _, value: StateMachineColumn(value),
        [v for v in NONSENSE if v is not MACHINE],
    )
    yield "StateMachineColumn storage", lambda _, value: StateMachineColumn(MACHINE, storage=value), [*NONSENSE, None]
    yield (
        "StateMachineColumn initial_states",
        lambda _, value: StateMachineColumn(MACHINE, initial_states=value),
        filled(NONSENSE),
    )
    yield "StateType storage", lambda _, value: StateType(MACHINE, storage=value), [*NONSENSE, None]
    yield (
        "StateSinceColumn of",
        lambda _, value: StateSinceColumn(of=value),
        [v for v in NONSENSE if not isinstance(v, str)],
    )
    yield "Event name", lambda _, value: Machine(initial="a", events=[Event(value, {"a": "b"})]), NO_NAME
    yield "Event transitions", lambda _, value: Event("Go", value), filled(NONSENSE)
    yield "Event guard", lambda _, value: Event("Go", {"a": "b"}, guard=value), NO_FUNCTION
    yield "Event effect", lambda _, value: Event("Go", {"a": "b"}, effect=value), NO_FUNCTION
    yield (
        "Event after",
        lambda _, value: Machine(initial="a", events=[Event("Go", {"a": "b"}, after=value)]),
        NO_FUNCTION,
    )
    yield (
        "Event description",
        lambda _, value: Machine(initial="a", events=[Event("Go", {"a": "b"}, description=value)]),
        NO_SENTENCE,
    )
    yield "Transition source", lambda _, value: machine_of(Transition(value, "b")), NO_NAME
    yield (
        "Transition target",
        lambda _, value: machine_of(Transition("a", value)),
        [v for v in NO_NAME if v is not Color.GO],
    )
    yield "Transition guard", lambda _, value: Transition("a", "b", guard=value), NO_FUNCTION
    yield "Transition effect", lambda _, value: Transition("a", "b", effect=value), NO_FUNCTION
    yield "Guard", lambda _, value: Guard(value), [*NO_FUNCTION, None]
    yield (
        "Machine initial",
        lambda _, value: Machine(initial=value, events=[Event("Go", {"a": "b"})]),
        [*NONSENSE, None],
    )
    yield "Machine events", lambda _, value: Machine(initial="a", events=value), [*filled(NONSENSE), None]
    yield (
        "Machine states",
        lambda _, value: Machine(initial="a", states=value, events=[Event("Go", {"a": "b"})]),
        NONSENSE,
    )
    yield (
        "Machine name",
        lambda _, value: Machine(initial="a", name=value, events=[Event("Go", {"a": "b"})]),
        [v for v in NONSENSE if not isinstance(v, str)],
    )
    for option in ("groups", "on_enter", "on_exit"):
        yield (
            f"Machine {option}",
            lambda _, value, o=option: Machine(initial="a", events=[Event("Go", {"a": "b"})], **{o: value}),
            [v for v in NONSENSE if v != {}],
        )
    yield (
        "Machine initial_states",
        lambda _, value: Machine(initial="a", initial_states=value, events=[Event("Go", {"a": "b"})]),
        filled(NONSENSE),
    )
    yield (
        "TransitionHistory",
        lambda _, value: type("H", (TransitionHistory, Base), {"__tablename__": "h", "__records__": value}),
        NONSENSE,
    )
    yield "can", lambda _, value: Plain.state.can(value), NO_EVENT
    yield "after", lambda _, value: Plain.state.after(value), NO_EVENT
    yield "can payload", lambda _, value: Plain.state.can("Pay", amount=value), NO_INTEGER
    yield "after payload", lambda _, value: Plain.state.after("Pay", amount=value), NO_INTEGER
    yield "in_group", lambda _, value: Plain.state.in_group(value), NONSENSE
    yield "count_rows column", lambda s, value: count_rows(value, s), NONSENSE
    yield "count_rows session", lambda _, value: count_rows(Plain.state, value), NONSENSE
    yield "count_transitions column", lambda s, value: count_transitions(value, s), NONSENSE
    yield (
        "count_transitions since",
        lambda s, value: count_transitions(Plain.state, s, since=value),
        [value for value in NONSENSE if not isinstance(value, datetime)],
    )
    yield "on_moved column", lambda _, value: on_moved(value), NONSENSE
    yield (
        "on_moved event",
        lambda _, value: on_moved(Plain.state, event=value),
        [
            value
            for value in NO_EVENT
            if not isinstance(value, (list, tuple, set, frozenset)) or (value and "Go" not in value)
        ],
    )
    yield "remove_hook column", lambda _, value: remove_hook(value, len), NONSENSE
    yield (
        "run_transaction work",
        lambda s, value: run_transaction(sessionmaker(s.get_bind()), value),
        [value for value in NONSENSE if not callable(value)],
    )
    yield (
        "run_transaction attempts",
        lambda s, value: run_transaction(sessionmaker(s.get_bind()), lambda _: 1, attempts=value),
        [value for value in NONSENSE if isinstance(value, bool) or not isinstance(value, int) or value < 1],
    )
    yield (
        "run_transaction timeout",
        lambda s, value: run_transaction(sessionmaker(s.get_bind()), lambda _: 1, timeout=value),
        [value for value in NONSENSE if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0],
    )


TABLE = {name: (call, values) for name, call, values in calls()}


def tried(call: Call, session: Any, value: Any) -> str | None:
    """The fault of one call: an error of another kind, or none at all; None when the call was refused as documented."""
    try:
        answer = call(session, value)
    except (FSMError, TypeError, ValueError) as error:
        return "its message cannot be shown" if not str(error) else None
    except Exception as error:  # noqa: BLE001 - told by the test
        return f"{type(error).__name__}: {str(error)[:200]}"
    return f"returned {type(answer).__name__}"


async def tried_async(call: Call, session: Any, value: Any) -> str | None:
    """As :func:`tried`, with the answer awaited."""
    try:
        answer = call(session, value)
        if asyncio.iscoroutine(answer):
            answer = await answer
    except Exception as error:  # noqa: BLE001 - sorted by the function
        return tried(_raising, error, None)
    return f"returned {type(answer).__name__}"


def _raising(error: Any, _: Any) -> Any:
    raise error


def shown(value: Any) -> str:
    try:
        return f"{type(value).__name__} {str(value)[:40]!r}"
    except Exception:  # noqa: BLE001 - of a value that is meant to be odd
        return type(value).__name__


@contextmanager
def statements(connection: Connection) -> Iterator[list[str]]:
    sent: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        if not statement.startswith("SELECT (strftime("):  # the clock, which run_due() reads before its first batch
            sent.append(statement)

    event.listen(connection.engine, "before_cursor_execute", note)
    event.listen(connection, "before_cursor_execute", note)
    event.listen(ENGINE, "before_cursor_execute", note)
    yield sent
    event.remove(ENGINE, "before_cursor_execute", note)
    event.remove(connection.engine, "before_cursor_execute", note)
    event.remove(connection, "before_cursor_execute", note)


def test_the_table_has_over_10_000_wrong_calls() -> None:
    assert sum(len(values) for _, values in TABLE.values()) > 10_000


def public_calls() -> set[str]:
    """The functions and classes of the package that a user calls, and the methods that a model and its state have."""
    named = {name for name in fsm.__all__ if callable(getattr(fsm, name))}
    others = {
        "Moved",
        "MovedRows",
        "Refused",
        "Missing",
        "StateMapped",
        "Leased",
        "utc_now",  # takes no argument
    }  # made by the library, or for a model
    errors = {
        name for name in named if isinstance(getattr(fsm, name), type) and issubclass(getattr(fsm, name), Exception)
    }
    methods = {name for kind in (Stateful, StateComparator) for name in vars(kind) if not name.startswith("_")}
    return (named - others - errors - {"Stateful"}) | (methods - {"operate", "reverse_operate"})


def test_every_public_call_is_in_the_table() -> None:
    """A function that is new in the package has to be given wrong arguments here, too."""
    assert public_calls() - {name.partition(" ")[0] for name in TABLE} == set()


@pytest.mark.parametrize("name", TABLE)
def test_a_wrong_argument_is_a_documented_error_before_any_statement(session: Session, name: str) -> None:
    """On a server, each fifth value is tried."""
    call, values = TABLE[name]
    one = Plain(id=1)
    session.add(one)
    session.flush()
    session.info["one"] = one
    faults = []

    with statements(session.connection()) as sent:
        for value in values if session.get_bind().dialect.name == "sqlite" else values[::5]:
            fault = tried(call, session, value)
            if fault is not None or sent:
                faults.append(f"{shown(value)}: {fault}; sent {sent}")
                sent.clear()

    assert faults == []


def in_a_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(test())

    run.__doc__ = test.__doc__
    return run


def forget(_: Any) -> None:
    gc.collect()


@in_a_loop
async def test_a_wrong_argument_to_an_async_session_is_one_before_any_statement() -> None:
    engine = create_async_engine("sqlite+aiosqlite://")
    number, faults = 0, []
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with AsyncSession(engine) as session:
        one = Plain(id=1)
        session.add(one)
        await session.flush()
        session.info["one"] = session.sync_session.info["one"] = one
        with statements((await session.connection()).sync_connection) as sent:
            for name, (call, values) in TABLE.items():
                for value in values:
                    number += 1
                    fault = await tried_async(call, session, value)
                    if fault is not None or sent:
                        faults.append(f"{name} {shown(value)}: {fault}; sent {sent}")
                        sent.clear()
    await engine.dispose()

    assert faults == []
    assert number > 10_000


@in_a_loop
async def test_an_engine_is_no_session_and_no_connection() -> None:
    engine = create_async_engine("sqlite+aiosqlite://")
    for wrong in (engine, engine.sync_engine):
        with pytest.raises(TypeError, match="a session or a Connection is needed"):
            await fire_key(Plain, 1, "Go", wrong)  # type: ignore[call-overload]  # that is the mistake
    await engine.dispose()


@in_a_loop
async def test_a_fire_that_is_not_awaited_is_neither_true_nor_false() -> None:
    """An ``if`` around it would always hold, and nothing would be sent."""
    engine = create_async_engine("sqlite+aiosqlite://")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with AsyncSession(engine) as session:
        one = Plain(id=1)
        session.add(one)
        await session.flush()

        with pytest.raises(TypeError, match=r"try_fire\(\) of an AsyncSession has sent nothing yet: await it"):
            bool(one.try_fire("Go"))
        with pytest.raises(TypeError, match=r"try_fire_key\(\)"):
            bool(try_fire_key(Plain, 1, "Go", session))
        with pytest.warns(RuntimeWarning, match="coroutine 'fire' was never awaited"):
            forget(one.fire("Go"))
        # asyncio takes it for the coroutine that it stands for.
        (task,) = await asyncio.gather(asyncio.create_task(one.try_fire("Go", session)))
        assert await asyncio.wait_for(one.try_fire("Go", session), 5)
        assert bool(task)
    await engine.dispose()


def details_of(engine_options: dict[str, Any], details: Any) -> Any:
    engine = create_engine("sqlite://", **engine_options)
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(Plain(id=1))
        session.flush()
        fire_key(Plain, 1, "Go", session, details=details)
        return session.scalars(select(PlainHistory.details)).one()


def test_details_are_what_the_engines_own_serializer_takes() -> None:
    at = datetime(2026, 1, 1)  # noqa: DTZ001 - as text it needs no zone
    serializer = {"json_serializer": lambda value: json.dumps(value, default=str)}

    assert details_of(serializer, {"at": at}) == {"at": str(at)}
    with pytest.raises(TypeError, match="details= is stored as JSON: Object of type datetime"):
        details_of({}, {"at": at})


FINE: list[Any] = [
    *(0, False, "", [], {}, 1.5, 10**300, -(2**63), 1e308, "é 😀", "NaN", "Infinity", "1e999", "\0", "9" * 400, "[[[" * 50),
    *({"a": [1, None, {"b": "NaN"}]}, [[]] * 100, nested(30), "\\ud800", {"\\ud800": 1}),
]  # fmt: skip


@pytest.mark.parametrize("details", FINE, ids=range(len(FINE)))
def test_what_both_servers_store_is_taken(session: Session, details: Any) -> None:
    session.add(Plain(id=1))
    session.flush()

    fire_key(Plain, 1, "Go", session, details=details)

    stored = session.scalars(select(PlainHistory.details)).one()
    assert stored == (details if not isinstance(details, int) else pytest.approx(details))


def test_refused_details_leave_the_callers_transaction_alive(session: Session) -> None:
    session.add(Plain(id=1, note="work of the caller"))
    session.flush()

    for details in (float("nan"), b"x", "\ud800"):
        with pytest.raises((TypeError, ValueError), match="details="):
            fire_key(Plain, 1, "Go", session, details=details)

    assert session.scalars(select(Plain.note)).all() == ["work of the caller"]
    assert fire_key(Plain, 1, "Go", session)
