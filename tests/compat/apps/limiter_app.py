"""Flask-Limiter, with a store that all workers share."""

from __future__ import annotations

import os
import typing as t

from flask import Flask
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address

app = Flask(__name__)
limiter = Limiter(
    get_remote_address, app=app, storage_uri=os.environ["RATELIMIT_STORAGE_URI"]
)


@app.get("/")
def index() -> dict[str, t.Any]:
    return {"pid": os.getpid()}


@app.get("/limited")
@limiter.limit("7/hour")
def limited() -> dict[str, t.Any]:
    return {"pid": os.getpid()}
