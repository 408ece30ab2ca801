"""Takes the access log to a file of its own, by a logging configuration."""

from __future__ import annotations

import os
from logging.config import dictConfig

from flask import Flask

dictConfig(
    {
        "version": 1,
        "formatters": {"marked": {"format": "access: %(message)s"}},
        "handlers": {
            "file": {
                "class": "logging.handlers.WatchedFileHandler",
                "filename": os.environ["ACCESS_LOG"],
                "formatter": "marked",
            }
        },
        "loggers": {"flask_prefork.access": {"handlers": ["file"], "propagate": False}},
    }
)
app = Flask(__name__)


@app.get("/")
def index() -> str:
    return "hello"
