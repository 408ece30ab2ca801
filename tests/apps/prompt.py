"""Stops in a debugger, as somebody who looks for a mistake lets it."""

from __future__ import annotations

from flask import Flask

app = Flask(__name__)


@app.get("/")
def index() -> str:
    value = 6 * 7
    breakpoint()
    return f"it is {value}"


@app.get("/other")
def other() -> str:
    return "no prompt"
