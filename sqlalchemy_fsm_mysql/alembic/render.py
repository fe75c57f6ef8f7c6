"""Each operation as a line of a revision: names and states are written out, so that an old revision stays as it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from alembic.autogenerate import renderers
from alembic.autogenerate.api import AutogenContext
from sqlalchemy.types import TypeEngine

from ..orm.column import StateType
from ..orm.history import ExactText, RecordedState
from ..orm.since import Timestamp
from .ops import AddStatesOp, AlterStatesOp, ConvertStatesOp, DropStatesOp, IrreversibleOp, MigrateStatesOp
from .types import States

__all__ = ["render_type", "with_our_types"]

PACKAGE = __name__.rpartition(".")[0]

# The comment above an operation: when a rolling deploy may run it.
EXPAND = "expand: before the release that knows them"
DATA = "data: once every server writes the new names; in a rolling deploy, a revision of its own"
CONTRACT = "contract: once no server writes them and no row has them"


@renderers.dispatch_for(AddStatesOp)
def _add_states(context: AutogenContext, op: AddStatesOp) -> list[str]:
    options = _alter_options(op, "INSTANT")
    copies = op.algorithm == "COPY" and bool(op.remark)
    if copies:
        options |= _copying(op)
    return [
        f"# {EXPAND}",
        *(_copy(op) if copies else []),
        _call(context, "add_states", op, state_arguments(op.states, op.storage), options),
    ]


@renderers.dispatch_for(DropStatesOp)
def _drop_states(context: AutogenContext, op: DropStatesOp) -> list[str]:
    options = _alter_options(op, None)
    if op.server_default is not None:
        options["server_default"] = op.server_default  # a text, as in SQLAlchemy's own DDL
    if op.remark:
        options |= _copying(op)
    return [
        f"# {CONTRACT}",
        *_copy(op),
        _call(context, "drop_states", op, state_arguments(op.states, op.storage), options),
    ]


@renderers.dispatch_for(ConvertStatesOp)
def _convert_states(context: AutogenContext, op: ConvertStatesOp) -> list[str]:
    options: dict[str, Any] = {"storage": op.storage}
    if op.existing_storage is not None:
        options["existing_storage"] = op.existing_storage
    if op.remark:
        options |= _copying(op)
    return [*_copy(op), _call(context, "convert_states", op, state_arguments(op.states, op.storage), options)]


def _copying(op: AlterStatesOp) -> dict[str, Any]:
    """The options of a step that copies the table."""
    definition = {} if op.definition is None else {"definition": op.definition}
    return {"copies_table": op.copies_table, **definition}


def _copy(op: AlterStatesOp) -> list[str]:
    """The comment above a step that copies the table."""
    if not op.remark:
        return []
    return [
        f"# The server copies the table and blocks its writers: {op.remark}.",
        "# The step is refused until copies_table is True.",
    ]


@renderers.dispatch_for(MigrateStatesOp)
def _migrate_states(context: AutogenContext, op: MigrateStatesOp) -> list[str]:
    options: dict[str, Any] = {"batch_size": op.batch_size}
    if op.history is not None:
        options |= {"history": op.history, "record": dict(op.record)}
    if op.names:
        options["names"] = dict(op.names)
    return [f"# {DATA}", _call(context, "migrate_states", op, _targets(op), options)]


def _targets(op: MigrateStatesOp) -> dict[Any, Any]:
    if not op.is_number:
        return dict(op.targets)
    return {None if source is None else int(source): int(target) for source, target in op.targets.items()}


@renderers.dispatch_for(IrreversibleOp)
def _irreversible(context: AutogenContext, op: IrreversibleOp) -> str:
    return f"raise NotImplementedError({op.reason!r})"


def state_arguments(states: Sequence[str], storage: str) -> list[Any]:
    """*states* as a revision has them."""
    return [int(state) for state in states] if storage == "integer" else list(states)


def _alter_options(op: AlterStatesOp, usual: str | None) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if op.storage != "enum":
        options |= {"storage": op.storage, "existing": state_arguments(op.existing, op.storage)}
    if op.algorithm != usual:
        options["algorithm"] = op.algorithm
    return options


def _call(context: AutogenContext, name: str, op: Any, what: Any, options: Mapping[str, Any]) -> str:
    prefix = context.opts["alembic_module_prefix"] or ""
    schema = {} if op.schema is None else {"schema": op.schema}
    arguments = [repr(_plain(op.table_name)), repr(_plain(op.column_name)), repr(what)]
    arguments += [f"{key}={value!r}" for key, value in {**schema, **options}.items()]
    return f"{prefix}{name}({', '.join(arguments)})"


def _plain(name: str) -> str:
    """*name* as an exact string: SQLAlchemy's quoted_name has a repr of its own."""
    return str.__str__(name)


Render = Callable[[str, Any, AutogenContext], "str | bool"]


def render_type(type_: TypeEngine[Any], context: AutogenContext) -> str | None:
    """*type_* as a revision writes it, when it is one of ours: with its states in the place of a machine."""
    if isinstance(type_, StateType):
        text = repr(States(*state_arguments(type_.stored_states, type_.storage), storage=type_.storage))
    elif isinstance(type_, States):
        text = repr(type_)
    elif isinstance(type_, (RecordedState, ExactText)):
        text = f"ExactText({type_.length})"
    elif isinstance(type_, Timestamp):
        text = "Timestamp()"
    else:
        return None
    context.imports.add(f"import {PACKAGE}")
    return f"{PACKAGE}.{text}"


def with_our_types(theirs: Render | None) -> Render:
    """The ``render_item`` of env.py, asked first, with our types behind it."""

    def render_item(kind: str, item: Any, context: AutogenContext) -> str | bool:
        rendered = theirs(kind, item, context) if theirs is not None else False
        if rendered is False and kind == "type":
            return render_type(item, context) or False
        return rendered

    render_item.renders_states = True  # type: ignore[attr-defined]  # a mark, so as not to wrap it twice
    return render_item
