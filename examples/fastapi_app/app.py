"""Devices with FastAPI: a page with a button for each event, and the same as JSON.

    export DATABASE_URL=mysql+pymysql://user:password@localhost/shop SECRET_KEY=…
    uvicorn --factory examples.fastapi_app.app:create_app

There is no login: `examples.devices.fire` is the place to check the user's rights. The cookie is `Secure`, so the page
needs HTTPS; browsers make an exception for 127.0.0.1.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Form, HTTPException, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import sessionmaker
from starlette.middleware.sessions import SessionMiddleware

from examples.devices import TOKEN, Device, fire, key_of, machine, open_engine
from examples.pages import BUSY, HEADERS, TOO_OLD, answer_to, form_token, is_genuine, secret_key
from sqlalchemy_fsm_mysql import FSMError, run_transaction

HERE = Path(__file__).parents[1]
log = logging.getLogger(__name__)
templates = Jinja2Templates(HERE / "templates")
templates.env.globals["new_token"] = secrets.token_hex


class Body(BaseModel):
    """The JSON of a request. Another field, such as a state or an actor, is refused."""

    model_config = ConfigDict(extra="forbid")

    token: str | None = Field(None, pattern=TOKEN)


def create_app(url: str | None = None, secret: str | None = None) -> FastAPI:
    """The application on the database at *url*, and *secret* to sign its cookies; else DATABASE_URL and SECRET_KEY."""
    engine = open_engine(url or os.environ["DATABASE_URL"])
    sessions = sessionmaker(engine)
    # The pages of the documentation load scripts of another site.
    app = FastAPI(title="Devices", docs_url=None, redoc_url=None)
    app.state.engine = engine
    app.add_middleware(SessionMiddleware, secret_key=secret_key(secret), https_only=True)
    app.mount("/static", StaticFiles(directory=HERE / "static"))

    protect(app)

    def page(request: Request, message: str = "", status: int = HTTPStatus.OK, *, refused: bool = True) -> Response:
        with sessions() as session:
            shown = {
                "devices": session.scalars(select(Device).order_by(Device.id)).all(),
                "message": message,
                "refused": refused,
                "form_token": form_token(request.session),
            }
            return templates.TemplateResponse(request, "devices.html", shown, status_code=status)

    # Not async: SQLAlchemy's Session blocks, and FastAPI gives a plain function a thread of its own.
    @app.get("/")
    def show(request: Request) -> Response:
        message, refused = request.session.pop("message", ("", False))
        return page(request, message, refused=refused)

    @app.post("/devices/{key}/{event}")
    def click(
        request: Request,
        key: str,
        event: str,
        token: Annotated[str, Form()] = "",
        sent: Annotated[str, Form(alias="form_token")] = "",
    ) -> Response:
        device = key_or_404(key, event)
        if not is_genuine(request.session, sent) or not re.fullmatch(TOKEN, token):
            return page(request, TOO_OLD, HTTPStatus.FORBIDDEN)
        try:
            moved = run_transaction(sessions, lambda session: fire(session, device, event, token), idempotent=True)
        except FSMError as error:
            answer = answer_to(error)
            if answer.status == HTTPStatus.NOT_FOUND:
                return page(request, answer.sentence, answer.status)
            request.session["message"] = answer.sentence, True
        else:
            request.session["message"] = f"Device {moved.key}: {moved.source} → {moved.target}", False
        # A reload of the page that follows sends no form again.
        return RedirectResponse("/", HTTPStatus.SEE_OTHER)

    @app.post("/api/devices/{key}/events/{event}")
    def post_event(request: Request, key: str, event: str, body: Body | None = None) -> dict[str, Any]:
        device, token = key_or_404(key, event), body.token if body else None
        # A form of another site cannot have this type; a script of one would have to ask first, and is refused.
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            raise HTTPException(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send application/json")
        moved = run_transaction(
            sessions, lambda session: fire(session, device, event, token), idempotent=token is not None
        )
        return {"event": moved.event, "source": moved.source, "target": moved.target, "replayed": moved.replayed}

    return app


def protect(app: FastAPI) -> None:
    """Have *app* send the headers of every page, and answer an error without the texts of library and driver."""

    @app.middleware("http")
    async def add_headers(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call_next(request)
        response.headers.update(HEADERS)
        return response

    @app.exception_handler(FSMError)
    def refuse(request: Request, error: FSMError) -> JSONResponse:
        answer = answer_to(error)
        return JSONResponse({"error": answer.code, "message": answer.sentence}, answer.status)

    @app.exception_handler(SQLAlchemyError)
    def excuse(request: Request, error: SQLAlchemyError) -> JSONResponse:
        # A driver's message can show SQL, so it is for the log.
        log.error("%s", error)
        return JSONResponse({"error": "busy", "message": BUSY}, HTTPStatus.SERVICE_UNAVAILABLE)


def key_or_404(key: str, event: str) -> int:
    """The device's key. Raises: HTTPException, 404, when the path names no key or no event."""
    number = key_of(key)
    if number is None or event not in machine.events:
        raise HTTPException(HTTPStatus.NOT_FOUND, "there is no such device or action")
    return number
