"""Headless Chromium, driven by Selenium: what a user of the page would have."""

from __future__ import annotations

import contextlib
import json
import os
import typing as t
from collections.abc import Callable
from collections.abc import Iterator
from urllib.parse import urlsplit

import programs
import pytest
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import Chrome
from selenium.webdriver import ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

#: Nothing that is waited for takes so long, in seconds, unless it's broken.
DEADLINE = 20.0
ARGUMENTS = (
    "--headless=new",
    # A GPU that is imitated takes more processor time than drawing without one.
    "--disable-gpu",
    # A container's /dev/shm is small.
    "--disable-dev-shm-usage",
    # It is to know this machine alone.
    "--disable-background-networking",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
    "--no-proxy-server",
    "--hide-scrollbars",
)
T = t.TypeVar("T")


class Browser:
    """One tab.

    :param driver: Of Chromium.
    """

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver
        self.run: Callable[..., t.Any] = driver.execute_script

    def reset(self) -> None:
        """Be as new: of a usual size, with light colours and nothing in the logs."""
        self.driver.get("about:blank")
        self.resize(1280, 900)
        self.prefer(color_scheme="light")
        self.errors()
        self.origins()

    def resize(self, width: int, height: int) -> None:
        """Have a viewport of this size, in pixels of CSS."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1}
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride", {**size, "mobile": width < 600}
        )

    def prefer(self, **features: str) -> None:
        """Set what media queries ask for: ``color_scheme="dark"``."""
        named = [
            {"name": f"prefers-{name.replace('_', '-')}", "value": value}
            for name, value in features.items()
        ]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": named})

    @contextlib.contextmanager
    def before_scripts(self, source: str) -> Iterator[None]:
        """Run a script of ours before those of each page that is opened."""
        made = self.driver.execute_cdp_cmd(
            "Page.addScriptToEvaluateOnNewDocument", {"source": source}
        )
        try:
            yield
        finally:
            self.driver.execute_cdp_cmd(
                "Page.removeScriptToEvaluateOnNewDocument", made
            )

    def open(self, url: str) -> None:
        """Open a page, and wait until it shows slots."""
        self.driver.get(url)
        self.wait(lambda: self.all(".cell"))

    def wait(self, condition: Callable[[], T | None]) -> T:
        """Look until a condition holds.

        :return: Its first true result.
        """
        wait = WebDriverWait(
            self.driver, DEADLINE, 0.05, [StaleElementReferenceException]
        )
        return t.cast(T, wait.until(lambda _: condition()))

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        """The texts of the elements, read at one moment, whether seen or not.

        No-break spaces are read as spaces, as Selenium does it.
        """
        found = self.run(
            "return [...document.querySelectorAll(arguments[0])]"
            ".map((node) => node.textContent.replaceAll('\\u00a0', ' '))",
            selector,
        )
        return t.cast("list[str]", found)

    def text(self, selector: str) -> str:
        (text,) = self.texts(selector)
        return text

    def letters(self) -> dict[str, str]:
        """The slots' letters by the headings of their generations."""
        found = self.run(
            "return Object.fromEntries([...document.querySelectorAll('.generation')]"
            ".map((node) => [node.querySelector('h3').textContent,"
            " [...node.querySelectorAll('.cell')]"
            ".map((cell) => cell.dataset.state).join('')]))"
        )
        return t.cast("dict[str, str]", found)

    def call(self, module: str, function: str, *args: t.Any) -> t.Any:
        """Call what a module of the page exports, or take it if it's no function."""
        result = self.driver.execute_async_script(
            "const [module, name, args, done] = arguments;"
            "import(new URL(module, location.origin))"
            ".then((all) => typeof all[name] === 'function'"
            " ? all[name](...args) : all[name])"
            ".then((value) => done({value}), (error) => done({error: String(error)}))",
            module,
            function,
            args,
        )
        assert "error" not in result, result["error"]
        return result["value"]

    def picture(self) -> bytes:
        """The whole page as a PNG image."""
        found = self.driver.execute_cdp_cmd("Page.getLayoutMetrics", {})[
            "cssContentSize"
        ]
        self.resize(int(found["width"]), int(found["height"]))
        # Drawn anew for the new size when the second frame is asked for.
        self.driver.execute_async_script(
            "const [done] = arguments;"
            "requestAnimationFrame(() => requestAnimationFrame(done))"
        )
        return self.driver.get_screenshot_as_png()

    def errors(self) -> list[str]:
        """What the console has complained about since it was asked last."""
        entries = self.driver.get_log("browser")  # type: ignore[no-untyped-call]
        return [entry["message"] for entry in entries]

    def origins(self) -> set[str]:
        """Whom it has sent requests since it was asked last."""
        found = set()
        for entry in self.driver.get_log("performance"):  # type: ignore[no-untyped-call]
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                url = urlsplit(message["params"]["request"]["url"])
                found.add(f"{url.scheme}://{url.netloc}")
        return found


def _find(program: str) -> str:
    path = programs.find(program)
    if path is None:
        pytest.skip(programs.lack(program))
    return path


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Start it. Where there is none, the test is skipped."""
    options = ChromeOptions()
    options.binary_location = _find("chromium")
    # It refuses to run as root without.
    sandbox = () if os.geteuid() else ("--no-sandbox",)
    for argument in (*ARGUMENTS, *sandbox):
        options.add_argument(argument)
    options.set_capability(
        "goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"}
    )
    service = Service(_find("chromedriver"))
    driver = Chrome(options, service)
    driver.set_script_timeout(DEADLINE)
    try:
        yield Browser(driver)
    finally:
        driver.quit()
