"""What is wrong with a page of the documentation in a browser, by its DOM: layout in each width, contrast in each theme.

The page is loaded once. :func:`page_problems` is the entry; test_documentation.py has the pages.
"""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
SWITCHES = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--window-size=1000,700",
)

WIDTHS = {"tablet": 768, "phone": 390, "desktop": 1280}
THEMES = ("light", "dark")

# Whatever does not change with the width or the theme.
ONCE = r"""
const problems = [];
const say = (kind, what) => problems.push(`${kind}: ${what}`);
const short = text => text.trim().replace(/\s+/g, ' ').slice(0, 60);
const meta = name => (document.querySelector(`meta[name="${name}"]`) || {}).content || '';

const levels = [...document.querySelectorAll('article h1, article h2, article h3, article h4, article h5, article h6')];
// The list of a search has no h1 in Sphinx.
const isSearch = document.getElementById('search-results');
if (!isSearch && levels.filter(each => each.tagName === 'H1').length !== 1) say('headings', 'not one h1');
if (!isSearch) levels.reduce((before, each) => {
    const level = Number(each.tagName[1]);
    if (level > before + 1) say('headings', `h${level} after h${before}: ${short(each.textContent)}`);
    return level;
}, 0);

const ids = [...document.querySelectorAll('[id]')].map(each => each.id);
for (const id of new Set(ids.filter((id, number) => ids.indexOf(id) !== number))) say('duplicate id', id);

for (const image of document.images) {
    if (!image.alt.trim() && !image.closest('.sidebar-logo-container, .sidebar-brand')) say('no alt', image.currentSrc);
    if (image.complete && !image.naturalWidth) say('image does not load', image.currentSrc);
}
for (const link of document.querySelectorAll('a[href]'))
    if (!link.textContent.trim() && !link.getAttribute('aria-label') && !link.title && !link.querySelector('img[alt]:not([alt=""])'))
        say('link without a name', link.outerHTML.slice(0, 80));

for (const {name} of performance.getEntriesByType('resource'))
    if (!name.startsWith(location.origin) && !name.startsWith('data:')) say('foreign resource', name);

for (const code of document.querySelectorAll('article div.highlight'))
    if (!code.querySelector('button.copybtn')) say('no copy button', short(code.textContent));

if (!document.querySelector('link[rel~="icon"]')) say('head', 'no favicon');
if (!document.querySelector('meta[name=viewport]')) say('head', 'no viewport');
if (!document.documentElement.lang) say('head', 'no lang');
if (!document.title.trim()) say('head', 'no title');
const about = meta('description');
if (about.length < 40 || about.length > 200) say('description', `${about.length} characters: ${about}`);
return problems;
"""

# Mermaid blocks, in a theme: waits until each is drawn in it. No theme is given for the one that the page begins with.
DRAWN = r"""
const [theme, done] = arguments;
const end = Date.now() + (typeof mermaid === 'undefined' ? 0 : 10000);
const isDrawn = block => {
    const drawing = block.nextElementSibling;
    return drawing?.matches('.mermaid-drawing') && drawing.querySelector('svg') && [drawing.dataset.theme, null].includes(theme);
};
const look = () => {
    const missing = [...document.querySelectorAll('.highlight-mermaid')].filter(each => !isDrawn(each));
    if (missing.length && Date.now() < end) setTimeout(look, 20);
    else done(missing.map(each => `not drawn: ${each.textContent.trim().slice(0, 40)}`));
};
look();
"""

# In each width.
LAYOUT = r"""
const problems = [];
const say = (kind, what) => problems.push(`${kind}: ${what}`);
const name = element => {
    const of = element.id ? '#' + element.id : element.className && element.className.baseVal === undefined
        ? '.' + String(element.className).trim().split(/\s+/).join('.') : '';
    return `${element.tagName.toLowerCase()}${of} "${element.textContent.trim().replace(/\s+/g, ' ').slice(0, 50)}"`;
};
const root = document.documentElement;
const [width] = arguments;  // not innerWidth: on a phone, a page that is too wide is zoomed out
if (root.scrollWidth > width) say('page scrolls sideways', `${root.scrollWidth} > ${width}`);

const article = document.querySelector('article');
const border = article.parentElement.getBoundingClientRect();
const scrolls = element => {
    for (; element && element !== article; element = element.parentElement)
        if (!(element instanceof SVGElement) && getComputedStyle(element).overflowX !== 'visible') return true;
    return false;
};
const wide = [];
for (const each of article.querySelectorAll('*')) {
    const box = each.getBoundingClientRect();
    if (!box.width || !box.height || wide.some(other => other.contains(each))) continue;
    if ((box.right > border.right + 9 || box.left < border.left - 9) && !scrolls(each)) {
        wide.push(each);
        say('wider than the page', `${name(each)} ${Math.round(box.left)}–${Math.round(box.right)} in ${Math.round(border.left)}–${Math.round(border.right)}`);
    }
}
// Text that a box cuts off, with no way to scroll to it.
for (const each of document.querySelectorAll('article *, .sidebar-drawer *, header *')) {
    const style = getComputedStyle(each);
    if (style.overflowX === 'hidden' && each.clientWidth > 1 && each.scrollWidth > each.clientWidth + 1 && each.textContent.trim())
        say('cut off', name(each));
}
// A column as narrow as a few letters. A cell that scrolls with its table has room.
for (const cell of article.querySelectorAll('td')) {
    const box = cell.getBoundingClientRect();
    const style = getComputedStyle(cell);
    const line = parseFloat(style.lineHeight) || 1.5 * parseFloat(style.fontSize);
    const words = cell.textContent.trim();
    if (box.height > 8 * line && box.width < 110 && words.length > 30) say('narrow column', name(cell));
}
if (width < 500) {
    const visible = each => each.getClientRects().length && getComputedStyle(each).visibility !== 'hidden';
    for (const each of document.querySelectorAll('header label, header button, header a, .sidebar-drawer a, .sidebar-drawer label, .sidebar-drawer input, .toc-drawer a, .theme-toggle, .related-pages a, .toc-overlay-icon, .copybtn')) {
        const box = each.getBoundingClientRect();
        if (!visible(each) || !box.width) continue;
        if (Math.min(box.width, box.height) < 24) say('small target', `${name(each)} ${Math.round(box.width)}×${Math.round(box.height)}`);
    }
}
const heading = document.querySelector('article h1');
if (heading && heading.getBoundingClientRect().height > 5.2 * parseFloat(getComputedStyle(heading).lineHeight))
    say('title of many lines', name(heading));
return problems;
"""

# In each theme: the contrast of each text with what is behind it.
CONTRAST = r"""
const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
const known = new Map();
const rgba = text => {
    if (!known.has(text)) {
        const found = text.match(/^rgba?\(([\d.]+), ([\d.]+), ([\d.]+)(?:, ([\d.]+))?\)$/);
        if (found) known.set(text, [+found[1], +found[2], +found[3], found[4] === undefined ? 1 : +found[4]]);
        else {
            canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1);
            const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
            known.set(text, [r, g, b, a / 255]);
        }
    }
    return known.get(text);
};
const over = (top, under) => [0, 1, 2].map(i => top[i] * top[3] + under[i] * (1 - top[3])).concat(1);
const light = color => {
    const [r, g, b] = color.slice(0, 3).map(v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const backgrounds = new Map();
const background = element => {
    if (!element) return [255, 255, 255, 1];
    if (!backgrounds.has(element)) {
        // A state of a diagram lies on the shape that is drawn before it.
        const shape = element.matches('svg g.node') && element.querySelector('rect, circle, path');
        const own = shape ? getComputedStyle(shape).fill : getComputedStyle(element).backgroundColor;
        backgrounds.set(element, over(rgba(own), background(element.parentElement)));
    }
    return backgrounds.get(element);
};
const opacity = element => {
    let all = 1;
    for (; element; element = element.parentElement) all *= +getComputedStyle(element).opacity;
    return all;
};
const found = new Map();
const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
const seen = new Set();
while (texts.nextNode()) {
    const text = texts.currentNode.data.trim(), element = texts.currentNode.parentElement;
    if (!text || seen.has(element) || /^(SCRIPT|STYLE|NOSCRIPT|TITLE|TEMPLATE)$/.test(element.tagName)) continue;
    seen.add(element);
    if (element.matches('.headerlink, .viewcode-link *') || element.closest('.skip-to-content, .visually-hidden, [hidden]')) continue;
    const style = getComputedStyle(element);
    if (style.visibility === 'hidden' || style.display === 'none' || !element.getClientRects().length) continue;
    const behind = background(element);
    const color = rgba(element instanceof SVGElement ? style.fill : style.color);
    const shown = over([...color.slice(0, 3), color[3] * opacity(element)], behind);
    const [a, b] = [light(shown), light(behind)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    const size = parseFloat(style.fontSize), bold = +style.fontWeight >= 700;
    const needed = size >= 24 || (size >= 18.66 && bold) ? 3 : 4.5;
    if (ratio < needed) {
        const kind = `${element.tagName.toLowerCase()}.${element.className.baseVal ?? element.className}`.trim();
        const key = `contrast: ${ratio.toFixed(2)} of ${kind} in .${(element.parentElement.className.baseVal ?? element.parentElement.className)}`;
        if (!found.has(key)) found.set(key, `${key} "${text.slice(0, 30)}" rgb(${shown.slice(0, 3).map(Math.round)}) on rgb(${behind.slice(0, 3).map(Math.round)})`);
    }
}
return [...found.values()];
"""


def program(*names: str) -> str:
    """Where the first of *names* is that is there."""
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        raise pytest.UsageError(
            f"no {' or '.join(names)} on PATH, and the pages are tested in a real browser. "
            "On Debian: apt-get install chromium chromium-driver"
        )
    return found


@contextmanager
def browsing(profile: Path) -> Iterator[Any]:
    """A headless Chromium with a profile of its own."""
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = program(*CHROMIUM)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for switch in (*SWITCHES, f"--user-data-dir={profile}"):
        options.add_argument(switch)
    browser = Chrome(options=options, service=Service(program("chromedriver")))
    try:
        yield browser
    finally:
        browser.quit()


class Quiet(SimpleHTTPRequestHandler):
    """Serves files that a browser may keep, and prints nothing."""

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "max-age=3600")
        super().end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address at which the files of *folder* are served."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def show(browser: Any, width: int, height: int = 900) -> None:
    """Give the browser's page this size, in CSS pixels."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def wear(browser: Any, theme: str) -> None:
    """Have the page in this theme, as if the reader had chosen it, and the system asked for it too."""
    feature = {"name": "prefers-color-scheme", "value": theme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.execute_script("document.body.dataset.theme = arguments[0]", theme)


def drawn(browser: Any, theme: str | None = None) -> list[str]:
    """Wait for the drawings of the page's Mermaid blocks in this theme, or in any. The blocks that have none."""
    found: list[str] = browser.execute_async_script(DRAWN, theme)
    return found


def page_problems(browser: Any, address: str) -> Iterator[str]:
    """Each problem of the page, as ``kind: what``; of the widths and themes, with the name of the width or theme."""
    browser.get(address)
    yield from drawn(browser)
    yield from browser.execute_script(ONCE)
    for width, pixels in WIDTHS.items():
        show(browser, pixels)
        yield from (f"{width} {problem}" for problem in browser.execute_script(LAYOUT, pixels))
    for theme in THEMES:
        wear(browser, theme)
        yield from (f"{theme} {problem}" for problem in drawn(browser, theme))
        yield from (f"{theme} {problem}" for problem in browser.execute_script(CONTRAST))
    for entry in browser.get_log("browser"):
        if entry["level"] == "SEVERE":
            yield f"console: {re.sub(r'http://[^/]+', '', entry['message'])}"
