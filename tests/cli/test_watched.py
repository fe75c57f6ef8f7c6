"""``watched``: what other programs do that the machine does not allow."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import text

from sqlalchemy_fsm_mysql import enforce_machine
from tests.cli.test_check import patient, target

__all__ = ["patient", "target"]


def test_watched_transitions_are_listed(run: Any, target: str, patient: Any) -> None:
    module, _, _ = target.partition(":")
    enforce_machine(__import__(module).Order.state, patient, mode="watch")
    with patient.begin() as connection:
        connection.execute(text("INSERT INTO orders (id, state) VALUES (1, 'void'), (2, 'void')"))
        connection.execute(text("UPDATE orders SET state = 'paid'"))
    people, program = (
        run("watched", target, "--url", patient.url),
        run("watched", target, "--url", patient.url, "--json"),
    )
    (edge,) = json.loads(program.out)

    assert (people.status, program.status) == (0, 0)
    assert "source\ttarget\taccount\ttimes" in people.out
    assert "void\tpaid\t" in people.out
    assert (edge["source"], edge["target"], edge["account"], edge["times"]) == ("void", "paid", None, 2)


def test_nothing_is_listed_where_nothing_is_watched(run: Any, target: str, patient: Any) -> None:
    answer = run("watched", target, "--url", patient.url, "--json")

    assert (answer.status, json.loads(answer.out)) == (0, [])
