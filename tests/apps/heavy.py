"""Requests that leave their worker with more memory, as a cache or a leak does."""

from __future__ import annotations

import gc
import resource
import typing as t

from flask import request
from held import app
from held import hold
from held import whoami

kept: list[bytes] = []
leaked: list[bytes] = []


@app.get("/keep/<int:size>")
def keep(size: int) -> dict[str, t.Any]:
    """Keep so many MiB from now on, every byte of them written; hold, if asked to."""
    # Never two of them at once.
    kept.clear()
    kept.append(b"x" * (size * 2**20))
    return hold() if "gate" in request.args else whoami()


@app.get("/leak/<int:size>")
def leak(size: int) -> dict[str, t.Any]:
    """Keep so many MiB besides what is kept."""
    leaked.append(b"x" * (size * 2**20))
    return whoami()


@app.post("/take")
def take() -> dict[str, t.Any]:
    """Take in a body, and say how many pages this process had to be given so far."""
    size = len(request.get_data())
    return {"size": size, "faults": resource.getrusage(resource.RUSAGE_SELF).ru_minflt}


@app.get("/frozen")
def frozen() -> dict[str, int]:
    """Say how many objects the garbage collector doesn't look at."""
    return {"count": gc.get_freeze_count()}
