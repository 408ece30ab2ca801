"""Flask-Caching, with a store that all workers share."""

from __future__ import annotations

import os
import typing as t
import uuid

from flask import Flask
from flask_caching import Cache

app = Flask(__name__)
app.config.from_prefixed_env("SHOP")
cache = Cache(app)


@app.get("/")
@cache.cached(timeout=3600)
def index() -> dict[str, t.Any]:
    return {"id": uuid.uuid4().hex}


@app.get("/who")
def who() -> dict[str, t.Any]:
    return {"pid": os.getpid()}
