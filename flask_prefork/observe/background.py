"""The observer's threads: if one of them fails, the process exits."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from ..system.log import logger


def in_background(target: Callable[..., None], *args: object) -> None:
    """Call something that must not fail in a thread that nobody waits for."""
    threading.Thread(target=or_exit, args=(target, *args), daemon=True).start()


def or_exit(target: Callable[..., None], *args: object) -> None:
    """Call what must not fail; if it does, the dispatcher starts another process."""
    try:
        target(*args)
    except BaseException:
        logger.critical("The observer has failed:", exc_info=True)
        os._exit(1)
