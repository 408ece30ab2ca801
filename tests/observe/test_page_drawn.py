"""What the page draws of a snapshot, in a browser."""

from __future__ import annotations

from dataclasses import replace

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from flask_prefork.observe.snapshot import GenerationView
from flask_prefork.observe.snapshot import Quantiles
from flask_prefork.observe.snapshot import Totals
from flask_prefork.observe.snapshot import WorkerView
from flask_prefork.observe.text import render

from .browser import Browser
from .shown import Shown
from .snapshots import crowd
from .snapshots import SAMPLE

EVIL = "/<img src=x onerror=\"document.title='evil'\"><script>evil()</script>"

#: The worst contrast of a text with what is behind it (WCAG 2), and the text.
CONTRAST = """
const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
const luminance = ([r, g, b]) => [r, g, b]
  .map((c) => c / 255)
  .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
function ground(node) {
  for (; node; node = node.parentElement) {
    const found = channels(getComputedStyle(node).backgroundColor);
    if (found.length === 3 || found[3] === 1) return found;
  }
  return [255, 255, 255];
}
function contrast(node) {
  const style = getComputedStyle(node);
  const ink = node instanceof SVGElement ? style.fill : style.color;
  const shades = [channels(ink), ground(node)].map(luminance).sort((a, b) => b - a);
  return (shades[0] + 0.05) / (shades[1] + 0.05);
}
return [...document.querySelectorAll('body *')]
  .filter((node) => [...node.childNodes].some((c) => c.nodeType === 3 && c.data.trim()))
  .filter((node) => node.checkVisibility() && !node.closest('noscript'))
  .map((node) => [contrast(node), node.textContent])
  .sort((a, b) => a[0] - b[0])[0];
"""


def test_slots_of_each_generation(browser: Browser, shown: Shown) -> None:
    browser.open(shown.url)
    assert browser.letters() == {"Generation 2": "BBI.S", "Generation 1": "R"}
    assert browser.texts(".generation .pill") == ["current", "retiring"]
    # Not by colour alone.
    assert browser.texts(".letter") == [*"BBI·S", "R"]
    # The worker of generation 1 serves a request, and retires.
    assert legend(browser) == [
        "B 2 busy",
        "I 1 idle",
        "S 1 starting",
        "R 1 retiring",
        "· 1 free",
    ]
    doing = browser.texts(".generation:first-child .doing")
    assert doing == ["GET /cart", "POST /pay?id=7", "idle", "free", "starting"]


def legend(browser: Browser) -> list[str]:
    """The entries of the legend of the states, each as a line of its words."""
    entries = browser.run(
        "return [...document.querySelectorAll('#states > li')].map((item) =>"
        " [...item.children].map((node) => node.classList.contains('parts')"
        " ? [...node.children].map((part) => part.textContent).join(' ')"
        " : node.textContent))"
    )
    return [" ".join(filter(None, words)) for words in entries]


@pytest.mark.parametrize(
    ("current", "old"),
    [("BBBI", "R"), ("IIII", "RRRRRR"), ("BOIS", "RK"), ("..I", "R"), ("OOO", "")],
)
def test_tile_legend_chart_and_terminal_count_the_same(
    browser: Browser, shown: Shown, current: str, old: str
) -> None:
    def generation(number: int, letters: str) -> GenerationView:
        workers = tuple(
            WorkerView(
                slot,
                letter,
                4000,
                60.0,
                1,
                1,
                busy_for=2.0 if letter in "BRK" else None,
            )
            for slot, letter in enumerate(letters)
            if letter != "."
        )
        return GenerationView(
            number, "retiring" if number == 1 else "current", letters, workers
        )

    generations = tuple(
        generation(n, letters) for n, letters in ((2, current), (1, old))
    )
    shown.snapshot = replace(SAMPLE, generations=generations)
    browser.open(shown.url)
    busy = sum(letter in "BO" for letter in current + old)
    retiring = old.count("R")
    tiles = dict(zip(browser.texts(".tile h3"), browser.texts(".value"), strict=True))
    assert tiles["Busy workers"] == str(busy)
    assert browser.texts("#chart-pool .legend b")[0] == str(busy)
    counts = {text.split()[2]: int(text.split()[1]) for text in legend(browser)}
    terminal = render(shown.snapshot)
    for word, count in counts.items():
        assert word == "free" or f"{count} {word}" in terminal
    note = notes(browser)["Busy workers"]
    assert (f"{retiring} retiring" in note) == bool(retiring)
    assert counts.get("retiring", 0) == retiring
    assert counts.pop("busy", 0) == busy
    assert sum(counts.values()) + busy == len(current + old)
    # What has a colour in the picture has it in the legend, and nothing else.
    colours = (
        "return [...new Set([...document.querySelectorAll(arguments[0])]"
        ".map((node) => node.dataset.state))].sort()"
    )
    assert browser.run(colours, "#states .key") == browser.run(colours, ".cell")


def test_requests_the_longest_first(browser: Browser, shown: Shown) -> None:
    browser.open(shown.url)
    assert browser.texts("#requests tbody th") == ["1.1", "2.1", "2.0"]
    cells = browser.texts("#requests tbody tr:nth-child(2) td")
    assert cells == ["12.5 s", "POST", "/pay?id=7", "4 s", "310", "8 MiB", "3021"]
    assert browser.text("#requests-note") == "3 requests, longest first"
    assert not browser.all("#requests-all")[0].is_displayed()


def test_list_of_requests_says_that_it_is_cut(browser: Browser, shown: Shown) -> None:
    workers = tuple(
        WorkerView(slot, "B", 4000, 60.0, 1, 1, "GET", "/", busy_for=slot + 1.0)
        for slot in range(25)
    )
    generations = (GenerationView(2, "current", "B" * 25, workers),)
    shown.snapshot = replace(SAMPLE, generations=generations)
    browser.open(shown.url)
    rows = "#requests tbody th"
    longest = [f"2.{slot}" for slot in reversed(range(25))]
    assert browser.texts(rows) == longest[:10]
    assert browser.text("#requests-note") == "10 of 25 requests, longest first"
    (button,) = browser.all("#requests-all")
    assert button.text == "Show all 25"
    assert button.get_attribute("aria-expanded") == "false"
    # It does without the next answer, and by the keyboard too.
    shown.answers.clear()
    button.send_keys(Keys.ENTER)
    assert browser.texts(rows) == longest
    assert browser.text("#requests-note") == "25 requests, longest first"
    assert button.get_attribute("aria-expanded") == "true"
    # All of them are seen, without a box to scroll in.
    box = "const box = document.querySelector('#requests-scroll');"
    needed, there = browser.run(f"{box} return [box.scrollHeight, box.clientHeight]")
    assert needed <= there
    assert button.text == "Show 10"
    button.send_keys(Keys.SPACE)
    assert browser.texts(rows) == longest[:10]
    shown.answers.set()


def test_head(browser: Browser, shown: Shown) -> None:
    browser.open(shown.url)
    assert browser.text("#ready") == "✓ Ready"
    assert browser.text("#phase") == "serving"
    facts = "".join(browser.texts("#facts"))
    assert "2 h 3 min" in facts and "3003" in facts and "0.1.0" in facts
    assert all(address in facts for address in SAMPLE.addresses)
    tiles = dict(zip(browser.texts(".tile h3"), browser.texts(".value"), strict=True))
    assert tiles["Busy workers"] == "2"
    assert tiles["Waiting for a worker"] == str(SAMPLE.waiting)
    assert tiles["Parked connections"] == "17"
    assert tiles["Saturated"] == "no"
    assert tiles["Median latency"] == "1.95 ms"
    assert tiles["Median queue time"] == "0 s"
    notes = browser.texts(".tile .note")
    assert "p90 6.77 ms, p99 1.05 s, last 1 min" in notes
    assert "p90 452 µs, p99 26.2 ms, last 1 min" in notes
    # From 99,880 a second ago to 100,000.
    assert tiles["Requests per second"] == "120"
    assert browser.driver.title == "2/5 busy · flask_prefork"


def notes(browser: Browser) -> dict[str, str]:
    """What is written below the numbers of the tiles."""
    return dict(
        zip(browser.texts(".tile h3"), browser.texts(".tile .note"), strict=True)
    )


def test_tails_are_left_out_when_there_was_no_request(
    browser: Browser, shown: Shown
) -> None:
    shown.snapshot = replace(SAMPLE, latency=Quantiles(10.2))
    browser.open(shown.url)
    assert notes(browser)["Median latency"] == "no request, last 10 s"
    assert notes(browser)["Median queue time"].startswith("p90 452 µs, p99 26.2 ms")


@pytest.mark.parametrize("saturated", [True, False])
def test_a_server_that_ends_is_not_told_to_be_saturated_or_not(
    browser: Browser, shown: Shown, saturated: bool
) -> None:
    def value() -> str:
        values = dict(
            zip(browser.texts(".tile h3"), browser.texts(".value"), strict=True)
        )
        return values["Saturated"]

    shown.snapshot = replace(SAMPLE, saturated=saturated)
    browser.open(shown.url)
    assert value() == ("yes" if saturated else "no")
    for phase in ("draining", "closing", "leaving", "stopped", "gone"):
        shown.snapshot = replace(shown.snapshot, phase=phase)
        said = browser.call("/head.js", "PHASES")[phase]
        browser.wait(lambda said=said: browser.text("#phase") == said)
        assert value() == "–"
        assert not browser.all(".tile.alarm")


def test_bars_of_cells_are_explained(browser: Browser, shown: Shown) -> None:
    browser.open(shown.url)
    bars = browser.text("#bars")
    assert bars.startswith("Bar in a cell: time since its request began, full at 1 min")
    shares = browser.run(
        "return [...document.querySelectorAll('.cell')]"
        ".map((cell) => Number(cell.style.getPropertyValue('--share')))"
    )
    # The last is of a request of 95 s.
    assert shares[-1] == 1 and 0 < shares[0] < shares[1] < 1 and shares[2] == 0


def test_charts_are_filled_at_once(browser: Browser, shown: Shown) -> None:
    browser.open(shown.url)
    lines = "return [...document.querySelectorAll('.chart > svg .line')]"
    assert browser.run(f"{lines}.map((line) => line.classList[1])") == [
        *("busy", "workers", "waiting", "rate", "p50", "p90", "p99", "queued")
    ]
    shapes = browser.run(f"{lines}.map((line) => line.getAttribute('d'))")
    assert all(shape.count("L") >= 2 and "NaN" not in shape for shape in shapes)
    assert browser.texts("#chart-pool .legend b") == ["2", "5"]
    assert "now" in browser.texts("#chart-waiting .tick")


@pytest.mark.parametrize(
    ("age", "first"),
    [(7, "−1 min"), (60, "−1 min"), (61, "−2 min"), (280, "−5 min"), (999, "−5 min")],
)
def test_charts_span_what_there_is(
    browser: Browser, shown: Shown, age: float, first: str
) -> None:
    history = (replace(SAMPLE.history[0], age=age), SAMPLE.history[-1])
    shown.snapshot = replace(SAMPLE, history=history)
    browser.open(shown.url)
    assert first in browser.texts("#chart-rate .tick")


def test_cursor_tells_of_an_earlier_moment(browser: Browser, shown: Shown) -> None:
    browser.open(shown.url)
    (chart,) = browser.all("#chart-pool > svg")
    chart.send_keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert browser.texts("#chart-pool .legend b") == ["3", "5"]
    assert browser.texts("#chart-waiting .legend b") == [
        str(SAMPLE.history[-1].waiting)
    ]
    assert browser.texts(".chart .note") == ["10 s ago"] * 4
    chart.send_keys(Keys.TAB)
    assert browser.text("#chart-waiting .note") == "connections"


def test_totals(browser: Browser, shown: Shown) -> None:
    browser.open(shown.url)
    # Nobody was answered with 1xx.
    assert browser.texts("#totals .legend b") == ["2", "99,000", "500", "398", "100"]
    assert len(browser.all("#totals .stack span")) == 5
    assert browser.texts("#totals .groups section:first-child dt") == [
        *("timeout", "signal")
    ]


def test_server_that_has_only_begun(browser: Browser, shown: Shown) -> None:
    shown.snapshot = replace(
        SAMPLE,
        uptime=0.1,
        phase="loading",
        ready=False,
        addresses=(),
        generations=(GenerationView(1, "next", "", ()),),
        max_workers=0,
        queue=0,
        queue_limit=0,
        totals=Totals(),
        history=(),
        latency=Quantiles(),
        queue_time=Quantiles(),
    )
    browser.driver.get(shown.url)
    browser.wait(lambda: browser.all(".generation"))
    assert browser.text("#ready") == "✕ Not ready"
    assert browser.text(".generation .note") == "The app is loading."
    assert browser.text("#requests-note") == "None at this moment."
    # Legends have what there is.
    assert not browser.texts("#states li")
    assert not browser.texts("#chart-latency .legend li")
    assert browser.text("#chart-latency .note") == "nothing yet"
    assert not browser.texts("#totals .legend li")
    assert browser.text("#totals .classes > .note") == "No requests yet."
    assert not browser.errors()


def test_upgraded_connections(browser: Browser, shown: Shown) -> None:
    worker = replace(SAMPLE.workers[0], upgraded=True)
    generation = GenerationView(2, "current", "B", (worker,))
    shown.snapshot = replace(SAMPLE, generations=(generation,))
    browser.driver.get(shown.url)
    browser.wait(lambda: browser.all(".cell"))
    (cell,) = browser.all(".cell")
    assert cell.get_attribute("aria-label") == "Slot 0: busy, upgraded, GET /cart"
    assert browser.text("#requests-note") == "1 request, longest first; 1 upgraded"
    assert not browser.errors()


def test_what_clients_send_is_text(browser: Browser, shown: Shown) -> None:
    worker = replace(SAMPLE.workers[0], method=EVIL, target=EVIL)
    generation = GenerationView(2, "current", "B", (worker,))
    totals = replace(SAMPLE.totals, deaths={EVIL: 1})
    shown.snapshot = replace(
        SAMPLE,
        generations=(generation,),
        totals=totals,
        version=EVIL,
        phase=EVIL,
        addresses=(EVIL,),
    )
    browser.open(shown.url)
    browser.run("document.querySelector('.cell').focus()")
    assert browser.texts("#requests tbody td")[1:3] == [EVIL, EVIL]
    assert browser.text("#detail-request") == f"{EVIL} {EVIL}"
    assert browser.text("#phase") == EVIL
    assert [img.get_attribute("alt") for img in browser.all("img")] == [""]
    assert len(browser.all("script")) == 1
    assert browser.driver.title == "1/1 busy · flask_prefork"
    assert not browser.errors()


def test_details_by_keyboard(browser: Browser, shown: Shown) -> None:
    browser.open(shown.url)
    (detail,) = browser.all("#detail")
    # From the role of the generation to its cells.
    (role, _) = browser.all(".generation .pill .term")
    role.send_keys(Keys.TAB)
    assert browser.text("#detail-title") == "Worker 2.0: busy"
    keys = ActionChains(browser.driver)
    keys.send_keys(Keys.ARROW_RIGHT).perform()
    assert browser.text("#detail-request") == "POST /pay?id=7"
    assert "3021" in browser.text("#detail-facts")
    assert "8 MiB" in browser.text("#detail-facts")
    keys.send_keys(Keys.END).perform()
    assert browser.text("#detail-title") == "Worker 2.4: starting"
    assert detail.is_displayed()
    keys.send_keys(Keys.ESCAPE).perform()
    assert not detail.is_displayed()
    # One stop for each generation's cells; the next is another's role.
    keys.send_keys(Keys.TAB, Keys.TAB).perform()
    assert browser.text("#detail-title") == "Worker 1.1: retiring"


def test_details_by_pointer(browser: Browser, shown: Shown) -> None:
    browser.open(shown.url)
    (detail,) = browser.all("#detail")
    pointer = ActionChains(browser.driver)
    pointer.move_to_element(browser.all(".cell")[1]).perform()
    browser.wait(detail.is_displayed)
    assert browser.text("#detail-title") == "Worker 2.1: busy"
    # It stays while it is read, and goes with its worker.
    pointer.move_to_element(detail).perform()
    assert detail.is_displayed()
    shown.snapshot = replace(SAMPLE, generations=SAMPLE.generations[1:])
    browser.wait(lambda: not detail.is_displayed())


def test_details_by_a_tap_on_a_row(browser: Browser, shown: Shown) -> None:
    target = "/long" * 30
    worker = replace(SAMPLE.workers[1], target=target)
    others = SAMPLE.generations[0].workers
    shown.snapshot = replace(
        SAMPLE,
        generations=(
            replace(SAMPLE.generations[0], workers=(others[0], worker, *others[2:])),
        ),
    )
    browser.resize(400, 900)
    browser.open(shown.url)
    (detail,) = browser.all("#detail")
    # Any part of it.
    for cell in browser.all("#requests tbody tr:first-child > *")[:4]:
        cell.click()
        assert detail.is_displayed()
        assert browser.text("#detail-title") == "Worker 2.1: busy"
        browser.all("#totals-title")[0].click()
        assert not detail.is_displayed()
    browser.all("#requests tbody tr:first-child td")[1].click()
    assert browser.text("#detail-request") == f"POST {target}"
    facts = dict(
        zip(
            browser.texts("#detail-facts dt"),
            browser.texts("#detail-facts dd"),
            strict=True,
        )
    )
    assert facts["No progress for"] == "4 s" and facts["Requests served"] == "310"
    assert facts["Memory (PSS)"] == "8 MiB" and facts["PID"] == "3021"
    left, right = browser.run(
        "const box = document.querySelector('#detail').getBoundingClientRect();"
        "return [box.left, box.right]"
    )
    assert left >= 0 and right <= 400


def test_details_of_rows_by_keyboard(browser: Browser, shown: Shown) -> None:
    browser.open(shown.url)
    (detail,) = browser.all("#detail")
    # All rows are one stop, after the box that they scroll in.
    browser.run("document.querySelector('#requests-scroll').focus()")
    keys = ActionChains(browser.driver)
    keys.send_keys(Keys.TAB, Keys.TAB).perform()
    assert browser.text("#detail-title") == "Worker 1.1: retiring"
    keys.send_keys(Keys.ARROW_DOWN).perform()
    assert browser.text("#detail-request") == "POST /pay?id=7"
    focused = browser.driver.switch_to.active_element
    assert focused.get_attribute("aria-describedby") == "detail"
    keys.send_keys(Keys.ESCAPE).perform()
    assert not detail.is_displayed()
    keys.send_keys(Keys.ENTER).perform()
    assert detail.is_displayed()


def test_focus_stays_on_a_row_that_moves(browser: Browser, shown: Shown) -> None:
    browser.open(shown.url)
    rows = "#requests tbody th"
    assert browser.texts(rows) == ["1.1", "2.1", "2.0"]
    browser.all("#requests tbody tr")[1].click()
    # The worker of the first row serves another request now.
    old = SAMPLE.generations[1]
    fresh = replace(old, workers=(replace(old.workers[0], busy_for=0.1),))
    shown.snapshot = replace(SAMPLE, generations=(SAMPLE.generations[0], fresh))
    browser.wait(lambda: browser.texts(rows) == ["2.1", "2.0", "1.1"])
    assert browser.driver.switch_to.active_element.text == "2.1"
    assert browser.text("#detail-title") == "Worker 2.1: busy"
    assert browser.all("#detail")[0].is_displayed()


def test_focus_stays_when_the_pool_changes(browser: Browser, shown: Shown) -> None:
    browser.open(shown.url)
    browser.run("document.querySelectorAll('.generation:last-child .cell')[0].focus()")
    shown.snapshot = replace(SAMPLE, generations=SAMPLE.generations[1:])
    browser.wait(lambda: browser.letters() == {"Generation 1": "R"})
    assert browser.text("#detail-title") == "Worker 1.1: retiring"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("count", [7, 200])
def test_texts_can_be_read(
    browser: Browser, shown: Shown, scheme: str, count: int
) -> None:
    shown.snapshot = crowd(count)
    browser.prefer(color_scheme=scheme, reduced_motion="reduce")
    browser.open(shown.url)
    browser.run("document.querySelector('.cell').focus()")
    contrast, text = browser.run(CONTRAST)
    assert contrast >= 4.5, text


def test_every_line_of_a_chart_is_seen(browser: Browser, shown: Shown) -> None:
    """Each has a colour, and those of a chart can be told apart."""
    browser.open(shown.url)
    charts = browser.run(
        "return [...document.querySelectorAll('.chart')].map((chart) =>"
        " [chart.querySelectorAll('.legend li').length,"
        " [...chart.querySelectorAll('.line')].map((line) => {"
        " const style = getComputedStyle(line);"
        " return [style.stroke, style.strokeDasharray]; })])"
    )
    assert len(charts) == 4
    for series, lines in charts:
        assert all(stroke != "none" for stroke, _ in lines)
        assert len({tuple(line) for line in lines}) == series


def test_dark_is_dark(browser: Browser, shown: Shown) -> None:
    browser.open(shown.url)
    ground = "return getComputedStyle(document.body).backgroundColor"
    light = browser.run(ground)
    browser.prefer(color_scheme="dark")
    assert sum(rgb(browser.run(ground))) < 150 < 600 < sum(rgb(light))


def rgb(colour: str) -> list[int]:
    return [int(part) for part in colour.removeprefix("rgb(").rstrip(")").split(",")]
