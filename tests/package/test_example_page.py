"""The page of the example app in a browser, with workers that a test chooses."""

from __future__ import annotations

import threading
import typing as t
from collections.abc import Iterator

import pytest
from observe.browser import Browser
from werkzeug.serving import make_server

from example_app import create_app
from example_app.roster import Seen

#: What is seen of each cell: its state, border, ground and texts.
CELLS = """
return [...document.querySelectorAll('.slot')].map((cell) => {
  const style = getComputedStyle(cell);
  return {
    state: cell.dataset.state,
    border: style.borderTopStyle,
    ground: style.backgroundColor,
    shadow: style.boxShadow,
    text: cell.innerText,
  };
});
"""


class Workers:
    """Stands in for the roster: knows workers that there are not.

    :ivar all: These.
    """

    served = 7

    def __init__(self) -> None:
        self.all: list[Seen] = []
        self.begun: list[int | None] = []

    def begin(self, slot: int | None) -> int:
        self.begun.append(slot)
        return len(self.begun)

    def end(self, slot: int | None) -> None:
        pass

    def seen(self) -> list[Seen]:
        return self.all


@pytest.fixture
def workers() -> Workers:
    return Workers()


@pytest.fixture
def url(workers: Workers) -> Iterator[str]:
    """Where the app is served as if by the worker in slot 0."""
    app = create_app({"TESTING": True})
    app.extensions["example_app.roster"] = workers

    def served(environ: t.Any, start_response: t.Any) -> t.Any:
        environ["flask_prefork.slot"] = 0
        return app(environ, start_response)

    server = make_server("127.0.0.1", 0, served, threaded=True)
    server.daemon_threads = True  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def worker(slot: int, busy: bool = False, heat: float = 0.0) -> Seen:
    return Seen(slot, 4000 + slot, slot, busy, heat, True)


def cells(browser: Browser, url: str) -> list[dict[str, str]]:
    """What the page shows when it knows of workers."""
    browser.driver.get(url)
    browser.wait(lambda: browser.all(".slot[data-state='idle']"))
    found: list[dict[str, str]] = browser.run(CELLS)
    return found


def looks(cell: dict[str, str]) -> tuple[str, ...]:
    return tuple(cell[name] for name in ("border", "ground", "shadow"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_each_state_has_its_looks(
    browser: Browser, workers: Workers, url: str, scheme: str
) -> None:
    workers.all = [
        worker(0, heat=5.0),
        worker(1, busy=True, heat=1.0),
        worker(2),
        Seen(3, 4003, 9, False, 0.0, False),
    ]
    browser.prefer(color_scheme=scheme)
    hot, busy, idle, gone, *rest = cells(browser, url)
    assert [one["state"] for one in (hot, busy, idle, gone)] == [
        "idle",
        "busy",
        "idle",
        "none",
    ]
    # An idle worker is no empty place, a hot one is not cold, and a busy one not idle.
    assert len({looks(one) for one in (hot, busy, idle, gone)}) == 4
    assert idle["border"] == "solid" and gone["border"] == "dashed"
    assert {looks(one) for one in rest} == {looks(gone)}
    # Not by the looks alone.
    assert "hot" in hot["text"] and "cold" in idle["text"] and "idle" in idle["text"]
    assert "busy" in busy["text"] and "no worker" in gone["text"]
    assert browser.text("#alive") == "– 3, 1 of them busy"


def test_warmth_has_shades(browser: Browser, workers: Workers, url: str) -> None:
    workers.all = [worker(slot, heat=heat) for slot, heat in enumerate((0, 1, 2, 3, 9))]
    shown = cells(browser, url)[:5]
    assert len({one["ground"] for one in shown}) == 4
    assert browser.texts(".heat")[:5] == ["cold", "warm", "warm", "hot", "hot"]


def test_watching_is_not_counted(browser: Browser, workers: Workers, url: str) -> None:
    workers.all = [worker(0)]
    cells(browser, url)
    before = len(workers.begun)
    workers.all = [worker(0), worker(1)]
    browser.wait(lambda: len(browser.all(".slot[data-state='idle']")) == 2)
    assert len(workers.begun) == before


def test_buttons_say_what_they_do(browser: Browser, workers: Workers, url: str) -> None:
    """The browser of the tests finds no other name of this machine than 127.0.0.1."""
    workers.all = [worker(0)]
    cells(browser, url)
    texts = ["Send 1 request", "Send 5 at once", "Send 20, 5 at a time"]
    browser.wait(lambda: browser.texts("button") == texts)
    (note,) = browser.all("#note")
    assert "only one host name" in note.text


#: Counts how many requests are under way in the browser at once, and lets all names
#: below "localhost" be found.
COUNTING = """
window.most = 0;
window.sent = 0;
let now = 0;
const real = window.fetch;
window.fetch = async (url, options) => {
  if (!String(url).includes("/slow")) {
    return String(url).startsWith("http") ? new Response("") : real(url, options);
  }
  window.most = Math.max(window.most, now += 1);
  window.sent += 1;
  await new Promise((done) => setTimeout(done));
  now -= 1;
  return Response.json({slot: 0, pid: 4000, seconds: 0});
};
"""


@pytest.mark.parametrize("count", [1, 5, 20])
def test_a_button_sends_so_many_at_once(
    browser: Browser, workers: Workers, url: str, count: int
) -> None:
    workers.all = [worker(0)]
    with browser.before_scripts(COUNTING):
        cells(browser, url)
        (button,) = browser.all(f"button[data-count='{count}']")
        browser.wait(lambda: browser.run("return lanes.length") == 4)
        assert button.text == (
            "Send 1 request" if count == 1 else f"Send {count} at once"
        )
        button.click()
        browser.wait(lambda: browser.text("#status").endswith("by 1 worker."))
        assert browser.run("return [sent, most]") == [count, count]
        assert browser.text("#status").startswith(f"{count} served in ")


def test_a_button_that_sends_a_few_at_a_time(
    browser: Browser, workers: Workers, url: str
) -> None:
    workers.all = [worker(0)]
    refused = COUNTING.replace('new Response("")', "Promise.reject(new Error())")
    with browser.before_scripts(refused):
        cells(browser, url)
        browser.wait(lambda: browser.texts("button")[2] == "Send 20, 5 at a time")
        browser.all("button")[2].click()
        browser.wait(lambda: browser.text("#status").endswith("by 1 worker."))
        assert browser.run("return [sent, most]") == [20, 5]


@pytest.mark.parametrize("width", [320, 360, 1280, 1600])
def test_nothing_overflows(
    browser: Browser, workers: Workers, url: str, width: int
) -> None:
    workers.all = [worker(slot) for slot in range(40)]
    browser.resize(width, 800)
    cells(browser, url)
    assert browser.run("return document.documentElement.scrollWidth") <= width


def test_server_that_is_gone(browser: Browser, workers: Workers, url: str) -> None:
    workers.all = [worker(0)]
    cells(browser, url)
    browser.run("window.fetch = () => Promise.reject(new Error('refused'))")
    browser.wait(
        lambda: browser.text("#trouble") == "The server doesn't answer: refused"
    )
