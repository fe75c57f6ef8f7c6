"""The old place of `enforcer_of`."""

from .database import enforcer_of

__all__ = ["enforcer_of"]
