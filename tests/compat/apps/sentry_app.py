"""Sentry: a message, a log line and a transaction for each request."""

from __future__ import annotations

import os
import typing as t
import uuid

import sentry_sdk
from flask import Flask

# The address of the service is in SENTRY_DSN. By default the library drops events if
# more than a hundred wait, and those that it can't send within two seconds at the exit.
sentry_sdk.init(
    traces_sample_rate=1.0,
    enable_logs=True,
    shutdown_timeout=20,
    transport_queue_size=10_000,
)
app = Flask(__name__)


@app.get("/")
def index() -> dict[str, t.Any]:
    number = uuid.uuid4().hex
    sentry_sdk.get_current_scope().set_tag("number", f"tag-{number}")
    sentry_sdk.capture_message(f"message-{number}")
    sentry_sdk.logger.info(f"log-{number}")
    return {"id": number, "pid": os.getpid()}


@app.get("/fail/<name>")
def fail(name: str) -> t.NoReturn:
    raise ZeroDivisionError(name)
