"""The web examples answer with the status that their errors mean, and refuse forged requests.

Their pages are clicked in tests/browser.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import URL, Engine, create_engine, func, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from examples.admin_app.app import EventsView
from examples.admin_app.app import create_app as admin_app
from examples.devices import Device, DeviceTransition
from examples.fastapi_app.app import create_app as fastapi_app
from examples.flask_app.app import create_app as flask_app
from examples.pages import TOO_OLD
from sqlalchemy_fsm_mysql import Event, Machine, Stateful, StateMachineColumn
from tests.servers import own_database

pytestmark = pytest.mark.servers_only

API = "/api/devices"
# Words that a person who reads a page does not know: the library's, and SQL's.
LIBRARY_WORDS = re.compile(
    r"devices \d|refused '|leaves '|Transition|\w+Error\b|UPDATE|SELECT|INSERT|guard|sqlalchemy", re.IGNORECASE
)
FOREIGN = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}


class Visitor:
    """A browser's cookies on one application: a status, a text and headers for each request."""

    def __init__(self, send: Callable[..., tuple[int, str, dict[str, str]]]) -> None:
        self.send = send

    def ask(
        self, method: str, path: str, *, headers: dict[str, str] | None = None, **form: str | list[str]
    ) -> tuple[int, str]:
        status, body, self.headers = self.send(method, path, data=form, headers=headers or {})
        return status, body

    def call(self, path: str, body: Any = None, *, headers: dict[str, str] | None = None) -> tuple[int, str]:
        """POST *body* as JSON."""
        kind = {"Content-Type": "application/json", **(headers or {})}
        status, answer, self.headers = self.send("POST", path, data=json.dumps(body or {}), headers=kind)
        return status, answer

    def form_token(self, path: str = "/") -> str:
        found = re.search(r'name="form_token" value="([^"]+)"', self.ask("GET", path)[1])
        assert found
        return found[1]

    def click(self, key: object, event: str, token: str) -> tuple[int, str]:
        """The page after a click: its own, or the one that the answer leads to."""
        status, body = self.ask("POST", f"/devices/{key}/{event}", token=token, form_token=self.form_token())
        if status != 303:
            return status, body
        assert self.headers["location"] == "/"
        return self.ask("GET", "/")


def starlette_visitor(app: Any) -> Visitor:
    from starlette.testclient import TestClient

    client = TestClient(app, base_url="https://testserver", raise_server_exceptions=False)

    def send(method: str, path: str, *, data: Any, headers: dict[str, str]) -> tuple[int, str, dict[str, str]]:
        body = {"content": data} if isinstance(data, str) else {"data": data}
        answer = client.request(method, path, headers=headers, follow_redirects=False, **body)
        return answer.status_code, answer.text, {name.lower(): value for name, value in answer.headers.items()}

    return Visitor(send)


def flask_visitor(app: Any) -> Visitor:
    client = app.test_client()

    def send(method: str, path: str, *, data: Any, headers: dict[str, str]) -> tuple[int, str, dict[str, str]]:
        answer = client.open(path, method=method, data=data, headers=headers, base_url="https://localhost")
        body, named = answer.text, {name.lower(): value for name, value in answer.headers.items()}
        answer.close()
        return answer.status_code, body, named

    return Visitor(send)


@pytest.fixture
def database(url: URL) -> Iterator[str]:
    with own_database(url) as own:
        yield own.render_as_string(hide_password=False)


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    engine = create_engine(database)
    yield engine
    engine.dispose()


@pytest.fixture(params=["fastapi", "flask"])
def visit(request: pytest.FixtureRequest, database: str) -> Iterator[Callable[[], Visitor]]:
    """A new visitor of the application."""
    if request.param == "fastapi":
        app: Any = fastapi_app(database, "secret")
        yield lambda: starlette_visitor(app)
        app.state.engine.dispose()
    else:
        app = flask_app(database, "secret")
        yield lambda: flask_visitor(app)
        app.extensions["engine"].dispose()


@pytest.fixture
def visitor(visit: Callable[[], Visitor]) -> Visitor:
    return visit()


def state(engine: Engine, key: int = 1) -> str:
    with Session(engine) as session:
        return str(session.get_one(Device, key).state)


# --- the programs' way in


def test_each_outcome_has_its_status(visitor: Visitor) -> None:
    assert visitor.call(f"{API}/1/events/Start")[0] == 200
    status, body = visitor.call(f"{API}/1/events/Start")
    assert status == 409
    assert json.loads(body) == {
        "error": "not_possible",
        "message": "Start is not possible now: the state is Running.",
    }
    assert visitor.call(f"{API}/99/events/Start")[0] == 404


@pytest.mark.parametrize("key", ["one", "0", "-1", "1.0", "9" * 20, "%00", "1%0a", "%EF%BC%91", "1'--", "x" * 3000])
def test_a_key_that_is_none_is_404(visitor: Visitor, engine: Engine, key: str) -> None:
    assert visitor.call(f"{API}/{key}/events/Start")[0] == 404
    assert visitor.click(key, "Start", "t")[0] == 404
    assert state(engine) == "Stopped"


@pytest.mark.parametrize("event", ["Explode", "Start%0aX", "<script>alert(1)</script>", "x" * 3000])
def test_an_unknown_event_is_404_and_is_not_shown(visitor: Visitor, event: str) -> None:
    for status, body in (visitor.call(f"{API}/1/events/{event}"), visitor.click(1, event, "t")):
        assert status == 404
        assert "<script>alert" not in body


@pytest.mark.parametrize(
    "body",
    [{"state": "Retired"}, {"actor": "admin"}, {"token": "x" * 65}, {"token": "a\n"}, {"token": ""}, {"token": 1}],
)
def test_a_body_sets_neither_state_nor_actor(visitor: Visitor, engine: Engine, body: dict[str, Any]) -> None:
    assert visitor.call(f"{API}/1/events/Start", body)[0] == 422
    assert state(engine) == "Stopped"


def test_a_form_of_another_site_is_no_call_of_the_api(visitor: Visitor, engine: Engine) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        assert visitor.ask("POST", f"{API}/1/events/Start", headers={**FOREIGN, "Content-Type": kind})[0] == 415
    assert visitor.ask("GET", f"{API}/1/events/Start")[0] == 405
    assert state(engine) == "Stopped"
    assert "access-control-allow-origin" not in visitor.headers


# --- the page


def test_a_click_that_is_sent_twice_moves_once(visitor: Visitor, engine: Engine) -> None:
    first = visitor.click(2, "Start", "one-click")
    second = visitor.click(2, "Start", "one-click")

    assert first[0] == second[0] == 200
    assert "Device 2: Stopped → Running" in first[1]
    assert "Device 2: Stopped → Running" in second[1]
    with Session(engine) as session:
        assert session.scalar(select(func.count()).select_from(DeviceTransition)) == 1


def test_a_forged_form_moves_nothing(visit: Callable[[], Visitor], engine: Engine) -> None:
    """No hidden field, a made one, another visitor's, and one without a cookie."""
    victim, attacker = visit(), visit()
    victim.form_token()
    tokens = ["", "made", "é", attacker.form_token()]
    for token in tokens:
        status, body = victim.ask("POST", "/devices/1/Start", headers=FOREIGN, token="t", form_token=token)
        assert status == 403
        assert TOO_OLD in body
    assert visit().ask("POST", "/devices/1/Start", token="t", form_token=tokens[-1])[0] == 403
    assert visit().ask("POST", "/devices/1/Start")[0] == 403
    assert state(engine) == "Stopped"


def test_the_cookie_stays_at_home(visitor: Visitor) -> None:
    visitor.form_token()
    cookie = visitor.headers["set-cookie"].lower()

    assert all(word in cookie for word in ("secure", "httponly", "samesite=lax"))


def test_a_get_moves_nothing(visitor: Visitor, engine: Engine) -> None:
    for method in ("GET", "HEAD", "PUT", "DELETE"):
        assert visitor.ask(method, "/devices/1/Start")[0] == 405
    assert state(engine) == "Stopped"


def test_every_page_forbids_frames_and_scripts(visitor: Visitor) -> None:
    for path in ("/", "/nothing", f"{API}/1/events/Start"):
        visitor.ask("GET", path)
        policy = visitor.headers["content-security-policy"]
        assert all(rule in policy for rule in ("default-src 'none'", "frame-ancestors 'none'", "form-action 'self'"))
        assert "unsafe" not in policy
        assert visitor.headers["x-content-type-options"] == "nosniff"
        assert visitor.headers["x-frame-options"] == "DENY"
    assert visitor.ask("GET", "/static/devices.css")[0] == 200


def test_a_person_reads_no_words_of_the_library(visitor: Visitor) -> None:
    visitor.click(1, "Start", "a")
    pages = [visitor.click(1, "Start", "b"), visitor.click(2, "Start", "a"), visitor.click(99, "Start", "c")]
    pages.append(visitor.ask("POST", "/devices/1/Start", token="x"))
    messages = [found[1] for _, body in pages if (found := re.search(r'id="message"[^>]*>([^<]*)<', body))]

    assert messages == [
        "Start is not possible now: the state is Running.",
        TOO_OLD,
        "There is no such entry.",
        TOO_OLD,
    ]
    assert not [message for message in messages if LIBRARY_WORDS.search(message)]


def test_a_name_that_is_html_is_text(visitor: Visitor, engine: Engine) -> None:
    hostile = "<script>alert(1)</script>\x1b[2J"
    with Session(engine) as session:
        session.add(Device(id=10, name=hostile))
        session.commit()
    body = visitor.ask("GET", "/")[1]

    assert "<script>alert" not in body
    assert "&lt;script&gt;alert(1)" in body


def test_a_broken_database_shows_no_sql(visitor: Visitor, engine: Engine) -> None:
    token = visitor.form_token()
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE device_transitions"))
        connection.execute(text("DROP TABLE devices"))
    answers = [
        visitor.call(f"{API}/1/events/Start"),
        visitor.ask("GET", "/"),
        visitor.ask("POST", "/devices/1/Start", token="t", form_token=token),
    ]

    for status, body in answers:
        assert status >= 500
        assert not LIBRARY_WORDS.search(body)


# --- the admin


class Base(DeclarativeBase):
    pass


class Shelf(Stateful, Base):
    __tablename__ = "shelves"
    aisle: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    level: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = StateMachineColumn(Machine(initial="empty", events=[Event("Fill", {"empty": "full"})]))


def admin_of(database: str, model: type[Any] = Device, **attributes: Any) -> tuple[Visitor, Any]:
    """A visitor of an admin with one view of *model*, whose class has *attributes*."""
    from sqladmin import Admin
    from sqlalchemy.orm import sessionmaker
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.sessions import SessionMiddleware

    from examples.devices import open_engine

    engine = open_engine(database)
    view = {"column_list": [model.state], "identity": model.__name__.lower(), **attributes}
    kind = type(f"{model.__name__}Admin", (EventsView,), view, model=model)
    app = Starlette()
    app.state.engine = engine
    admin = Admin(
        app,
        session_maker=sessionmaker(engine),
        middlewares=[Middleware(SessionMiddleware, secret_key="x", https_only=True)],
        templates_dir="examples/admin_app/templates",
    )
    admin.add_view(kind)
    return starlette_visitor(app), engine


@pytest.fixture
def admin(database: str) -> Iterator[Visitor]:
    app = admin_app(database, "secret")
    yield starlette_visitor(app)
    app.state.engine.dispose()


FIRE = "/admin/device/fire"
DETAILS = "/admin/device/details/1"


def fired(admin: Visitor, key: object, event: str, form_token: str) -> tuple[int, str]:
    status, body = admin.ask("POST", f"{FIRE}/{key}/{event}", form_token=form_token)
    if status != 303:
        return status, body
    return admin.ask("GET", admin.headers["location"])


def test_the_admin_moves_by_post_only_and_shows_why_not(admin: Visitor, engine: Engine) -> None:
    token = admin.form_token(DETAILS)

    assert admin.ask("GET", f"{FIRE}/1/Start")[0] == 405
    assert "Start: Stopped → Running" in fired(admin, 1, "Start", token)[1]
    assert "Start is not possible now: the state is Running." in fired(admin, 1, "Start", token)[1]
    assert state(engine) == "Running"
    assert admin.headers["x-frame-options"] == "DENY"


def test_a_forged_form_moves_nothing_in_the_admin(admin: Visitor, database: str, engine: Engine) -> None:
    admin.form_token(DETAILS)
    for token in ("", "made"):
        assert TOO_OLD in fired(admin, 1, "Start", token)[1]
    assert state(engine) == "Stopped"


@pytest.mark.parametrize("right", ["can_edit", "can_view_details"])
def test_a_view_that_is_read_only_has_no_buttons_and_moves_nothing(database: str, engine: Engine, right: str) -> None:
    admin, own = admin_of(database, **{right: False})
    status, body = admin.ask("GET", DETAILS)

    assert (status, 'id="events"' in body) in {(200, False), (403, False)}
    assert admin.ask("POST", f"{FIRE}/1/Start", form_token="x")[0] == 403
    assert state(engine) == "Stopped"
    own.dispose()


def test_a_view_that_this_user_may_not_see_moves_nothing(database: str, engine: Engine) -> None:
    admin, own = admin_of(database, is_accessible=lambda view, request: False)

    assert admin.ask("POST", f"{FIRE}/1/Start")[0] == 403
    assert state(engine) == "Stopped"
    own.dispose()


@pytest.mark.parametrize("query", ["details_query", "form_edit_query"])
def test_a_row_that_the_views_query_leaves_out_is_not_moved(database: str, engine: Engine, query: str) -> None:
    admin, own = admin_of(database, **{query: lambda view, request: select(Device).where(Device.id == 2)})
    token = admin.form_token("/admin/device/details/2") if query == "form_edit_query" else "x"

    assert admin.ask("POST", f"{FIRE}/1/Start", form_token=token)[0] == 404
    assert state(engine) == "Stopped"
    own.dispose()


def test_the_admin_fires_on_rows_of_a_composite_key(database: str, engine: Engine) -> None:
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all([Shelf(aisle=1, level=level) for level in (1, 2, 3)])
        session.commit()
    admin, own = admin_of(database, model=Shelf)
    token = admin.form_token("/admin/shelf/details/1;2")

    one = admin.ask("POST", "/admin/shelf/fire/1;2/Fill", form_token=token)
    many = admin.ask("POST", "/admin/shelf/fire-many", form_token=token, event="Fill", key=["1;2", "1;3"])

    assert (one[0], many[0]) == (303, 303)
    with Session(engine) as session:
        assert session.scalars(select(Shelf.state).order_by(Shelf.level)).all() == ["empty", "full", "full"]
    own.dispose()


@pytest.mark.parametrize("key", ["abc", "99999", "9" * 40, "1.0", "%00", "-1", "%201", "%EF%BC%91"])
def test_a_key_that_is_none_is_404_in_the_admin(admin: Visitor, key: str) -> None:
    token = admin.form_token(DETAILS)

    assert admin.ask("POST", f"{FIRE}/{key}/Start", form_token=token)[0] == 404
    assert admin.ask("POST", f"{FIRE}/1/Explode", form_token=token)[0] == 404


def test_the_redirect_stays_on_the_site(admin: Visitor) -> None:
    admin.ask("POST", f"{FIRE}/1/Start", headers={"Host": "evil.example"}, form_token="x")

    assert admin.headers["location"] == DETAILS


def test_a_form_sets_no_state(admin: Visitor, engine: Engine) -> None:
    edited = admin.ask("POST", "/admin/device/edit/2", name="Renamed", state="Retired", save="Save")
    made = admin.ask("POST", "/admin/device/create", id="77", name="Pump", state="Retired", save="Save")

    assert (edited[0], made[0]) == (302, 302)
    with Session(engine) as session:
        assert set(session.scalars(select(Device.state))) == {"Stopped"}
        assert "Renamed" in session.scalars(select(Device.name)).all()
        assert len(session.scalars(select(Device.id)).all()) == 4
