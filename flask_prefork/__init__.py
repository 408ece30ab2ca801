"""A scaling preforking server for Flask: ``flask prefork-run``."""

from __future__ import annotations

import importlib
import typing as t

if t.TYPE_CHECKING:
    from .extension import Prefork
    from .http.handler import PreforkRequestHandler
    from .zygote.hooks import current_worker
    from .zygote.hooks import pool_resized
    from .zygote.hooks import reloaded
    from .zygote.hooks import worker_exited
    from .zygote.hooks import worker_exiting
    from .zygote.hooks import worker_started

__all__ = [
    "Prefork",
    "PreforkRequestHandler",
    "current_worker",
    "pool_resized",
    "reloaded",
    "worker_exited",
    "worker_exiting",
    "worker_started",
]

#: Where they are; all others are in ``zygote/hooks.py``.
_MODULES = {"Prefork": ".extension", "PreforkRequestHandler": ".http.handler"}


def __getattr__(name: str) -> t.Any:
    """Import what apps use when they use it (PEP 562).

    The sender and the TLS proxy, interpreters of their own, use none of it. They would
    have werkzeug for it.

    :raises AttributeError: As usual.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = _MODULES.get(name, ".zygote.hooks")
    value = globals()[name] = getattr(importlib.import_module(module, __name__), name)
    return value
