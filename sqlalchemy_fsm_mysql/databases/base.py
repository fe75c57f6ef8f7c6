"""The old place of `is_autocommit`."""

from .transactions import is_autocommit

__all__ = ["is_autocommit"]
