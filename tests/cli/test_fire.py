"""``fire`` and ``history`` on real rows."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import select


def at(shop, name):
    return f"{shop.__name__}:{name}"


@pytest.fixture
def order(shop, stock, session):
    """The key of a stored order."""
    session.add(shop.Order(id=7))
    session.commit()
    return 7


def test_a_move_is_told_and_committed(run, shop, stock, session, order):
    answer = run(
        "fire", at(shop, "Order.state"), order, "Ready", "--url", stock, "--actor", "ann", "--details", '{"t": 7}'
    )

    assert (answer.status, answer.out, answer.err) == (0, "shop_orders 7: Initializing -> Running\n", "")
    assert session.scalars(select(shop.Order.state)).one() == "Running"
    record = session.scalars(select(shop.OrderTransition)).one()
    assert (record.actor, record.details) == ("ann", {"t": 7})


def test_a_refusal_ends_with_status_1_and_says_what_would_work(run, shop, stock, session, order):
    answer = run("fire", at(shop, "Order"), order, "Delete", DATABASE_URL=stock)

    assert (answer.status, answer.out) == (1, "")
    refusal = "shop_orders 7 refused 'Delete': it is 'Initializing'; 'Delete' leaves 'Stopped', 'Deleted'."
    assert answer.err == f"{refusal}\n"
    assert session.scalars(select(shop.Order.state)).one() == "Initializing"


def test_json_of_a_move_and_of_a_refusal(run, shop, stock, order):
    moved = run("fire", at(shop, "Order.state"), order, "Ready", "--json", "-u", stock)
    refused = run("fire", at(shop, "Order.state"), order, "Delete", "--json", "-u", stock)
    missing = run("fire", at(shop, "Order.state"), 99, "Ready", "--json", "-u", stock)

    assert json.loads(moved.out) == {
        "outcome": "moved",
        "table": "shop_orders",
        "key": 7,
        "event": "Ready",
        "source": "Initializing",
        "target": "Running",
        "sequence": 1,
    }
    told = json.loads(refused.out)
    assert (told["outcome"], told["error"], told["state"]) == ("refused", "TransitionNotAllowed", "Running")
    assert told["allowed_from"] == ["Stopped", "Deleted"]
    assert json.loads(missing.out)["error"] == "RowNotFound"
    assert (moved.status, refused.status, missing.status) == (0, 1, 3)


def test_a_token_moves_once(run, shop, stock, order):
    first, second = (
        run("fire", at(shop, "Order.state"), order, "Ready", "--token", "webhook-1", "-u", stock) for _ in range(2)
    )

    assert (first.status, second.status) == (0, 0)
    assert "with this token" not in first.out
    assert "an earlier call with this token has moved it" in second.out


def test_payload_has_the_types_of_its_columns(run, shop, stock, session):
    session.add(shop.Payment(id=1, total=Decimal("100.00")))
    session.commit()
    fire = ("fire", at(shop, "Payment.state"), 1, "Refund")
    answer = run(*fire, "amount=30.25", "at=2026-01-31T12:00:00", "note=a=b; DROP TABLE x", "-u", stock)

    assert answer.out == "shop_payments 1: Paid -> Paid\n"
    stored = session.execute(select(shop.Payment.total, shop.Payment.refunded_at, shop.Payment.note)).one()
    assert (str(stored[0]), str(stored[1]), stored[2]) == ("69.75", "2026-01-31 12:00:00", "a=b; DROP TABLE x")

    session.rollback()
    refused = run(*fire, "amount=500", "at=2026-01-31", "note:=null", "-u", stock)
    assert refused.status == 1
    assert "no guard of 'Refund' is true" in refused.err
    assert run(*fire, "amount:=69.75", "at=2026-01-31", "note=", "-u", stock).out.endswith("Paid -> Refunded\n")


def test_a_composite_key_has_commas(run, shop, stock, session):
    session.add(shop.Item(depot='north, "2"', number=5))
    session.commit()
    answer = run("fire", at(shop, "Item.state"), '"north, ""2""", 5', "Ready", "-u", stock)

    assert answer.status == 0
    assert "Initializing -> Running" in answer.out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["Order.state", "7", "Halt"], "Order.state has no event 'Halt'; it has 'NotReady', 'Ready', 'Stop', 'Delete'"),
        (["Order.state", "seven", "Ready"], "id takes a whole number (64 bits at most), not 'seven'"),
        (["Order.state", "7", "Ready", "amount=3"], "Ready has no payload 'amount'; it takes nothing"),
        (["Order.state", "7", "Ready", "amount"], "'amount' is not a payload: write NAME=VALUE, or NAME:=JSON"),
        (["Payment.state", "1", "Refund", "amount=3"], "Refund needs at=…, note=…"),
        (
            ["Payment.state", "1", "Refund", "amount=x", "at=2026-01-01", "note=n"],
            "amount takes a decimal number (65 digits at most), not 'x'",
        ),
        (["Payment.state", "1", "Refund", "amount=1", "at=then", "note=n"], "at takes a time as the database has it"),
        (["Payment.state", "1", "Refund", "amount=1", "at=2026-01-01T00:00:00+01:00", "note=n"], "without an offset"),
        (["Payment.state", "1", "Refund", "amount:=1x", "at=2026-01-01", "note=n"], "amount takes JSON"),
        (["Item.state", "north", "Ready"], "the key of Item is depot,number: give 2 values with commas between them"),
        (["Item.state", "north,x", "Ready"], "number takes a whole number (64 bits at most), not 'x'"),
        (
            ["Item.state", "north,1", "Ready", "--token", "t"],
            "Item.state has no TransitionHistory, which would store it",
        ),
        (["Order.state", "7", "Ready", "--details", "{"], "--details takes JSON"),
        (["Order", "7", "Ready", "-u", "sqlite://nowhere/x"], "A URL looks like"),
        (["Order", "7", "Ready", "-u", "ann:secret@host"], "this is not a database URL. A URL looks like"),
        (["Order", "7", "Ready", "-u", "mysql+pymysql://ann:secret@host:port/db"], "this is not a database URL"),
        (["Order", "7", "Ready", "-u", "postgresql+nodriver://x/y"], "Can't load plugin"),
    ],
)
def test_wrong_call_ends_with_status_2_and_is_told(run, shop, arguments, says):
    target, *rest = arguments
    answer = run("fire", at(shop, target), *rest, **({} if "-u" in rest else {"DATABASE_URL": "sqlite://"}))

    assert answer.status == 2
    assert says in answer.told
    assert "secret" not in answer.told


def test_payload_whose_type_nothing_tells_has_to_be_json(run, shop):
    answer = run("fire", at(shop, "Payment.state"), 1, "Weigh", "anything=1", "-u", "sqlite://")

    assert answer.status == 2
    assert "give it as JSON, anything:=…" in answer.told


def test_a_database_without_the_table_ends_with_status_4(run, shop, url):
    if url.database and url.get_backend_name() == "sqlite":
        Path(url.database).touch()
    answer = run("fire", at(shop, "Order.state"), 7, "Ready", "-u", url.render_as_string(hide_password=False))

    assert answer.status == 4
    assert "shop_orders" in answer.err
    assert "UPDATE" not in answer.err


def test_a_server_that_does_not_answer_is_status_4(run, shop):
    answer = run("fire", at(shop, "Order"), 7, "Ready", "-u", "mysql+pymysql://ann:secret@127.0.0.1:1/db")

    assert answer.status == 4
    assert "ann:***@127.0.0.1:1/db" in answer.told
    assert "secret" not in answer.told


# --- history


def test_history_of_a_row(run, shop, stock, session, order):
    row = session.get_one(shop.Order, order)
    row.fire("Ready", actor="ann\x1b[2J", details={"why": "a test"})
    row.fire("Stop", token="token-1")
    session.commit()

    lines = run("history", at(shop, "Order.state"), order, "-u", stock).out.splitlines()
    header, first, second = (line.split("\t") for line in lines)
    assert header == ["sequence", "at", "event", "source", "target", "actor", "details", "token"]
    assert (first[0], first[2:]) == ("1", ["Ready", "Initializing", "Running", "ann\\x1b[2J", '{"why": "a test"}', ""])
    assert (second[0], second[2:]) == ("2", ["Stop", "Running", "Stopped", "", "", "token-1"])

    (last,) = json.loads(run("history", at(shop, "Order"), order, "--last", 1, "--json", "-u", stock).out)
    assert (last["sequence"], last["event"], last["token"]) == (2, "Stop", "token-1")
    assert last["at"][:2] == "20"


def test_a_row_that_never_moved_has_an_empty_history(run, shop, stock, order):
    answer = run("history", at(shop, "Order.state"), order, "--json", "-u", stock)
    assert (answer.status, json.loads(answer.out)) == (0, [])


def test_history_of_a_deleted_row_is_still_told(run, shop, stock, session, order):
    row = session.get_one(shop.Order, order)
    row.fire("Ready")
    session.flush()
    session.delete(row)
    session.commit()

    answer = run("history", at(shop, "Order.state"), order, "--json", "-u", stock)
    assert [record["event"] for record in json.loads(answer.out)] == ["Ready"]


def test_history_of_no_row_ends_with_status_3(run, shop, stock):
    answer = run("history", at(shop, "Order.state"), 99, "-u", stock)

    assert answer.status == 3
    assert answer.err == "shop_orders 99: there is no row with this key.\n"


def test_history_that_is_not_recorded_is_told(run, shop):
    answer = run("history", at(shop, "Item.state"), "north,1", "-u", "sqlite://")

    assert answer.status == 2
    assert "Item.state has no TransitionHistory" in answer.told
