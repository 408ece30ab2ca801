"""A scaling preforking server for Flask: ``flask prefork-run``."""

from __future__ import annotations

from .extension import Prefork
from .zygote.hooks import current_worker
from .zygote.hooks import pool_resized
from .zygote.hooks import reloaded
from .zygote.hooks import worker_exiting
from .zygote.hooks import worker_started

__all__ = [
    "Prefork",
    "current_worker",
    "pool_resized",
    "reloaded",
    "worker_exiting",
    "worker_started",
]
