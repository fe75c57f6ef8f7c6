"""How an adoption is done: the DDL of each phase, the triggers, the fill, and what is a reason to refuse.

The order keeps every row right at every moment. The triggers come before the fill, so a row that is written meanwhile
is in step already, and a batch passes over it. New code reads NULL in a row that is not filled yet, which no event
moves. Nothing of the old column is changed before the end, which is in :mod:`.finishing`.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from alembic.operations import Operations
from sqlalchemy import ColumnElement, Connection, func, literal_column, select, update
from sqlalchemy.exc import DBAPIError

from ..core.failures import Cause, is_due_to
from ..databases import database_of, name_of, types_of
from ..databases.exact import AsBytes
from ..databases.mysql.adoption import (
    KINDS,
    Adoption,
    Kind,
    adoption_of,
    becomes,
    create_triggers,
    free_name,
)
from ..databases.mysql.ddl import writing_dialect
from ..databases.mysql.shape import ColumnShape, column_shape, copy_remark
from ..errors import MigrationRefused
from ..operations.adoption import Look, disagreeing, look, shown
from ..sql.keys import is_beyond
from .adoption import AbandonAdoptionOp, AdoptColumnOp, AdoptionOp
from .batches import Walk, committing, go_through, require_own_transactions, self_updating_columns
from .databases import ServerPlace, log, place_of

PAUSE = 0.1  # seconds between two DDL statements, for the writers that have queued behind the first one


@Operations.implementation_for(AdoptColumnOp)
def adopt_column(operations: Operations, op: AdoptColumnOp) -> None:
    table = AdoptedTable(operations, op)
    require_own_transactions(operations, op.label)
    found = look(
        table.connection,
        op.table_name,
        op.column_name,
        op.new,
        states=op.states,
        mapping=op.mapping,
        unknown=op.unknown,
        schema=table.schema,
    )
    _require_mapping(found, op)
    if not database_of(table.connection).catalogue.may_see_triggers(table.connection, table.place.table):
        raise MigrationRefused(
            found.label,
            "this account has no privilege TRIGGER, and triggers keep both columns in step",
            "GRANT TRIGGER on the table to it, or use another account; nothing was changed",
        )
    _add_column(table, found, op)
    _create_triggers(table, found)
    for one in found.values:
        if op.unknown is not None and one.value not in dict(found.adoption.mapping):
            log.info("%s: %d rows contain %r, which stands for %r", found.label, one.rows, shown(one.value), op.unknown)
    with committing(operations, found.label):
        filled = _fill(table, found.adoption, op.batch_size)
    log.info("%s: %d rows filled; %s is in step with it", found.label, filled, op.new)


@Operations.implementation_for(AbandonAdoptionOp)
def abandon_adoption(operations: Operations, op: AbandonAdoptionOp) -> None:
    table = AdoptedTable(operations, op)
    old, new = table.shape(op.column_name), table.shape(op.new)
    going = adoption_of(table.connection, op.table_name, op.column_name, op.new, table.schema)
    if new is not None and ((going is None and not new.is_nullable) or old is None or old.is_generated):
        raise MigrationRefused(
            op.label, f"the adoption by {op.new} is finished, or finish_adoption() has begun", "begin a new adoption"
        )
    # New code has been stopped, and the old column has everything, so the triggers may go one after the other.
    for name in going.names if going else ():
        table.run(f"DROP TRIGGER IF EXISTS {table.prefix}{table.quote(name)}")
    if new is not None:
        table.alter(f"drop {op.new}", f"DROP COLUMN {table.quote(op.new)}", "INSTANT", "INPLACE, LOCK=NONE")
    log.info("%s: the adoption by %s is abandoned", op.label, op.new)


class AdoptedTable:
    """The table of an operation, and the statements that alter it."""

    def __init__(self, operations: Operations, op: AdoptionOp) -> None:
        if operations.get_context().as_sql:
            raise MigrationRefused(
                op.label,
                "--sql cannot look at the rows that a mapping has to cover",
                "run this revision online; the rest of the script can be written from the next one on",
            )
        place = place_of(operations.get_bind(), op.table_name, op.new, op.schema)
        if not isinstance(place, ServerPlace):
            name = name_of(operations.get_context().dialect)
            raise MigrationRefused(
                op.label, f"an adoption needs triggers of MySQL or MariaDB, and this is {name}", "write it by hand"
            )
        self.op, self.place, self.connection, self.schema = op, place, place.connection, place.schema
        preparer = writing_dialect(self.connection.dialect).identifier_preparer
        self.quote: Callable[[str], str] = preparer.quote_identifier
        self._ended = 0.0  # by time.monotonic(): when the last DDL statement ended
        self.prefix = "" if self.schema is None else f"{self.quote(self.schema)}."
        self.name = f"{self.prefix}{self.quote(op.table_name)}"
        digest = hashlib.sha256(f"{op.table_name}.{op.column_name}".encode()).hexdigest()[:12]
        self.spare = f"fsm_{op.column_name[:40]}_{digest}"

    def shape(self, column: str) -> ColumnShape | None:
        return column_shape(self.connection, self.op.table_name, column, self.schema)

    def run(self, *statements: str) -> None:
        """Run *statements* in a session that is pinned, again and again while others hold the table."""
        # The statement before has had writers wait. The server serves them between two statements, if there is time.
        time.sleep(max(0.0, self._ended + PAUSE - time.monotonic()))

        def once() -> None:
            with self.place.pinned(self.op.lock_wait_timeout):
                for statement in statements:
                    self._execute(statement)

        self.place.patiently(self.op.attempts, self.op.lock_wait_timeout, once)
        self._ended = time.monotonic()

    def alter(self, what: str, clause: str, *algorithms: str) -> None:
        """ALTER TABLE, to do *what*, by the first of *algorithms* that the server can do.

        Raises: MigrationRefused when it can do none, and a copy of the table is not accepted.
        """
        tried = (*algorithms, "INPLACE, LOCK=NONE", "COPY") if self.op.copies_table else algorithms
        for algorithm in tried:
            try:
                self.run(f"ALTER TABLE {self.name} {clause}, ALGORITHM={algorithm}")
            except DBAPIError as error:
                if not is_due_to(error, Cause.ALGORITHM_REFUSED):
                    raise
                if algorithm == tried[-1]:
                    raise self.unable(what, algorithms[0], error) from error
            else:
                return

    def unable(self, what: str, algorithm: str, error: DBAPIError) -> MigrationRefused:
        """The refusal to do *what*, because the server can only copy the table."""
        size = copy_remark(self.connection, self.op.table_name, self.schema)
        return MigrationRefused(
            self.op.label,
            f"the server cannot {what} by ALGORITHM={algorithm} ({error.orig})",
            f"copies_table=True has it rebuild or copy the table instead: {size}; both columns are as they were",
        )

    def locked(self, statements: Sequence[str], undo: Sequence[str] = ()) -> None:
        """Run *statements* while no other session writes the table; after an error, those of *undo* that can be run."""

        def once() -> None:
            with self.place.pinned(self.op.lock_wait_timeout):
                self._execute(f"LOCK TABLES {self.name} WRITE")
                try:
                    for statement in statements:
                        self._execute(statement)
                except DBAPIError:
                    for statement in undo if not self.connection.invalidated else ():
                        with suppress(DBAPIError):
                            self._execute(statement)
                    raise
                finally:
                    if not self.connection.invalidated:
                        self._execute("UNLOCK TABLES")

        self.place.patiently(self.op.attempts, self.op.lock_wait_timeout, once)

    def _execute(self, statement: str) -> None:
        self.connection.exec_driver_sql(statement, execution_options={"no_parameters": True})


# --- op.adopt_column


def _require_mapping(found: Look, op: AdoptColumnOp) -> None:
    if found.unknown:
        raise MigrationRefused(
            found.label,
            "the mapping lacks values that rows contain",
            'add them to mapping=, or give unknown="state"; nothing was changed',
            rows=found.unknown,
        )
    missing = found.unspelled(op.states)
    if missing:
        raise MigrationRefused(
            found.label,
            f"the mapping has no value that the column could store for {', '.join(map(repr, missing))}",
            f"map one to it, for rows that new code moves there; the column is {found.shape.type}"
            f"{'' if found.referred is None else ' with a foreign key'}; nothing was changed",
        )


def _add_column(table: AdoptedTable, found: Look, op: AdoptColumnOp) -> None:
    there = table.shape(op.new)
    if there is not None:
        current = table.place.column_states()
        is_ours = current is not None and there.is_nullable and set(op.states) >= set(current.states or op.states)
        if not is_ours:
            what = f"the table has a column {op.new} already ({there.type}{'' if there.is_nullable else ' NOT NULL'})"
            raise MigrationRefused(
                found.label, what, "name another; if op.finish_adoption() was interrupted, run that again"
            )
        return
    dialect = writing_dialect(table.connection.dialect)
    types_of(dialect).share(table.connection.dialect, dialect)
    type_ = types_of(dialect).state(dialect, op.states, op.storage).compile(dialect=dialect)
    clause = f"ADD COLUMN {table.quote(op.new)} {type_} NULL"
    table.alter(f"add {op.new}", clause, "INSTANT")


def _create_triggers(table: AdoptedTable, found: Look) -> None:
    """Make the triggers, unless they are there; those of another mapping are replaced while no session writes."""
    adoption, op = found.adoption, table.op
    going = adoption_of(table.connection, op.table_name, adoption.old, op.new, table.schema)
    if going is not None and len(going.names) == len(KINDS) and replace(going, names=()) == replace(adoption, names=()):
        return
    drops = [f"DROP TRIGGER {table.prefix}{table.quote(name)}" for name in (going.names if going else ())]
    names = trigger_names(table.connection, adoption if going is None else going, table.schema)
    made = create_triggers(adoption, found.old_values, table.quote, table.schema, names)
    if drops:
        table.locked([*drops, *made])
    else:
        for statement in made:
            table.run(statement)


def trigger_names(connection: Connection, adoption: Adoption, schema: str | None) -> Mapping[Kind, str]:
    """The names of the triggers of *adoption*: those that they have, and free ones for those that are not there."""
    names: dict[Kind, str] = {}
    for kind in KINDS:
        own = [name for name in adoption.names if name.partition(f"_{kind}")[1]]
        names[kind] = own[0] if own else free_name(connection, adoption, kind, schema)
    return names


class _FillWalk(Walk):
    """The rows whose new column does not say yet what the old one does."""

    done = "filled"
    # A batch that meets a busy moment of the server is long in proportion to its rows, all locked until it ends.
    largest = 200

    def __init__(self, table: AdoptedTable, adoption: Adoption, batch_size: int) -> None:
        kept = self_updating_columns(table.place)
        super().__init__(table.place, batch_size, f"{adoption.old} to {adoption.new}", kept)
        # Names, and literals that are made of the mapping: no value of a row.
        self.state: ColumnElement[str] = literal_column(f"({becomes(table.quote(adoption.old), adoption)})")
        self.values = {self.row.table.c[name]: self.row.table.c[name] for name in kept}

    def picked(self) -> list[ColumnElement[bool]]:
        differs = AsBytes(self.row.state).is_distinct_from(AsBytes(self.state))
        return [differs, self.state.is_not(None)]

    def _transaction(self, criteria: Sequence[ColumnElement[bool]]) -> tuple[Any, ...] | None:
        """Fill a batch by one statement, so that no round trip of this process lengthens the time of its locks.

        On a busy machine, a process can wait for its turn between two statements for longer than a batch takes.
        """
        rows = [*criteria, *self.picked()]
        # A plain read finds the end of the batch, so that the UPDATE locks nothing beyond it.
        last = select(*self.order).where(*rows).order_by(*self.order).limit(1).offset(self.limit - 1)
        end = self.connection.execute(last).one_or_none()
        if end is not None:
            rows.append(~is_beyond(self.order, tuple(end)))
        key = [part.label(f"fsm_{number}") for number, part in enumerate(self.row.key)]
        free = select(*key).where(*rows).order_by(*self.order).limit(self.limit).with_for_update(skip_locked=True)
        batch = free.subquery("fsm_batch")
        is_free = [part == batch.c[f"fsm_{number}"] for number, part in enumerate(self.row.key)]
        self.place.begin_short()
        start = time.monotonic()
        filled = self.connection.execute(
            update(self.row.table).where(*is_free).values({self.row.state: self.state, **self.values})
        )
        self.moved += filled.rowcount
        if end is None:
            return None
        self._adapt(time.monotonic() - start)
        return tuple(end)


def _fill(table: AdoptedTable, adoption: Adoption, batch_size: int) -> int:
    walk = _FillWalk(table, adoption, batch_size)

    def left() -> int:
        query = select(func.count()).select_from(walk.row.table).where(*walk.picked())
        return int(table.connection.execute(query).scalar_one())

    def refuse() -> Any:
        raise MigrationRefused(
            table.op.label,
            f"{left()} rows are not filled yet",
            "an open transaction locks them; end it, and run the revision again",
        )

    go_through(walk, left, refuse)
    if unknown := disagreeing(table.connection, adoption, table.schema):
        raise MigrationRefused(
            table.op.label,
            f"{unknown} rows got a value that the mapping lacks before the triggers existed",
            'add it to mapping=, or give unknown="state", and run it again',
        )
    return walk.moved
