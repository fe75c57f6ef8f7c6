"""docs/troubleshooting.md: every error class and the commonest error numbers are there, with what the library raises."""

from __future__ import annotations

import inspect
import re

import pytest

from sqlalchemy_fsm_mysql import errors
from sqlalchemy_fsm_mysql.databases.meanings import Meaning
from sqlalchemy_fsm_mysql.databases.messages import REFUSED
from sqlalchemy_fsm_mysql.databases.mysql.errors import CODES
from tests.docs.pages import PROJECT

PAGE = (PROJECT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
COMMONEST = {1205, 1213, 1265, 1364, 1406, 3024, 2013, 2006, REFUSED}
RAISED = {
    Meaning.ABORTED: "`TransactionAborted`",
    Meaning.LOCK_TIMEOUT: "`LockTimeout`",
    Meaning.NOT_WRITABLE: "`NotWritable`",
    Meaning.REFUSED: "`RefusedByDatabase`",
    Meaning.LOST: "`TransactionAborted`; in AUTOCOMMIT and at COMMIT `OutcomeUnknown`",
    Meaning.DUPLICATE: "`UniqueViolation`",
    Meaning.VALUE: "`ValueError`",
    Meaning.UNRELATED: "SQLAlchemy's",
}


def rows() -> dict[int, str]:
    """Each number of the table with the cell of what a fire raises."""
    table = PAGE.partition("## Server error numbers")[2].partition("## ")[0]
    found = re.findall(r"^\| ([\d, ]+?) \| .+? \| (.+?) \| .+? \|$", table, re.MULTILINE)
    return {int(number): raised for numbers, raised in found for number in numbers.split(", ")}


@pytest.mark.parametrize(
    "name",
    [name for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, errors.FSMError)],
)
def test_every_error_class_has_an_answer(name: str) -> None:
    assert f"`{name}`" in PAGE


def test_the_table_of_numbers_has_the_commonest_and_the_error_that_each_raises() -> None:
    table = rows()
    wrong = {
        number: raised
        for number, raised in table.items()
        if not raised.startswith(RAISED[CODES.get(number, Meaning.UNRELATED)])
    }

    assert set(table) >= COMMONEST
    assert wrong == {}
