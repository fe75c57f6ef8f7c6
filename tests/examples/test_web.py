"""The web examples answer with the status that their errors mean; their pages are clicked in tests/browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import URL, create_engine, func, select
from sqlalchemy.orm import Session

from examples.admin_app.app import create_app as admin_app
from examples.devices import Device, DeviceTransition
from examples.fastapi_app.app import create_app as fastapi_app
from examples.flask_app.app import create_app as flask_app
from tests.servers import own_database

# A method, a path and form fields in; the status and the text out.
Ask = Callable[..., tuple[int, str]]


@pytest.fixture
def database(url: URL) -> Iterator[str]:
    with own_database(url) as own:
        yield own.render_as_string(hide_password=False)


def asks_starlette(app: Any) -> Ask:
    from starlette.testclient import TestClient

    client = TestClient(app)

    def ask(method: str, path: str, **form: str) -> tuple[int, str]:
        answer = client.request(method, path, data=form)
        return answer.status_code, answer.text

    return ask


def asks_flask(app: Any) -> Ask:
    client = app.test_client()

    def ask(method: str, path: str, **form: str) -> tuple[int, str]:
        answer = client.open(path, method=method, data=form)
        return answer.status_code, answer.text

    return ask


@pytest.fixture(params=["fastapi", "flask"])
def ask(request: pytest.FixtureRequest, database: str) -> Iterator[Ask]:
    if request.param == "fastapi":
        app: Any = fastapi_app(database)
        yield asks_starlette(app)
        app.state.engine.dispose()
    else:
        app = flask_app(database)
        yield asks_flask(app)
        app.extensions["engine"].dispose()


@pytest.mark.servers_only
def test_each_outcome_has_its_status(ask: Ask) -> None:
    api = "/api/devices"

    assert ask("POST", f"{api}/1/events/Start")[0] == 200
    status, text = ask("POST", f"{api}/1/events/Start")
    assert status == 409
    assert "devices 1 refused 'Start': it is 'Running'; 'Start' leaves 'Stopped'." in text
    assert ask("POST", f"{api}/99/events/Start")[0] == 404
    assert ask("POST", f"{api}/1/events/Explode")[0] == 422
    assert ask("POST", f"{api}/one/events/Stop")[0] in {404, 422}  # a key that is no number: Flask knows no such page
    assert ask("POST", f"{api}/1/events/Stop?token=" + "x" * 65)[0] == 422


@pytest.mark.servers_only
def test_a_click_that_is_sent_twice_moves_once(ask: Ask, database: str) -> None:
    first = ask("POST", "/devices/2/Start", token="one-click")
    second = ask("POST", "/devices/2/Start", token="one-click")

    assert first[0] == second[0] == 200
    assert "Device 2: Stopped → Running" in first[1]
    assert "Device 2: Stopped → Running" in second[1]
    engine = create_engine(database)
    with Session(engine) as session:
        assert session.scalar(select(func.count()).select_from(DeviceTransition)) == 1
    engine.dispose()


@pytest.mark.servers_only
def test_the_admin_moves_by_post_only_and_shows_why_not(database: str) -> None:
    app = admin_app(database, "secret")
    ask = asks_starlette(app)

    assert ask("GET", "/admin/device/fire/1/Start")[0] == 405
    assert "Start: Stopped → Running" in ask("POST", "/admin/device/fire/1/Start")[1]
    assert "refused &#39;Start&#39;: it is &#39;Running&#39;" in ask("POST", "/admin/device/fire/1/Start")[1]
    engine = create_engine(database)
    with Session(engine) as session:
        assert session.get_one(Device, 1).state == "Running"
    engine.dispose()
    app.state.engine.dispose()
