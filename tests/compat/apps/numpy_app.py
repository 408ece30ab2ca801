"""numpy's random generators: the global one, and one that each worker makes.

With ``SHARED`` the second is made while the app is loaded, which the server reports.
"""

from __future__ import annotations

import os
import typing as t

import numpy as np
from flask import Flask

from flask_prefork import Prefork

app = Flask(__name__)
prefork = Prefork(app)
made = {}


def make() -> None:
    made["generator"] = np.random.default_rng()


if os.environ.get("SHARED"):
    make()
else:
    prefork.after_fork(make)


@app.get("/")
def index() -> dict[str, t.Any]:
    return {
        "global": str(np.random.random()),
        "generator": str(made["generator"].random()),
        "pid": os.getpid(),
    }
