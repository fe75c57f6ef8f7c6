"""Moves rows on a Connection. Knows no Session and no instance."""

from . import listening  # noqa: F401 - at its import, it listens for the errors of every engine
