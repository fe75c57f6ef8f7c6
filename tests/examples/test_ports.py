"""The shop, the approvals and the statecharts, raced by threads or run beside another library."""

from __future__ import annotations

import faulthandler
import io
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from queue import Empty, SimpleQueue
from typing import Any

import pytest
from sqlalchemy import URL, Engine, exists, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, sessionmaker

from examples import approval, charts, shop
from sqlalchemy_fsm_mysql import TransitionNotAllowed, fire_key, replay, run_transaction, try_fire_key
from tests.servers import make_engine

THREADS = 4
ORDERS = 12
DOCS = 8
SECONDS = 100  # for the racers to end; less than the time that a test may take


@pytest.fixture
def factory(url: URL) -> Iterator[Callable[[Any], sessionmaker[Session]]]:
    """Makes the tables of an example, and sessions in READ COMMITTED, as the guides recommend."""
    options = {} if url.get_backend_name() == "sqlite" else {"isolation_level": "READ COMMITTED"}
    engine = make_engine(url, **options)
    made: list[Any] = []

    def prepared(module: Any) -> sessionmaker[Session]:
        if module is not charts and url.get_backend_name() == "sqlite":
            pytest.skip("UTC_TIMESTAMP() and FOR SHARE are the servers'")
        module.Base.metadata.create_all(engine)
        made.append(module.Base.metadata)
        return sessionmaker(engine)

    yield prepared
    for metadata in made:
        metadata.drop_all(engine)
    engine.dispose()


def raced(work: Callable[[int], Counter[str]]) -> Counter[str]:
    """The counts of *work* in several threads, added up. A thread that hangs is an error that shows where it is."""
    queue: SimpleQueue[Counter[str] | BaseException] = SimpleQueue()

    def run(seed: int) -> None:
        try:
            queue.put(work(seed))
        except BaseException as error:  # noqa: BLE001 - raised by the main thread
            queue.put(error)

    # Daemons, and no pool: a pool's exit waits for its threads without a limit.
    for seed in range(THREADS):
        threading.Thread(target=run, args=(seed,), daemon=True).start()
    total, deadline = Counter[str](), time.monotonic() + SECONDS
    for _ in range(THREADS):
        try:
            counts = queue.get(timeout=max(0.0, deadline - time.monotonic()))
        except Empty:
            faulthandler.dump_traceback(all_threads=True)
            pytest.fail(f"a racer has not ended after {SECONDS} s")
        if isinstance(counts, BaseException):
            raise counts
        total += counts
    return total


def test_shop_is_raced(factory: Any) -> None:
    """Every payment is complete once, and an order is closed exactly when its last shipment has left."""
    sessions = factory(shop)
    with sessions.begin() as session:
        session.add_all(shop.Order(id=key) for key in range(1, ORDERS + 1))
        session.flush()
        for key in range(1, ORDERS + 1):
            session.add(shop.Payment(id=key, order_id=key))
            session.add_all(shop.Shipment(id=2 * key + part, order_id=key) for part in (0, 1))

    def tried(model: Any, key: int, event: str) -> bool:
        return bool(run_transaction(sessions, lambda session: try_fire_key(model, key, event, session), attempts=50))

    def customer(seed: int) -> Counter[str]:
        rng, seen = random.Random(seed), Counter[str]()
        for key in rng.sample(range(1, ORDERS + 1), ORDERS):
            for event in ("next",) * 4:
                tried(shop.Order, key, event)
            seen["replayed" if shop.payment_webhook(sessions, f"evt_{key}", key).replayed else "paid"] += 1
            tried(shop.Order, key, "complete")
            for part in (2 * key, 2 * key + 1):
                tried(shop.Shipment, part, "ready")
                seen["shipped"] += rng.random() < 0.6 and tried(shop.Shipment, part, "ship")
            seen["cancelled"] += rng.random() < 0.1 and tried(shop.Order, key, "cancel")
        return seen

    seen = raced(customer)

    assert (seen["paid"], seen["replayed"]) == (ORDERS, (THREADS - 1) * ORDERS)
    with sessions() as session:
        unshipped = exists().where(shop.Shipment.order_id == shop.Order.id, shop.Shipment.state.in_group("open"))
        shipped = exists().where(shop.Shipment.order_id == shop.Order.id, shop.Shipment.state == "shipped")
        count = select(func.count()).select_from(shop.Order)
        assert session.scalar(count.where(shop.Order.state.in_group("sold"), ~unshipped, shipped)) == 0
        assert session.scalar(count.where(shop.Order.state == "closed", unshipped)) == 0
        assert session.scalar(count.where(shop.Order.state == "canceled", shipped)) == 0
        assert session.scalar(count.where(shop.Order.state != "confirm", shop.Order.completed_at.is_(None))) == 0
        for order in session.scalars(select(shop.Order)):
            assert replay(order.history(session)) == order.state
        states = {row[0]: row[1] for row in session.execute(shop.shipment_state())}
        assert len(states) == ORDERS
        assert set(states.values()) <= {"pending", "ready", "shipped", "canceled", "partial"}


def test_refusals_of_the_shop_have_reasons(factory: Any) -> None:
    with factory(shop)() as session:
        session.add(shop.Order(id=1, state="confirm"))
        session.flush()
        refused = try_fire_key(shop.Order, 1, "complete", session)
        assert (refused.failed, refused.sentences) == (("paid",), ("the payment has not come in",))


def prepared_docs(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        session.add_all(approval.Doc(id=key, owner="ann", quorum=3) for key in range(1, DOCS + 1))
        for key in range(1, DOCS + 1):
            session.add_all(approval.Approver(doc_id=key, user=user) for user in ("ann", "bob", "cyd"))
        session.add(approval.Delegation(giver="cyd", taker="dan", until=datetime(2999, 1, 1)))  # noqa: DTZ001 - as the column has it
        session.add_all([approval.Role(user="root", role="admin"), approval.Role(user="pam", role="publisher")])
        session.flush()
        for key in range(1, DOCS + 1):
            fire_key(approval.Doc, key, "submit", session, user="ann")


def test_approvals_are_raced(factory: Any) -> None:
    """Each document is approved by exactly three votes of three people."""
    sessions = factory(approval)
    prepared_docs(sessions)

    def voter(seed: int) -> Counter[str]:
        rng, seen = random.Random(seed), Counter[str]()
        for key in rng.sample(range(1, DOCS + 1), DOCS):
            for person in rng.sample(["ann", "bob", "cyd", "eve"], 4):
                by = "dan" if person == "cyd" and rng.random() < 0.5 else None
                try:
                    moved = run_transaction(
                        sessions, lambda session: approval.approve(session, key, person, by=by), attempts=50
                    )
                    seen[str(moved.target)] += 1
                except IntegrityError:
                    seen["twice"] += 1
                except TransitionNotAllowed as error:
                    seen[",".join(getattr(error, "failed", ())) or "late"] += 1
        return seen

    seen = raced(voter)

    assert (seen["approved"], seen["review"]) == (DOCS, 2 * DOCS)
    with sessions() as session:
        votes = Counter(session.scalars(select(approval.Vote.doc_id)))
        assert votes == dict.fromkeys(range(1, DOCS + 1), 3)
        assert set(session.scalars(select(approval.Doc.approvals))) == {3}
        trail = io.StringIO()
        approval.export(session, trail)
        assert len(trail.getvalue().splitlines()) == 1 + 4 * DOCS
        assert '"{""for"": ' in trail.getvalue()


def test_rights_are_told(factory: Any) -> None:
    sessions = factory(approval)
    prepared_docs(sessions)
    with sessions() as session:
        doc = session.get_one(approval.Doc, 1)
        assert doc.possible_events(session, user="ann") == ["approve", "reject", "cancel"]
        assert doc.possible_events(session, user="dan") == ["approve", "reject"]
        assert doc.possible_events(session, user="root") == ["cancel"]
        assert try_fire_key(approval.Doc, 1, "cancel", session, user="eve").failed == ("owner or admin",)
        assert try_fire_key(approval.Doc, 1, "approve", session, user="eve").failed == ("approver", "quorum")
        assert try_fire_key(approval.Doc, 1, "publish", session, user="pam").reason == "state"


FLAT = {"caffeinated_dithering": "dithering", "caffeinated_running": "running"}


def test_nested_states_beside_transitions(factory: Any) -> None:
    """400 random events: each leads where transitions' HierarchicalMachine leads."""

    extensions = pytest.importorskip("transitions.extensions")

    class Model:
        state: str

    peer: Any = Model()
    nested = {"name": "caffeinated", "initial": "dithering", "children": ["dithering", "running"]}
    extensions.HierarchicalMachine(
        peer,
        states=["standing", "walking", nested],
        transitions=[
            ["walk", "standing", "walking"],
            ["stop", "walking", "standing"],
            ["drink", "standing", "caffeinated"],
            ["drink", "walking", "caffeinated"],
            ["drink", "caffeinated", "caffeinated_dithering"],
            ["walk", "caffeinated_dithering", "caffeinated_running"],
            ["walk", "caffeinated", "walking"],
            ["relax", "caffeinated", "standing"],
        ],
        initial="standing",
        ignore_invalid_triggers=True,
        auto_transitions=False,
    )
    rng = random.Random(5)
    with factory(charts)() as session:
        session.add(charts.Person(id=1))
        session.flush()
        person = session.get_one(charts.Person, 1)
        for _ in range(400):
            event = rng.choice(["walk", "stop", "drink", "relax"])
            peer.trigger(event)
            person.try_fire(event)
            assert person.state == FLAT.get(peer.state, peer.state)
        while person.state != "standing":
            person.try_fire(rng.choice(["stop", "relax"]))
        last = person.last_caffeinated
        assert person.fire("again").target == last
        assert session.scalars(select(charts.Person.id).where(charts.Person.state.in_group("caffeinated"))).all() == [1]


def microwave_after(state: tuple[str, str, int], event: str) -> tuple[str, str, int]:
    """The microwave in plain Python: engine, door, timer."""
    engine, door, timer = state
    if event == "TurnOn" and engine == "off":
        return "cooking" if door == "closed" else "idle", door, 0
    if event == "TurnOff" and engine != "off":
        return "off", door, timer
    if event == "Tick" and engine == "cooking":
        return "off" if timer + 1 >= charts.SECONDS else engine, door, timer + 1
    if event == "Open" and door == "closed":
        return "idle" if engine == "cooking" else engine, "open", timer
    if event == "Close" and door == "open":
        return "cooking" if engine == "idle" else engine, "closed", timer
    return state


def test_parallel_regions_beside_a_plain_model(factory: Any) -> None:
    rng, expected = random.Random(7), ("off", "closed", 0)
    with factory(charts)() as session:
        session.add(charts.Microwave(id=1))
        session.flush()
        microwave = session.get_one(charts.Microwave, 1)
        for _ in range(400):
            event = rng.choice(["TurnOn", "TurnOff", "Tick", "Tick", "Tick", "Open", "Close"])
            microwave.try_fire(event)
            expected = microwave_after(expected, event)
            assert (microwave.engine, microwave.door, microwave.timer) == expected


def test_charts_are_raced(factory: Any) -> None:
    """The entries counted in the row are those reported, and no COMMIT leaves a microwave cooking with its door open."""
    sessions = factory(charts)
    with sessions.begin() as session:
        session.add_all([charts.Person(id=1), charts.Microwave(id=1)])
    caffeinated = set(charts.people.groups["caffeinated"])

    def fired(model: Any, event: str) -> Any:
        return run_transaction(sessions, lambda session: try_fire_key(model, 1, event, session), attempts=50)

    def user(seed: int) -> Counter[str]:
        rng, seen = random.Random(seed), Counter[str]()
        for _ in range(40):
            outcome = fired(charts.Person, rng.choice(list(charts.people.events)))
            if outcome and outcome.changed:
                seen["cups"] += outcome.target in caffeinated and outcome.source not in caffeinated
                seen["walks"] += outcome.target == "walking"
                seen["runs"] += outcome.target == "running"
                seen[f"leaves {outcome.source}"] += 1
                seen[f"enters {outcome.target}"] += 1
            region = rng.choice(("engine", "door"))
            fired(charts.Microwave, rng.choice(list(getattr(charts, region).events)))
            with sessions() as session:
                microwave = session.get_one(charts.Microwave, 1)
                seen["unsafe"] += (microwave.engine, microwave.door) == ("cooking", "open")
        return seen

    seen = raced(user)

    with sessions() as session:
        person = session.get_one(charts.Person, 1)
    assert seen["unsafe"] == 0
    assert (person.cups, person.walks, person.runs) == (seen["cups"], seen["walks"], seen["runs"])
    # The moves form one path: each state is entered as often as it is left, but for the first and the last.
    surplus = {state: seen[f"enters {state}"] - seen[f"leaves {state}"] for state in charts.people.states}
    ends = Counter({person.state: 1})
    ends["standing"] -= 1
    assert surplus == {state: ends[state] for state in charts.people.states}


def test_timeout(factory: Any, engine: Engine) -> None:
    if engine.dialect.name == "sqlite":
        pytest.skip("TIMESTAMPADD is MySQL's")
    with factory(charts)() as session:
        session.add_all([charts.Order(id=1), charts.Order(id=2)])
        session.flush()
        for key in (1, 2):
            session.get_one(charts.Order, key).fire("submit")
        session.execute(update(charts.Order).where(charts.Order.id == 1).values(expires_at=func.utc_timestamp()))

        assert charts.expire(session) == 1
        assert session.get_one(charts.Order, 1).expires_at is None
        assert session.get_one(charts.Order, 2).try_fire("expire").failed == ("due",)
