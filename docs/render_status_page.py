"""Take the screenshots of the status page: ``status-page.png`` and the dark one.

``status-page-top.png`` and its dark one are their upper parts, for README and the
manual's first page.

Run as ``python docs/render_status_page.py``, with the ``test`` and ``dev`` extras and
Chromium installed. It serves the example app to a changing number of clients for some
minutes, so that the charts aren't empty, and takes the screenshots during a reload.
"""

from __future__ import annotations

import argparse
import http.client
import io
import math
import pathlib
import random
import signal
import subprocess
import sys
import threading
import time

HERE = pathlib.Path(__file__).parent
TESTS = HERE.parent / "tests"
sys.path[:0] = [str(TESTS / "observe"), str(TESTS)]

from browser import chromium  # noqa: E402
from PIL import Image  # noqa: E402

CLIENTS = 60
#: Seconds between two peaks of the load.
WAVE = 110
#: The last thing of the page that is in its upper part.
TOP = "section[aria-labelledby=workers-title]"
#: Pixels below it.
MARGIN = 8
#: What is asked for, and how often.
PATHS = {
    "/whoami": 60,
    "/workers": 40,
    "/": 20,
    "/slow?seconds=0.02": 30,
    "/slow?seconds=0.15": 14,
    "/slow?seconds=1.2": 3,
    "/slow?seconds=6": 0.4,
    "/stream": 1,
    "/basket/42": 2,
    "/error": 0.2,
}


def share(elapsed: float) -> float:
    """How many of the clients are there after some seconds, from 0 to 1."""
    return 0.45 - 0.4 * math.cos(elapsed / WAVE * math.tau) + 0.1 * math.sin(elapsed)


def client(number: int, port: int, begun: float, end: threading.Event) -> None:
    """Ask one thing after the other, while this many clients are there."""
    while not end.wait(random.expovariate(12)):
        if number >= share(time.monotonic() - begun) * CLIENTS:
            continue
        (path,) = random.choices(list(PATHS), list(PATHS.values()))
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", path, headers={"Connection": "close"})
        connection.getresponse().read()
        connection.close()


def wait_for(admin: int, server: subprocess.Popen[bytes]) -> None:
    """Wait until the server serves.

    :raises RuntimeError: It has ended.
    """
    while server.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", admin, timeout=60)
        try:
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.1)
    raise RuntimeError("the server has ended; are its ports in use?")


def take(url: str, server: subprocess.Popen[bytes]) -> None:
    """Reload the server, and take the pictures in the middle of it."""
    with chromium() as browser:
        browser.reset()
        browser.resize(1100, 900)
        browser.open(url)
        server.send_signal(signal.SIGHUP)
        browser.wait(lambda: "retiring" in browser.texts(".generation .pill"))
        pictures = {}
        bottoms = {}
        # One right after the other: the reload doesn't take long.
        for scheme, name in (("light", "status-page"), ("dark", "status-page-dark")):
            browser.prefer(color_scheme=scheme, reduced_motion="reduce")
            pictures[name] = browser.picture()
            # The page is as high as its content for a picture, so it isn't scrolled.
            bottoms[name] = browser.run(
                "const box = document.querySelector(arguments[0]);"
                "return box.getBoundingClientRect().bottom",
                TOP,
            )
    images = {}
    for name, picture in pictures.items():
        whole = Image.open(io.BytesIO(picture)).convert("RGB")
        top = whole.crop((0, 0, whole.width, round(bottoms[name]) + MARGIN))
        images |= {name: whole, name.replace("page", "page-top"): top}
    for name, whole in images.items():
        # As many colours as a byte can tell: a third of the size.
        small = whole.quantize(256, dither=Image.Dither.NONE)
        small.save(HERE / f"{name}.png", optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=285, help="of load")
    parser.add_argument("--port", type=int, default=5000)
    parser.add_argument("--admin", type=int, default=9000)
    options = parser.parse_args()
    line = (
        f"{sys.executable} -m flask --app example_app prefork-run --no-access-log"
        f" --port {options.port} --admin {options.admin} --min-idle 3 --max-workers 16"
    )
    server = subprocess.Popen(line.split(), cwd=HERE.parent)
    end = threading.Event()
    clients: list[threading.Thread] = []
    try:
        wait_for(options.admin, server)
        begun = time.monotonic()
        for number in range(CLIENTS):
            args = (number, options.port, begun, end)
            clients.append(threading.Thread(target=client, args=args))
            clients[-1].start()
        time.sleep(options.seconds)
        take(f"http://127.0.0.1:{options.admin}/", server)
    finally:
        end.set()
        for thread in clients:
            thread.join()
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
