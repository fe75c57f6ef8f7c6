"""Words that people type into the search box, and the page that answers them, as entries of the site's index.

Sphinx's search ranks a page by its title first, then by its index entries. A page's title names one of its subjects,
so the others stand here.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

WORDS = {
    "why/alternatives": (
        *("SELECT FOR UPDATE", "SELECT … FOR UPDATE", "with_for_update", "pessimistic locking", "optimistic locking"),
        *("version_id_col", "StaleDataError", "lost update", "lost updates", "race condition", "Temporal", "DBOS"),
        *("go-mysql-fsm", "alternatives", "comparison", "LAST_INSERT_ID"),
    ),
    "guide/transactions": (
        *("deadlock", "deadlocks", "retry", "retries", "retry on deadlock", "rollback", "savepoint", "error 1213"),
        *("1213",),
    ),
    "guide/renaming": ("rename state", "rename a state", "zero downtime", "blue green deployment"),
    "evolution": (
        "alembic enum",
        "ALTER ENUM",
        "enum migration",
        "alembic",
        "add a state",
        "gh-ost",
        "autogenerate",
        "drop a state",
        "remove a state",
    ),
    "guide/firing": ("can_fire", "try_fire", "fire_keys", "many keys"),
    "guide/statecharts": (
        "hierarchical state machine",
        "nested states",
        "parallel regions",
        "compound state",
        "substates",
    ),
    "guide/history": ("audit log", "audit trail", "audit", "history table", "GDPR", "state machine history"),
    "guide/jobs": ("SKIP LOCKED", "job queue", "worker", "queue", "lease", "heartbeat"),
    "guide/time": ("timeout", "timer", "scheduled transition", "delayed transition", "expire", "cron"),
    "guide/webhooks": ("idempotency", "idempotency key", "duplicate request", "exactly once", "Stripe webhook"),
    "guide/mails": (
        *("hooks", "callbacks", "outbox", "signals", "send email", "after commit", "send email after commit"),
        *("Kafka", "RabbitMQ", "publish an event"),
    ),
    "guide/sets": ("bulk update", "bulk", "batch"),
    "guide/guards": ("guard", "condition", "permissions", "payload", "effect"),
    "guide/async": ("asyncio", "AsyncSession", "async", "cancelled task", "CancelledError", "cancellation"),
    "guide/web": ("REST API", "HTTP status"),
    "recipes/fastapi": ("FastAPI", "pydantic"),
    "recipes/celery": ("Celery",),
    "enforcement": ("trigger", "triggers", "CHECK constraint"),
    "scaling": ("sharding", "read replica", "multi-tenant", "tenant", "schema_translate_map"),
    "clusters": ("Galera", "Group Replication", "InnoDB Cluster", "wsrep_sync_wait"),
    "proxies": ("ProxySQL", "MaxScale", "RDS Proxy", "HAProxy"),
    "databases": ("Aurora", "Vitess", "TiDB", "PostgreSQL", "locking backend"),
    "drivers": ("driver", "mysqlclient", "PyMySQL", "asyncmy", "aiomysql", "mysql-connector-python"),
    "testing": ("unit test", "pytest", "test a state machine"),
    "why/isolation": ("isolation level", "READ COMMITTED", "REPEATABLE READ", "snapshot", "row lock", "row locks"),
    "troubleshooting": (
        *("lock wait timeout", "error 1205", "1205", "error 1265", "1265", "data truncated", "MissingGreenlet"),
        *("data truncated for column", "lock wait timeout exceeded"),
    ),
    "performance": ("benchmark", "benchmarks", "speed", "overhead"),
    "observability": ("OpenTelemetry", "Prometheus", "metrics", "tracing", "logging"),
    "moving/from-transitions": ("transitions library", "pytransitions"),
    "moving/from-a-column": ("existing table", "legacy column", "status column", "VARCHAR"),
}


def add_words(app: Sphinx, doctree: nodes.document) -> None:
    """Put the words of the page into the index, at its top."""
    name = app.env.docname
    # The last word is the key of a sorted index; there is none here.
    entries = [("single", word, f"search-{name.replace('/', '-')}", "main", None) for word in WORDS.get(name, ())]
    if entries:
        target = nodes.target("", "", ids=[entries[0][2]])
        first = next(iter(doctree.findall(nodes.section)), doctree)
        first.insert(1, [addnodes.index(entries=entries), target])


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the words when a page has been read."""
    app.connect("doctree-read", add_words)
    return {"version": "1", "parallel_read_safe": True}
