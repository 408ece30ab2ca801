"""Starts a program while it is loaded, and asks it in requests.

With ``RESET`` each worker has its own, as the manual shows. With ``LATE`` it is started
in a request, and never ended.
"""

from __future__ import annotations

import os
import typing as t
from subprocess import PIPE
from subprocess import Popen

from flask import Flask

from flask_prefork import Prefork

app = Flask(__name__)
prefork = Prefork(app)


class Renderer:
    """Answers each line by itself."""

    def start(self) -> None:
        self.process = Popen(["cat"], stdin=PIPE, stdout=PIPE)

    def stop(self) -> None:
        if self.process.returncode is None:
            self.process.communicate()

    def render(self, name: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(name.encode() + b"\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().decode().strip()


renderer = Renderer()
if "LATE" not in os.environ:
    renderer.start()
    archive = open(__file__, "rb", buffering=0)  # noqa: SIM115
    archive.readline()

if "RESET" in os.environ:
    prefork.before_fork(renderer.stop)
    prefork.before_fork(archive.close)
    prefork.after_fork(renderer.start)
    prefork.before_exit(renderer.stop)


@app.get("/")
def index() -> dict[str, t.Any]:
    if "LATE" in os.environ:
        renderer.start()
    return {"pid": os.getpid(), "helper": renderer.process.pid}


@app.get("/render/<name>")
def render(name: str) -> dict[str, t.Any]:
    return {"rendered": renderer.render(name)}
