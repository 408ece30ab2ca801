"""An app that takes uploads."""

from __future__ import annotations

import hashlib

from flask import Flask
from flask import request

from flask_prefork import Prefork

app = Flask(__name__)
prefork = Prefork(app)


@app.get("/")
def index() -> str:
    return "index"


@app.post("/")
def collected() -> str:
    """Says which body it was."""
    return hashlib.sha256(request.get_data()).hexdigest()


@app.post("/streamed")
@prefork.stream_body
def streamed() -> tuple[str, int]:
    """Refuses the body without reading it."""
    return "unwanted", 403
