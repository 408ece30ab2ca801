"""prometheus_client in its multiprocess mode."""

from __future__ import annotations

import os
import typing as t
import uuid

from flask import Flask
from flask import Response
from prometheus_client import CollectorRegistry
from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client import Counter
from prometheus_client import generate_latest
from prometheus_client import Histogram
from prometheus_client.multiprocess import MultiProcessCollector

app = Flask(__name__)
orders = Counter("orders", "Orders.")
seconds = Histogram("seconds", "Seconds.")


@app.get("/")
def index() -> dict[str, t.Any]:
    orders.inc()
    seconds.observe(0.2)
    return {"id": uuid.uuid4().hex, "pid": os.getpid()}


@app.get("/metrics")
def metrics() -> Response:
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)
