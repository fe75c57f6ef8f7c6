"""What a message says of a value that a server refused: the column by its name, and nothing else of the server's text."""

from __future__ import annotations

import pytest

from sqlalchemy_fsm_mysql.databases.mysql.errors import MySQLErrors

COLUMNS = ("amount", "it's", "Text")


@pytest.mark.parametrize(
    ("code", "text", "name"),
    [
        (1048, "Column 'amount' cannot be null", "'amount'"),
        (1264, "Out of range value for column 'AMOUNT' at row 1", "'amount'"),
        (1264, "Out of range value for column 'it's' at row 2", '"it\'s"'),
        (1265, "Data truncated for column 'text' at row 1", "'Text'"),
        (1364, "Field 'amount' doesn't have a default value", "'amount'"),
        (1406, "Data too long for column 'amount' at row 10", "'amount'"),
    ],
)
def test_a_declared_column_is_named_as_it_is_declared(code: int, text: str, name: str) -> None:
    assert f"for the column {name}" in MySQLErrors().misfit(Exception(code, text), code, COLUMNS)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (1264, "Out of range value for column 'CAST(73451 AS DECIMAL(3,1))' at row 1"),  # MySQL and MariaDB
        (1264, "Out of range value for column 'CAST('73451' AS DECIMAL(3,1))' at row 1"),  # MariaDB
        (1264, "Out of range value for column '(null)' at row 1"),  # an expression without a name
        (1264, "Außerhalb gültigen Wertebereichs für Feld '73451' in Zeile 1"),  # lc_messages
        (1265, "Data truncated for column '73451' at row 1"),
        (1364, "Field '73451' doesn't have a default value"),
        (1406, "73451"),  # a SIGNAL of the application's
    ],
)
def test_nothing_else_is_shown(code: int, text: str) -> None:
    message = MySQLErrors().misfit(Exception(code, text), code, COLUMNS)

    assert "73451" not in message
    assert "null" not in message
    assert message == (
        "no value was given for a column that has no default"
        if code == 1364
        else "the database cannot store a value that was given"
    )
