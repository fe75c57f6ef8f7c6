"""``adopt``: look at a column that a machine is to take over, and write the revision that does it."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from sqlalchemy import Connection

from ..databases.mysql.adoption import OldValue
from ..databases.mysql.shape import column_shape
from ..operations.adoption import Look, look_at, shown
from ..operations.lookup import state_at
from ..orm.column import StateType
from ..orm.mapped import MappedState
from .database import UrlOption, database
from .output import JsonOption, fail, print_json, print_table, print_text, tell
from .status import Status
from .targets import TargetArgument

NULL, TEXT_OF_NULL = "NULL", "'NULL'"

MapOption = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        "-m",
        metavar="VALUE=STATE",
        help="The state of an old value: 'Paid=paid', '7=cancelled', NULL=new, =new for the empty text,"
        " \"'NULL'=new\" for the text NULL. Without it, the command guesses by the states' names, the Enum's numbers,"
        " or the foreign key's table.",
        show_default=False,
    ),
]


def adopt(
    target: TargetArgument,
    url: UrlOption = None,
    old: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="COLUMN", help="The old column, such as status.", show_default="the column of the machine"
        ),
    ] = None,
    given: MapOption = None,
    unknown: Annotated[
        str | None,
        typer.Option(metavar="STATE", help="The state of every value that is not mapped. [default: refused]"),
    ] = None,
    write: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the revision to this file.", show_default=False)
    ] = None,
    down_revision: Annotated[
        str | None, typer.Option(metavar="REVISION", help="The revision that the new one follows.", show_default="none")
    ] = None,
    is_json: JsonOption = False,
) -> None:
    """Plan how a machine takes over an existing column: the state of each value, and the phases with their duration.

    The command reads the whole table and changes nothing in the database. With --write, it writes the Alembic revision
    that adopts the column to a file; without it, it prints the revision. The exit status is 0 when every value has a
    state, 1 when one has none, 2 when the call is wrong, and 4 when the database cannot be reached or used.
    """
    mapped = state_at(target)
    new = str(mapped.column.name)
    if write is not None and write.exists():
        fail(f"{write} exists already, and may have been run: delete it, or name another file.", Status.USAGE)
    with database(url) as engine, engine.connect() as connection:
        schema = mapped.column.table.schema
        old = old or _existing(connection, mapped)
        found = look_at(
            connection,
            mapped.table_name,
            old,
            new,
            mapped.machine,
            given=_mapping(given or [], mapped),
            unknown=unknown,
            schema=schema,
        )
    missing = found.unspelled(mapped.machine.stored_states)
    is_done = old == new and _fits(found, mapped)
    if is_json:
        print_json(_document(found, missing, fits=_fits(found, mapped)))
    else:
        _print(found, missing)
    if is_done:
        exactly, storage = ("", "integer") if _numbers(mapped) else (", to the byte", found.shape.kind)
        tell(
            f"{found.label} fits as it is: each value is a state{exactly}. Declare it with"
            f' storage="{storage}"; no column is added.'
        )
        return
    if old == new:
        fail(
            f"{mapped.label} is the old column itself. Declare the machine's column by another name, such as"
            f" {new}_state, leave {new} to the code that writes it, and give --from {new}.",
            Status.USAGE,
        )
    if found.unknown:
        first = next(one.value for one in found.values if one.state is None)
        option = _quoted(f"{_written(first)}=STATE")
        fail(
            f"{shown(first)!r} has no state: give it one by --map {option}, or all such values by --unknown STATE.",
            Status.REFUSED,
        )
    if missing:
        fail(f"{missing[0]!r} has no old value: give it one by --map 'VALUE={missing[0]}'.", Status.REFUSED)
    revision = _revision(found, mapped, down_revision)
    if write is not None:
        _write(write, revision)
        tell(f"Written to {write}. env.py needs `import sqlalchemy_fsm_mysql.alembic`.", err=is_json)
    elif not is_json:
        tell("")
        print_text(revision.rstrip())


def _existing(connection: Connection, mapped: MappedState) -> str:
    """The name of the state's own column, where the table has it; else --from has to name another."""
    name = str(mapped.column.name)
    if column_shape(connection, mapped.table_name, name, mapped.column.table.schema) is None:
        fail(f"{mapped.table_name} has no column {name}: give --from, the column to take over.", Status.USAGE)
    return name


def _write(file: Path, revision: str) -> None:
    try:
        file.write_text(revision, encoding="utf-8")
    except OSError as error:
        fail(f"{file} cannot be written: {error.strerror}.", Status.USAGE)


def _numbers(mapped: MappedState) -> Mapping[str, int] | None:
    """The number of each state, where the model stores numbers."""
    numbers: Mapping[str, int] | None = mapped.column.type.numbers  # type: ignore[attr-defined]  # a StateType
    return numbers


def _fits(found: Look, mapped: MappedState) -> bool:
    """Whether the column can be declared as it is: its values are those that the model stores."""
    numbers = _numbers(mapped)
    if numbers is None:
        return found.fits
    return found.shape.kind.endswith("int") and all(
        one.state is not None and numbers[one.state] == one.value for one in found.values
    )


def _mapping(given: list[str], mapped: MappedState) -> dict[OldValue, str]:
    mapping: dict[OldValue, str] = {}
    for text in given:
        value, is_there, state = text.rpartition("=")
        if not is_there or state not in mapped.machine.stored_states:
            known = ", ".join(mapped.machine.stored_states)
            raise typer.BadParameter(f"{text!r} is not VALUE=STATE; the states are {known}.", param_hint="--map")
        mapping[None if value == NULL else NULL if value == TEXT_OF_NULL else value] = state
    return mapping


def _written(value: OldValue) -> str:
    """*value* as --map takes it."""
    return NULL if value is None else TEXT_OF_NULL if value == NULL else str(value)


def _quoted(word: str) -> str:
    """*word* for a shell, in quotes that people would choose."""
    return f'"{word}"' if "'" in word and not set(word) & set('"$`\\!') else shlex.quote(word)


def _visible(value: OldValue) -> str:
    """*value* in a table for people, where spaces at its ends show."""
    is_odd = isinstance(value, str) and (value != value.strip() or value in ("", NULL))
    return f"'{value}'" if is_odd else shown(value)


def _print(found: Look, missing: list[str]) -> None:
    print_table(
        ("value", "rows", "becomes"),
        [(_visible(one.value), f"{one.rows:,}", one.state or "?") for one in found.values],
        title=f"{found.label}, {found.shape.full_type}",
    )
    written = ", ".join(f"{state} as {_visible(value)}" for state, value in found.old_values.items())
    tell(f"\n{found.adoption.old} gets these values when new code writes: {written or 'nothing yet'}.")
    if missing:
        tell(f"These states have no value of {found.adoption.old}: {', '.join(missing)}.")
    tell(f"\nThe phases, for about {found.rows:,} rows:")
    for number, phase in enumerate(found.phases(), start=1):
        took = f", about {phase.seconds:,.0f} s" if phase.seconds >= 1 else ""
        tell(f"{number}. {phase.what}{took}. {phase.writers}")
    for note in found.notes:
        tell(f"Note: {note}.")


def _document(found: Look, missing: list[str], *, fits: bool) -> dict[str, Any]:
    return {
        "column": found.label,
        "type": found.shape.full_type,
        "rows": found.rows,
        "values": [{"value": one.value, "rows": one.rows, "state": one.state} for one in found.values],
        "mapping": [{"value": value, "state": state} for value, state in found.adoption.mapping],
        "without_value": missing,
        "fits": fits,
        "phases": [{"what": p.what, "seconds": round(p.seconds, 1), "writers": p.writers} for p in found.phases()],
        "notes": found.notes,
    }


def _revision(found: Look, mapped: MappedState, down_revision: str | None) -> str:
    """The file of a revision. It imports the operations itself, should env.py not do that."""
    try:
        from alembic.autogenerate import render_python_code
        from alembic.operations.ops import DowngradeOps, UpgradeOps
        from alembic.util import rev_id

        from ..alembic.adoption import AdoptColumnOp
    except ImportError:
        fail("The revision needs Alembic: pip install 'sqlalchemy-fsm-mysql[alembic]'.", Status.USAGE)
    type_: StateType = mapped.column.type  # type: ignore[assignment]  # of a mapped state

    def stored(state: str) -> str:
        return state if type_.numbers is None else str(type_.numbers[state])

    op = AdoptColumnOp(
        table_name=found.adoption.table,
        column_name=found.adoption.old,
        new=found.adoption.new,
        schema=found.schema,
        states=type_.stored_states,
        mapping={value: stored(state) for value, state in found.adoption.mapping},
        unknown=None if found.adoption.unknown is None else stored(found.adoption.unknown),
        storage=type_.storage,
        remarks=[
            line
            for phase in found.phases()[:3]
            for line in (f"{phase.what}: about {max(phase.seconds, 0.1):,.1f} s.", phase.writers)
        ],
    )
    up = render_python_code(UpgradeOps([op]))
    down = render_python_code(DowngradeOps([op.reverse()]))
    return (
        f'"""Adopt {found.label} as {found.adoption.new}.\n\nThe last step is a later revision, once no code writes'
        f" {found.adoption.old} any more:\n"
        f'op.finish_adoption({found.adoption.table!r}, {found.adoption.old!r}, {found.adoption.new!r})\n"""\n\n'
        "import sqlalchemy_fsm_mysql.alembic  # noqa: F401 - the operations\n"
        "from alembic import op\n\n"
        f"revision = {rev_id()!r}\ndown_revision = {down_revision!r}\n\n\n"
        f"def upgrade():\n{_body(up)}\n\n\ndef downgrade():\n{_body(down)}\n"
    )


def _body(code: str) -> str:
    lines = [line for line in textwrap.dedent(code).strip().split("\n") if not line.strip().startswith("# ###")]
    return textwrap.indent("\n".join(line.strip() for line in lines), "    ")
