"""The object that ``module:Model.state`` names, on a command line and in documentation."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from sqlalchemy.orm import configure_mappers

from ..errors.texts import listed
from ..machine import Machine
from ..orm.mapped import MappedState, mapped_states

SHAPE = "module:Model.state, as in shop.models:Order.state"


class NotFound(LookupError):
    """The text names no state machine; the message tells which part of it does not fit, and what would."""


def state_at(target: str) -> MappedState:
    """The state column that *target* names. Its attribute may be left out when it is the only one.

    Modules are looked for in the current directory too.

    Raises: NotFound.
    """
    module, path = _parts(target)
    return _state(module, path)


def machine_at(target: str) -> tuple[Machine, MappedState | None]:
    """The machine that *target* names, and its column: none when it names a :class:`Machine` itself, ``module:name``.

    Raises: NotFound.
    """
    module, path = _parts(target)
    named: Any = module
    for name in path.split("."):
        named = getattr(named, name, None)
    if isinstance(named, Machine):
        return named, None
    mapped = _state(module, path)
    return mapped.machine, mapped


def _parts(target: str) -> tuple[ModuleType, str]:
    module_name, colon, path = target.partition(":")
    if not (module_name and colon and path):
        raise NotFound(f"{target!r} is not of the form {SHAPE}.")
    return _module(module_name), path


def _state(module: ModuleType, path: str) -> MappedState:
    model, attribute = _model(module, path)
    states = _configured(model)
    if attribute is None:
        if len(states) > 1:
            raise NotFound(f"{path} has several machines: name one of {_names(path, states)}.")
        return next(iter(states.values()))
    if attribute not in states:
        owner = path.rpartition(".")[0]
        raise NotFound(f"{path} is not a state machine; there is {_names(owner, states)}.")
    return states[attribute]


def _names(owner: str, states: dict[str, MappedState]) -> str:
    return listed(f"{owner}.{name}" for name in states)


def _module(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise NotFound(f"{name} imports {error.name}, which is not installed here.") from error
        raise NotFound(
            f"there is no module {error.name!r}, neither in {here} nor installed. Run this from the folder"
            " that contains it."
        ) from error
    except (Exception, SystemExit) as error:
        raise NotFound(f"importing {name} raised {type(error).__name__}: {error}") from error


def _model(module: ModuleType, path: str) -> tuple[Any, str | None]:  # Any: whatever the module holds
    """The object that *path* names in *module*, and the attribute of it that is left: the state's."""
    owner: Any = module
    found, left = [], path.split(".")
    while left and not _is_model(owner):
        found.append(left.pop(0))
        if not hasattr(owner, found[-1]):
            raise NotFound(f"{module.__name__} has no {'.'.join(found)}; {_models(module)}.")
        owner = getattr(owner, found[-1])
    if not _is_model(owner):
        raise NotFound(f"{module.__name__}:{path} is not a mapped class with a StateMachineColumn; expected {SHAPE}.")
    return owner, ".".join(left) or None


def _models(module: ModuleType) -> str:
    names = [name for name, value in vars(module).items() if _is_model(value)]
    return f"it has {listed(names)}" if names else "it has no model with a state machine"


def _is_model(value: object) -> bool:
    try:
        return bool(mapped_states(value))
    except TypeError:
        return False


def _configured(model: Any) -> dict[str, MappedState]:  # Any: a mapped class
    try:
        configure_mappers()
    except Exception as error:
        raise NotFound(f"the mappers cannot be configured: {error}") from error
    return mapped_states(model)
