"""A click moves the row, a refusal says why, and of two clicks at once one moves. Other sites move nothing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any
from urllib.parse import quote

import pytest
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.support import expected_conditions
from selenium.webdriver.support.wait import WebDriverWait
from sqlalchemy.orm import Session

from examples.devices import Device
from tests.browser.conftest import Site

pytestmark = pytest.mark.servers_only

SECONDS = 20
ROUNDS = 5
REFUSAL = "Stop is not possible now: the state is Stopped."
HTML_NAME = '<img src=x onerror="document.title=1">'


class Page:
    """A browser on the page of a device: the list of FastAPI and Flask, or the admin's page of details."""

    def __init__(self, browser: Any, address: str, is_admin: bool) -> None:
        self.browser, self.address, self.is_admin = browser, address, is_admin

    def open(self, key: int) -> None:
        self.browser.get(f"{self.address}/admin/device/details/{key}" if self.is_admin else f"{self.address}/")

    def part(self, key: int) -> str:
        return "#events" if self.is_admin else f"#device-{key}"

    def events(self, key: int) -> list[str]:
        return [button.text for button in self.browser.find_elements(By.CSS_SELECTOR, f"{self.part(key)} button")]

    def click(self, key: int, event: str) -> None:
        """Returns once the answer's page is there."""
        (button,) = [
            button
            for button in self.browser.find_elements(By.CSS_SELECTOR, f"{self.part(key)} button")
            if button.text == event
        ]
        button.click()
        self.until(expected_conditions.staleness_of(button))

    def message(self) -> str:
        place = ".toast-body" if self.is_admin else "#message"
        there = expected_conditions.visibility_of_element_located((By.CSS_SELECTOR, place))
        return self.until(there).text

    def until(self, condition: Any) -> Any:
        # Asked in the middle of a change of pages, chromedriver may answer with an error of its own: ask again.
        return WebDriverWait(self.browser, SECONDS, ignored_exceptions=[WebDriverException]).until(condition)

    def state(self, key: int) -> str:
        if not self.is_admin:
            return self.browser.find_element(By.CSS_SELECTOR, f"#device-{key} .state").text
        rows = self.browser.find_elements(By.CSS_SELECTOR, "table tbody tr")
        cells = [[cell.text for cell in row.find_elements(By.TAG_NAME, "td")] for row in rows]
        return dict(cells)["state"]


@pytest.fixture
def pages(browsers: tuple[Any, Any], site: Site, request: pytest.FixtureRequest) -> tuple[Page, Page]:
    is_admin = request.node.callspec.params["site"] == "admin"
    one, other = (Page(b, a, is_admin) for b, a in zip(browsers, site.addresses, strict=True))
    return one, other


def stored(site: Site) -> tuple[str, list[str]]:
    with Session(site.engine) as session:
        device = session.get_one(Device, 1)
        return device.state, [row.event for row in device.history()]


def test_a_click_on_stop_moves_the_row(site: Site, pages: tuple[Page, Page]) -> None:
    """The page has a button for each event that leaves the state, and for no other."""
    site.put(1, "Running")
    page, _ = pages
    page.open(1)
    assert page.events(1) == ["Stop", "Fail"]

    page.click(1, "Stop")

    assert "Running → Stopped" in page.message()
    assert page.state(1) == "Stopped"
    assert page.events(1) == ["Start", "Retire"]
    assert stored(site) == ("Stopped", ["Stop"])


def test_a_refused_event_shows_why(site: Site, pages: tuple[Page, Page]) -> None:
    """The page is old: the other server has stopped the device since."""
    site.put(1, "Running")
    page, other = pages
    page.open(1)
    other.open(1)
    other.click(1, "Stop")

    page.click(1, "Stop")

    assert page.message() == REFUSAL
    assert page.state(1) == "Stopped"
    assert stored(site) == ("Stopped", ["Stop"])


def test_a_reload_sends_no_form_again(site: Site, pages: tuple[Page, Page]) -> None:
    site.put(1, "Running")
    page, _ = pages
    page.open(1)
    page.click(1, "Stop")
    page.browser.refresh()

    assert page.state(1) == "Stopped"
    assert page.browser.find_elements(By.CSS_SELECTOR, "#message, .toast-body") == []
    assert stored(site) == ("Stopped", ["Stop"])


def test_a_form_of_another_site_moves_nothing(site: Site, pages: tuple[Page, Page]) -> None:
    """The visitor has a session, and clicks a button that sends a form to the application."""
    site.put(1, "Running")
    page, _ = pages
    page.open(1)
    path = "/admin/device/fire/1/Stop" if page.is_admin else "/devices/1/Stop"
    form = (
        f'<form method="post" action="{page.address}{path}"><input name="token" value="t"><button>win</button></form>'
    )
    page.browser.get(f"data:text/html,{quote(form)}")
    button = page.browser.find_element(By.TAG_NAME, "button")
    button.click()
    page.until(expected_conditions.staleness_of(button))

    assert stored(site) == ("Running", [])


def test_a_frame_of_another_site_stays_empty(site: Site, pages: tuple[Page, Page]) -> None:
    page, _ = pages
    page.open(1)
    frame = f'<iframe src="{page.browser.current_url}"></iframe>'
    page.browser.get(f"data:text/html,{quote(frame)}")
    page.browser.switch_to.frame(0)
    shown = page.browser.find_elements(By.CSS_SELECTOR, "button, table")
    page.browser.switch_to.default_content()

    assert shown == []


def test_a_name_that_is_html_runs_no_script(site: Site, pages: tuple[Page, Page]) -> None:
    with Session(site.engine) as session:
        session.get_one(Device, 1).name = HTML_NAME
        session.commit()
    page, _ = pages
    page.open(1)

    assert HTML_NAME in page.browser.find_element(By.TAG_NAME, "body").text
    assert page.browser.title != "1"
    assert page.browser.find_elements(By.CSS_SELECTOR, "img[src=x]") == []


def clicks_at_once(site: Site, pages: tuple[Page, Page]) -> list[str]:
    """What each of two browsers shows after both have clicked Stop on a device that ran."""
    site.put(1, "Running")
    start = Barrier(2)

    def click(page: Page) -> str:
        page.open(1)
        start.wait(SECONDS)
        page.click(1, "Stop")
        return page.message()

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(click, pages))


def is_one_move_and_one_clear_message(site: Site, messages: list[str]) -> bool:
    others = [message for message in messages if message != REFUSAL]
    return len(others) == 1 and "Running → Stopped" in others[0] and stored(site) == ("Stopped", ["Stop"])


def test_two_clicks_at_once_are_one_move_and_one_clear_message(site: Site, pages: tuple[Page, Page]) -> None:
    for _ in range(ROUNDS):
        messages = clicks_at_once(site, pages)

        assert is_one_move_and_one_clear_message(site, messages), (messages, stored(site))


def test_two_clicks_at_once_move_twice_when_python_decides(wrong_site: Site, browsers: tuple[Any, Any]) -> None:
    """The control: each server reads 'Running' and writes 'Stopped', and the check above sees it."""
    one, other = (Page(b, a, is_admin=False) for b, a in zip(browsers, wrong_site.addresses, strict=True))
    doubled = 0
    for _ in range(ROUNDS):
        messages = clicks_at_once(wrong_site, (one, other))
        if not is_one_move_and_one_clear_message(wrong_site, messages):
            assert stored(wrong_site) == ("Stopped", ["Stop", "Stop"])
            assert [message for message in messages if "Running → Stopped" in message] == messages
            doubled += 1

    assert doubled
