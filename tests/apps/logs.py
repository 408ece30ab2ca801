"""Configures its logging as Flask's documentation does, and has a thread."""

from __future__ import annotations

import threading
from logging.config import dictConfig

from flask import Flask

dictConfig(
    {
        "version": 1,
        "formatters": {"default": {"format": "%(levelname)s by the app: %(message)s"}},
        "handlers": {
            "wsgi": {
                "class": "logging.StreamHandler",
                "stream": "ext://flask.logging.wsgi_errors_stream",
                "formatter": "default",
            }
        },
        "root": {"level": "INFO", "handlers": ["wsgi"]},
    }
)
app = Flask(__name__)
threading.Thread(target=threading.Event().wait, name="poller", daemon=True).start()


@app.get("/")
def index() -> str:
    app.logger.info("served")
    return ""
