"""The example app, and its page in a browser, on a real server."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from observe.browser import Browser

from .conftest import Run
from .server import command
from .server import Server
from .server import wait_for

ROOT = Path(__file__).parents[2]


@pytest.fixture
def server(run: Run) -> Server:
    pool = ("--min-idle", "3", "--max-idle", "4", "--max-workers", "8")
    line = command("example_app", "--port", "0", "--no-access-log", *pool)
    return run(line, directory=ROOT)


def states(browser: Browser) -> list[str]:
    """What the cells look like, by slot."""
    found: list[str] = browser.run(
        "return [...document.querySelectorAll('.slot')]"
        ".map((cell) => cell.dataset.state)"
    )
    return found


def test_idle_workers_are_listed(server: Server) -> None:
    def seen() -> list[tuple[int, int, bool, bool]]:
        found = server.get("/workers").json["seen"]
        return [(w["slot"], w["requests"], w["busy"], w["alive"]) for w in found]

    idle = [(slot, 0, False, True) for slot in range(3)]
    wait_for(lambda: seen()[:3] == idle)


def test_page_shows_who_is_idle_and_who_is_hot(
    browser: Browser, server: Server
) -> None:
    browser.driver.get(f"{server.url}/")
    browser.wait(lambda: states(browser)[:3] == ["idle"] * 3)
    assert states(browser)[-1] == "none"

    browser.run("document.getElementById('seconds').options[0].value = '0'")
    browser.run("document.getElementById('seconds').selectedIndex = 0")
    (button,) = browser.all("button[data-count='1']")
    # Slots cool while a slow browser clicks; so there is more than that.
    for _ in range(50):
        server.get("/slow?seconds=0")
    button.click()
    browser.wait(button.is_enabled)
    browser.wait(lambda: browser.texts(".slot .heat")[0] == "hot")
    # Those that have served nothing stay idle, and cold.
    assert states(browser)[1:3] == ["idle"] * 2
    assert browser.texts(".slot .heat")[2] == "cold"
    assert browser.text("#status").endswith("by 1 worker.")
    # This browser finds no names below "localhost"; the page has looked for them.
    assert not [one for one in browser.errors() if ".localhost:" not in one]


def test_page_shows_who_is_busy(browser: Browser, server: Server) -> None:
    browser.driver.get(f"{server.url}/")
    browser.wait(lambda: states(browser)[:3] == ["idle"] * 3)
    server.send("/slow?seconds=30")
    browser.wait(lambda: "busy" in states(browser))
    assert "busy" in browser.texts(".slot .state")
    # TERM would let the request finish.
    server.signal(signal.SIGINT)
    server.wait()
