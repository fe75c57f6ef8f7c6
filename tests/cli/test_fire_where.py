"""``fire-where``: which rows, the confirmation, the batches; and that no text from outside becomes SQL."""

from __future__ import annotations

import json
from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

import pytest
import typer
from sqlalchemy import func, select

from sqlalchemy_fsm_mysql.cli import fire_where as command
from sqlalchemy_fsm_mysql.cli.values import condition
from sqlalchemy_fsm_mysql.orm.mapped import sole_state


def at(shop, name="Order.state"):
    return f"{shop.__name__}:{name}"


@pytest.fixture
def orders(shop, stock, session):
    """Five orders of two tenants, one of them stopped."""
    session.add_all(
        [
            shop.Order(
                id=number,
                tenant=1 + number % 2,
                created_at=datetime(2026, number, 1),  # noqa: DTZ001 - the column has no zone
                state="Stopped" if number == 5 else "Running",
            )
            for number in range(1, 6)
        ]
    )
    session.commit()
    return stock


def states(session, shop):
    session.rollback()
    return dict(session.execute(select(shop.Order.state, func.count()).group_by(shop.Order.state)).all())


def test_rows_are_counted_confirmed_and_moved(run, shop, orders, session):
    answer = run("fire-where", at(shop), "Stop", "--where", "tenant=2", "-u", orders, stdin="y\n")

    assert answer.status == 0
    assert "2 Running -> Stopped" in answer.told
    assert "1 Stopped -> Stopped" in answer.told
    assert "Fire 'Stop' on 3 rows of shop_orders in " in answer.told
    assert "Stop: 3 rows of shop_orders were moved." in answer.told
    assert answer.out.splitlines()[-3:] == ["rows\tsource\ttarget", "2\tRunning\tStopped", "1\tStopped\tStopped"]
    assert states(session, shop) == {"Running": 2, "Stopped": 3}
    assert session.scalar(select(func.count()).select_from(shop.OrderTransition)) == 3


@pytest.mark.parametrize("answered", ["n\n", "\n", ""])
def test_nothing_is_moved_unless_confirmed(run, shop, orders, session, answered):
    answer = run("fire-where", at(shop), "Stop", "--all", "-u", orders, stdin=answered)

    assert answer.status == 1
    assert states(session, shop) == {"Running": 4, "Stopped": 1}


def test_dry_run_counts_and_changes_nothing(run, shop, orders, session):
    answer = run("fire-where", at(shop), "Stop", "-w", "created_at<2026-03-01", "--dry-run", "--json", "-u", orders)

    assert json.loads(answer.out) == {
        "table": "shop_orders",
        "event": "Stop",
        "rows": 2,
        "by_transition": [{"source": "Running", "target": "Stopped", "rows": 2}],
        "dry_run": True,
    }
    assert states(session, shop) == {"Running": 4, "Stopped": 1}


def test_no_row_is_no_question(run, shop, orders):
    answer = run("fire-where", at(shop), "Delete", "-w", "tenant=99", "-u", orders)

    assert answer.status == 0
    assert "0 rows of shop_orders would be moved" in answer.err


def test_too_many_rows_are_refused(run, shop, orders, session):
    answer = run("fire-where", at(shop), "Stop", "--all", "--yes", "--max-rows", 4, "-u", orders)

    assert answer.status == 1
    assert "5 rows of shop_orders match, which is over --max-rows 4" in answer.err
    assert states(session, shop) == {"Running": 4, "Stopped": 1}


def test_history_says_who_did_it(run, shop, orders, session):
    run("fire-where", at(shop), "Stop", "-w", "id=1", "-y", "--actor", "ann", "--details", "[7]", "-u", orders)

    record = session.scalars(select(shop.OrderTransition)).one()
    assert (record.actor, record.details) == ("ann", [7])


def test_payload_of_a_set(run, shop, stock, session):
    session.add_all([shop.Payment(id=1, total=Decimal(10)), shop.Payment(id=2, total=Decimal(20))])
    session.commit()
    answer = run(
        "fire-where",
        at(shop, "Payment.state"),
        "Refund",
        "amount=10",
        "at=2026-01-01",
        "note=n",
        "--all",
        "-y",
        "-u",
        stock,
    )

    assert answer.out.splitlines()[1:] == ["1\tPaid\tPaid", "1\tPaid\tRefunded"]


def test_batches_are_committed_and_the_rest_is_told(run, shop, orders, session, monkeypatch):
    """The third batch fails; what the first two moved is in the database."""
    moved = []
    original = command.bulk.fire_where

    def failing(*arguments, progress, **options):
        def step(number, total):
            progress(number, total)
            moved.append(number)
            if len(moved) == 2:
                raise KeyboardInterrupt

        return original(*arguments, progress=step, **options)

    monkeypatch.setattr(command.bulk, "fire_where", failing)
    answer = run("fire-where", at(shop), "Stop", "-w", "state=Running", "-y", "--batch-size", 1, "-u", orders)

    assert answer.status == 130
    assert "Stopped. At least 2 rows were moved and committed. The same command moves the rest." in answer.err
    assert states(session, shop) == {"Running": 2, "Stopped": 3}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give --where or --all, and not both: they select the rows."),
        (["--all", "-w", "id=1"], "give --where or --all, and not both: they select the rows."),
        (["-w", "id=one"], "id takes a whole number (64 bits at most), not 'one'"),
        (["-w", "customer=1"], "Order has no column 'customer'; it has id, tenant"),
        (["-w", "1=1"], "is not a condition: write NAME=VALUE"),
        (["-w", "id=1 OR 1=1"], "id takes a whole number (64 bits at most), not '1 OR 1=1'"),
        (["-w", "state=Gone"], "state is one of Initializing, Running, Error, Stopped, Deleted, not 'Gone'"),
        (["-w", "state in Running,Gone"], "not 'Gone'"),
        (["-w", "color=GREEN"], "color is one of RED, BLUE"),
        (["-w", "urgent=maybe"], "urgent takes true or false"),
        (["-w", "due=tomorrow"], "due takes a date, such as 2026-01-31"),
        (["-w", "ref=x"], "ref takes a UUID"),
        (["-w", "price=NaN"], "price takes a decimal number"),
        (["-w", "state in "], "'in' needs values, with commas between them"),
        (["-w", "state in 'a"], 'not "\'a"'),
        (["-w", 'title in "a'], "is not a list of values with commas between them"),
        (["-w", "fire=1"], "has no column 'fire'"),
        (["-w", "tenant_id=1"], "has no column 'tenant_id'"),
    ],
)
def test_wrong_condition_is_told_before_anything_is_asked(run, shop, arguments, says):
    answer = run("fire-where", at(shop), "Stop", *arguments, "-u", "mysql+pymysql://nobody@127.0.0.1:1/none")

    assert answer.status == 2
    assert says in answer.told


@pytest.mark.parametrize(
    ("text", "operator", "value"),
    [
        ("id=7", "=", 7),
        (" id  !=  -7 ", "!=", -7),
        ("tenant>=7", ">=", 7),
        ("title=it's; DROP TABLE shop_orders --", "=", "it's; DROP TABLE shop_orders --"),
        ("title=''", "=", ""),
        ('title="  a  "', "=", "  a  "),
        ("title==", "=", "="),
        ("title=a<b", "=", "a<b"),
        ("due<2026-01-31", "<", date(2026, 1, 31)),
        ("created_at<=2026-01-31 12:30", "<=", datetime(2026, 1, 31, 12, 30)),  # noqa: DTZ001 - as above
        ("price>1.50", ">", Decimal("1.50")),
        ("weight<1e3", "<", 1000.0),
        ("ref=12345678-1234-5678-1234-567812345678", "=", UUID("12345678-1234-5678-1234-567812345678")),
        ("state=Running", "=", "Running"),
    ],
)
def test_a_condition_is_a_column_an_operator_and_a_bound_value(shop, text, operator, value):
    expression = condition(sole_state(shop.Order), text)
    compiled = expression.compile()

    (bound,) = compiled.params.values()
    assert (bound, type(bound)) == (value, type(value))
    name = next(iter(compiled.params))
    assert str(compiled).endswith(f" {operator} :{name}")


def test_members_of_an_enum_lists_and_null(shop):
    order = sole_state(shop.Order)

    assert list(condition(order, "color=RED").compile().params.values()) == [shop.Color.RED]
    assert list(condition(order, "state in Running, Error").compile().params.values()) == [["Running", "Error"]]
    assert list(condition(order, 'title not in "a, b",c').compile().params.values()) == [["a, b", "c"]]
    assert str(condition(order, "urgent=yes")) == "shop_orders.urgent = true"
    assert str(condition(order, "urgent=0")) == "shop_orders.urgent = false"
    assert str(condition(order, "due is null")) == "shop_orders.due IS NULL"
    assert str(condition(order, "due IS NOT NULL")) == "shop_orders.due IS NOT NULL"


def test_whatever_is_typed_the_text_of_the_statement_stays_the_same(shop):
    """Fuzzed: what is accepted has one of a fixed set of texts."""
    import random

    dice, order = random.Random(5), sole_state(shop.Order)
    pieces = [
        "title",
        "id",
        "state",
        "=",
        "<",
        " in ",
        " is null",
        "'",
        '"',
        ";",
        "--",
        ")",
        "(",
        "%s",
        ":x",
        "OR",
        " ",
        "1",
        "\\",
        "\n",
        "#",
    ]
    allowed = {
        f"shop_orders.{name} {rest}"
        for name in ("title", "id", "state")
        for rest in (
            *(f"{operator} :{name}_1" for operator in ("=", "<", "<=", "!=")),
            f"IN (__[POSTCOMPILE_{name}_1])",
            "IS NULL",
        )
    }
    accepted = 0
    for _ in range(5000):
        text = "".join(dice.choices(pieces, k=dice.randint(1, 7)))
        if dice.random() < 0.7:
            text = dice.choice(["title=", "title<", "title in "]) + text
        try:
            expression = condition(order, text)
        except typer.BadParameter:
            continue
        accepted += 1
        assert str(expression.compile()) in allowed
    assert accepted > 1000
