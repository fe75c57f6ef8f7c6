"""Tells SQLAlchemy the text of our SQL expressions: that of the database that it compiles a statement for."""

from __future__ import annotations

from typing import Any

from sqlalchemy import String, literal
from sqlalchemy.ext.compiler import compiles

from ..sql.clock import seconds_between, utc_ago, utc_in, utc_now
from ..sql.exact import DefinedText, ExactName, exact_text, state_literal
from .database import syntax_of
from .exact import AsBytes


@compiles(utc_now)
def _now(element: utc_now, compiler: Any, **_: Any) -> str:
    return syntax_of(compiler.dialect).now()


@compiles(utc_ago)
def _ago(element: utc_ago, compiler: Any, **_: Any) -> str:
    return syntax_of(compiler.dialect).ago(element.interval)


@compiles(utc_in)
def _in(element: utc_in, compiler: Any, **options: Any) -> str:
    return syntax_of(compiler.dialect).after(compiler.process(element.clauses, **options))


@compiles(seconds_between)
def _seconds_between(element: seconds_between, compiler: Any, **options: Any) -> str:
    return syntax_of(compiler.dialect).seconds(*(compiler.process(one, **options) for one in element.clauses))


@compiles(exact_text)
def _exact_text(element: exact_text, compiler: Any, **options: Any) -> str:
    return syntax_of(compiler.dialect).exact_text(compiler.process(element.clauses, **options))


@compiles(ExactName)
def _exact_name(element: ExactName, compiler: Any, **options: Any) -> str:
    syntax = syntax_of(compiler.dialect)
    if syntax.has_exact_literals:
        return syntax.exact_literal(element.name)
    return str(compiler.process(state_literal(element.name), **options))


@compiles(DefinedText)
def _defined_text(element: DefinedText, compiler: Any, **options: Any) -> str:
    own = syntax_of(compiler.dialect).defined_text(element.name)
    return str(compiler.process(literal(element.name, String()), **options)) if own is None else own


@compiles(AsBytes)
def _as_bytes(element: AsBytes, compiler: Any, **options: Any) -> str:
    return syntax_of(compiler.dialect).as_bytes(compiler.process(element.text, **options))
