"""Devices with Flask: a page with a button for each event, and the same as JSON.

DATABASE_URL=mysql+pymysql://user:password@localhost/shop flask --app examples.flask_app.app run
"""

from __future__ import annotations

import os
import re
import secrets
from http import HTTPStatus
from pathlib import Path
from typing import Any

from flask import Flask, abort, render_template, request
from sqlalchemy import select
from sqlalchemy.orm import sessionmaker

from examples.devices import TOKEN, Device, fire, open_engine, problem, status_of
from sqlalchemy_fsm_mysql import FSMError, run_transaction


def checked(token: str | None) -> str | None:
    """*token*, or the answer 422 to one that could not be stored."""
    if token is not None and not re.fullmatch(TOKEN, token):
        abort(422, "a token has 1 to 64 printable characters")
    return token


def create_app(url: str | None = None) -> Flask:
    """The application on the database at *url*; on that of DATABASE_URL, if None."""
    engine = open_engine(url or os.environ["DATABASE_URL"])
    sessions = sessionmaker(engine)
    app = Flask(__name__, template_folder=Path(__file__).parents[1] / "templates")
    app.extensions["engine"] = engine
    app.jinja_env.globals["new_token"] = secrets.token_hex

    @app.errorhandler(FSMError)
    def refuse(error: FSMError) -> tuple[dict[str, Any], int]:
        return problem(error), status_of(error)

    def page(message: str = "", status: int = 200) -> tuple[str, int]:
        with sessions() as session:
            devices = session.scalars(select(Device).order_by(Device.id)).all()
            return render_template(
                "devices.html", devices=devices, message=message, refused=status != HTTPStatus.OK
            ), status

    @app.get("/")
    def show() -> tuple[str, int]:
        return page()

    @app.post("/devices/<int:key>/<event>")
    def click(key: int, event: str) -> tuple[str, int]:
        token = checked(request.form["token"])
        try:
            moved = run_transaction(sessions, lambda session: fire(session, key, event, token), idempotent=True)
        except FSMError as error:
            return page(str(error), status_of(error))
        return page(f"Device {moved.key}: {moved.source} → {moved.target}")

    @app.post("/api/devices/<int:key>/events/<event>")
    def post_event(key: int, event: str) -> dict[str, Any]:
        token = checked(request.args.get("token"))
        moved = run_transaction(
            sessions, lambda session: fire(session, key, event, token), idempotent=token is not None
        )
        return {"event": moved.event, "source": moved.source, "target": moved.target, "replayed": moved.replayed}

    return app
