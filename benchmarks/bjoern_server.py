"""bjoern in several processes: ``python bjoern_server.py PORT PROCESSES APP``.

It has no command of its own. APP is a name in apps.py.
"""

from __future__ import annotations

import os
import signal
import sys

import apps
import bjoern  # type: ignore[import-not-found]


def main() -> None:
    port, processes = map(int, sys.argv[1:3])
    bjoern.listen(getattr(apps, sys.argv[3]), "127.0.0.1", port)
    children = []

    for _ in range(processes):
        pid = os.fork()

        if pid == 0:
            # Blocked for the parent's sigwait(); it ends us by SIGKILL.
            bjoern.run()
            os._exit(0)

        children.append(pid)

    signal.sigwait({signal.SIGTERM})

    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    main()
