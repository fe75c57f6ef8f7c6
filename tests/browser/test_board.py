"""The board of orders, clicked: buttons, refusals by guards, the timeline, two browsers at once; wide and on a phone."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any
from urllib.parse import quote

import pytest
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.support import expected_conditions
from selenium.webdriver.support.wait import WebDriverWait
from sqlalchemy import Engine, delete, update
from sqlalchemy.orm import Session

from examples.orders import Order, OrderTransition, open_engine
from tests.browser.conftest import Site, served

pytestmark = pytest.mark.servers_only

SECONDS = 20


@pytest.fixture(scope="module")
def board(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The board, in two processes that know nothing of each other."""
    open_engine(engine.url.render_as_string(hide_password=False)).dispose()
    command = ("-m", "uvicorn", "--factory", "examples.board_app.app:create_app", "--port")
    with served(command, engine, tmp_path_factory.mktemp("board") / "log") as site:
        yield site


@pytest.fixture(autouse=True)
def fresh(board: Site) -> None:
    put(board, 1, state="new", stock=3)


def put(site: Site, key: int, **values: Any) -> None:
    """Give the order these values, past the machine, and forget what was before."""
    with Session(site.engine) as session:
        session.execute(delete(OrderTransition).where(OrderTransition.record_id == key))
        session.execute(update(Order).where(Order.id == key).values(**values))
        session.commit()


def stored(site: Site, key: int = 1) -> tuple[str, list[str]]:
    with Session(site.engine) as session:
        order = session.get_one(Order, key)
        return order.state, [row.event for row in order.history()]


def wait(browser: Any) -> WebDriverWait[Any]:
    return WebDriverWait(browser, SECONDS, ignored_exceptions=[WebDriverException])


def buttons(browser: Any, place: str) -> dict[str, Any]:
    return {button.text: button for button in browser.find_elements(By.CSS_SELECTOR, f"{place} button")}


def click(browser: Any, place: str, event: str) -> None:
    button = buttons(browser, place)[event]
    button.click()
    wait(browser).until(expected_conditions.staleness_of(button))


def message(browser: Any) -> str:
    there = expected_conditions.visibility_of_element_located((By.ID, "message"))
    return str(wait(browser).until(there).text)


def column_of(browser: Any, key: int) -> str:
    card = browser.find_element(By.CSS_SELECTOR, f"section:has(#order-{key})")
    return str(card.get_attribute("data-state"))


def test_a_click_moves_the_card_to_the_next_column(board: Site, browsers: tuple[Any, Any]) -> None:
    browser, _ = browsers
    browser.get(board.addresses[0])
    assert list(buttons(browser, "#order-1")) == ["Pay", "Cancel"]

    click(browser, "#order-1", "Pay")

    assert message(browser) == "Order 1: 'Pay' is done: it is 'paid' now."
    assert column_of(browser, 1) == "paid"
    assert list(buttons(browser, "#order-1")) == ["Pack", "Cancel"]
    browser.refresh()
    assert stored(board) == ("paid", ["Pay"])
    assert browser.find_elements(By.ID, "message") == []


def test_an_event_that_a_guard_blocks_has_no_button_on_the_board(board: Site, browsers: tuple[Any, Any]) -> None:
    put(board, 1, state="paid", stock=0)
    browser, _ = browsers
    browser.get(board.addresses[0])

    assert list(buttons(browser, "#order-1")) == ["Cancel"]


def test_a_refusal_names_the_guard_in_the_words_of_people(board: Site, browsers: tuple[Any, Any]) -> None:
    """On the order's page, the event that a guard blocks can be clicked: the answer says why."""
    put(board, 1, state="paid", stock=0)
    browser, _ = browsers
    browser.get(f"{board.addresses[0]}/orders/1")

    click(browser, "#blocked", "Pack")

    assert message(browser) == "Order 1: 'Pack' is not possible now: the item is out of stock."
    assert browser.current_url.endswith("/orders/1")
    assert stored(board) == ("paid", [])


def test_the_timeline_shows_each_transition(board: Site, browsers: tuple[Any, Any]) -> None:
    browser, _ = browsers
    browser.get(f"{board.addresses[0]}/orders/1")
    for event in ("Pay", "Pack"):
        click(browser, "#events", event)

    entries = [entry.text for entry in browser.find_elements(By.CSS_SELECTOR, ".timeline li")]

    assert [entry.split("\n")[1] for entry in entries] == [
        "Pay new → paid by visitor",
        "Pack paid → packed by visitor",
    ]


def test_the_diagram_has_the_counts(board: Site, browsers: tuple[Any, Any]) -> None:
    browser, _ = browsers
    browser.get(board.addresses[0])
    drawn = "const img = document.querySelector('figure img'); return img.complete && img.naturalWidth > 0"
    assert wait(browser).until(lambda driver: driver.execute_script(drawn))

    browser.get(f"{board.addresses[0]}/diagram.svg")

    assert "row" in browser.find_element(By.TAG_NAME, "svg").text


def test_a_form_of_another_site_moves_nothing(board: Site, browsers: tuple[Any, Any]) -> None:
    browser, _ = browsers
    browser.get(board.addresses[0])
    form = f'<form method="post" action="{board.addresses[0]}/orders/1/Pay"><input name="token" value="t"><button>win</button></form>'
    browser.get(f"data:text/html,{quote(form)}")
    click(browser, "form", "win")

    assert stored(board) == ("new", [])


def test_two_browsers_at_once_move_the_order_once(board: Site, browsers: tuple[Any, Any]) -> None:
    """Each on a server of its own: one is told that it is done, the other that it is not possible now."""
    for _ in range(3):
        put(board, 1, state="new", stock=3)
        for browser, address in zip(browsers, board.addresses, strict=True):
            browser.get(address)
        barrier = Barrier(2)

        def pay(browser: Any) -> str:
            barrier.wait()
            click(browser, "#order-1", "Pay")
            return message(browser)

        with ThreadPoolExecutor(2) as pool:
            said = sorted(pool.map(pay, browsers))

        assert said == [
            "Order 1: 'Pay' is done: it is 'paid' now.",
            "Order 1: 'Pay' is only allowed from 'new'; it is 'paid' now.",
        ]
        assert stored(board) == ("paid", ["Pay"])


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", ["/", "/orders/1"])
def test_a_phone_shows_the_page_without_scrolling_sideways(
    board: Site, browsers: tuple[Any, Any], path: str, scheme: str
) -> None:
    """Also: buttons are large enough for a thumb, and text stands out from its background in both colour schemes."""
    browser, _ = browsers
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    try:
        browser.get(f"{board.addresses[0]}{path}")

        assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
        heights = browser.execute_script("return [...document.querySelectorAll('button')].map(b => b.offsetHeight)")
        assert heights
        assert min(heights) >= 44
        if path == "/":  # the diagram runs downwards, so it is at more than half of its size, and has no scroll bar
            drawn = "const i = document.querySelector('figure img'); return i.complete && i.width / i.naturalWidth"
            assert wait(browser).until(lambda driver: driver.execute_script(drawn)) > 0.5
            assert "direction=TB" in browser.execute_script("return document.querySelector('figure img').currentSrc")
            fits = "const f = document.querySelector('figure'); return f.scrollWidth <= f.clientWidth"
            assert browser.execute_script(fits)
        style = "const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]"
        text, paper = map(luminance, browser.execute_script(style))
        assert (text > paper) == (scheme == "dark")
        assert (max(text, paper) + 0.05) / (min(text, paper) + 0.05) > 7
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def luminance(colour: str) -> float:
    """The relative luminance of ``rgb(…)``, as WCAG 2 computes it."""
    parts = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.fixture(scope="module")
def admin(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    open_engine(engine.url.render_as_string(hide_password=False)).dispose()
    command = ("-m", "uvicorn", "--factory", "examples.admin_app.app:create_app", "--port")
    with served(command, engine, tmp_path_factory.mktemp("admin") / "log") as site:
        yield site


def test_a_bulk_action_reports_which_rows_refused_and_why(board: Site, admin: Site, browsers: tuple[Any, Any]) -> None:
    """Of three chosen orders one is packed; a guard is not true of the second, and the third is in another state."""
    for key, state, stock in ((1, "paid", 1), (2, "paid", 0), (3, "new", 1)):
        put(board, key, state=state, stock=stock)
    browser, _ = browsers
    browser.get(f"{admin.addresses[0]}/admin/order/list")
    for key in (1, 2, 3):
        row = browser.find_element(By.XPATH, f"//tr[td[normalize-space()='{key}']]")
        row.find_element(By.CSS_SELECTOR, "input.select-box").click()
    browser.find_element(By.XPATH, "//button[normalize-space()='Actions']").click()
    action = wait(browser).until(expected_conditions.element_to_be_clickable((By.ID, "action-custom-fire")))
    action.click()
    wait(browser).until(expected_conditions.presence_of_element_located((By.ID, "fire-many")))

    click(browser, "#fire-many", "Pack")

    wait(browser).until(expected_conditions.visibility_of_element_located((By.CSS_SELECTOR, ".toast-body")))
    said = [toast.text for toast in browser.find_elements(By.CSS_SELECTOR, ".toast-body")]
    assert said == [
        "Pack: 1 of 3 moved.",
        "2: 'Pack' is not possible now: the item is out of stock.",
        "3: 'Pack' is only allowed from 'paid'; it is 'new' now.",
    ]
    assert [stored(board, key) for key in (1, 2, 3)] == [("packed", ["Pack"]), ("paid", []), ("new", [])]
