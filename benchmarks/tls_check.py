"""Check what TLS clients cost others: ``python benchmarks/tls_check.py``.

Our own server only, four workers. While many TLS clients are silent or slow, one quick
client after the other asks for a small page, and the longest wait is shown beside the
most that it may be. Then 16 kept-alive clients ask two workers, and connections are
counted that end without a word. Then the TLS proxy is killed, and its certificate
replaced, under load. The status is 1 if anything is not as it should be.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import typing as t
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path

import psutil
from certificate import untrusting
from process import free_port
from process import Running

PAUSE = 0.02
"""Seconds between two quick clients."""

MOST = 0.5
"""Seconds that a quick client may wait."""

SECONDS = 6.0
"""How long a part of the check takes."""

_POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nhalf"
_GET = b"GET /pieces?count=20 HTTP/1.1\r\nHost: a\r\n\r\n"


class Site(t.NamedTuple):
    """A server that is checked."""

    port: int
    folder: Path
    running: Running | None = None

    @property
    def process(self) -> psutil.Popen:
        """The dispatcher."""
        assert self.running is not None
        return self.running.process

    def connect(self) -> socket.socket:
        """A connection without TLS yet."""
        return socket.create_connection(("127.0.0.1", self.port), 20)

    def open(self, data: bytes = b"") -> ssl.SSLSocket:
        """A connection after its handshake."""
        sock = untrusting().wrap_socket(self.connect())
        sock.sendall(data)
        return sock

    def client(self) -> http.client.HTTPSConnection:
        """A client that keeps its connection."""
        return http.client.HTTPSConnection(
            "127.0.0.1", self.port, timeout=20, context=untrusting()
        )


def make_certificate(folder: Path) -> None:
    """Make a certificate and its key, in place of those that are there."""
    words = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    new = ["-keyout", str(folder / "new.key"), "-out", str(folder / "new.crt")]
    subprocess.run([*words.split(), *new], check=True, capture_output=True)
    for kind in ("key", "crt"):
        os.replace(folder / f"new.{kind}", folder / f"shop.{kind}")


@contextlib.contextmanager
def serving(workers: int) -> Iterator[Site]:
    """A server with so many workers."""
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        make_certificate(folder)
        command = [sys.executable, "-m", "flask", "--app", "apps:slow", "prefork-run"]
        command += ["--port", str(port), "--no-access-log", "--keep-alive", "60"]
        command += ["--min-idle", str(workers), "--max-workers", str(workers)]
        command += [
            "--cert",
            str(folder / "shop.crt"),
            "--key",
            str(folder / "shop.key"),
        ]

        def get(port: int, path: str, timeout: float) -> bytes:
            with contextlib.closing(Site(port, folder).client()) as client:
                client.request("GET", f"/{path}")
                return client.getresponse().read()

        with Running(command, port, quiet=True, get=get) as running:
            yield Site(port, folder, running)


class Quick:
    """One request after the other, each on a connection of its own."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self.waits: list[float] = []
        self.failed: list[str] = []
        self.certificates: set[bytes | None] = set()

    def ask(self) -> None:
        """Send one, and wait for its response."""
        began = time.monotonic()
        try:
            with contextlib.closing(self._site.client()) as client:
                client.request("GET", "/")
                response = client.getresponse()
                response.read()
                if response.status != 200:
                    self.failed.append(f"status {response.status}")
        except (OSError, http.client.HTTPException) as e:
            self.failed.append(f"{type(e).__name__}: {e}")
        self.waits.append(time.monotonic() - began)
        time.sleep(PAUSE)

    def ask_for(self, seconds: float) -> None:
        """Go on for so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.ask()


def slow() -> bool:
    """Silent and slow clients, on four workers."""
    with serving(4) as site, contextlib.ExitStack() as stack:
        for _ in range(60):
            stack.enter_context(site.connect())
            stack.enter_context(half := site.connect())
            half.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01")
        for _ in range(40):
            stack.enter_context(site.open(_POST))
        for _ in range(50):
            stack.enter_context(site.open(_GET))
        quick = Quick(site)
        quick.ask_for(SECONDS)
        return tell(
            "slow",
            max(quick.waits) < MOST and not quick.failed,
            f"{len(quick.waits)} quick clients, the longest wait"
            f" {max(quick.waits):.3f} s (under {MOST:g} s), {len(quick.failed)} failed",
        )


def kept_alive() -> bool:
    """16 kept-alive clients on two workers."""
    with serving(2) as site:
        load = Load(site, 16)
        load.run_for(SECONDS)
        return tell(
            "kept-alive",
            not load.lost and load.answered > 100,
            f"{load.answered:,} responses, {load.closed} connections closed with a"
            f" word, {load.lost} without",
        )


class Load:
    """Kept-alive clients, each in a thread."""

    def __init__(self, site: Site, clients: int) -> None:
        self._site = site
        self._end = threading.Event()
        self.answered = self.closed = self.lost = 0
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        client = self._site.client()
        while not self._end.is_set():
            try:
                client.request("GET", "/")
                response = client.getresponse()
                response.read()
                if response.status != 200:
                    raise http.client.HTTPException(f"status {response.status}")
            except (OSError, http.client.HTTPException):
                self.lost += 1
                client.close()
                continue
            self.answered += 1
            if response.getheader("Connection", "").lower() == "close":
                self.closed += 1
                client.close()
        client.close()

    def run_for(
        self, seconds: float, meanwhile: Callable[[], None] | None = None
    ) -> None:
        """Let them ask for so long.

        :param meanwhile: Called in the middle.
        """
        time.sleep(seconds / 2)
        if meanwhile is not None:
            meanwhile()
        time.sleep(seconds / 2)
        self._end.set()
        for thread in self._threads:
            thread.join()


def killed() -> bool:
    """The TLS proxy is killed, and another one hangs, under load."""
    with serving(2) as site:
        load = Load(site, 8)
        began: list[float] = []

        def kill() -> None:
            (proxy,) = proxies(site)
            proxy.send_signal(signal.SIGKILL)
            began.append(time.monotonic())
            Quick(site).ask()
            while True:
                quick = Quick(site)
                quick.ask()
                if not quick.failed:
                    break
            began.append(time.monotonic())

        load.run_for(SECONDS, kill)
        return tell(
            "killed",
            load.lost <= 3 * 8,
            f"served again after {began[1] - began[0]:.2f} s, {load.answered:,}"
            f" responses, {load.lost} requests lost",
        )


def replaced() -> bool:
    """The certificate is replaced under load."""
    with serving(2) as site:
        before = site.open().getpeercert(binary_form=True)
        load = Load(site, 8)

        def replace() -> None:
            make_certificate(site.folder)
            site.process.send_signal(signal.SIGHUP)
            end = time.monotonic() + 20
            while site.open().getpeercert(binary_form=True) == before:
                if time.monotonic() > end:
                    return
                time.sleep(PAUSE)

        load.run_for(SECONDS, replace)
        after = site.open().getpeercert(binary_form=True)
        return tell(
            "replaced",
            before != after and not load.lost,
            f"{load.answered:,} responses, {load.lost} requests lost",
        )


def proxies(site: Site) -> list[psutil.Process]:
    """The TLS proxies of a server."""
    found = psutil.Process(site.process.pid).children()
    lines = [(one, " ".join(one.cmdline())) for one in found]
    # By its module, or the title that it has instead (setproctitle).
    return [one for one, line in lines if "tlsproxy" in line or "TLS proxy" in line]


def tell(name: str, passed: bool, text: str) -> bool:
    """Say what came of a check."""
    print(f"{name:<11} {'OK ' if passed else 'BAD'}  {text}", flush=True)
    return passed


CHECKS = {
    "slow": slow,
    "kept-alive": kept_alive,
    "killed": killed,
    "replaced": replaced,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checks", nargs="*", choices=[[], *CHECKS], default=[])
    options = parser.parse_args()
    return int(not all([CHECKS[name]() for name in options.checks or CHECKS]))


if __name__ == "__main__":
    sys.exit(main())
