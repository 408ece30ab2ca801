"""A scaling preforking server for Flask: ``flask prefork-run``."""

from __future__ import annotations

from .extension import Prefork
from .hooks import current_worker
from .hooks import pool_resized
from .hooks import reloaded
from .hooks import worker_exiting
from .hooks import worker_started

__all__ = [
    "Prefork",
    "current_worker",
    "pool_resized",
    "reloaded",
    "worker_exiting",
    "worker_started",
]
