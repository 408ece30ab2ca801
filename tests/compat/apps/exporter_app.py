"""prometheus-flask-exporter in its mode for several processes."""

from __future__ import annotations

import os
import typing as t
import uuid

from flask import Flask
from prometheus_flask_exporter.multiprocess import GunicornInternalPrometheusMetrics

app = Flask(__name__)
# It is gunicorn's by name only: it adds /metrics to the app.
metrics = GunicornInternalPrometheusMetrics(app)


@app.get("/")
def index() -> dict[str, t.Any]:
    return {"id": uuid.uuid4().hex, "pid": os.getpid()}
