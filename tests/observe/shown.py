"""The observer's site in a thread, with a snapshot that a test chooses."""

from __future__ import annotations

import threading
import typing as t
from socketserver import ThreadingMixIn
from types import TracebackType
from wsgiref.simple_server import make_server
from wsgiref.simple_server import WSGIRequestHandler
from wsgiref.simple_server import WSGIServer

from flask_prefork.observe import json
from flask_prefork.observe.site import Site
from flask_prefork.observe.snapshot import Snapshot

from .snapshots import SAMPLE


class _Server(ThreadingMixIn, WSGIServer):
    # Chromium keeps spare connections, on which it never asks anything.
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: t.Any) -> None:
        pass


class Shown:
    """Serves while it is entered.

    :ivar snapshot: What ``/status.json`` tells.
    :ivar answers: Cleared, it makes ``/status.json`` wait.
    :ivar url: The page's.
    """

    def __init__(self, snapshot: Snapshot = SAMPLE) -> None:
        self.snapshot = snapshot
        self.answers = threading.Event()
        self.answers.set()
        site = Site(self._look, None, True)
        self._server = make_server("127.0.0.1", 0, site, _Server, _Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.01])

    @staticmethod
    def render() -> bytes:
        """What it tells at first."""
        return json.render(SAMPLE)

    def _look(self) -> Snapshot:
        self.answers.wait()
        return self.snapshot

    def __enter__(self) -> Shown:
        self._thread.start()
        return self

    def close(self) -> None:
        """End, as a server that was killed."""
        self.answers.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._thread.is_alive():
            self.close()
