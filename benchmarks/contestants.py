"""Who is compared: the limit, this library, the usual patterns, and its peers; each fires events on rows by their key.

All work on the same table, server, driver and isolation level. A contestant lives in one process. Those that need an
object keep it, as a program does that fires again on what it has loaded.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from typing import Any

from sqlalchemy import String, text
from sqlalchemy.engine import make_url
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.orm.exc import StaleDataError

from sqlalchemy_fsm_mysql import fire_key

from . import tables
from .tables import EVENTS, TARGETS

# Its events are there for the classes that are mapped afterwards only.
with contextlib.suppress(ImportError):
    import sqlalchemy_fsm as _sqlalchemy_fsm  # noqa: F401


class Contestant:
    """One way to fire an event on a row and commit."""

    label = ""
    is_safe = True  # no update is lost when several processes fire on one row

    def __init__(self, url: str, *, counting: bool = False) -> None:
        self.url, self.counting = url, counting
        self.open()

    def open(self) -> None:
        """Connect, and prepare what can be prepared."""

    def fire(self, event: str, key: int) -> None:
        """Fire *event* on the row *key*, and commit."""
        raise NotImplementedError

    def close(self) -> None:
        """Give the connections back."""


class Driver(Contestant):
    label = "mysqlclient, the same UPDATE and COMMIT"
    autocommit = False

    def open(self) -> None:
        import MySQLdb
        from MySQLdb.constants import CLIENT

        url = make_url(self.url)
        self.connection = MySQLdb.connect(
            host=url.host or "127.0.0.1",
            port=url.port or 3306,
            user=url.username or "root",
            password=url.password or "",
            database=url.database or "test",
            client_flag=CLIENT.FOUND_ROWS,
            autocommit=self.autocommit,
        )
        self.connection.query("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
        self.connection.commit()
        self.statements = {event: tables.by_hand(event, counting=self.counting) for event in EVENTS}

    def fire(self, event: str, key: int) -> None:
        cursor = self.connection.cursor()
        cursor.execute(self.statements[event], (key,))
        tables.source_of(cursor.lastrowid)
        cursor.close()
        if not self.autocommit:
            self.connection.commit()

    def close(self) -> None:
        self.connection.close()


class DriverAutocommit(Driver):
    label = "mysqlclient, the same UPDATE in AUTOCOMMIT"
    autocommit = True


class WithSession(Contestant):
    """Those that have a session of SQLAlchemy's."""

    options: dict[str, Any] = {}

    def open(self) -> None:
        self.engine = tables.engine_of(self.url, **self.options)
        self.session = Session(self.engine)
        self.held: dict[int, Any] = {}
        self.prepare()

    def prepare(self) -> None:
        """What needs the engine."""

    def close(self) -> None:
        self.session.close()
        self.engine.dispose()


class ByHand(WithSession):
    label = "the same UPDATE by hand in a session"

    def prepare(self) -> None:
        written = {event: tables.by_hand(event, counting=self.counting, parameter=":id") for event in EVENTS}
        self.statements = {event: text(statement) for event, statement in written.items()}

    def fire(self, event: str, key: int) -> None:
        result: Any = self.session.execute(self.statements[event], {"id": key})
        tables.source_of(result.lastrowid)
        self.session.commit()


class ByHandHolding(ByHand):
    """The session holds the row's object, as that of `Fire` does: SQLAlchemy expires it at each commit."""

    label = "the same UPDATE by hand, with the object loaded"

    def prepare(self) -> None:
        super().prepare()
        self.order = tables.model(counting=self.counting)

    def fire(self, event: str, key: int) -> None:
        if key not in self.held:
            self.held[key] = self.session.get(self.order, key)
        super().fire(event, key)


class FireKey(WithSession):
    label = "fire_key"
    history = False

    def prepare(self) -> None:
        self.order = tables.model(counting=self.counting, history=self.history)
        if self.history:
            history = self.order.metadata.tables[f"{tables.TABLE}_history"]
            history.create(self.engine, checkfirst=True)

    def fire(self, event: str, key: int) -> None:
        fire_key(self.order, key, event, self.session)
        self.session.commit()


class ByHandConnection(ByHand):
    """The statement executed by a Core Connection."""

    label = "the same UPDATE by hand on a Connection"

    def prepare(self) -> None:
        super().prepare()
        self.connection = self.engine.connect()

    def fire(self, event: str, key: int) -> None:
        result: Any = self.connection.execute(self.statements[event], {"id": key})
        tables.source_of(result.lastrowid)
        self.connection.commit()

    def close(self) -> None:
        self.connection.close()
        super().close()


class FireKeyConnection(FireKey):
    label = "fire_key on a Connection"

    def prepare(self) -> None:
        super().prepare()
        self.connection = self.engine.connect()

    def fire(self, event: str, key: int) -> None:
        fire_key(self.order, key, event, self.connection)
        self.connection.commit()

    def close(self) -> None:
        self.connection.close()
        super().close()


class FireKeyConnectionAutocommit(FireKeyConnection):
    """The UPDATE is its own COMMIT, so nothing is sent after it."""

    label = "fire_key on a Connection in AUTOCOMMIT"
    options = {"isolation_level": "AUTOCOMMIT", "skip_autocommit_rollback": True}

    def fire(self, event: str, key: int) -> None:
        fire_key(self.order, key, event, self.connection)


class ByHandHistory(ByHand):
    """The UPDATE, and the INSERT of a history row with the next number of its row."""

    label = "UPDATE and history INSERT by hand in a session"

    def prepare(self) -> None:
        super().prepare()
        order = tables.model(history=True)
        tables.create_history(self.engine, order)
        self.insert = text(
            f"INSERT INTO {tables.TABLE}_history (record_id, sequence, event, at, source, target)"
            f" SELECT :id, COALESCE(MAX(sequence), 0) + 1, :event, UTC_TIMESTAMP(6), :source, :target"
            f" FROM {tables.TABLE}_history WHERE record_id = :id"
        )

    def fire(self, event: str, key: int) -> None:
        result: Any = self.session.execute(self.statements[event], {"id": key})
        source = tables.source_of(result.lastrowid)
        values = {"id": key, "event": event, "source": source, "target": TARGETS[event][source]}
        self.session.execute(self.insert, values)
        self.session.commit()


class Fire(FireKey):
    label = "fire"

    def fire(self, event: str, key: int) -> None:
        order = self.held.get(key)
        if order is None:
            order = self.held[key] = self.session.get(self.order, key)
        order.fire(event, self.session)
        self.session.commit()


class FireKeyHistory(FireKey):
    label = "fire_key with history"
    history = True


class FireKeyToken(FireKey):
    label = "fire_key with history and token"
    history = True

    def prepare(self) -> None:
        super().prepare()
        import uuid

        self.tokens = (f"{uuid.uuid4().hex}-{number}" for number in itertools.count())

    def fire(self, event: str, key: int) -> None:
        fire_key(self.order, key, event, self.session, token=next(self.tokens))
        self.session.commit()


class FireKeyAutocommit(FireKey):
    """Nothing is open afterwards, so there is no COMMIT to send, and no ROLLBACK when the connection is given back."""

    label = "fire_key, AUTOCOMMIT engine"
    options = {"isolation_level": "AUTOCOMMIT", "skip_autocommit_rollback": True}

    def fire(self, event: str, key: int) -> None:
        fire_key(self.order, key, event, self.session)
        self.session.close()


# --- the usual patterns, and the peers


def plain_model(**extra: Any) -> type[Any]:
    """A model of the table without a machine, with what *extra* adds to its body."""

    class Base(DeclarativeBase):
        """One model."""

    annotations = {
        "id": Mapped[int],
        "state": Mapped[str],
        "steps": Mapped[int],
        "version": Mapped[int],
        "note": Mapped[str],
    }
    body = {
        "__tablename__": tables.TABLE,
        "__annotations__": annotations,
        "__module__": __name__,
        "id": mapped_column(primary_key=True),
        "state": mapped_column(String(32)),
        "note": mapped_column(String(40)),
        **extra,
    }
    return type("Order", (Base,), body)


class Locked(WithSession):
    """``get(with_for_update)``, move in Python, commit; the peers move in their own way."""

    label = "get(with_for_update), assign, commit"
    lock: Any = True

    def prepare(self) -> None:
        self.order = plain_model()

    def fire(self, event: str, key: int) -> None:
        order = self.session.get(self.order, key, with_for_update=self.lock, populate_existing=True)
        self.held[key] = order
        self.move(order, event)
        if self.counting:
            order.steps += 1
        self.session.commit()

    def move(self, order: Any, event: str) -> None:
        target = TARGETS[event].get(order.state)
        if target is None:
            raise ValueError(f"refused: {order.state}")
        order.state = target


class Optimistic(Locked):
    label = "version_id_col, with retry"
    lock = None

    def prepare(self) -> None:
        version = mapped_column(nullable=False)
        self.order = plain_model(version=version, __mapper_args__={"version_id_col": version})

    def fire(self, event: str, key: int) -> None:
        while True:
            try:
                super().fire(event, key)
            except StaleDataError:
                self.session.rollback()
            else:
                return


class SqlalchemyFsm(Locked):
    label = "sqlalchemy-fsm"
    is_safe = False
    lock = None

    def prepare(self) -> None:
        from sqlalchemy_fsm import FSMField, transition

        def ready(self: Any) -> None:
            """Whatever it was, it runs."""

        def not_ready(self: Any) -> None:
            """It is broken."""

        self.order = plain_model(
            state=mapped_column(FSMField, nullable=False),
            ready=transition(source=["Initializing", "Running", "Error"], target="Running")(ready),
            not_ready=transition(source=["Running", "Error"], target="Error")(not_ready),
        )

    def move(self, order: Any, event: str) -> None:
        (order.ready if event == "Ready" else order.not_ready).set()


class SqlalchemyFsmLocked(SqlalchemyFsm):
    label = "sqlalchemy-fsm, with a lock"
    is_safe = True
    lock = True


class Transitions(Locked):
    label = "transitions, with a lock"

    def prepare(self) -> None:
        from transitions import Machine

        super().prepare()
        ways = [
            {"trigger": event, "source": source, "dest": target}
            for event, targets in TARGETS.items()
            for source, target in targets.items()
        ]
        self.machine = Machine(model=None, states=list(tables.STATES), transitions=ways, initial="Initializing")
        self.known: set[int] = set()

    def move(self, order: Any, event: str) -> None:
        if id(order) not in self.known:
            self.machine.add_model(order, initial=order.state)
            self.known.add(id(order))
        order.trigger(event)


class PythonStatemachine(Locked):
    label = "python-statemachine, with a lock"

    def prepare(self) -> None:
        from statemachine import State, StateMachine

        super().prepare()
        states = {name: State(name, initial=name == "Initializing", value=name) for name in tables.STATES}

        def event(name: str) -> Any:
            ways = [states[source].to(states[target]) for source, target in TARGETS[name].items()]
            joined = ways[0]
            for way in ways[1:]:
                joined |= way
            return joined

        body: dict[str, Any] = {name.lower(): state for name, state in states.items()}
        self.machine = type("Flow", (StateMachine,), body | {f"on{name}": event(name) for name in TARGETS})

    def move(self, order: Any, event: str) -> None:
        self.machine(order, state_field="state").send(f"on{event}")


def django_models() -> tuple[type[Any], type[Any]]:
    """The model with django-fsm-2's own guard against others, and without; one pair for each process."""
    from django.db import models
    from django_fsm import ConcurrentTransitionMixin, FSMField, transition

    if "made" in _DJANGO:
        return _DJANGO["made"]

    def body(name: str) -> dict[str, Any]:
        state = FSMField(max_length=32)

        def ready(self: Any) -> None:
            """Whatever it was, it runs."""

        def not_ready(self: Any) -> None:
            """It is broken."""

        meta = type("Meta", (), {"app_label": "bench", "db_table": tables.TABLE, "managed": False})
        return {
            "__module__": __name__,
            "Meta": meta,
            "id": models.AutoField(primary_key=True),
            "state": state,
            "steps": models.IntegerField(default=0),
            "version": models.IntegerField(default=1),
            "note": models.CharField(max_length=40),
            "ready": transition(field=state, source=["Initializing", "Running", "Error"], target="Running")(ready),
            "not_ready": transition(field=state, source=["Running", "Error"], target="Error")(not_ready),
        }

    guarded = type("GuardedOrder", (ConcurrentTransitionMixin, models.Model), body("GuardedOrder"))
    plain = type("PlainOrder", (models.Model,), body("PlainOrder"))
    _DJANGO["made"] = guarded, plain
    return guarded, plain


_DJANGO: dict[str, Any] = {}  # Django has one configuration for each process


class Django(Contestant):
    label = "django-fsm-2, ConcurrentTransitionMixin"

    def open(self) -> None:
        import django
        from django.conf import settings

        if not settings.configured:
            url = make_url(self.url)
            database = {
                "ENGINE": "django.db.backends.mysql",
                "HOST": url.host or "127.0.0.1",
                "PORT": url.port or 3306,
                "USER": url.username or "root",
                "PASSWORD": url.password or "",
                "NAME": url.database or "test",
                "OPTIONS": {"isolation_level": "read committed"},
                "CONN_MAX_AGE": None,
            }
            settings.configure(DATABASES={"default": database}, INSTALLED_APPS=[], USE_TZ=True)
            django.setup()
        self.guarded, self.plain = django_models()

    def fire(self, event: str, key: int) -> None:
        from django.db import transaction
        from django_fsm import ConcurrentTransition

        while True:
            try:
                with transaction.atomic():
                    self.move(self.guarded.objects.get(pk=key), event)
            except ConcurrentTransition:
                continue
            return

    def move(self, order: Any, event: str) -> None:
        (order.ready if event == "Ready" else order.not_ready)()
        if self.counting:
            order.steps += 1
        order.save()

    def close(self) -> None:
        from django.db import connections

        connections.close_all()


class DjangoLocked(Django):
    label = "django-fsm-2, select_for_update"

    def fire(self, event: str, key: int) -> None:
        from django.db import transaction

        with transaction.atomic():
            self.move(self.plain.objects.select_for_update().get(pk=key), event)


CONTESTANTS: dict[str, Callable[..., Contestant]] = {
    "driver": Driver,
    "driver_autocommit": DriverAutocommit,
    "by_hand": ByHand,
    "by_hand_holding": ByHandHolding,
    "fire_key": FireKey,
    "fire": Fire,
    "fire_key_autocommit": FireKeyAutocommit,
    "fire_key_history": FireKeyHistory,
    "fire_key_token": FireKeyToken,
    "by_hand_connection": ByHandConnection,
    "fire_key_connection": FireKeyConnection,
    "fire_key_connection_autocommit": FireKeyConnectionAutocommit,
    "by_hand_history": ByHandHistory,
    "locked": Locked,
    "optimistic": Optimistic,
    "sqlalchemy_fsm": SqlalchemyFsm,
    "sqlalchemy_fsm_locked": SqlalchemyFsmLocked,
    "transitions": Transitions,
    "python_statemachine": PythonStatemachine,
    "django": Django,
    "django_locked": DjangoLocked,
}
PEERS = ("locked", "optimistic", *list(CONTESTANTS)[-6:])


def available(names: list[str], url: str, **options: Any) -> tuple[dict[str, Contestant], list[str]]:
    """Those of *names* whose libraries are installed, ready to fire; and which are missing."""
    made: dict[str, Contestant] = {}
    missing = []
    for name in names:
        try:
            made[name] = CONTESTANTS[name](url, **options)
        except ImportError as error:
            missing.append(f"{name} ({error.name})")
    return made, missing
