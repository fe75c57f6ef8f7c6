"""The JSON schema of each outcome, and the hooks by which pydantic, FastAPI, Celery and Pyramid find it.

``Moved[Order]`` as an annotation has a schema of its own: the events and states are those that the model declares.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, fields
from typing import Annotated, Any, Generic, TypeVar

from .data import JSON

__all__ = ["Data", "json_schema"]

M_co = TypeVar("M_co", covariant=True)

_TEXT: Mapping[str, JSON] = {"type": "string"}
_TEXTS: Mapping[str, JSON] = {"type": "array", "items": _TEXT}
_TRUTH: Mapping[str, JSON] = {"type": "boolean"}
_COUNT: Mapping[str, JSON] = {"type": "integer", "minimum": 0}

_ROW = {"model": _TEXT, "key": "key", "event": "event"}
# The properties of each outcome's dict; a string stands for a schema that depends on the model.
_PROPERTIES: Mapping[str, Mapping[str, JSON]] = {
    "Moved": {
        "moved": {"type": "boolean", "const": True},
        **_ROW,
        "source": "state",
        "target": "state",
        "changed": _TRUTH,
        "created": _TRUTH,
        "replayed": _TRUTH,
        "sequence": {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]},
        "actor": {"anyOf": [_TEXT, {"type": "null"}]},
        "details": {},
        "token": {"anyOf": [_TEXT, {"type": "null"}]},
    },
    "Refused": {
        "moved": {"type": "boolean", "const": False},
        **_ROW,
        "state": "state",
        "reason": {"type": "string", "enum": ["state", "guard"]},
        "allowed_from": "states",
        "failed": _TEXTS,
        "sentences": _TEXTS,
    },
    "Missing": {
        "moved": {"type": "boolean", "const": False},
        **_ROW,
        "state": {"type": "null"},
        "reason": {"type": "string", "const": "missing"},
    },
    "MovedRows": {
        "model": _TEXT,
        "event": "event",
        "moved": _COUNT,
        "changed": _COUNT,
        "by_transition": "transitions",
        "errors": "errors",
        "keys": "keys",
    },
}

# MovedRows has them when there are any.
_OPTIONAL = frozenset({"errors", "keys"})


def json_schema(kind: type[Any], model: object = None) -> dict[str, JSON]:
    """The JSON schema of what ``to_dict()`` of an outcome of class *kind* returns.

    With *model*, a mapped class with a machine, events and states are limited to the declared ones.
    """
    state = _one_of(name for machine in _machines(model) for name in machine.stored_states)
    events = [name for machine in _machines(model) for name in machine.events]
    # force_state() moves rows under this name, and refuses none.
    event = _one_of([*events, "force_state"] if events and kind.__name__ == "Moved" else events)
    transition = {"source": state, "target": state, "rows": _COUNT}
    row_error = {"key": _key(model), "event": {"anyOf": [event, {"type": "null"}]}, "error": _TEXT}
    parts = {
        "key": _key(model),
        "event": event,
        "state": state,
        "states": {"type": "array", "items": state},
        "transitions": {"type": "array", "items": _object(transition)},
        "errors": {"type": "array", "items": _object(row_error)},
        "keys": {"type": "array", "items": _object({"key": _key(model), "source": state, "target": state})},
    }
    properties = {
        name: parts[part] if isinstance(part, str) else dict(part) for name, part in _PROPERTIES[kind.__name__].items()
    }
    return {"title": _title(kind, model), **_object(properties)}


def _object(properties: Mapping[str, JSON]) -> dict[str, JSON]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": [name for name in properties if name not in _OPTIONAL],
    }


def _title(kind: type[Any], model: object) -> str:
    return kind.__name__ + (model.__name__ if isinstance(model, type) else "")


def _machines(model: object) -> list[Any]:  # Any: a machine, whose class is declared on a floor below
    return [mapped.machine for mapped in getattr(model, "__state_machines__", {}).values()]


def _one_of(names: Iterable[str]) -> dict[str, JSON]:
    known = list(dict.fromkeys(names))
    return {"type": "string", **({"enum": known} if known else {})}


def _key(model: object) -> dict[str, JSON]:
    mapper = getattr(model, "__mapper__", None)
    if mapper is None:
        return {}
    parts = [_key_part(column) for column in mapper.primary_key]
    return parts[0] if len(parts) == 1 else {"type": "array", "prefixItems": parts}


def _key_part(column: Any) -> dict[str, JSON]:  # Any: a column, and this floor imports no SQLAlchemy
    try:
        python = column.type.python_type
    except NotImplementedError:  # a type that does not tell
        return {}
    # plain_key() writes all others as text.
    return {"type": "integer" if issubclass(python, int) else "number" if issubclass(python, float) else "string"}


class Data(Generic[M_co]):
    """The part of an outcome that other libraries read: it is returned, dumped and described as its ``to_dict()``."""

    __slots__ = ()

    def to_dict(self) -> JSON:
        """This outcome for JSON."""
        raise NotImplementedError

    def __repr__(self) -> str:
        """The fields that are not their default: most outcomes have five of twelve."""
        known: Any = self  # Any: each outcome is a dataclass, and this part of it is none
        values = [(field, getattr(self, field.name)) for field in fields(known) if field.repr]
        told = [f"{field.name}={value!r}" for field, value in values if not _is_default(field, value)]
        return f"{type(self).__name__}({', '.join(told)})"

    def __json__(self, *_: object) -> JSON:
        """For encoders that ask for it: those of Celery (kombu), and of Pyramid, which gives its request."""
        return self.to_dict()

    def __class_getitem__(cls, item: Any) -> Any:  # Any: as typing.Generic declares it
        # pydantic asks a parametrized dataclass for its fields, and not for its hook. With Annotated it asks the hook.
        if isinstance(item, type):
            return Annotated[cls, _OfModel(item)]
        return super().__class_getitem__(item)  # type: ignore[misc]  # typeshed gives Generic's a private signature

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: object) -> JSON:
        return _core_schema(cls, None)


def _is_default(field: Field[Any], value: object) -> bool:
    default = field.default_factory() if field.default_factory is not MISSING else field.default
    return default is not MISSING and (value is default or value == default)


class _OfModel:
    """Which model the outcome of an annotation is of."""

    __slots__ = ("model",)

    def __init__(self, model: type[Any]) -> None:
        self.model = model

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _OfModel) and self.model is other.model

    def __hash__(self) -> int:
        return hash(self.model)

    def __repr__(self) -> str:
        return self.model.__name__

    def __get_pydantic_core_schema__(self, source: Any, handler: object) -> JSON:
        return _core_schema(source, self.model)


def _core_schema(kind: type[Data[Any]], model: type[Any] | None) -> JSON:
    """pydantic's schema of an outcome: an instance goes in, its dict comes out."""
    from pydantic_core import core_schema

    def described(_schema: object, _handler: object) -> dict[str, JSON]:
        return json_schema(kind, model)

    where = kind.__module__ if model is None else f"{model.__module__}.{model.__qualname__}"
    return core_schema.is_instance_schema(
        kind,
        # OpenAPI names the component by what stands between the last point and the colon.
        ref=f"{where.replace('<locals>', 'local')}.{_title(kind, model)}:{id(model)}",
        serialization=core_schema.plain_serializer_function_ser_schema(kind.to_dict),
        metadata={"pydantic_js_functions": [described]},
    )
