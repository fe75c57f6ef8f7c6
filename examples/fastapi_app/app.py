"""Devices with FastAPI: a page with a button for each event, and the same as JSON.

DATABASE_URL=mysql+pymysql://user:password@localhost/shop uvicorn --factory examples.fastapi_app.app:create_app
"""

from __future__ import annotations

import os
import secrets
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Form, Query, Request, Response
from fastapi.responses import JSONResponse
from fastapi.templating import Jinja2Templates
from sqlalchemy import select
from sqlalchemy.orm import sessionmaker

from examples.devices import TOKEN, Device, fire, open_engine, problem, status_of
from sqlalchemy_fsm_mysql import FSMError, run_transaction

templates = Jinja2Templates(Path(__file__).parents[1] / "templates")
templates.env.globals["new_token"] = secrets.token_hex


def create_app(url: str | None = None) -> FastAPI:
    """The application on the database at *url*; on that of DATABASE_URL, if None."""
    engine = open_engine(url or os.environ["DATABASE_URL"])
    sessions = sessionmaker(engine)
    app = FastAPI(title="Devices")
    app.state.engine = engine

    @app.exception_handler(FSMError)
    def refuse(request: Request, error: FSMError) -> JSONResponse:
        return JSONResponse(problem(error), status_code=status_of(error))

    def page(request: Request, message: str = "", status: int = 200) -> Response:
        with sessions() as session:
            shown = {
                "devices": session.scalars(select(Device).order_by(Device.id)).all(),
                "message": message,
                "refused": status != HTTPStatus.OK,
            }
            return templates.TemplateResponse(request, "devices.html", shown, status_code=status)

    # Not async: SQLAlchemy's Session blocks, and FastAPI gives a plain function a thread of its own.
    @app.get("/")
    def show(request: Request) -> Response:
        return page(request)

    @app.post("/devices/{key}/{event}")
    def click(request: Request, key: int, event: str, token: Annotated[str, Form(pattern=TOKEN)]) -> Response:
        try:
            moved = run_transaction(sessions, lambda session: fire(session, key, event, token), idempotent=True)
        except FSMError as error:
            return page(request, str(error), status_of(error))
        return page(request, f"Device {moved.key}: {moved.source} → {moved.target}")

    @app.post("/api/devices/{key}/events/{event}")
    def post_event(key: int, event: str, token: Annotated[str | None, Query(pattern=TOKEN)] = None) -> dict[str, Any]:
        moved = run_transaction(
            sessions, lambda session: fire(session, key, event, token), idempotent=token is not None
        )
        return {"event": moved.event, "source": moved.source, "target": moved.target, "replayed": moved.replayed}

    return app
