"""An app whose source changes, and that does what files tell it while it loads."""

from __future__ import annotations

import contextlib
from pathlib import Path

from integration.conftest import Serve
from integration.gate import Gate
from integration.server import Server

_SOURCE = """\
import json
import os
import socket
import threading
from pathlib import Path

import dependency
from flask import Flask
from flask import request

HERE = Path(__file__).parent
gate = HERE / "gate"
if gate.exists():
    with socket.create_connection(("127.0.0.1", int(gate.read_text()))) as sock:
        sock.sendall(json.dumps({{"pid": os.getpid()}}).encode() + b"\\n")
        sock.recv(1)

app = Flask(__name__)
app.config["PREFORK_MIN_IDLE"] = {min_idle}

{more}

@app.get("/")
def index():
    return {{
        "slot": request.environ["flask_prefork.slot"],
        "generation": request.environ["flask_prefork.generation"],
        "pid": os.getpid(),
        "version": {version},
        "dependency": dependency.VERSION,
    }}
"""


class Source:
    """The app's files.

    :param directory: Where they are.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.app = directory / "reloaded.py"
        self.dependency = directory / "dependency.py"
        self.set(1)

    def set(self, version: int, min_idle: int = 2, more: str = "") -> None:
        """Write the app and its dependency anew.

        :param version: What both tell of themselves.
        :param min_idle: What the app's configuration says.
        :param more: More of the app's code.
        """
        self.dependency.write_text(f"VERSION = {version}\n")
        source = _SOURCE.format(version=version, min_idle=min_idle, more=more)
        self.app.write_text(source)

    def hold(self, gate: Gate) -> None:
        """Let the app wait at the gate from now on when it is loaded."""
        (self.directory / "gate").write_text(str(gate.port))

    def go_on(self) -> None:
        """Let it no longer wait."""
        with contextlib.suppress(FileNotFoundError):
            (self.directory / "gate").unlink()

    def serve(self, serve: Serve, *args: str, host: str | None = None) -> Server:
        """Start a server for it."""
        # A changed file may be of the same size and second as before.
        env = {"PYTHONDONTWRITEBYTECODE": "1"}
        return serve(str(self.app), *args, host=host, env=env)
