"""SQLAdmin for devices: on each device's page a button for each event that leaves its state.

    export DATABASE_URL=mysql+pymysql://user:password@localhost/shop SECRET_KEY=…
    uvicorn --factory examples.admin_app.app:create_app

`EventsView` knows nothing of devices: a view of any model with a state column can inherit it. The state itself is
protected and cannot be edited, so the view leaves it out of the forms. In production give `Admin` an
`authentication_backend`.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus
from pathlib import Path
from typing import Any

from sqladmin import Admin, Flash, ModelView, action, expose
from sqladmin.helpers import get_object_identifier
from sqlalchemy import inspect
from sqlalchemy.exc import DataError
from sqlalchemy.orm import sessionmaker
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from examples import orders
from examples.devices import Device, open_engine
from examples.orders import Order
from examples.pages import FRAMING, TOO_OLD, answer_to, form_token, is_genuine, secret_key
from sqlalchemy_fsm_mysql import (
    FSMError,
    Machine,
    Missing,
    Moved,
    Refused,
    StateType,
    UnknownEvent,
    fire_key,
    fire_keys,
    run_transaction,
)
from sqlalchemy_fsm_mysql.web import sentence_of

MOST_ROWS, MOST_REASONS, MOST_KEYS = 100, 5, 20


class EventsView(ModelView):
    """A view whose details page has the buttons. The outcome of an event is shown as SQLAdmin's flash message.

    A button moves a row, so it needs the rights to see and to edit this row.
    """

    details_template = "events_details.html"

    def get_form_columns(self) -> list[str]:
        """The columns of SQLAdmin's forms: never the state, also where a view forgets to exclude it."""
        states = {prop.key for prop in inspect(self.model).column_attrs if isinstance(prop.columns[0].type, StateType)}
        return [name for name in super().get_form_columns() if name not in states]

    @action(name="fire", label="Fire an event …", add_in_detail=False)
    async def ask_event(self, request: Request) -> Response:
        """The page that asks for the event. SQLAdmin sends its actions by GET, so this one changes nothing."""
        if not self.has_buttons(request):
            raise HTTPException(HTTPStatus.FORBIDDEN)
        keys = list(filter(None, request.query_params.get("pks", "").split(",")))[:MOST_ROWS]
        shown = {"view": self, "keys": keys, "events": self.machine.events, "model_view": self}
        return await self.templates.TemplateResponse(request, "fire_many.html", shown)

    @expose("/fire-many", methods=["POST"])
    async def fire_many(self, request: Request) -> Response:
        """Fire one event on all chosen rows, in one transaction, and report the rows that it did not move, with why."""
        form = await request.form()
        back = RedirectResponse(request.url_for("admin:list", identity=self.identity).path, HTTPStatus.SEE_OTHER)
        if not is_genuine(request.session, form.get("form_token")):
            Flash.error(request, TOO_OLD)
            return back
        texts = [str(key) for key in form.getlist("key")][:MOST_ROWS]
        keys = [identity_of(await self._editable(request, text)) for text in texts]
        event = str(form.get("event"))
        try:
            outcomes = await run_in_threadpool(self._fire_many, keys, event)
        except UnknownEvent:
            raise HTTPException(HTTPStatus.NOT_FOUND) from None
        except FSMError as error:
            Flash.error(request, sentence_of(error))
            return back
        if moved := sum(map(bool, outcomes)):
            Flash.success(request, f"{event}: {moved} of {len(outcomes)} moved.")
        for sentence, refused in by_reason(outcomes).items():
            Flash.error(request, f"{', '.join(refused)}: {sentence}")
        return back

    # By POST, unlike SQLAdmin's own actions: to follow a link must not move a row.
    @expose("/fire/{pk}/{event}", methods=["POST"])
    async def fire_event(self, request: Request) -> Response:
        key, event = request.path_params["pk"], request.path_params["event"]
        row = await self._editable(request, key)
        details = RedirectResponse(
            request.url_for("admin:details", identity=self.identity, pk=key).path, HTTPStatus.SEE_OTHER
        )
        if not is_genuine(request.session, (await request.form()).get("form_token")):
            Flash.error(request, TOO_OLD)
            return details
        try:
            moved = await run_in_threadpool(self._fire, identity_of(row), event)
        except UnknownEvent:
            raise HTTPException(HTTPStatus.NOT_FOUND) from None
        except FSMError as error:
            Flash.error(request, answer_to(error).sentence)
        else:
            Flash.success(request, f"{moved.event}: {moved.source} → {moved.target}")
        return details

    async def _editable(self, request: Request, key: str) -> Any:
        """The row of this key. Raises: HTTPException, 403 or 404, unless the view lets this user see and edit it."""
        if not self.has_buttons(request):
            raise HTTPException(HTTPStatus.FORBIDDEN)
        request.path_params["pk"] = key  # where SQLAdmin's queries look for it
        try:
            # Each query may leave out rows that this user must not see or edit.
            rows = [await self.get_object_for_details(request), await self.get_object_for_edit(request)]
        except (ValueError, OverflowError, DataError):  # the path has no value of the key's type
            rows = [None]
        if any(row is None or str(get_object_identifier(row)) != key for row in rows):
            raise HTTPException(HTTPStatus.NOT_FOUND)
        if hasattr(self, "check_can_edit") and await self.check_can_edit(request, rows[0]) is not True:
            raise HTTPException(HTTPStatus.FORBIDDEN)
        return rows[0]

    def has_buttons(self, request: Request) -> bool:
        """Whether this user may fire events by this view."""
        return bool(self.can_view_details and self.can_edit and self.is_accessible(request))

    def form_token(self, request: Request) -> str:
        return form_token(request.session)

    @property
    def machine(self) -> Machine:
        """The machine of the model's only state column."""
        types = [prop.columns[0].type for prop in inspect(self.model).column_attrs]
        (machine,) = [type_.machine for type_ in types if isinstance(type_, StateType)]
        return machine

    def _fire_many(self, keys: list[Any], event: str) -> list[Moved[Any] | Refused[Any] | Missing[Any]]:
        return run_transaction(
            self.session_maker, lambda session: fire_keys(self.model, keys, event, session, actor="admin")
        )

    def _fire(self, key: Any, event: str) -> Moved[Any]:
        # With a login: actor=request.session["user"], or whatever names the user.
        return run_transaction(
            self.session_maker, lambda session: fire_key(self.model, key, event, session, actor="admin")
        )


def identity_of(row: Any) -> Any:
    """The primary key of *row* as `fire_key` and `fire_keys` take it: a value, or a tuple of several columns."""
    key: tuple[Any, ...] = inspect(row).identity
    return key if len(key) > 1 else key[0]


def by_reason(outcomes: Iterable[Moved[Any] | Refused[Any] | Missing[Any]]) -> dict[str, list[str]]:
    """The keys that were not moved, by the sentence that says why. The cookie of the messages has room for a few."""
    found: dict[str, list[str]] = {}
    for outcome in outcomes:
        if not outcome:
            found.setdefault(sentence_of(outcome), []).append(str(outcome.key))
    shown = list(found.items())[:MOST_REASONS]
    return {why: [*keys[:MOST_KEYS], *(["…"] if len(keys) > MOST_KEYS else [])] for why, keys in shown}


class DeviceAdmin(EventsView, model=Device):
    column_list = (Device.id, Device.name, Device.state)
    name_plural = "Devices"


class OrderAdmin(EventsView, model=Order):
    column_list = (Order.id, Order.customer, Order.item, Order.stock, Order.state)
    name_plural = "Orders"


async def protect(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Add the headers that keep other sites from framing the admin."""
    response = await call_next(request)
    response.headers.update(FRAMING)
    return response


def create_app(url: str | None = None, secret: str | None = None) -> Starlette:
    """The application on the database at *url*, and *secret* to sign its cookies; else DATABASE_URL and SECRET_KEY."""
    engine = open_engine(url or os.environ["DATABASE_URL"])
    orders.open_engine(engine.url.render_as_string(hide_password=False)).dispose()
    app = Starlette(middleware=[Middleware(BaseHTTPMiddleware, dispatch=protect)])
    app.state.engine = engine
    # The flash messages and the token of the forms are in the session.
    session = Middleware(SessionMiddleware, secret_key=secret_key(secret), https_only=True)
    admin = Admin(
        app,
        session_maker=sessionmaker(engine),
        middlewares=[session],
        templates_dir=str(Path(__file__).parent / "templates"),
    )
    admin.add_view(DeviceAdmin)
    admin.add_view(OrderAdmin)
    return app
