"""The manual as it is read in a browser: its colours, and whom it asks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import typing as t
from html.parser import HTMLParser
from pathlib import Path

import pytest

from .pages import DOCS

if t.TYPE_CHECKING:
    from observe.browser import Browser

#: What of an element a browser loads by itself. A link is only followed when asked to.
LOADED = {
    "audio": ("src",),
    "embed": ("src",),
    "form": ("action",),
    "iframe": ("src",),
    "image": ("href", "xlink:href"),
    "img": ("src", "srcset"),
    "input": ("src",),
    "link": ("href",),
    "object": ("data",),
    "script": ("src",),
    "source": ("src", "srcset"),
    "use": ("href", "xlink:href"),
    "video": ("src", "poster"),
}
_REMOTE = re.compile(r"\s*(?:[a-z][a-z0-9+.-]*:)?//", re.IGNORECASE)
#: The least contrast of text with what is behind it (WCAG 2.2, 1.4.3).
CONTRAST = 4.5
#: Pages that have, together, all that is coloured.
SHOWN = (
    "index",
    "api",
    "benchmarks/index",
    "changes",
    "fork-safety",
    "genindex",
    "hooks",
    "how-it-works",
    "house",
    "options",
    "quickstart",
    "search",
    "status",
    "troubleshooting",
)
#: Text with less contrast than it should have, each once.
_FAINT = r"""
const parse = (text) => (text.match(/[\d.]+/g) || []).map(Number);
const luminance = ([r, g, b]) => [r, g, b]
    .map((c) => c / 255)
    .map((c) => (c <= 0.04045) ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const behind = (node) => {
    for (; node; node = node.parentElement) {
        const color = parse(getComputedStyle(node).backgroundColor);
        if (color.length === 3 || color[3] === 1) return color;
    }
    return [255, 255, 255];
};
const found = {};
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    const text = walker.currentNode.textContent.trim();
    if (!text || !node.getClientRects().length) continue;
    if (node.matches("a.headerlink, script, title, .w")) continue;
    const style = getComputedStyle(node);
    const isDrawn = node.namespaceURI.endsWith("svg");
    const front = luminance(parse(isDrawn ? style.fill : style.color));
    // Only a label is drawn outside of a box.
    const box = isDrawn && !node.matches(".label")
        && parse(getComputedStyle(node.closest("svg").querySelector(".box")).fill);
    const back = luminance(box || behind(node));
    const [low, high] = [front, back].sort((a, b) => a - b);
    const contrast = (high + 0.05) / (low + 0.05);
    const name = `${node.tagName}.${node.getAttribute("class")}`;
    if (contrast < arguments[0]) found[name] = `${contrast.toFixed(1)} ${text}`;
}
return found;
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole manual, made without a network."""
    folder = tmp_path_factory.mktemp("manual")
    # Who asks for anything from elsewhere asks a proxy that isn't there.
    proxies = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
    line = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "-q"]
    subprocess.run(
        [*line, "-d", folder / "doctrees", DOCS, folder / "html"],
        check=True,
        env={**os.environ, **proxies},
    )
    return folder / "html"


class Loads(HTMLParser):
    """What a page makes a browser load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        # Where the page is published, for search engines.
        if tag == "link" and named.get("rel") == "canonical":
            return
        names = [name for name in LOADED.get(tag, ()) if name in named]
        self.found += [named[name] or "" for name in names]


def test_what_a_page_loads_is_found() -> None:
    found = Loads('<a href="//a"><img src="https://b"><link href="//c"><use href="d">')
    assert found.found == ["https://b", "//c", "d"]
    assert [bool(_REMOTE.match(one)) for one in found.found] == [True, True, False]


def test_pages_load_nothing_from_elsewhere(built: Path) -> None:
    pages = [*built.rglob("*.html")]
    assert len(pages) > 30
    for page in pages:
        text = page.read_text("utf-8")
        assert not [one for one in Loads(text).found if _REMOTE.match(one)], page.name
    for sheet in built.rglob("*.css"):
        text = sheet.read_text("utf-8")
        urls = re.findall(r"(?:url\(|@import\s+)[\s\"']*([^\"')\s]+)", text)
        assert not [one for one in urls if _REMOTE.match(one)], sheet.name


def test_scripts_of_pages_ask_nobody(built: Path) -> None:
    """An address in a string of theirs would be one to ask."""
    names = {
        one.partition("?")[0].lstrip("/")
        for page in built.glob("*.html")
        for one in Loads(page.read_text("utf-8")).found
        if ".js" in one
    }
    assert "_static/doctools.js" in names
    for name in names:
        script = (built / name).read_text("utf-8")
        found = re.findall(r"[\"'`](https?://[^\"'`]*)", script)
        # The name of a namespace is no address.
        assert not {*found} - {"http://www.w3.org/2000/svg"}, name


def test_text_is_readable_in_dark(built: Path, browser: Browser) -> None:
    browser.prefer(color_scheme="dark")
    for page in SHOWN:
        browser.driver.get((built / f"{page}.html").as_uri())
        assert browser.run(_FAINT, CONTRAST) == {}, page
        back = browser.run("return getComputedStyle(document.body).backgroundColor")
        assert max(map(int, re.findall(r"\d+", back)[:3])) < 64
    # Fonts are files of the manual, too.
    assert browser.origins() <= {"file://"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pictures_follow_the_scheme(built: Path, browser: Browser, scheme: str) -> None:
    browser.prefer(color_scheme=scheme)
    browser.driver.get((built / "status.html").as_uri())
    shown = browser.run(
        "return [...document.querySelectorAll('img')]"
        ".filter((one) => one.getClientRects().length)"
        ".map((one) => one.src.split('/').pop())"
    )
    assert shown == ["status-page-dark.png" if scheme == "dark" else "status-page.png"]
    browser.driver.get((built / "benchmarks/index.html").as_uri())
    filters = browser.run(
        "return [...document.querySelectorAll('img')]"
        ".map((one) => getComputedStyle(one).filter)"
    )
    assert filters
    assert all(("invert" in one) == (scheme == "dark") for one in filters)
