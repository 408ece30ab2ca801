"""The page of a real server in a real browser."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
from observe.browser import Browser

from .conftest import Serve
from .gate import Gate
from .server import Server


def page_of(server: Server) -> str:
    return server.wait_for_log(r"Status on (\S+)$")[1] + "/"


def test_grid_follows_a_burst(browser: Browser, serve: Serve, gate: Gate) -> None:
    server = serve("held", "--admin", "0", "--min-idle", "2", "--max-workers", "3")
    browser.open(page_of(server))
    browser.wait(lambda: browser.letters() == {"Generation 1": "II"})

    requests = [server.send(gate.path) for _ in range(3)]
    gate.wait_for(3)
    browser.wait(lambda: browser.letters() == {"Generation 1": "BBB"})
    browser.wait(lambda: browser.texts("#requests tbody th"))
    assert set(browser.texts("#requests tbody th")) == {"1.0", "1.1", "1.2"}
    assert set(browser.texts("#requests td.wide")) == {gate.path}

    for held in gate.held:
        held.release()
    assert [request.answer().status for request in requests] == [200] * 3
    # The third goes when it was surplus long enough.
    browser.wait(lambda: browser.letters()["Generation 1"].startswith("II"))
    browser.wait(lambda: not browser.texts("#requests tbody th"))
    assert not browser.errors()


def test_grid_follows_a_reload(browser: Browser, serve: Serve, gate: Gate) -> None:
    server = serve("held", "--admin", "0", "--min-idle", "2")
    browser.open(page_of(server))
    request = server.send(gate.path)
    held = gate.wait_for_one()
    browser.wait(lambda: browser.letters()["Generation 1"].startswith("B"))

    server.signal(signal.SIGHUP)
    # The old one stands beside the new one while its worker serves.
    browser.wait(lambda: set(browser.texts(".generation .pill")) >= {"retiring"})
    browser.wait(lambda: browser.letters().get("Generation 2", "").startswith("II"))
    assert browser.letters()["Generation 1"].startswith("R")
    assert browser.texts(".generation h3") == ["Generation 2", "Generation 1"]

    held.release()
    assert request.answer().status == 200
    browser.wait(lambda: browser.texts(".generation h3") == ["Generation 2"])
    assert not browser.errors()


def test_nobody_else_is_asked(browser: Browser, serve: Serve) -> None:
    server = serve("held", "--admin", "0")
    url = page_of(server)
    browser.open(url)
    before = browser.text("#updated")
    browser.wait(lambda: browser.text("#updated") != before)
    assert browser.origins() == {url.rstrip("/")}
    assert not browser.errors()


def test_end_of_the_server_is_shown(browser: Browser, serve: Serve) -> None:
    server = serve("held", "--admin", "0")
    browser.open(page_of(server))
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    browser.wait(lambda: browser.text("#trouble").startswith("No answer since "))


def test_stopped_dispatcher_is_shown(browser: Browser, serve: Serve) -> None:
    server = serve("held", "--admin", "0")
    browser.open(page_of(server))
    server.signal(signal.SIGSTOP)
    try:
        browser.wait(lambda: browser.text("#ready") == "✕ Not ready")
        assert browser.text("#trouble").startswith("No answer from the dispatcher")
    finally:
        server.signal(signal.SIGCONT)
    browser.wait(lambda: not browser.text("#trouble"))


def test_token_is_the_password(browser: Browser, serve: Serve) -> None:
    server = serve("held", "--admin", "0", "--admin-token", "sesame")
    url = page_of(server)
    browser.driver.get(url)
    assert not browser.all("#generations")
    # fetch() refuses an URL with a password, which the document's is.
    browser.open(re.sub("//", "//operator:sesame@", url, count=1))
    before = browser.text("#updated")
    browser.wait(lambda: browser.text("#updated") != before)
    assert browser.letters() == {"Generation 1": "II"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_picture(
    browser: Browser, serve: Serve, tmp_path: Path, scheme: str, width: int
) -> None:
    server = serve("held", "--admin", "0")
    browser.resize(width, 900)
    browser.prefer(color_scheme=scheme)
    browser.open(page_of(server))
    path = tmp_path / f"status-page-{scheme}-{width}.png"
    path.write_bytes(browser.picture())
    # Whole, and with something on it.
    assert path.stat().st_size > 10_000
