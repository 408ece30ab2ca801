"""An event loop that handles a signal for a while runs in the zygote.

``HOOK`` names where: ``before_fork``, ``when_ready`` or ``pool_resized``.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import typing as t

from flask import Flask

from flask_prefork import pool_resized
from flask_prefork import Prefork

app = Flask(__name__)
prefork = Prefork(app)


async def wait() -> None:
    loop = asyncio.get_running_loop()
    # It leaves no wake-up descriptor, and takes the handlers of these.
    for number in (signal.SIGALRM, signal.SIGCHLD):
        loop.add_signal_handler(number, lambda: None)
        await asyncio.sleep(0)
        loop.remove_signal_handler(number)


def run(*args: t.Any, **news: t.Any) -> None:
    asyncio.run(wait())
    print("The loop has run.", file=sys.stderr, flush=True)


if os.environ["HOOK"] == "pool_resized":
    pool_resized.connect(run, app)
else:
    getattr(prefork, os.environ["HOOK"])(run)


@app.get("/")
def index() -> dict[str, int]:
    return {"pid": os.getpid()}
