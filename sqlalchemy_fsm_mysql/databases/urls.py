"""A database's URL and a driver's message, for people: without passwords."""

from __future__ import annotations

import re
from collections.abc import Iterator

from sqlalchemy import URL

from ..errors.texts import escaped

# Options in which drivers take a password: PyMySQL's password=, mysqlclient's passwd=, ssl_key_password=, …
_SECRET_OPTION = re.compile("pass|pwd|secret|token", re.IGNORECASE)


def shown_url(url: URL) -> str:
    """*url* without its password, and without its options, which can hold one too.

    >>> from sqlalchemy import make_url
    >>> shown_url(make_url("mysql+pymysql://ann:sesame@db/shop?ssl_key_password=sesame"))
    'mysql+pymysql://ann:***@db/shop'
    """
    return escaped(url.set(query={}).render_as_string(hide_password=True))


def cause_of(error: BaseException, url: URL) -> str:
    """The driver's message of *error* in one line, without the statement, its values and the secrets of *url*."""
    original = getattr(error, "orig", None) or error
    text = next(iter(str(original).splitlines()), "") or type(original).__name__
    for secret in _secrets(url):
        text = text.replace(secret, "***")
    return text


LOOKS = "A URL looks like mysql+pymysql://user@host:3306/database."
_PORTS = 65_535


def problem_of(url: URL) -> str | None:
    """The reason why *url* names no database of a server, in a sentence that quotes nothing of it; None without one."""
    if not url.host:
        return None
    # An unescaped @ ends the password early: its rest then stands in the place of the host or the database.
    if "@" in f"{url.host}{url.database}":
        return "The URL has more than one @: in a password, write @ as %40, / as %2F and : as %3A."
    if not url.database:
        return f"The URL names no database. {LOOKS}"
    if url.port is not None and not 0 < url.port <= _PORTS:
        return f"The URL's port is not a number from 1 to {_PORTS}."
    return None


def _secrets(url: URL) -> Iterator[str]:
    if url.password:
        yield str(url.password)
    for name, values in url.query.items():
        if _SECRET_OPTION.search(name):
            yield from filter(None, (values,) if isinstance(values, str) else values)
