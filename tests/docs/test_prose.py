"""The linter of prose finds the sentences that it is for. ``./dev docs`` runs it on the pages."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from .prose import PATTERNS, ROOT, findings

PLAIN = "MySQL assigns columns from left to right. `fire` returns a `Moved`, or raises `TransitionNotAllowed`.\n"


@pytest.mark.parametrize(
    ("sentence", "rule"),
    [
        ("What was acknowledged is there.", "'what'"),
        ("Not promised is the order of two sets.", "the subject first"),
        ("Older are the tables of sets.", "the subject first"),
        ("# What a fire returns", "'what'"),
        ("Whoever has no Python in between gets the server's error 30045.", "'whoever'"),
        ("A lock that does not come is told as an error.", "active verb"),
        ("That a row was made is not a transition, so a row that never moved has no history.", "clause is no subject"),
        ("A history row holds the actor.", "'hold' is for locks"),
        ("The errors are known as such.", "plain connective"),
        ("The operation stands behind all others.", "plain verb"),
        ("Its updates go past the machine.", "no calque"),
        ("Pass an engine in the place of the sessionmaker.", "no calque"),
        ("The fire and the COMMIT go out apart.", "a plain phrase"),
        ("`batch_size` walks the key in parts of so many rows.", "a plain phrase"),
        ("The doctor reports a text that is no state.", "'is not a'"),
        ("They bypass the history, too.", "'also' before the verb"),
        ("The answers tell which rows were moved.", "report, return or show"),
        ("One; two; three; four; five.", "one idea a sentence"),
        (" ".join(["word"] * 41) + ".", "41 words"),
        ("\n\n".join(["This is a sentence of exactly nineteen words, " + "and " * 11 + "so on."] * 3), "median"),
        ("| a | b |\n|---|---|\n| x | What is left of it |", "'what'"),
    ],
)
def test_sentence_that_breaks_a_rule_is_found(tmp_path: Path, sentence: str, rule: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"{PLAIN}\n{sentence}\n")

    assert any(rule in finding for finding in findings(page)), list(findings(page))


@pytest.mark.parametrize(
    "sentence",
    [
        "What is a guard?",
        "There is no lock, and the row is no longer there.",
        "An UPDATE holds the row's lock until COMMIT.",
        "`session.what it is` and `nobody` are code.",
        "```python\nwhat = nobody  # What is told\n```",
    ],
)
def test_plain_sentences_questions_and_code_are_left_alone(tmp_path: Path, sentence: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"{PLAIN}\n{sentence}\n")

    assert list(findings(page)) == []


# --- the messages of the library

# Stored in the triggers of databases, and found again by these words.
OF_TRIGGERS = ("is no transition", "is no initial state")
SCRIPT = re.compile(r";\s|\bEND\b")  # of SQL or of a shell


def messages(file: Path) -> Iterator[tuple[int, str]]:
    """The texts of four words or more in *file* that are no docstring, each with its line; `x` stands for a value."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    statements = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    formatted = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    parts = {id(value) for node in formatted for value in node.values}
    for node in formatted:
        values = (str(part.value) if isinstance(part, ast.Constant) else "x" for part in node.values)
        yield node.lineno, "".join(values)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in statements | parts:
            yield node.lineno, node.value


def test_messages_keep_the_rules_of_the_pages() -> None:
    broken = [
        f"{file.name}:{line}: {rule}: {message!r}"
        for file in sorted((ROOT / "sqlalchemy_fsm_mysql").rglob("*.py"))
        for line, message in messages(file)
        if len(message.split()) >= 4 and not SCRIPT.search(message) and not any(map(message.__contains__, OF_TRIGGERS))
        for rule, pattern in PATTERNS.items()
        if re.search(pattern, message, re.IGNORECASE)
    ]

    assert broken == []
