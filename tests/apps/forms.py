"""Apps in every form that ``--app`` takes; each says which one it is."""

from __future__ import annotations

import os
import sys
import typing as t

from flask import current_app
from flask import Flask


def create(name: str = "create", *, mark: str = "") -> Flask:
    """An app of this name."""
    app = Flask(__name__)

    @app.get("/")
    def index() -> dict[str, t.Any]:
        return {"name": name + mark}

    @app.get("/settings")
    def settings() -> dict[str, t.Any]:
        return {
            "debug": current_app.debug,
            "testing": current_app.testing,
            "shop": {k: v for k, v in os.environ.items() if k.startswith("SHOP_")},
            "arguments": sys.argv[1:],
        }

    @app.get("/error")
    def error() -> t.NoReturn:
        raise LookupError("the catalogue is missing")

    return app


app = create("app")
other = create("other")
# As in many an app's last line; the `flask` command passes over it.
app.run()
