"""Devices with Flask: a page with a button for each event, and the same as JSON.

    export DATABASE_URL=mysql+pymysql://user:password@localhost/shop SECRET_KEY=…
    flask --app examples.flask_app.app run

There is no login: `examples.devices.fire` is the place to check the user's rights. The cookie is `Secure`, so the page
needs HTTPS; browsers make an exception for 127.0.0.1.
"""

from __future__ import annotations

import os
import re
import secrets
from http import HTTPStatus
from pathlib import Path
from typing import Any

from flask import Flask, Response, abort, flash, get_flashed_messages, redirect, render_template, request, session
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import sessionmaker
from werkzeug.wrappers import Response as AnyResponse

from examples.devices import TOKEN, Device, fire, key_of, machine, open_engine
from examples.pages import BUSY, HEADERS, TOO_OLD, answer_to, form_token, is_genuine, secret_key
from sqlalchemy_fsm_mysql import FSMError, run_transaction

HERE = Path(__file__).parents[1]
LARGEST_REQUEST = 16_384  # bytes


def create_app(url: str | None = None, secret: str | None = None) -> Flask:
    """The application on the database at *url*, and *secret* to sign its cookies; else DATABASE_URL and SECRET_KEY."""
    engine = open_engine(url or os.environ["DATABASE_URL"])
    sessions = sessionmaker(engine)
    app = Flask(__name__, template_folder=HERE / "templates", static_folder=HERE / "static")
    app.extensions["engine"] = engine
    app.jinja_env.globals["new_token"] = secrets.token_hex
    app.config.update(
        SECRET_KEY=secret_key(secret),
        SESSION_COOKIE_SECURE=True,
        SESSION_COOKIE_SAMESITE="Lax",
        MAX_CONTENT_LENGTH=LARGEST_REQUEST,
    )

    protect(app)

    def page(message: str = "", status: int = HTTPStatus.OK, *, refused: bool = True) -> tuple[str, int]:
        with sessions() as database:
            devices = database.scalars(select(Device).order_by(Device.id)).all()
            shown = {"devices": devices, "message": message, "refused": refused, "form_token": form_token(session)}
            return render_template("devices.html", **shown), status

    @app.get("/")
    def show() -> tuple[str, int]:
        category, message = next(iter(get_flashed_messages(with_categories=True)), ("", ""))
        return page(message, refused=category == "refused")

    @app.post("/devices/<key>/<event>")
    def click(key: str, event: str) -> tuple[str, int] | AnyResponse:
        device, token = key_or_404(key, event), request.form.get("token", "")
        if not is_genuine(session, request.form.get("form_token")) or not re.fullmatch(TOKEN, token):
            return page(TOO_OLD, HTTPStatus.FORBIDDEN)
        try:
            moved = run_transaction(sessions, lambda database: fire(database, device, event, token), idempotent=True)
        except FSMError as error:
            answer = answer_to(error)
            if answer.status == HTTPStatus.NOT_FOUND:
                return page(answer.sentence, answer.status)
            flash(answer.sentence, "refused")
        else:
            flash(f"Device {moved.key}: {moved.source} → {moved.target}", "moved")
        # A reload of the page that follows sends no form again.
        return redirect("/", HTTPStatus.SEE_OTHER)

    @app.post("/api/devices/<key>/events/<event>")
    def post_event(key: str, event: str) -> dict[str, Any]:
        device, token = key_or_404(key, event), token_of(request.get_json())
        moved = run_transaction(
            sessions, lambda database: fire(database, device, event, token), idempotent=token is not None
        )
        return {"event": moved.event, "source": moved.source, "target": moved.target, "replayed": moved.replayed}

    return app


def protect(app: Flask) -> None:
    """Have *app* send the headers of every page, and answer an error without the texts of library and driver."""

    @app.after_request
    def add_headers(response: Response) -> Response:
        response.headers.update(HEADERS)
        return response

    @app.errorhandler(FSMError)
    def refuse(error: FSMError) -> tuple[dict[str, Any], int]:
        answer = answer_to(error)
        return {"error": answer.code, "message": answer.sentence}, answer.status

    @app.errorhandler(SQLAlchemyError)
    def excuse(error: SQLAlchemyError) -> tuple[dict[str, Any], int]:
        # A driver's message can show SQL, so it is for the log.
        app.logger.error("%s", error)
        return {"error": "busy", "message": BUSY}, HTTPStatus.SERVICE_UNAVAILABLE


def key_or_404(key: str, event: str) -> int:
    """The device's key, or the answer 404 when the path names no key or no event."""
    number = key_of(key)
    if number is None or event not in machine.events:
        abort(HTTPStatus.NOT_FOUND)
    return number


def token_of(body: object) -> str | None:
    """The token in *body*, the JSON of a request; the answer 422 to any other field, such as a state or an actor.

    `get_json` has answered 415 to a form: one of another site cannot have JSON's type, and a script of one would have
    to ask first, and is refused.
    """
    if not isinstance(body, dict) or not set(body) <= {"token"}:
        abort(HTTPStatus.UNPROCESSABLE_ENTITY, 'the body is {} or {"token": …}')
    token = body.get("token")
    if token is not None and not (isinstance(token, str) and re.fullmatch(TOKEN, token)):
        abort(HTTPStatus.UNPROCESSABLE_ENTITY, "a token has 1 to 64 printable characters")
    return token
