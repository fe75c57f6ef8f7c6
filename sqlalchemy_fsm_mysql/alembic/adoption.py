"""A machine takes over a column that a table has already, while old and new code write: the operations as data.

==========================  ==========================================================================================
``op.adopt_column``         adds the state column beside the old one, keeps both in step by triggers, and fills it
``op.abandon_adoption``     takes that back: the triggers and the state column go, the old column stays as it is
``op.finish_adoption``      the state column is NOT NULL, the old one is dropped or becomes a generated column
==========================  ==========================================================================================

All of them can be run again after a failure in the middle. How each is done is in :mod:`.adopting` and
:mod:`.finishing`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from alembic.autogenerate import renderers
from alembic.autogenerate.api import AutogenContext
from alembic.operations import MigrateOperation, Operations

from ..errors.texts import stored_form
from ..orm.column import Storage
from .arguments import STORAGES, require_choice, state_names
from .ops import IrreversibleOp, StatesOp, _names, is_number
from .render import state_arguments

__all__ = ["AbandonAdoptionOp", "AdoptColumnOp", "FinishAdoptionOp"]


@dataclass(kw_only=True, eq=False)
class AdoptionOp(StatesOp):
    """The common part of the three: `column_name` is the old column, `new` the state column beside it."""

    new: str
    copies_table: bool = False
    lock_wait_timeout: int = 1
    attempts: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.new.lower() == self.column_name.lower():
            raise ValueError(f"the state column needs a name of its own beside {self.column_name!r}")


@Operations.register_operation("adopt_column")
@dataclass(kw_only=True, eq=False)
class AdoptColumnOp(AdoptionOp):
    """The state column is added, kept in step and filled."""

    states: tuple[str, ...]
    mapping: Mapping[Any, Any]
    storage: Storage = "enum"
    batch_size: int = 5000  # rows
    unknown: str | None = None
    remarks: Sequence[str] = field(default_factory=tuple)  # for the revision: what the look has found

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("storage", self.storage, STORAGES)
        if self.storage == "integer" and not all(map(is_number, self.states)):
            raise ValueError(f"states={list(self.states)!r}; with storage='integer' they are numbers")
        given: object = self.mapping
        if not isinstance(given, Mapping) or not given:
            raise ValueError('adopt_column takes mapping={old value: state}, such as {"Paid": "paid", None: "new"}')
        state_names([*self.mapping.values(), *([] if self.unknown is None else [self.unknown])])

    @classmethod
    def adopt_column(
        cls,
        operations: Operations,
        table_name: str,
        old: str,
        new: str,
        *,
        states: Sequence[str | int],
        # Any: old values are texts, numbers or None; Mapping is invariant in its keys.
        mapping: Mapping[Any, str | int],
        storage: Storage = "enum",
        schema: str | None = None,
        batch_size: int = 5000,
        unknown: str | int | None = None,
        copies_table: bool = False,
        lock_wait_timeout: int = 1,
        attempts: int = 5,
    ) -> None:
        """Add the state column *new* beside *old*, keep both in step by triggers, and fill *new*, while others write.

        *mapping* is ``{old value: state}``, compared byte by byte in every collation. None and ``''`` are values like
        any other. When new code moves a row, *old* gets the first old value of its state. So each of *states* needs one
        that the column and its foreign key can store. With ``storage="integer"``, *states* are numbers.

        If a row has a value that *mapping* lacks, the operation is refused and changes nothing. Later, the triggers
        refuse such a value in *old* with error 30046. With *unknown*, a state, such values are accepted: they stay in
        *old*, stand for that state, and are listed in the log.

        The server appends *new* by ALGORITHM=INSTANT, without a default. It is NULL until a batch has filled the row.
        If the server can only copy the table, the operation is refused until *copies_table* is true. The fill follows
        the primary key, *batch_size* rows at a time, commits each transaction, and leaves ``ON UPDATE
        CURRENT_TIMESTAMP`` columns as they are. After a crash, run it again. Deploy the code that uses *new* when the
        operation has ended.

        Raises: MigrationRefused, with the number of rows of each unknown value; the driver's error.
        """
        operations.invoke(
            cls(
                table_name=table_name,
                column_name=old,
                new=new,
                states=_names(states),
                mapping=with_texts(mapping),
                storage=storage,
                schema=schema,
                batch_size=batch_size,
                unknown=None if unknown is None else with_texts({0: unknown})[0],
                copies_table=copies_table,
                lock_wait_timeout=lock_wait_timeout,
                attempts=attempts,
            )
        )

    def reverse(self) -> AbandonAdoptionOp:
        return AbandonAdoptionOp(**self.where, new=self.new, copies_table=self.copies_table)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        return ("adopt_column", self.schema, self.table_name, self.column_name, self.new)


@Operations.register_operation("abandon_adoption")
@dataclass(kw_only=True, eq=False)
class AbandonAdoptionOp(AdoptionOp):
    """The triggers and the state column go; the old column has everything."""

    @classmethod
    def abandon_adoption(
        cls,
        operations: Operations,
        table_name: str,
        old: str,
        new: str,
        *,
        copies_table: bool = False,
        schema: str | None = None,
        lock_wait_timeout: int = 1,
        attempts: int = 5,
    ) -> None:
        """Take ``op.adopt_column`` back: drop its triggers and the column *new*.

        Stop the code that uses *new* before. No row loses its state, because *old* has been in step: a row that new
        code has moved has the first old value of its state. The operation is refused when the adoption is finished.
        With *copies_table*, the server may rebuild or copy the table if it cannot drop the column otherwise.

        Raises: MigrationRefused; the driver's error.
        """
        operations.invoke(
            cls(
                table_name=table_name,
                column_name=old,
                new=new,
                copies_table=copies_table,
                schema=schema,
                lock_wait_timeout=lock_wait_timeout,
                attempts=attempts,
            )
        )

    def reverse(self) -> MigrateOperation:
        return IrreversibleOp(f"{self.label}: the mapping of the adoption that was abandoned is not known")

    def to_diff_tuple(self) -> tuple[Any, ...]:
        return ("abandon_adoption", self.schema, self.table_name, self.column_name, self.new)


@Operations.register_operation("finish_adoption")
@dataclass(kw_only=True, eq=False)
class FinishAdoptionOp(AdoptionOp):
    """The state column stands alone; the old one is dropped, or generated for readers."""

    drop: bool = False

    @classmethod
    def finish_adoption(
        cls,
        operations: Operations,
        table_name: str,
        old: str,
        new: str,
        *,
        drop: bool = False,
        copies_table: bool = False,
        schema: str | None = None,
        lock_wait_timeout: int = 1,
        attempts: int = 5,
    ) -> None:
        """End ``op.adopt_column``, when no code writes *old* any more. It cannot be taken back.

        *new* becomes NOT NULL, by a rebuild that does not block writers (ALGORITHM=INPLACE, LOCK=NONE), and gets the
        default that *old* had. Then the table is locked for a moment. The triggers are dropped, and *old* becomes a
        generated column, in which readers see the first old value of each state. With *drop*, *old* is dropped instead.
        After that, a statement that writes *old* fails. The foreign key of *old* is dropped, and so are its indexes;
        the generated column gets the indexes again. After a crash, run it again.

        The operation is refused while anything else uses *old*: a CHECK with other columns, a generated column, an
        index of several columns, an expression, a partition, another table, or a trigger. An AFTER trigger is allowed
        without *drop*. With *copies_table*, the server may rebuild or copy the table if it can do a step in no other
        way, as with a FULLTEXT index. Writers are blocked during the copy.

        Raises: MigrationRefused, with what stands in the way; the driver's error.
        """
        operations.invoke(
            cls(
                table_name=table_name,
                column_name=old,
                new=new,
                copies_table=copies_table,
                drop=drop,
                schema=schema,
                lock_wait_timeout=lock_wait_timeout,
                attempts=attempts,
            )
        )

    def reverse(self) -> MigrateOperation:
        return IrreversibleOp(f"{self.label}: the column that was replaced by {self.new} does not come back")

    def to_diff_tuple(self) -> tuple[Any, ...]:
        return ("finish_adoption", self.schema, self.table_name, self.column_name, self.new)


def with_texts(mapping: Any) -> Any:
    """*mapping* with each state as the text that rows hold."""
    if not isinstance(mapping, Mapping):  # refused by the operation
        return mapping
    are_numbers = all(isinstance(state, int) and not isinstance(state, bool) for state in mapping.values())
    return {value: str(int(state)) if are_numbers else state for value, state in mapping.items()}


# --- as lines of a revision


@renderers.dispatch_for(AdoptColumnOp)
def _adopt(context: AutogenContext, op: AdoptColumnOp) -> list[str]:
    is_integer = op.storage == "integer"
    mapping = {_literal(value): int(state) if is_integer else _literal(state) for value, state in op.mapping.items()}
    options: dict[str, Any] = {"states": state_arguments(op.states, op.storage), "mapping": mapping}
    if op.storage != "enum":
        options["storage"] = op.storage
    if op.unknown is not None:
        options["unknown"] = int(op.unknown) if is_integer else op.unknown
    comments = [f"# {remark}" for remark in op.remarks]
    return [*comments, _call(context, "adopt_column", op, options)]


@renderers.dispatch_for(AbandonAdoptionOp)
def _abandon(context: AutogenContext, op: AbandonAdoptionOp) -> str:
    return _call(context, "abandon_adoption", op, {})


@renderers.dispatch_for(FinishAdoptionOp)
def _finish(context: AutogenContext, op: FinishAdoptionOp) -> list[str]:
    comment = "# contract: once no code writes the old column any more; it cannot be taken back"
    return [comment, _call(context, "finish_adoption", op, {"drop": op.drop})]


def _literal(value: Any) -> Any:
    """*value* as a revision writes it: of an Enum's member, what the database holds."""
    return stored_form(value) if isinstance(value, str) else getattr(value, "value", value)


def _call(context: AutogenContext, name: str, op: AdoptionOp, options: Mapping[str, Any]) -> str:
    prefix = context.opts["alembic_module_prefix"] or ""
    schema = {} if op.schema is None else {"schema": op.schema}
    copies = {"copies_table": True} if op.copies_table else {}
    arguments = [repr(str.__str__(part)) for part in (op.table_name, op.column_name, op.new)]
    lines = [*arguments, *(f"{key}={value!r}" for key, value in {**options, **copies, **schema}.items())]
    return f"{prefix}{name}({', '.join(lines)})"
