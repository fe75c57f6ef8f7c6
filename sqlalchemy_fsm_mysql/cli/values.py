"""Typed text as values: of a key, of a payload, of a condition.

Text becomes a value of its column's type, and is sent as a bound parameter: nothing of it is ever SQL.
"""

from __future__ import annotations

import csv
import datetime as dt
import enum
import json
import math
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

import typer
from sqlalchemy import JSON, BindParameter, Column, ColumnElement, Enum, TypeCoerce
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql import visitors
from sqlalchemy.types import NullType, TypeEngine

from ..errors.texts import listed, shown
from ..orm.column import StateType
from ..orm.mapped import MappedState
from ..sql.events import EventSQL

SMALLEST, LARGEST, LARGEST_UNSIGNED = -(2**63), 2**63 - 1, 2**64 - 1
_DIGITS = 20
_DECIMAL_DIGITS = 65  # of MySQL's DECIMAL


def typed(text: str, type_: TypeEngine[Any], name: str) -> Any:
    """*text* as a value of *type_*, which *name* has.

    Raises: typer.BadParameter, which names the values that *name* takes.
    """
    if "\0" in text:
        raise typer.BadParameter(f"{name} takes no text with a NUL.")
    if isinstance(type_, StateType):
        return _state(text, type_, name)
    if isinstance(type_, Enum):
        return _member(text, type_, name)
    if isinstance(type_, JSON):
        return json_value(text, name)
    try:
        kind = type_.python_type
    except NotImplementedError:
        kind = object
    if kind not in _READ:
        raise typer.BadParameter(f"{name} is of the type {kind.__name__}, which cannot be given on a command line.")
    read, looks = _READ[kind]
    try:
        return read(text)
    except (ValueError, InvalidOperation) as error:
        raise typer.BadParameter(f"{name} takes {looks}, not {shown(text)}.") from error


def json_value(text: str, name: str) -> Any:
    """*text* read as JSON.

    Raises: typer.BadParameter.
    """
    try:
        value = json.loads(text, parse_constant=_no_constant)
        # The limits of a column are the library's to check. UTF-8, which every driver sends, has no surrogates.
        json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise typer.BadParameter(f"{name} takes JSON, and {shown(text)} is not JSON: {error.msg}.") from error
    except UnicodeEncodeError as error:
        raise typer.BadParameter(f"{name} has a surrogate, which is half of a character.") from error
    except (RecursionError, ValueError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise typer.BadParameter(f"{name} takes JSON that a database can store: {reason:.100}.") from error
    return value


def key(mapped: MappedState, text: str) -> Any:
    """The primary key in *text*. A composite key has commas between its parts.

    Raises: typer.BadParameter, which names the parts.
    """
    columns = mapped.row.key
    if len(columns) == 1:
        return typed(text, columns[0].type, columns[0].name)
    parts = _listed(text)
    if len(parts) != len(columns):
        names = ",".join(column.name for column in columns)
        raise typer.BadParameter(
            f"the key of {mapped.model.__name__} is {names}: give {len(columns)} values with commas between them, not"
            f" {shown(text)}; put a value that contains a comma in double quotes."
        )
    return tuple(typed(part, column.type, column.name) for part, column in zip(parts, columns, strict=True))


def payload(mapped: MappedState, event: EventSQL, given: Sequence[str]) -> dict[str, Any]:
    """The payload of *event*, from texts such as ``NAME=VALUE`` and ``NAME:=JSON``.

    The type of a value is that of the column which the event's guards and effects compare it with, or assign it to.

    Raises: typer.BadParameter, also for a name that is missing or not asked for.
    """
    wanted = mapped.machine.payload(event.name)
    types = payload_types(event)
    values: dict[str, Any] = {}
    for text in given:
        name, colon, value = _split_payload(text)
        if name not in wanted:
            takes = listed(wanted) or "nothing"
            raise typer.BadParameter(f"{event.name} has no payload {shown(name)}; it takes {takes}.")
        values[name] = json_value(value, name) if colon else _payload_value(name, value, types)
    missing = [name for name in wanted if name not in values and name not in event.defaults]
    if missing:
        raise typer.BadParameter(f"{event.name} needs {listed(f'{name}=…' for name in missing)}")
    return values


def payload_types(event: EventSQL) -> dict[str, TypeEngine[Any]]:
    """The type of each payload name, as far as an expression of the event implies one."""
    types: dict[str, TypeEngine[Any]] = {}
    for branch in event.branches:
        expressions: list[ColumnElement[Any]] = [*branch.effects.values()]
        expressions += [branch.guard] if branch.guard is not None else []
        for element in (part for expression in expressions for part in visitors.iterate(expression)):
            # The library wraps a payload that is assigned to a column in a TypeCoerce to that column's type.
            bound = element.clause if isinstance(element, TypeCoerce) else element
            if not isinstance(bound, BindParameter) or not isinstance(element, (BindParameter, TypeCoerce)):
                continue
            name = event.parameters.get(bound.key)
            if name is not None and not isinstance(element.type, NullType):
                types.setdefault(name, element.type)
    return types


# NAME OP VALUE. No SQL: these are all the operators there are.
_CONDITION = re.compile(r"\s*(?P<name>[^\W\d]\w*)\s*(?P<operator><=|>=|!=|=|<|>)\s*(?P<value>.*?)\s*", re.DOTALL)
_NULL = re.compile(r"\s*(?P<name>[^\W\d]\w*)\s+is\s+(?P<is_not>not\s+)?null\s*", re.IGNORECASE)
_IN = re.compile(r"\s*(?P<name>[^\W\d]\w*)\s+(?P<is_not>not\s+)?in\s+(?P<values>.*?)\s*", re.IGNORECASE | re.DOTALL)

_OPERATORS: Mapping[str, Callable[[Any, Any], ColumnElement[bool]]] = {
    "=": lambda column, value: column == value,
    "!=": lambda column, value: column != value,
    "<": lambda column, value: column < value,
    "<=": lambda column, value: column <= value,
    ">": lambda column, value: column > value,
    ">=": lambda column, value: column >= value,
}
WHERE_HELP = (
    "One condition: tenant=7, created_at<2026-01-31, title!='', 'state in Running,Error', 'due is null'."
    " With several --where, a row must match each."
)


def condition(mapped: MappedState, text: str) -> ColumnElement[bool]:
    """The condition in *text*, on mapped columns and with bound values.

    Raises: typer.BadParameter.
    """
    if found := _NULL.fullmatch(text):
        attribute, _ = _attribute(mapped, found["name"])
        return attribute.is_not(None) if found["is_not"] else attribute.is_(None)
    if found := _IN.fullmatch(text):
        attribute, type_ = _attribute(mapped, found["name"])
        values = [typed(part, type_, found["name"]) for part in _listed(found["values"])]
        if not values:
            raise typer.BadParameter(f"{shown(text)}: 'in' needs values, with commas between them.")
        return attribute.not_in(values) if found["is_not"] else attribute.in_(values)
    if found := _CONDITION.fullmatch(text):
        attribute, type_ = _attribute(mapped, found["name"])
        return _OPERATORS[found["operator"]](attribute, typed(_unquoted(found["value"]), type_, found["name"]))
    raise typer.BadParameter(
        f"{shown(text)} is not a condition: write NAME=VALUE, or one of != < <= > >=, 'NAME in A,B', 'NAME is null'."
    )


def _listed(text: str) -> list[str]:
    """The values in *text*, with commas between them; one in double quotes may hold a comma."""
    try:
        return next(csv.reader([text], skipinitialspace=True, strict=True), [])
    except csv.Error as error:
        raise typer.BadParameter(f"{shown(text)} is not a list of values with commas between them: {error}.") from error


def _attribute(mapped: MappedState, name: str) -> tuple[InstrumentedAttribute[Any], TypeEngine[Any]]:
    columns = {prop.key: prop.columns[0] for prop in mapped.mapper.column_attrs if isinstance(prop.columns[0], Column)}
    if name not in columns:
        raise typer.BadParameter(f"{mapped.model.__name__} has no column {shown(name)}; it has {listed(columns)}.")
    attribute: InstrumentedAttribute[Any] = getattr(mapped.model, name)
    return attribute, columns[name].type


def _unquoted(text: str) -> str:
    is_quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1] if is_quoted else text


def _split_payload(text: str) -> tuple[str, bool, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.rstrip(":"):
        raise typer.BadParameter(f"{shown(text)} is not a payload: write NAME=VALUE, or NAME:=JSON.")
    return name.removesuffix(":"), name.endswith(":"), value


def _payload_value(name: str, text: str, types: Mapping[str, TypeEngine[Any]]) -> Any:
    if name not in types:
        raise typer.BadParameter(
            f"the type of {name} is not known from the event: give it as JSON, {name}:=… (text in quotes:"
            f" '{name}:=\"…\"')."
        )
    return typed(text, types[name], name)


def _state(text: str, type_: StateType, name: str) -> Any:
    if text not in type_.machine.stored_states:
        states = listed(type_.machine.stored(state) for state in type_.machine.states)
        raise typer.BadParameter(f"{name} is one of {states}, not {shown(text)}.")
    return type_.machine.loaded(text)


def _member(text: str, type_: Enum, name: str) -> Any:
    if text not in type_.enums:
        raise typer.BadParameter(f"{name} is one of {listed(type_.enums)}, not {shown(text)}.")
    members: type[enum.Enum] | None = type_.enum_class
    return text if members is None else members[text]


def _whole(text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]+", text):
        raise ValueError(text)
    # An INT of MySQL has 64 bits, signed or not, and Python reads more than 4,300 digits only when asked to.
    if len(text.lstrip("+-").lstrip("0")) > _DIGITS or not SMALLEST <= int(text) <= LARGEST_UNSIGNED:
        raise ValueError(text)
    return int(text)


def _decimal(text: str) -> Decimal:
    value = Decimal(text)
    # The exponent of 1e999999 is short, and the digits that a driver writes for it are not.
    if not value.is_finite() or abs(value.adjusted()) > _DECIMAL_DIGITS:
        raise ValueError(text)
    return value


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number in JSON")


def _yes_or_no(text: str) -> bool:
    if text.lower() not in _WORDS:
        raise ValueError(text)
    return _WORDS[text.lower()]


_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def _moment(text: str) -> dt.datetime:
    value = dt.datetime.fromisoformat(text)
    if value.tzinfo is not None:
        raise ValueError(text)  # the column has no offset, and only its users know its clock
    return value


_READ: Mapping[type[Any], tuple[Callable[[str], Any], str]] = {
    str: (str, "text"),
    int: (_whole, "a whole number (64 bits at most)"),
    float: (_number, "a number"),
    Decimal: (_decimal, "a decimal number (65 digits at most)"),
    bool: (_yes_or_no, "true or false"),
    dt.datetime: (
        _moment,
        "a time as the database has it, such as 2026-01-31 or 2026-01-31T12:00:00, without an offset",
    ),
    dt.date: (dt.date.fromisoformat, "a date, such as 2026-01-31"),
    dt.time: (dt.time.fromisoformat, "a time of day, such as 12:00"),
    uuid.UUID: (uuid.UUID, "a UUID"),
}
