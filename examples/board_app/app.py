"""A board of orders with FastAPI: a column for each state, a button for each event that is possible now.

    export DATABASE_URL=mysql+pymysql://user:password@localhost/shop SECRET_KEY=…
    uvicorn --factory examples.board_app.app:create_app

The server makes the pages, and they need no script. Each click is a POST that ends in a redirect. It has a token of the
visitor's session, which another site cannot know, and one of its own: a click that is sent twice moves once. There is
no login: `click` is the place to check the user's rights, and to pass the user's name as the actor.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Literal

from fastapi import FastAPI, Form, HTTPException, Request, Response
from fastapi.responses import RedirectResponse
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker
from starlette.middleware.sessions import SessionMiddleware

from examples.devices import TOKEN, key_of
from examples.orders import Order, machine, open_engine
from examples.pages import BUSY, HEADERS, TOO_OLD, form_token, is_genuine, secret_key
from sqlalchemy_fsm_mysql import FSMError, count_rows, count_transitions, fire_key, run_transaction
from sqlalchemy_fsm_mysql.diagram import svg
from sqlalchemy_fsm_mysql.web import sentence_of, status_of

HERE = Path(__file__).parent
SHOWN = 200
"""The most orders on one board. A larger shop shows those of one day, or of one customer."""
POLICY = HEADERS["Content-Security-Policy"] + "; img-src 'self'"
PICTURE_POLICY = "default-src 'none'; style-src 'unsafe-inline'"

log = logging.getLogger(__name__)
templates = Jinja2Templates(HERE / "templates")
templates.env.globals["new_token"] = secrets.token_hex


@dataclass(frozen=True)
class Card:
    """An order on the board, and the events that are possible now, guards included."""

    order: Order
    events: tuple[str, ...]


def board(session: Session) -> dict[str, list[Card]]:
    """The cards of each state. One SELECT asks the guards of all orders, as `possible_events()` asks those of one."""
    questions = [Order.state.can(event) for event in machine.events]
    rows = session.execute(select(Order, *questions).order_by(Order.id).limit(SHOWN)).all()
    columns: dict[str, list[Card]] = {str(state): [] for state in machine.states}
    for order, *answers in rows:
        events = tuple(event for event, is_possible in zip(machine.events, answers, strict=True) if is_possible)
        columns[order.state].append(Card(order, events))
    return columns


def create_app(url: str | None = None, secret: str | None = None) -> FastAPI:
    """The application on the database at *url*, and *secret* to sign its cookies; else DATABASE_URL and SECRET_KEY."""
    engine = open_engine(url or os.environ["DATABASE_URL"])
    sessions = sessionmaker(engine)
    app = FastAPI(title="Orders", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.engine = engine
    app.add_middleware(SessionMiddleware, secret_key=secret_key(secret), https_only=True)
    app.mount("/static", StaticFiles(directory=HERE / "static"))
    protect(app)

    def page(request: Request, name: str, status: int = HTTPStatus.OK, **shown: object) -> Response:
        message, refused = request.session.pop("message", ("", False))
        common = {"message": message, "refused": refused, "form_token": form_token(request.session)}
        return templates.TemplateResponse(request, name, {**common, **shown}, status_code=status)

    # Not async: SQLAlchemy's Session blocks, and FastAPI gives a plain function a thread of its own.
    @app.get("/")
    def show_board(request: Request) -> Response:
        with sessions() as session:
            return page(request, "board.html", columns=board(session))

    @app.get("/orders/{key}")
    def show_order(request: Request, key: str) -> Response:
        with sessions() as session:
            order = session.get(Order, number_or_404(key))
            if order is None:
                raise HTTPException(HTTPStatus.NOT_FOUND, "There is no such order.")
            events = order.possible_events()
            # The state allows them, and a guard does not: a click shows the guard's sentence.
            blocked = [event for event in order.available_events() if event not in events]
            return page(request, "order.html", order=order, events=events, blocked=blocked, history=order.history())

    @app.get("/diagram.svg")
    def show_diagram(direction: Literal["LR", "TB"] = "LR") -> Response:
        with sessions() as session:
            picture = svg(
                machine,
                rows=count_rows(Order.state, session),
                counts=count_transitions(Order.state, session),
                direction=direction,
                timeout=5,
            )
        return Response(picture, media_type="image/svg+xml", headers={"Content-Security-Policy": PICTURE_POLICY})

    @app.post("/orders/{key}/{event}")
    def click(
        request: Request,
        key: str,
        event: str,
        token: Annotated[str, Form()] = "",
        sent: Annotated[str, Form(alias="form_token")] = "",
        back: Annotated[str, Form()] = "/",
    ) -> Response:
        number = number_or_404(key)
        if event not in machine.events:
            raise HTTPException(HTTPStatus.NOT_FOUND, "There is no such action.")
        if not is_genuine(request.session, sent) or not re.fullmatch(TOKEN, token):
            raise HTTPException(HTTPStatus.FORBIDDEN, TOO_OLD)
        sentence, is_done = fire(sessions, number, event, token)
        request.session["message"] = f"Order {number}: {sentence}", not is_done
        # To the page of the click. A reload of it sends no form again.
        own = f"/orders/{number}"
        return RedirectResponse(own if back == own else "/", HTTPStatus.SEE_OTHER)

    return app


def fire(sessions: sessionmaker[Session], key: int, event: str, token: str) -> tuple[str, bool]:
    """Fire *event* for one click; a sentence for the visitor, and whether the order has moved.

    Raises: FSMError that is a fault of the program.
    """
    try:
        moved = run_transaction(
            sessions,
            lambda session: fire_key(Order, key, event, session, actor="visitor", token=token),
            idempotent=True,
        )
    except FSMError as error:
        if status_of(error) == HTTPStatus.INTERNAL_SERVER_ERROR:
            raise
        return sentence_of(error), False
    return sentence_of(moved), True


def number_or_404(key: str) -> int:
    """The order's key. Raises: HTTPException, 404, when the path names none."""
    number = key_of(key)
    if number is None:
        raise HTTPException(HTTPStatus.NOT_FOUND, "There is no such order.")
    return number


def protect(app: FastAPI) -> None:
    """Have *app* send the headers of every page, and answer errors with a page without the texts of the driver."""

    @app.middleware("http")
    async def add_headers(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call_next(request)
        policy = response.headers.get("Content-Security-Policy", POLICY)
        response.headers.update({**HEADERS, "Content-Security-Policy": policy})
        return response

    @app.exception_handler(HTTPException)
    def explain(request: Request, error: HTTPException) -> Response:
        return templates.TemplateResponse(request, "error.html", {"text": error.detail}, status_code=error.status_code)

    @app.exception_handler(SQLAlchemyError)
    def excuse(request: Request, error: SQLAlchemyError) -> Response:
        # A driver's message can show SQL, so it is for the log.
        log.error("%s", error)
        return templates.TemplateResponse(
            request, "error.html", {"text": BUSY}, status_code=HTTPStatus.SERVICE_UNAVAILABLE
        )
