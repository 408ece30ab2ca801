"""Take the screenshots of the status page, ``status-page.png`` and the dark one.

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
sys.path.insert(0, str(HERE.parent / "tests" / "observe"))

from browser import chromium  # noqa: E402
from PIL import Image  # noqa: E402

CLIENTS = 60
#: Seconds between two peaks of the load.
WAVE = 110
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


def take(url: str, server: subprocess.Popen[bytes]) -> None:
    """Reload the server, and take the pictures in the middle of it."""
    with chromium() as browser:
        browser.reset()
        browser.resize(1100, 900)
        browser.open(url)
        server.send_signal(signal.SIGHUP)
        browser.wait(lambda: "retiring" in browser.texts(".generation .pill"))
        for scheme, name in (("light", "status-page"), ("dark", "status-page-dark")):
            browser.prefer(color_scheme=scheme, reduced_motion="reduce")
            picture = Image.open(io.BytesIO(browser.picture()))
            # As many colours as a byte can tell: a third of the size.
            small = picture.convert("RGB").quantize(256, dither=Image.Dither.NONE)
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
        time.sleep(2)
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
