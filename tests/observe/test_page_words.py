"""The page's words: which have an explanation, and how one gets at it."""

from __future__ import annotations

import re
from dataclasses import replace

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from flask_prefork.observe import page

from .browser import Browser
from .shown import Shown
from .snapshots import SAMPLE


def words(browser: Browser) -> list[str]:
    """The keys of all words on the page that can be explained."""
    found: list[str] = browser.run(
        "return [...document.querySelectorAll('.term')]"
        ".map((node) => node.dataset.word)"
    )
    return found


def test_every_word_with_an_underline_has_a_meaning(
    browser: Browser, shown: Shown
) -> None:
    browser.open(shown.url)
    meanings = browser.call("/words.js", "MEANINGS")
    assert set(words(browser)) <= set(meanings)
    assert all(meaning.endswith(".") for meaning in meanings.values())


def test_every_meaning_is_of_a_word() -> None:
    """None is left over; those of totals have the group before them."""
    scripts = {name for _, name in page._FILES.values()} - {"words.js"}
    text = ""
    for path, (_, name) in page._FILES.items():
        if name in scripts:
            found = page.get(path)
            assert found is not None
            text += found[1].decode()
    found = page.get("/words.js")
    assert found is not None
    keys = re.findall(
        r'^  "?([^":]+(?:: [^"]+)?)"?: "', found[1].decode(), re.MULTILINE
    )
    assert len(keys) > 60
    for key in keys:
        group, _, term = key.partition(": ")
        assert f'"{group}"' in text, key
        # Whole, or made of a name that /status.json has.
        word = term.split(" ")[0]
        assert not term or word in text or group == "Unexpected exits", key


def test_tables_and_tiles_say_the_words_of_the_field(
    browser: Browser, shown: Shown
) -> None:
    browser.open(shown.url)
    assert browser.texts("#requests thead th") == [
        "Worker",
        "Duration",
        "Method",
        "Target",
        "No progress for",
        "Requests served",
        "Memory (PSS)",
        "PID",
    ]
    explained = set(words(browser))
    assert set(browser.texts(".tile h3")) <= explained
    assert set(browser.texts("#requests thead th")) - explained == {"Method"}
    assert set(browser.texts("#states .term")) <= explained
    browser.run("document.querySelector('.cell').focus()")
    assert "No progress for" in browser.texts("#detail-facts dt")
    shown.snapshot = replace(SAMPLE, phase="leaving")
    browser.wait(lambda: browser.text("#phase").startswith("shutting down"))


def test_meaning_by_keyboard(browser: Browser, shown: Shown) -> None:
    browser.open(shown.url)
    (box,) = browser.all("#meaning")
    assert not box.is_displayed()
    (pause,) = browser.all("#pause")
    pause.send_keys(Keys.TAB)
    focused = browser.driver.switch_to.active_element
    assert focused.text == "Busy workers"
    assert box.is_displayed() and box.text.startswith("Workers that have a connection")
    # A screen reader says it too.
    assert focused.get_attribute("aria-describedby") == "meaning"
    keys = ActionChains(browser.driver)
    keys.send_keys(Keys.ARROW_RIGHT).perform()
    assert box.text.startswith("Connections whose request is there")
    keys.send_keys(Keys.END).perform()
    assert box.text.startswith("Whether more workers are wanted")
    keys.send_keys(Keys.ESCAPE).perform()
    assert not box.is_displayed()
    # All tiles are one stop.
    keys.send_keys(Keys.TAB).perform()
    assert browser.driver.switch_to.active_element.text == "busy"
    assert box.is_displayed()


def test_every_group_is_one_stop_of_the_tab_key(browser: Browser, shown: Shown) -> None:
    browser.open(shown.url)
    stops = browser.run(
        "return [...document.querySelectorAll('[data-terms], .cells, tbody')]"
        ".map((group) =>"
        " [...group.querySelectorAll('.term, .cell, .more')]"
        " .filter((node) => node.tabIndex === 0).length)"
    )
    assert stops and set(stops) == {1}


def test_meaning_by_pointer(browser: Browser, shown: Shown) -> None:
    browser.open(shown.url)
    (box,) = browser.all("#meaning")
    (word,) = browser.all("[data-word='No progress for']")
    pointer = ActionChains(browser.driver)
    pointer.move_to_element(word).perform()
    browser.wait(box.is_displayed)
    assert "--timeout" in box.text
    # It stays while it is read, also on the way there.
    pointer.move_to_element(box).perform()
    assert box.is_displayed()
    (elsewhere,) = browser.all("footer")
    pointer.move_to_element(elsewhere).perform()
    browser.wait(lambda: not box.is_displayed())


def test_meaning_by_a_tap(browser: Browser, shown: Shown) -> None:
    browser.resize(360, 800)
    browser.open(shown.url)
    (box,) = browser.all("#meaning")
    (word,) = browser.all("[data-word='Parked connections']")
    word.click()
    assert box.is_displayed()
    left, right = browser.run(
        "const box = document.querySelector('#meaning').getBoundingClientRect();"
        "return [box.left, box.right]"
    )
    assert left >= 0 and right <= 360
    # The next answer neither hides it nor moves it away.
    before = browser.text("#updated")
    browser.wait(lambda: browser.text("#updated") != before)
    assert box.is_displayed()
