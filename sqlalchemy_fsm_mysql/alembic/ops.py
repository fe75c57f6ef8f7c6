"""The operations as data: what a revision says of a state column. How each is done is in :mod:`.implementation`.

========================  ============================================================================================
``op.add_states``         the column takes more states; appended in the database's order, so that nothing is copied
``op.migrate_states``     rows go from one state to another, in committed batches; past the machine
``op.drop_states``        the column does not allow these states any longer; refused while a row is in one
``op.convert_states``     the column is stored in another way: ENUM, or VARCHAR or a number with a CHECK
========================  ============================================================================================

All of them can be run again after a failure in the middle: what is done already is left alone. A wrong argument is a
TypeError or a ValueError, before anything is sent.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from alembic.operations import MigrateOperation, Operations

from ..errors.texts import shown
from ..orm.column import Storage
from .arguments import STORAGES, by_text, require_arguments, require_choice, state_names, state_text

__all__ = ["AddStatesOp", "ConvertStatesOp", "DropStatesOp", "IrreversibleOp", "MigrateStatesOp", "StatesOp"]

Algorithm = Literal["INSTANT", "INPLACE", "NOCOPY", "COPY"]
ALGORITHMS = ("INSTANT", "INPLACE", "NOCOPY", "COPY", None)


@dataclass(kw_only=True, eq=False)
class StatesOp(MigrateOperation):
    """The common part of all operations on a state column."""

    table_name: str
    column_name: str
    schema: str | None = None

    def __post_init__(self) -> None:
        require_arguments(self)

    @property
    def label(self) -> str:
        """The column, as messages name it."""
        parts = (self.schema, self.table_name, self.column_name)
        return ".".join(part for part in parts if part)

    @property
    def where(self) -> dict[str, Any]:
        """The arguments that name the column, for another operation on it."""
        return {"table_name": self.table_name, "column_name": self.column_name, "schema": self.schema}


@dataclass(kw_only=True, eq=False)
class AlterStatesOp(StatesOp):
    """An operation that alters the table.

    `existing` are the states that the column has before, in the database's order. `lock_wait_timeout` is in seconds:
    how long one attempt may queue for the table, and all writers behind it; `attempts` how often it is tried. Without
    `copies_table`, a step for which the server copies the table is refused. `definition` is the column's line of SHOW
    CREATE TABLE before the step, from which ``--sql`` makes the bare ALTER.
    """

    storage: Storage = "enum"
    existing: tuple[str, ...] = ()
    algorithm: Algorithm | None = None
    lock_wait_timeout: int = 1
    attempts: int = 5
    copies_table: bool = False
    definition: str | None = None
    remark: str = ""  # for the revision: how long a copy takes on the table at hand

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("storage", self.storage, STORAGES)
        require_choice("algorithm", self.algorithm, ALGORITHMS)


@Operations.register_operation("add_states")
@dataclass(kw_only=True, eq=False)
class AddStatesOp(AlterStatesOp):
    """The column takes more states."""

    states: tuple[str, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        for state in self.states:
            if self.storage == "enum" and state.endswith(" "):
                raise ValueError(f"{state!r} ends with a space, which an ENUM takes away; strip it")

    @classmethod
    def add_states(
        cls,
        operations: Operations,
        table_name: str,
        column_name: str,
        states: Sequence[str | int],
        *,
        schema: str | None = None,
        storage: Storage = "enum",
        existing: Sequence[str | int] = (),
        algorithm: Algorithm | None = "INSTANT",
        lock_wait_timeout: int = 1,
        attempts: int = 5,
        copies_table: bool = False,
        definition: str | None = None,
    ) -> None:
        """Append *states* to those that the column accepts. The rest of the column's definition stays as it is.

        The server gets *algorithm*, so it refuses the ALTER instead of copying the table. An ENUM accepts new states
        INSTANTly until its 255th state. A CHECK, of a VARCHAR or a number, changes only with a copy of the table: pass
        ``algorithm="COPY"`` and ``copies_table=True``. SQLite changes only its schema, and needs neither.

        An ALTER waits for open transactions, and all writers wait behind it. So an attempt gives up after
        *lock_wait_timeout* seconds. The next one begins a second later, *attempts* in all. A script of ``--sql`` cannot
        read the states of a CHECK, and needs *existing*. From *definition*, the column's line of SHOW CREATE TABLE, it
        prints the bare ALTER for gh-ost and pt-online-schema-change. Autogenerate writes both.

        Raises: MigrationRefused, when nothing was changed; the driver's error.
        """
        operations.invoke(
            cls(
                table_name=table_name,
                column_name=column_name,
                states=_names(states),
                schema=schema,
                storage=storage,
                existing=state_names(existing),
                algorithm=algorithm,
                lock_wait_timeout=lock_wait_timeout,
                attempts=attempts,
                copies_table=copies_table,
                definition=definition,
            )
        )

    def reverse(self) -> DropStatesOp:
        return DropStatesOp(
            **self.where,
            states=self.states,
            storage=self.storage,
            existing=(*self.existing, *(state for state in self.states if state not in self.existing)),
            remark=self.remark,
        )

    def to_diff_tuple(self) -> tuple[Any, ...]:
        return ("add_states", self.schema, self.table_name, self.column_name, list(self.states))


@Operations.register_operation("drop_states")
@dataclass(kw_only=True, eq=False)
class DropStatesOp(AlterStatesOp):
    """The column does not allow these states any longer."""

    states: tuple[str, ...]
    server_default: str | None = None

    @classmethod
    def drop_states(
        cls,
        operations: Operations,
        table_name: str,
        column_name: str,
        states: Sequence[str | int],
        *,
        schema: str | None = None,
        storage: Storage = "enum",
        existing: Sequence[str | int] = (),
        server_default: str | int | None = None,
        algorithm: Algorithm | None = None,
        lock_wait_timeout: int = 1,
        attempts: int = 5,
        copies_table: bool = False,
        definition: str | None = None,
    ) -> None:
        """Remove *states* from those that the column accepts. The server copies the table for it, and blocks writers.

        The operation is refused until *copies_table* is true. It counts the rows first, and changes nothing while one
        is in a state to be removed. A script of ``--sql`` counts no rows: there, the server refuses, in strict mode.
        *server_default* is the column's new default, one of the states that stay. It is needed if the old default is
        removed. The other parameters are those of ``add_states``.

        Raises: MigrationRefused, with the number of rows in each state; the driver's error.
        """
        operations.invoke(
            cls(
                table_name=table_name,
                column_name=column_name,
                states=_names(states),
                schema=schema,
                storage=storage,
                existing=state_names(existing),
                server_default=None if server_default is None else state_text(server_default),
                algorithm=algorithm,
                lock_wait_timeout=lock_wait_timeout,
                attempts=attempts,
                copies_table=copies_table,
                definition=definition,
            )
        )

    def reverse(self) -> AddStatesOp:
        return AddStatesOp(
            **self.where,
            states=self.states,
            storage=self.storage,
            existing=tuple(state for state in self.existing if state not in self.states),
            algorithm="INSTANT" if self.storage == "enum" else "COPY",
            remark=self.remark,
        )

    def to_diff_tuple(self) -> tuple[Any, ...]:
        return ("drop_states", self.schema, self.table_name, self.column_name, list(self.states))


@Operations.register_operation("migrate_states")
@dataclass(kw_only=True, eq=False)
class MigrateStatesOp(StatesOp):
    """Rows go from one state to another."""

    targets: Mapping[str | None, str]
    batch_size: int = 5000  # rows
    history: str | None = None
    record: Mapping[str, str] = field(default_factory=dict)
    actor: str | None = "alembic"
    details: Any = None
    condition: str | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    is_number: bool = False  # whether the states are numbers
    keeps_timestamps: bool = False
    since: str | None = None
    reversible: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        given: object = self.targets
        if not isinstance(given, Mapping) or not given:
            raise ValueError('migrate_states takes {source: target}, such as {"Error": "Failed"}')
        # NULL and '' are values that rows may hold, and no names of states.
        _names([*filter(None, self.targets), *self.targets.values()])
        chained = sorted(set(filter(None, self.targets)) & set(self.targets.values()))
        if chained:
            raise ValueError(f"{chained[0]!r} is both a source and a target; do one step after the other")
        used = dict.fromkeys([*self.targets, *self.targets.values()])
        unnamed = [one for one in used if one and one not in self.names]
        if self.history is not None and self.is_number and unnamed:
            raise ValueError(f"names= lacks {_listed(unnamed)}: a history has the names of states, not their numbers")

    @classmethod
    def migrate_states(
        cls,
        operations: Operations,
        table_name: str,
        column_name: str,
        # Any: texts, numbers or None; Mapping is invariant in its keys.
        targets: Mapping[Any, str | int],
        *,
        schema: str | None = None,
        batch_size: int = 5000,
        history: str | None = None,
        record: Mapping[str, str] | None = None,
        actor: str | None = "alembic",
        details: object = None,
        where: str | None = None,
        names: Mapping[Any, str] | None = None,
        keeps_timestamps: bool = False,
        since: str | None = None,
    ) -> None:
        """Move the rows in a key of *targets* to its value: ``{"Error": "Failed"}``. The column's default also moves.

        Batches of at most *batch_size* rows follow the primary key, and each is committed. Locked rows wait for another
        pass. After a crash, run it again. With ``--sql`` it is one transaction. *history* is the name of the column's
        history table, in the same schema: each row gets a history row of the event ``force_state``, by *actor* and with
        *details* (JSON). *record* maps the history's columns to those of the row's key, ``{"record_id": "id"}``;
        without it, they correspond in order.

        In a column of numbers, *targets* are numbers, ``{2: 3}``, and *names* are the names for the history:
        ``{2: "PAID", 3: "SENT"}``.

        Effects of `on_enter` and `on_exit` are not written, because a revision knows no machine. *since* names the
        `StateSinceColumn` to set. Without it, as for a new name, timed events count from the change before.

        The keys of *targets* are compared byte by byte in every collation. None and ``''`` are also keys. *where* is a
        SQL condition such as ``"retries > 3"``, which limits the rows, to split a state. The column's default then
        stays. The server sets columns with ``ON UPDATE CURRENT_TIMESTAMP``, unless *keeps_timestamps* is true.

        Raises: MigrationRefused.
        """
        operations.invoke(
            cls(
                table_name=table_name,
                column_name=column_name,
                targets=_texts(targets),
                schema=schema,
                batch_size=batch_size,
                history=history,
                record={} if record is None else record,
                actor=actor,
                details=details,
                condition=where,
                names=by_text(names),
                is_number=_has_numbers(targets),
                keeps_timestamps=keeps_timestamps,
                since=since,
            )
        )

    def reverse(self) -> MigrateOperation:
        targets: dict[str | None, str] = {target: source for source, target in self.targets.items() if source}
        is_one_to_one = len(targets) == len(self.targets) and self.condition is None
        if not (self.reversible and is_one_to_one):
            hint = f"; after a rename, replace this line by op.migrate_states() with {targets}" if is_one_to_one else ""
            return IrreversibleOp(f"{self.label}: nothing records which rows were in {_listed(self.targets)}{hint}")
        return MigrateStatesOp(
            **self.where,
            targets=targets,
            batch_size=self.batch_size,
            history=self.history,
            record=self.record,
            names=self.names,
            is_number=self.is_number,
            keeps_timestamps=self.keeps_timestamps,
            since=self.since,
        )

    def to_diff_tuple(self) -> tuple[Any, ...]:
        return ("migrate_states", self.schema, self.table_name, self.column_name, dict(self.targets))


@Operations.register_operation("convert_states")
@dataclass(kw_only=True, eq=False)
class ConvertStatesOp(AlterStatesOp):
    """The column is stored in another way."""

    states: tuple[str, ...]
    existing_storage: Storage | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("existing_storage", self.existing_storage, (*STORAGES, None))

    @classmethod
    def convert_states(
        cls,
        operations: Operations,
        table_name: str,
        column_name: str,
        states: Sequence[str | int],
        *,
        storage: Storage,
        existing_storage: Storage | None = None,
        schema: str | None = None,
        lock_wait_timeout: int = 1,
        attempts: int = 5,
        copies_table: bool = False,
        definition: str | None = None,
    ) -> None:
        """Store the column as *storage*, ``"enum"``, ``"varchar"`` or ``"integer"``, with *states*, as a model does.

        A column of numbers stays one. With ``"integer"`` it gets a CHECK for *states*, which are numbers, and keeps its
        type if that can store them all.

        Storage, collation and NOT NULL become those of a new column; default and comment stay. The server copies the
        table and blocks writers, so the operation is refused until *copies_table* is true. It is also refused while a
        row has another value than *states*, such as NULL or ``''``; it compares byte by byte. To convert numbers, or
        texts in other spellings, use ``op.adopt_column``. *existing_storage* is the storage before, None for a VARCHAR
        that accepts anything. Only ``--sql`` and a downgrade need it.

        Raises: MigrationRefused, with the number of rows in each state; the driver's error.
        """
        operations.invoke(
            cls(
                table_name=table_name,
                column_name=column_name,
                states=_names(states),
                schema=schema,
                storage=storage,
                existing_storage=existing_storage,
                lock_wait_timeout=lock_wait_timeout,
                attempts=attempts,
                copies_table=copies_table,
                definition=definition,
            )
        )

    def reverse(self) -> MigrateOperation:
        if self.existing_storage is None:
            return IrreversibleOp(f"{self.label}: how the column was declared before is not known")
        return ConvertStatesOp(
            **self.where,
            states=self.states,
            storage=self.existing_storage,
            existing_storage=self.storage,
            remark=self.remark,
        )

    def to_diff_tuple(self) -> tuple[Any, ...]:
        return ("convert_states", self.schema, self.table_name, self.column_name, self.storage)


class IrreversibleOp(MigrateOperation):
    """A step that cannot be taken back; in a downgrade it is rendered as an error that says why."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def reverse(self) -> IrreversibleOp:
        return self

    def to_diff_tuple(self) -> tuple[Any, ...]:
        return ("irreversible", self.reason)


def _names(states: Collection[object]) -> tuple[str, ...]:
    """*states* as texts, at least one."""
    names = state_names(states)
    if not names:
        raise TypeError(f"states are a list of names, or of numbers with storage='integer', not {shown(states)}")
    return names


def is_number(text: str) -> bool:
    """Whether *text* can be a state of a column with ``storage="integer"``.

    >>> is_number("-3"), is_number("new")
    (True, False)
    """
    return text.removeprefix("-").isdecimal()


def _has_numbers(targets: Any) -> bool:
    return isinstance(targets, Mapping) and any(isinstance(target, int) for target in targets.values())


def _texts(targets: Any) -> Any:
    """*targets* with numbers as texts."""

    def text(value: Any) -> Any:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    if not isinstance(targets, Mapping):  # refused by the operation
        return targets
    return {text(source): text(target) for source, target in targets.items()}


def _listed(names: Iterable[object]) -> str:
    return ", ".join(map(repr, names))
