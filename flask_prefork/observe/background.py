"""The observer's threads: if one of them fails, the process exits."""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Callable


def in_background(target: Callable[..., None], *args: object) -> None:
    """Call something that must not fail in a thread that nobody waits for."""
    threading.Thread(target=or_exit, args=(target, *args), daemon=True).start()


def or_exit(target: Callable[..., None], *args: object) -> None:
    """Call what must not fail; if it does, the dispatcher starts another process."""
    try:
        target(*args)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
