"""Leases: for how long a claimed row belongs to a worker, by the database's clock.

``claim(…, lease=timedelta(minutes=1), worker="w1")`` writes both columns of :class:`Leased` in the UPDATE that moves
the row. :func:`extend_lease` is the worker's heartbeat. An expired lease is a timed event like any other::

    Event("Rescue", {"running": "waiting"}, after=lambda job: job.lease_until)
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, overload

from sqlalchemy import Column, Connection, Float, String, Update, bindparam, inspect, update
from sqlalchemy.exc import StatementError
from sqlalchemy.orm import InstanceState, Mapped, Session, mapped_column
from sqlalchemy.orm.attributes import instance_state

from ..core.failures import raise_explained
from ..core.target import plain_key
from ..errors import InstanceStateError
from ..errors.texts import shown
from ..sql.clock import utc_in
from ..sql.events import EventSQL
from ..sql.values import has_surrogate
from .awaited import Later
from .mapped import MappedState, sole_state
from .sessions import AsyncPlace, SyncPlace, session_or_own, shown_instance, within
from .since import Timestamp

if TYPE_CHECKING:
    from ..core.sets import Locked
    from .sets import SessionSweep

__all__ = ["Leased", "extend_lease", "leased", "note_leases"]

WORKER_LENGTH = 64
LEASE, WORKER = "fsm_lease", "fsm_worker"
_INFO = "fsm_lease"  # in an instance's InstanceState.info
_LONGEST = timedelta(days=36_525)


class Leased:
    """A declarative mixin with the two columns of a lease.

    - `worker`: the name of the worker that has the row, at most 64 characters; None without a lease.
    - `lease_until`: the end of the lease, a datetime in UTC; None without a lease.

    ``claim(…, lease=…, worker=…)`` writes both columns, and :func:`extend_lease` writes the time. The library empties
    neither of them. An effect can, such as that of an event that gives the job back.
    """

    # At run time the attributes have no annotations: MappedAsDataclass refuses an annotated mixin that is no dataclass.
    if TYPE_CHECKING:
        worker: Mapped[str | None]
        lease_until: Mapped[datetime | None]
    else:
        worker = mapped_column(String(WORKER_LENGTH))
        lease_until = mapped_column(Timestamp())


class _Lease(NamedTuple):
    """The claim of one instance: the attribute of its state, the state that it was moved to, and the lease's terms."""

    attribute: str
    state: str
    worker: str
    lease: timedelta


def leased(sweep: SessionSweep, lease: Any, worker: Any) -> SessionSweep:
    """*sweep*, whose UPDATE also writes the lease.

    Raises: TypeError for a model that is not `Leased`, and for a *worker* that is not a str; ValueError for a *lease*
    that is not above 0, and for a *worker* that is empty or too long.
    """
    _require_terms(lease, worker)
    columns = _columns(sweep.mapped)
    event = _leased_event(sweep.event, *columns)
    parameters = {**sweep.parameters, WORKER: worker, LEASE: lease.total_seconds()}
    return replace(sweep, event=event, parameters=parameters)


def note_leases(sweep: SessionSweep, instances: list[Any], rows: list[Locked], lease: timedelta, worker: str) -> None:
    """Note on the claimed *instances* what :func:`extend_lease` needs to extend the lease."""
    for instance, row in zip(instances, rows, strict=True):
        terms = _Lease(sweep.mapped.attribute, row.branch.target, worker, lease)
        instance_state(instance).info[_INFO] = terms


def _require_terms(lease: Any, worker: Any) -> None:
    if not isinstance(lease, timedelta):
        raise TypeError(f"lease={shown(lease)}; it must be a timedelta")
    if not timedelta(0) < lease <= _LONGEST:
        raise ValueError(f"lease={shown(lease)}; it must be above 0, and at most 100 years")
    if not isinstance(worker, str):
        raise TypeError(f"worker={shown(worker)}; a lease belongs to a worker: give its name as a str")
    if not 0 < len(worker) <= WORKER_LENGTH:
        raise ValueError(f"worker={shown(worker)}; it must have 1 to {WORKER_LENGTH} characters")
    if has_surrogate(worker):
        raise ValueError(f"worker={shown(worker)}; it has a lone surrogate, which UTF-8 cannot encode")


def _columns(mapped: MappedState) -> tuple[Column[Any], Column[Any]]:
    """The columns of the worker and of the time.

    Raises: TypeError for a model that is not `Leased`.
    """
    row = mapped.row
    if not issubclass(mapped.model, Leased) or not {"worker", "lease_until"} <= row.columns.keys():
        raise TypeError(
            f"lease= needs the columns worker and lease_until beside {mapped.label}: have {mapped.model.__name__}"
            " inherit from Leased"
        )
    return row.columns["worker"], row.columns["lease_until"]


def _leased_event(event: EventSQL, worker: Column[Any], until: Column[Any]) -> EventSQL:
    """*event*, each of whose transitions writes the lease, too."""
    if "leased" not in event.cache:
        writes = {
            worker: bindparam(WORKER, type_=worker.type),
            until: utc_in(bindparam(LEASE, type_=Float())),
        }
        branches = tuple(replace(branch, effects={**branch.effects, **writes}) for branch in event.branches)
        event.cache["leased"] = replace(event, branches=branches, cache={}, readings={})
    built: EventSQL = event.cache["leased"]
    return built


@overload
def extend_lease(
    job: object,
    session: SyncPlace | None = ...,
    /,
    *,
    lease: timedelta | None = ...,
    worker: str | None = ...,
    column: object = ...,
) -> bool: ...
@overload
def extend_lease(
    job: object,
    session: AsyncPlace,
    /,
    *,
    lease: timedelta | None = ...,
    worker: str | None = ...,
    column: object = ...,
) -> Later[bool]: ...
def extend_lease(
    job: object,
    session: Any = None,
    /,
    *,
    lease: timedelta | None = None,
    worker: str | None = None,
    column: Any = None,
) -> Any:
    """Extend the lease of *job*, the heartbeat of a worker: it then ends *lease* from now, by the database's clock.

    Returns: true when the row still belongs to the worker. False means that the row is gone, is in another state than
    that of the claim, or belongs to another worker: stop the work.

    *lease* and *worker* default to those of the claim, which the claimed instance remembers in this process. The UPDATE
    writes no history row and no new version, and calls no hook.

    *session* defaults to that of the instance. Pass another session or a ``Connection`` to extend the lease while the
    job works in its own transaction. Nothing is committed. With an ``AsyncSession``, await the call.

    Raises: TypeError for a model that is not `Leased`, and when the instance remembers no claim and *lease* or *worker*
    are left out; ValueError as :func:`claim`; InstanceStateError for an instance that is not stored; and the errors of
    the server, as ``fire()``.
    """
    if not isinstance(getattr(job, "_sa_instance_state", None), InstanceState):
        raise TypeError(f"extend_lease() takes the instance that claim() returned, not {shown(job)}")
    work = within(session_or_own(session, job), _extend, "extend_lease", on_connection=_extend)
    return work(job, lease, worker, column)


def _extend(place: Session | Connection, job: Any, lease: Any, worker: Any, column: Any) -> bool:
    terms: _Lease | None = instance_state(job).info.get(_INFO)
    attribute = column if column is not None or terms is None else terms.attribute
    mapped = sole_state(type(job), attribute)
    _columns(mapped)  # refuses a model that is not Leased
    lease, worker = (
        (terms.lease if terms and lease is None else lease),
        (terms.worker if terms and not worker else worker),
    )
    if lease is None or worker is None:
        raise TypeError(
            f"{shown_instance(job)} was not claimed with lease= in this process: give extend_lease() lease= and worker="
        )
    _require_terms(lease, worker)
    key = inspect(job).identity
    if key is None:
        raise InstanceStateError(f"{shown_instance(job)} is not stored: only a row can be leased")
    state = terms.state if terms is not None else mapped.machine.stored(mapped.state_in_memory(job))
    parameters = dict(zip(mapped.key_names, key, strict=True))
    parameters |= {WORKER: worker, LEASE: lease.total_seconds(), "fsm_leased_in": state}
    connection = place if isinstance(place, Connection) else _connection(place, mapped)
    try:
        found = connection.execute(_extension(mapped), parameters).rowcount
    except StatementError as error:
        raise_explained(error, connection, model=mapped.model, table=mapped.table_name, key=plain_key(key), event=None)
    if found and isinstance(place, Session) and job in place:
        place.expire(job, ["lease_until"])
    return bool(found)


def _connection(session: Session, mapped: MappedState) -> Connection:
    return session.connection(bind_arguments={"mapper": mapped.mapper, "clause": mapped.row.writing})


def _extension(mapped: MappedState) -> Update:
    """The UPDATE of the lease of a row that is the worker's still."""
    row = mapped.row
    worker, until = _columns(mapped)
    is_its = worker == bindparam(WORKER, type_=worker.type)
    is_there = row.state == bindparam("fsm_leased_in", type_=String())
    return (
        update(row.table).where(row.is_key(), is_its, is_there).values({until: utc_in(bindparam(LEASE, type_=Float()))})
    )
