"""Marks in a trace of system calls where the app begins and ends, and waits between."""

from __future__ import annotations

import os

from flask import Flask

app = Flask(__name__)

# FIFOs, which are opened before the fork. For reading too, so that nobody waits
# (fifo(7)).
_entered = os.open(os.environ["GATED_ENTERED"], os.O_RDWR)
_released = os.open(os.environ["GATED_RELEASED"], os.O_RDWR)


@app.get("/")
def index() -> str:
    os.write(_entered, b"E")
    os.read(_released, 1)
    return "done"
