"""A fire on one node right after a commit on another: what it is judged on, with and without waiting for the others."""

from __future__ import annotations

import time
from statistics import median

import pytest
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.orm import Session, sessionmaker

from sqlalchemy_fsm_mysql import TransactionAborted, find_by_token, fire_key, run_transaction, try_fire_key
from tests.cluster.nodes import CURRENT
from tests.faults.ledger import Job, fresh_jobs

ROUNDS = 10

# What another node needs some tenths of a second to apply; measured, it is then behind in each round.
BALLAST = 50_000


@pytest.fixture
def ballast(database):
    """A table of many rows for a transaction to change before it fires, which keeps the other nodes busy until then."""
    with database.begin() as connection:
        connection.execute(text("DROP TABLE IF EXISTS fault_ballast"))
        connection.execute(text("CREATE TABLE fault_ballast (id INT PRIMARY KEY, n INT NOT NULL)"))
        connection.execute(text("INSERT INTO fault_ballast VALUES (0, 0)"))
        for have in (2**i for i in range(BALLAST.bit_length())):
            copied = min(have, BALLAST - have)
            connection.execute(
                text("INSERT INTO fault_ballast SELECT id + :have, 0 FROM fault_ballast WHERE id < :copied"),
                {"have": have, "copied": copied},
            )
    yield
    with database.begin() as connection:
        connection.execute(text("DROP TABLE fault_ballast"))


def commit(engine, key, name):
    with Session(engine) as session:
        fire_key(Job, key, name, session)
        session.commit()


def stop_late(engine, key):
    """Stop the row as the last thing of a transaction that takes long to apply."""
    with Session(engine) as session:
        session.execute(text("UPDATE fault_ballast SET n = n + 1"))
        fire_key(Job, key, "Stop", session)
        session.commit()


def stale_refusals(here, there):
    """Of ROUNDS rows stopped here, how many refuse 'Delete' there, and how many abort; a fresh row refuses it."""
    fresh_jobs(here, ROUNDS)
    while not has_row(there, ROUNDS):
        time.sleep(0.05)
    refused = aborted = 0
    for key in range(1, ROUNDS + 1):
        stop_late(here, key)
        try:
            with Session(there) as session:
                refused += not try_fire_key(Job, key, "Delete", session)
                session.commit()
        except Exception as error:
            if not is_conflict(error):
                raise
            aborted += 1
    return refused, aborted


def has_row(engine, key):
    try:
        with Session(engine) as session:
            return session.get(Job, key) is not None
    except ProgrammingError as error:  # this node has not applied CREATE TABLE yet
        if "(1146," not in str(error):
            raise
        return False


def is_conflict(error):
    return isinstance(error, TransactionAborted) or any(f"({code}," in str(error) for code in (1213, 3101, 1180))


def cost(engine, keys, rounds=100):
    """The median of a fire and its commit, in milliseconds."""
    times = []
    for i in range(rounds):
        begin = time.perf_counter()
        commit(engine, keys[i % len(keys)], "Ready")
        times.append(time.perf_counter() - begin)
    return 1000 * median(times)


@pytest.fixture
def waiting(cluster):
    engine = cluster.engine(1, CURRENT[cluster.kind])
    yield engine
    engine.dispose()


@pytest.fixture
def hasty(cluster):
    engine = cluster.engine(1)
    yield engine
    engine.dispose()


@pytest.mark.usefixtures("ballast")
@pytest.mark.timeout(200)
def test_a_node_that_waits_judges_by_what_the_others_have_committed(database, waiting, report):
    refused, aborted = stale_refusals(database, waiting)
    report(f"{ROUNDS} fires after another node's commit: {refused} refusals were stale, {aborted} aborted")

    assert refused == 0


@pytest.mark.usefixtures("ballast")
@pytest.mark.timeout(200)
def test_a_node_that_does_not_wait_may_refuse_by_an_older_state(database, hasty, report):
    """The control: were it never so, the setting would be worth nothing."""
    refused, aborted = stale_refusals(database, hasty)
    report(f"{ROUNDS} fires after another node's commit: {refused} refusals were stale, {aborted} aborted")

    assert refused + aborted > 0


@pytest.mark.usefixtures("ballast")
@pytest.mark.timeout(200)
def test_galeras_wait_for_reads_alone_does_not_cover_an_update(cluster, database, report):
    """wsrep_sync_wait=1 is for SELECT; a fire is an UPDATE, which is bit 2."""
    if cluster.kind != "galera":
        pytest.skip("the group has one setting for all statements")
    for value in (1, 2, 3):
        engine = cluster.engine(1, f"SET SESSION wsrep_sync_wait = {value}")
        refused, aborted = stale_refusals(database, engine)
        engine.dispose()
        report(f"wsrep_sync_wait={value}: {refused} of {ROUNDS} refusals were stale, {aborted} aborted")
        assert (refused + aborted > 0) == (value == 1)


@pytest.mark.timeout(200)
def test_what_waiting_costs(database, waiting, hasty, report):
    keys = fresh_jobs(database, 10)
    commit(waiting, 1, "Ready")  # from here on the node has the rows
    commit(hasty, 1, "Ready")
    without, with_ = cost(hasty, keys), cost(waiting, keys)
    report(f"a fire and its commit on an idle cluster: {without:.2f} ms without waiting, {with_:.2f} ms with it")

    assert min(without, with_) > 0


@pytest.mark.timeout(200)
def test_a_token_committed_on_one_node_is_found_on_another(database, waiting):
    fresh_jobs(database, 50)
    found = []
    for key in range(1, 51):
        with Session(database) as session:
            fire_key(Job, key, "Ready", session, token=f"token {key}")
            session.commit()
        with Session(waiting) as session:
            found.append(find_by_token(Job.state, f"token {key}", session))

    assert [moved.key for moved in found if moved is not None] == list(range(1, 51))


@pytest.mark.timeout(200)
def test_a_token_fired_again_on_another_node_replays(database, waiting):
    """Through run_transaction: what the other node is still applying may fail the second one's COMMIT."""
    fresh_jobs(database, 50)
    outcomes = []
    for key in range(1, 51):

        def unit(session, key=key):
            return fire_key(Job, key, "Ready", session, token=f"token {key}")

        outcomes += [run_transaction(sessionmaker(engine), unit).replayed for engine in (database, waiting)]

    assert outcomes == [False, True] * 50
