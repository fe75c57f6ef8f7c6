"""Two of three nodes are gone: the third takes no writes and says so, nothing is half done, and the cluster recovers."""

from __future__ import annotations

import uuid

import pytest
from sqlalchemy.orm import Session, sessionmaker

from sqlalchemy_fsm_mysql import (
    Moved,
    NotWritable,
    OutcomeUnknown,
    find_by_token,
    fire_key,
    fire_where,
    run_transaction,
    try_fire_key,
)
from tests.faults.ledger import Job, Move, fresh_jobs, problems, recorded

LOST = (NotWritable, OutcomeUnknown)
WAYS = (
    lambda session: fire_key(Job, 20, "Ready", session),
    lambda session: try_fire_key(Job, 20, "Ready", session),
    lambda session: fire_where(Job, "Ready", session, Job.id == 20),
    lambda session: fire_key(Job, 20, "Ready", session, token="alone"),
)


@pytest.fixture
def alone(cluster, database):
    """The first node, without the two others; the cluster is whole again at the end."""
    fresh_jobs(database, 20)
    with Session(database) as session:
        fire_key(Job, 1, "Ready", session, token="before")
        session.commit()
    cluster.kill(1)
    cluster.kill(2)
    yield cluster
    if not cluster.is_up():
        recover(cluster)


def recover(cluster):
    cluster.found_anew(0)
    cluster.bring_back(1)
    cluster.bring_back(2)
    cluster.wait_until(cluster.is_up)


def outcome(work):
    """What *work* came to: an error of ours, or what it returned."""
    try:
        return work()
    except LOST as error:
        return error


def in_a_session(engine, fire):
    with Session(engine) as session:
        moved = fire(session)
        session.commit()
        return moved


@pytest.mark.timeout(300)
def test_without_a_majority_every_call_says_so_and_nothing_is_half_done(alone, cluster, report):
    """From the moment the others are gone, and after the node has found out; then the cluster is made whole."""
    engine = cluster.engine(0)
    sessions = sessionmaker(engine)
    told, in_doubt, errors = [], set(), []

    def attempt(key):
        token = uuid.uuid4().hex

        def unit(session):
            return try_fire_key(Job, key, "Ready", session, token=token)

        result = outcome(lambda: run_transaction(sessions, unit))
        if isinstance(result, Moved):
            told.append(Move.of(result))
        elif isinstance(result, OutcomeUnknown):
            in_doubt.add(token)
        errors.append(type(result).__name__ + (f" {result.code}" if isinstance(result, LOST) else ""))

    for key in range(2, 8):  # at once: the node may still wait for the others
        attempt(key)
    cluster.wait_until(lambda: not cluster.takes_writes(0))
    for key in range(8, 20):
        attempt(key)
    surely_lost = errors[6:]
    each_way = [type(outcome(lambda fire=fire: in_a_session(engine, fire))) for fire in WAYS]

    recover(cluster)
    for key in range(2, 20):
        attempt(key)
    engine.dispose()
    report(f"while alone: {', '.join(errors[:18])}; after: {set(errors[18:])}")

    with Session(cluster.engine(0)) as session:
        applied = sum(find_by_token(Job.state, token, session) is not None for token in in_doubt)
    report(f"in doubt {len(in_doubt)}, of which {applied} had applied")
    before = [Move(1, "Ready", "Initializing", "Running", "before", 1)]
    for node in range(3):
        there = cluster.engine(node)
        assert problems(there, before + told, in_doubt) == []
        assert len(recorded(there)) == 1 + len(told) + applied
        there.dispose()
    assert [name for name in surely_lost if not name.startswith(("NotWritable", "OutcomeUnknown"))] == []
    assert each_way == [NotWritable] * len(WAYS)
    assert set(errors[18:]) == {"Moved"}
