"""The page of a comparison in a real browser, driven by Chrome's DevTools protocol over pipes."""

import json
import os
import select
import shutil
import subprocess
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from minifinetuning.report import comparison_page

BINARY = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --remote-debugging-pipe"
).split()

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BINARY is None, reason="no chromium, google-chrome or chrome on PATH"),
]


class Browser:
    """One tab. Requests go to the browser's file descriptor 3, replies and events come from 4."""

    def __init__(self, folder: Path) -> None:
        for name in ("requests", "replies"):
            os.mkfifo(folder / name)
        pipes = 'exec "$@" 3<requests 4>replies'
        command = [str(BINARY), *FLAGS, f"--user-data-dir={folder / 'profile'}"]
        self.process = subprocess.Popen(
            ["sh", "-c", pipes, "sh", *command],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.requests = os.open(folder / "requests", os.O_WRONLY)
        self.replies = os.open(folder / "replies", os.O_RDONLY)
        self.received = b""
        self.numbers = count(1)
        self.events: list[dict[str, Any]] = []
        self.session: dict[str, str] = {}
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": parameters, **self.session}
        os.write(self.requests, json.dumps(message).encode() + b"\0")
        while (reply := self.message()).get("id") != number:
            self.events.append(reply)
        assert "error" not in reply, reply
        return reply["result"]

    def message(self) -> dict[str, Any]:
        while b"\0" not in self.received:
            assert select.select([self.replies], [], [], 30)[0], "the browser does not answer"
            chunk = os.read(self.replies, 1 << 16)
            assert chunk, "the browser has ended"
            self.received += chunk
        message, _, self.received = self.received.partition(b"\0")
        return json.loads(message)

    def open(self, path: Path) -> None:
        self.call("Page.navigate", url=path.as_uri())
        while not self.heard("Page.loadEventFired"):
            self.events.append(self.message())

    def heard(self, method: str) -> list[dict[str, Any]]:
        return [event["params"] for event in self.events if event["method"] == method]

    def value(self, expression: str) -> Any:
        reply = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in reply, reply
        return reply["result"].get("value")

    def until(self, expression: str) -> None:
        """Wait until `expression` is true: layout and events take a frame or two."""
        attempt = f"""new Promise((resolve) => {{
            const look = (left) => ({expression}) || left === 0
                ? resolve(Boolean({expression})) : requestAnimationFrame(() => look(left - 1));
            look(120);
        }})"""
        reply = self.call(
            "Runtime.evaluate", expression=attempt, awaitPromise=True, returnByValue=True
        )
        assert reply["result"].get("value") is True, expression

    def mouse(self, selector: str, *kinds: str) -> None:
        """Mouse events in the middle of the first element that `selector` finds."""
        x, y = self.value(
            f"""(() => {{
                const element = document.querySelector({json.dumps(selector)});
                element.scrollIntoView({{ block: "center" }});
                const {{ left, top, width, height }} = element.getBoundingClientRect();
                return [left + width / 2, top + height / 2];
            }})()"""
        )
        for kind in kinds:
            button = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button)

    def close(self) -> None:
        self.call("Browser.close")
        os.close(self.requests)
        os.close(self.replies)
        self.process.wait(timeout=30)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("browser"))
    yield browser
    browser.close()


@pytest.fixture
def page(browser: Browser, trial, tmp_path: Path) -> Path:
    """A page of three results, open in the browser: by S they come as 10, 8 and 9."""
    results = {
        "ft</script>": trial("ft", (0, 0), (6, 1), (8, 4)),
        "mft": trial("mft", (0, 0), (5, 0.2), (10, 0.5)),
        "kl": trial("kl", (0, 0), (9, 7), peak_memory_bytes=2**30),
    }
    path = tmp_path / "comparison.html"
    path.write_text(comparison_page(results, budget=1, title="a title"), encoding="utf-8")
    browser.events.clear()
    browser.open(path)
    browser.until("document.querySelectorAll('.chart > svg').length === 3")
    return path


def column(browser: Browser, number: int) -> list[str]:
    return browser.value(
        f"[...document.querySelectorAll('tbody tr')].map(row => row.cells[{number}].textContent)"
    )


def lit(browser: Browser) -> list[str]:
    """The rows and the charts' lines that stand out, each as its element and its line."""
    return browser.value(
        "[...document.querySelectorAll('.lit')].map(e => e.tagName + ' ' + e.dataset.line).sort()"
    )


def test_the_page_opens_in_silence_and_asks_for_nothing_but_itself(browser, page):
    browser.mouse("tbody tr", "mouseMoved")

    for kind in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
        assert not browser.heard(kind)
    asked = {event["request"]["url"] for event in browser.heard("Network.requestWillBeSent")}
    assert asked == {page.as_uri()}


def test_a_heading_sorts_both_ways_and_what_is_absent_stays_last(browser, page):
    def click(number: int) -> str:
        selector = f"thead th:nth-child({number}) button"
        browser.mouse(selector, "mouseMoved", "mousePressed", "mouseReleased")
        headings = "[...document.querySelectorAll('thead th')]"
        sorted_by = browser.value(f"{headings}.map(th => th.getAttribute('aria-sort'))")
        assert [order is not None for order in sorted_by].index(True) == number - 1
        assert sum(order is not None for order in sorted_by) == 1
        return sorted_by[number - 1]

    assert column(browser, 0) == ["mft", "ft", "kl"]
    assert click(3) == "ascending"
    assert column(browser, 0) == ["ft", "kl", "mft"]  # 8, 9, 10: as numbers, not as text
    assert click(3) == "descending"
    assert column(browser, 0) == ["mft", "kl", "ft"]

    for order in ("ascending", "descending"):
        assert click(9) == order
        assert column(browser, 0)[0] == "kl"  # the only one whose memory is known


def test_a_heading_is_reached_and_pressed_by_keyboard(browser, page):
    browser.value("document.querySelector('thead button').focus()")
    for kind in ("keyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", text="\r")

    assert column(browser, 0) == ["ft", "kl", "mft"]


@pytest.mark.parametrize("way", ["hover", "focus"])
def test_a_row_lights_its_line_in_every_chart(browser, page, way):
    if way == "hover":
        browser.mouse("tbody tr:nth-child(2)", "mouseMoved")
    else:
        browser.value("document.querySelector('tbody tr:nth-child(2)').focus()")
    browser.until("document.querySelector('.tooltip')")

    assert lit(browser) == ["TR 1", *["g 1"] * 6]  # a line and its star in each of three charts
    tooltip = browser.value("document.querySelector('.frontier .tooltip').innerText")
    assert tooltip.split("\n") == ["ft</script>", "step 20 (kept) · S 8.00 % · DG 4.00 %"]

    browser.value("document.activeElement.blur()")
    browser.mouse("h1", "mouseMoved")
    assert lit(browser) == []


def test_a_line_lights_its_row(browser, page):
    browser.mouse(".frontier [data-line='2'] .star", "mouseMoved")
    browser.until("document.querySelector('.tooltip')")

    assert lit(browser) == ["TR 2", *["g 2"] * 6]
    assert "S 9.00 % · DG 7.00 %" in browser.value("document.querySelector('.tooltip').innerText")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling_and_ink_differs_from_paper(browser, page, scheme):
    size = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.call("Emulation.setDeviceMetricsOverride", **size)
    browser.call("Emulation.setEmulatedMedia", features=[feature])
    browser.until("document.querySelector('.chart').clientWidth < 360")

    assert browser.value("document.documentElement.scrollWidth") == 360
    ink, paper = (
        sum(browser.value(f"getComputedStyle(document.body).{name}.match(/[0-9.]+/g).map(Number)"))
        for name in ("color", "backgroundColor")
    )
    assert (ink < paper) == (scheme == "light")
    browser.call("Emulation.clearDeviceMetricsOverride")
    browser.call("Emulation.setEmulatedMedia", features=[])
