"""SQLAdmin for devices: on each device's page a button for each event that leaves its state.

    export DATABASE_URL=mysql+pymysql://user:password@localhost/shop SECRET_KEY=…
    uvicorn --factory examples.admin_app.app:create_app

`EventsView` knows nothing of devices: a view of any model with a state column can inherit it. The state itself is
protected and cannot be edited, so it is left out of the form. In production give `Admin` an `authentication_backend`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sqladmin import Admin, Flash, ModelView, expose
from sqlalchemy.orm import sessionmaker
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from examples.devices import Device, open_engine
from sqlalchemy_fsm_mysql import FSMError, Moved, fire_key, run_transaction


class EventsView(ModelView):
    """A view whose details page has the buttons. What an event answers is shown as SQLAdmin's flash message."""

    details_template = "events_details.html"

    # By POST, as SQLAdmin's own actions are not: to follow a link must not move a row.
    @expose("/fire/{pk}/{event}", methods=["POST"])
    async def fire_event(self, request: Request) -> Response:
        key, event = request.path_params["pk"], request.path_params["event"]
        try:
            moved = await run_in_threadpool(self._fire, key, event)
        except FSMError as error:
            Flash.error(request, str(error))
        else:
            Flash.success(request, f"{moved.event}: {moved.source} → {moved.target}")
        return RedirectResponse(request.url_for("admin:details", identity=self.identity, pk=key), status_code=303)

    def _fire(self, key: str, event: str) -> Moved[Any]:
        (column,) = self.pk_columns
        value = column.type.python_type(key)
        return run_transaction(
            self.session_maker, lambda session: fire_key(self.model, value, event, session, actor="admin")
        )


class DeviceAdmin(EventsView, model=Device):
    column_list = (Device.id, Device.name, Device.state)
    form_excluded_columns = (Device.state,)
    name_plural = "Devices"


def create_app(url: str | None = None, secret: str | None = None) -> Starlette:
    """The application on the database at *url*, and *secret* to sign its cookies; else DATABASE_URL and SECRET_KEY."""
    engine = open_engine(url or os.environ["DATABASE_URL"])
    app = Starlette()
    app.state.engine = engine
    # Flash messages are kept in the session.
    middlewares = [Middleware(SessionMiddleware, secret_key=secret or os.environ["SECRET_KEY"])]
    admin = Admin(
        app,
        session_maker=sessionmaker(engine),
        middlewares=middlewares,
        templates_dir=str(Path(__file__).parent / "templates"),
    )
    admin.add_view(DeviceAdmin)
    return app
