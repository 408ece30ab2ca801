"""``--reload``: a process that watches the app's files.

The zygote forks it when the app is loaded, so that it knows the app's modules,
and runs werkzeug's own reloader loop in it. It ends with :data:`CHANGED` when
a file has changed; the zygote reports that to the dispatcher, which loads a new
generation.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import typing as t

from werkzeug._reloader import reloader_loops

from ..ipc import spawn
from ..system.log import logger

#: The exit status of werkzeug's loops when a file has changed.
CHANGED = 3


def watch(
    extra_files: t.Iterable[str] | None,
    exclude_patterns: t.Iterable[str] | None,
    ready: t.Callable[[], None],
) -> None:
    """Watch until a file changes.

    :param extra_files: Watch these too.
    :param exclude_patterns: Don't watch what these :mod:`fnmatch` patterns match.
    :param ready: Called when all files are known.
    :raises SystemExit: With :data:`CHANGED`, when a file has changed.
    """
    kind: t.Any = reloader_loops["auto"]

    class LoggingLoop(kind):  # type: ignore[misc]
        """Says in the server's log what has changed."""

        def trigger_reload(self, filename: str | bytes) -> t.NoReturn:
            """Called by the loop when a file has changed."""
            path = os.path.abspath(os.fsdecode(filename))
            logger.info("Detected change in %r, reloading", path)
            sys.exit(CHANGED)

    loop = LoggingLoop(extra_files=extra_files, exclude_patterns=exclude_patterns)
    with loop:
        ready()
        loop.run()


def run(
    watching: t.Callable[[t.Callable[[], None]], None], channel: socket.socket
) -> t.NoReturn:
    """Be the watching process, in a fresh fork of the zygote.

    :param watching: :func:`watch`, but for its last argument.
    :param channel: Its other end is the zygote's; a byte reports that all files
        are known, and its end that the zygote has exited.
    """

    def hold() -> None:
        try:
            channel.recv(1)
        finally:
            os._exit(0)

    # On Linux the kernel does that, though this process be stopped.
    spawn.kill_on_hang_up(channel)
    threading.Thread(target=hold, daemon=True).start()
    status = 1
    try:
        watching(lambda: channel.sendall(b"."))
    except SystemExit as e:
        status = e.code if isinstance(e.code, int) else 1
    finally:
        sys.stderr.flush()
        os._exit(status)
