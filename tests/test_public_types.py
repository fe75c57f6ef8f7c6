"""The types of the public names: an `Any` in a signature turns the type checker off, so each has its reason beside it.

Public is what docs/reference/ shows and what the package exports. A reason is a comment `# Any: …` on a line of the
signature or right above it, or the signature names an alias that has one. Of an overloaded function the overloads count:
nobody sees the signature behind them.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.util import resolve_name
from pathlib import Path
from typing import NamedTuple, TypeVar

import sqlalchemy_fsm_mysql

ROOT = Path(__file__).parents[1]
PACKAGE = "sqlalchemy_fsm_mysql"
REASON = re.compile(r"# (.*\b)?Any: \w")
T = TypeVar("T", bound=ast.AST)
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Place(NamedTuple):
    """A public class or function: the name under which it is published, its module and its name there."""

    public: str
    module: str
    qualname: str


def places() -> Iterator[Place]:
    """Every class and function that docs/reference/ shows or the package exports."""
    names = {f"{PACKAGE}.{name}" for name in sqlalchemy_fsm_mysql.__all__}
    for page in sorted((ROOT / "docs" / "reference").glob("*.md")):
        module = ""
        for directive, name in re.findall(r"^\.\. (\w+):: (\S+)$", page.read_text("utf-8"), re.MULTILINE):
            if directive in ("module", "currentmodule", "automodule"):
                module = name
            if directive == "automodule":
                names.update(f"{name}.{each}" for each in public_names(name))
            elif directive.startswith("auto"):
                names.add(name if name.startswith(PACKAGE) else f"{module}.{name}")
    for name in sorted(names):
        try:
            thing = found(name)
        except ModuleNotFoundError as error:  # a module for a library that is not installed here
            assert error.name, error
            assert not error.name.startswith(PACKAGE), error
            continue
        if inspect.isclass(thing):
            yield from (
                Place(name, kind.__module__, kind.__qualname__)
                for kind in thing.__mro__
                if kind.__module__.startswith(PACKAGE)
            )
        elif hasattr(thing, "__qualname__"):
            whole = inspect.unwrap(thing)
            yield Place(name, whole.__module__, whole.__qualname__)


def public_names(module: str) -> list[str]:
    names = vars(import_module(module))
    return [
        name
        for name, value in names.items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module and hasattr(value, "__qualname__")
    ]


def found(name: str) -> object:
    """The object that has the *name*. Attributes come before modules: `diagram.dot` is both."""
    thing: object = sys.modules[PACKAGE]
    path = PACKAGE
    for part in name.split(".")[1:]:
        path = f"{path}.{part}"
        thing = getattr(thing, part) if hasattr(thing, part) else import_module(path)
    return thing


@functools.cache
def source(module: str) -> tuple[ast.Module, list[str]]:
    text = Path(str(sys.modules[module].__file__)).read_text("utf-8")
    return ast.parse(text), text.splitlines()


def definitions(place: Place) -> Iterator[Function | ast.ClassDef]:
    """Each `def` and `class` of the *place*; all overloads of a function."""
    tree, _ = source(place.module)
    nodes: list[ast.AST] = [tree]
    for name in place.qualname.split("."):
        nodes = [
            part
            for node in nodes
            for part in ast.walk(node)
            if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and part.name == name
        ]
    yield from (node for node in nodes if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)))


def is_overload(node: ast.AST) -> bool:
    decorators = node.decorator_list if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) else []
    return any(ast.unparse(each) == "overload" for each in decorators)


def seen(nodes: Sequence[T]) -> list[T]:
    """The *nodes* that callers see: of functions with one name, the overloads when there are any."""
    overloaded = {getattr(node, "name", None) for node in nodes if is_overload(node)}
    return [node for node in nodes if is_overload(node) or getattr(node, "name", None) not in overloaded]


def signatures(node: Function | ast.ClassDef) -> Iterator[tuple[ast.stmt, list[ast.expr]]]:
    """The annotations of a function, or of the public methods, properties and fields of a class, with their statement."""
    if not isinstance(node, ast.ClassDef):
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
        given = [argument.annotation for argument in arguments if argument is not None] + [node.returns]
        yield node, [annotation for annotation in given if annotation is not None]
        return
    for part in seen(node.body):
        if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef)) and is_public(part.name):
            yield from signatures(part)
        elif isinstance(part, ast.AnnAssign) and is_public(ast.unparse(part.target)):
            yield part, [part.annotation]


def is_public(name: str) -> bool:
    return not name.startswith("_") or (name.startswith("__") and name.endswith("__"))


def names_in(annotation: ast.expr) -> set[str]:
    """The names that an annotation uses, those within quotes as well."""
    names = set()
    for node in ast.walk(annotation):
        if isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            try:
                names |= names_in(ast.parse(node.value, mode="eval").body)
            except SyntaxError:  # a value in Literal[…]
                continue
    return names


def has_reason(statement: ast.stmt, lines: list[str]) -> bool:
    """Whether a line of the signature, or of the comment right above it, says why its type is Any."""
    first = min([statement.lineno, *(each.lineno for each in getattr(statement, "decorator_list", []))])
    last = statement.end_lineno or statement.lineno
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
        body = statement.body[0]
        is_stub = body.lineno == body.end_lineno == last
        last = last if is_stub else max(body.lineno - 1, statement.lineno)
    while first > 1 and lines[first - 2].strip().startswith("#"):
        first -= 1
    return any(REASON.search(line) for line in lines[first - 1 : last])


def loose_aliases(module: str) -> set[str]:
    """The names in *module* of aliases and type variables that have an Any in them, and no reason beside it."""
    tree, _ = source(module)
    loose = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            origin = resolve_name("." * node.level + (node.module or ""), package_of(module))
            if origin.startswith(PACKAGE) and origin in sys.modules:
                loose |= {each.asname or each.name for each in node.names if each.name in loose_here(origin)}
    return loose | loose_here(module)


def package_of(module: str) -> str:
    return str(vars(sys.modules[module])["__package__"])


@functools.cache
def loose_here(module: str) -> frozenset[str]:
    """Those of :func:`loose_aliases` that the *module* itself defines."""
    tree, lines = source(module)
    loose = set()
    for node in ast.walk(tree):
        target = node.target if isinstance(node, ast.AnnAssign) else None
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target = node.targets[0]
        is_alias = isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(target, ast.Name)
        if is_alias and node.value is not None and target.id[:1].isupper() and "Any" in names_in(node.value):
            loose.update([] if has_reason(node, lines) else [target.id])
    return frozenset(loose)


def test_every_any_in_a_public_signature_has_its_reason() -> None:
    unexplained = set()
    checked = 0
    for place in sorted(set(places())):
        _, lines = source(place.module)
        for node in seen([*definitions(place)]):
            for statement, types in signatures(node):
                checked += len(types)
                names = set().union(*map(names_in, types))
                if {"Any", *loose_aliases(place.module)} & names and not has_reason(statement, lines):
                    file = place.module.replace(".", "/")
                    unexplained.add(f"{file}:{statement.lineno}: {place.public}")

    assert checked > 800
    assert sorted(unexplained) == []
