"""The two roots of the tree of errors: the root of all errors, and that of the errors of a fire."""

from __future__ import annotations

from typing import Any


def _restored(kind: type[FSMError], arguments: tuple[object, ...]) -> FSMError:
    """An error of *kind*, made without its ``__init__``. Unpickling calls this, and then sets the attributes."""
    return kind.__new__(kind, *arguments)


class FSMError(Exception):
    """The base class of every error that this library defines: ``except FSMError`` catches them all."""

    # Exception's own __reduce__ calls the class with `args`, which a keyword-only __init__ refuses.
    def __reduce__(self) -> tuple[Any, ...]:  # Any: the shape that object.__reduce__ has in typeshed
        return _restored, (type(self), self.args), self.__dict__


class FireError(FSMError):
    """The base class of the errors of a fire: the event did not move its row.

    ``.model`` is the mapped class, ``.key`` the primary key (a tuple if it is composite), and ``.event`` (str) the
    name of the event. Each is None where it is not known: an error at COMMIT belongs to no single fire.
    """

    def __init__(
        self,
        message: str,
        *,
        model: type[object] | None = None,
        key: object = None,
        event: str | None = None,
    ) -> None:
        self.model = model
        self.key = key
        self.event = event
        super().__init__(message)
