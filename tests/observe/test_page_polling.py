"""When the page asks, and what it says when there is no answer.

Its timers fire when a test says so.
"""

from __future__ import annotations

import typing as t
from collections.abc import Iterator
from dataclasses import replace

import pytest

from .browser import Browser
from .shown import Shown
from .snapshots import SAMPLE

#: Replaces the page's timers by a list of those that would fire, of which a test
#: fires one when it wants to.
TIMERS = """
const real = window.setTimeout.bind(window);
window.timers = new Map();
let last = 0;
window.setTimeout = (act, delay) => (window.timers.set(++last, {act, delay}), last);
window.clearTimeout = (number) => window.timers.delete(number);
window.fire = (delay) => {
  for (const [number, timer] of window.timers) {
    if (timer.delay === delay) return window.timers.delete(number) && real(timer.act);
  }
};
"""


@pytest.fixture
def page(browser: Browser, shown: Shown) -> Iterator[Browser]:
    with browser.before_scripts(TIMERS):
        browser.driver.get(shown.url)
        browser.wait(lambda: timers(browser) == [0])
        fire(browser, 0)
        browser.wait(lambda: timers(browser) == [1000])
        yield browser
        shown.answers.set()


def timers(page: Browser) -> list[int]:
    found = page.run("return [...timers.values()].map((timer) => timer.delay)")
    return t.cast("list[int]", found)


def fire(page: Browser, delay: int) -> None:
    assert delay in timers(page)
    page.run("fire(arguments[0])", delay)


def test_once_a_second(page: Browser, shown: Shown) -> None:
    shown.snapshot = replace(SAMPLE, parked=18)
    fire(page, 1000)
    page.wait(lambda: "18" in page.texts(".value"))
    page.wait(lambda: timers(page) == [1000])


def test_not_while_nobody_looks(page: Browser) -> None:
    def hide(hidden: bool) -> None:
        page.run(
            "Object.defineProperty(document, 'hidden',"
            " {value: arguments[0], configurable: true});"
            "document.dispatchEvent(new Event('visibilitychange'))",
            hidden,
        )

    hide(True)
    assert timers(page) == []
    hide(False)
    assert timers(page) == [0]


def test_not_while_it_is_paused(page: Browser) -> None:
    (pause,) = page.all("#pause")
    pause.click()
    assert pause.get_attribute("aria-pressed") == "true"
    assert timers(page) == []
    pause.click()
    assert timers(page) == [0]


def test_no_answer_in_time(page: Browser, shown: Shown) -> None:
    shown.answers.clear()
    fire(page, 1000)
    page.wait(lambda: timers(page) == [3000])
    # Nothing is asked twice at once.
    page.run("document.dispatchEvent(new Event('visibilitychange'))")
    assert timers(page) == [3000]
    fire(page, 3000)
    page.wait(lambda: page.text("#trouble").startswith("No answer since "))
    assert page.driver.title == "✕ flask_prefork"
    assert page.letters()["Generation 2"] == "BBI.S"
    page.wait(lambda: timers(page) == [1000])
    shown.answers.set()
    fire(page, 1000)
    page.wait(lambda: not page.text("#trouble"))
    assert page.run("return document.querySelector('#trouble').hidden")


def test_server_is_gone(page: Browser, shown: Shown) -> None:
    shown.close()
    fire(page, 1000)
    page.wait(lambda: page.text("#trouble").startswith("No answer since "))
    assert page.run("return document.body.classList.contains('stale')")


def test_dispatcher_does_not_answer(page: Browser, shown: Shown) -> None:
    shown.snapshot = replace(SAMPLE, responsive=False, ready=False)
    fire(page, 1000)
    page.wait(lambda: page.text("#trouble").startswith("No answer from the dispatcher"))
    assert page.text("#ready") == "✕ Not ready"
    assert not page.run("return document.body.classList.contains('stale')")


def test_dispatcher_is_gone(page: Browser, shown: Shown) -> None:
    shown.snapshot = replace(SAMPLE, responsive=False, phase="gone")
    fire(page, 1000)
    page.wait(
        lambda: page.text("#trouble").startswith("The dispatcher has been gone since ")
    )


def test_refusal(page: Browser) -> None:
    page.run("window.fetch = async () => new Response('', {status: 503})")
    fire(page, 1000)
    page.wait(lambda: page.text("#trouble").startswith("The server has answered 503"))


def test_answer_of_another_kind(page: Browser) -> None:
    page.run("window.fetch = async () => new Response('{}')")
    fire(page, 1000)
    page.wait(
        lambda: page.text("#trouble").startswith("No answer could be shown since ")
    )
    assert timers(page) == [1000]
    assert any("TypeError" in error for error in page.errors())
