"""How pytest-xprocess starts a server, and knows that it has started."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import typing as t
from collections.abc import Mapping
from collections.abc import Sequence

from xprocess import ProcessStarter
from xprocess import XProcess

from ..observe.client import ask
from ..observe.client import AskError
from ..settings.addresses import Address

#: Seconds between two looks at something that no event tells.
STEP = 0.02


class PreforkStarter(ProcessStarter):  # type: ignore[misc]
    """Starts ``flask --app APP prefork-run`` for ``xprocess.ensure``.

    It waits until the status says that the server is ready, not for a line of the log.
    Derive from it, and set what is different:

    :cvar app: In the form that ``flask --app`` takes.
    :cvar options: More options of ``prefork-run``.
    :cvar variables: More environment variables. Variables of this process that begin
        with ``FLASK_``, and ``WEB_CONCURRENCY``, are not passed on.
    :cvar directory: Its working directory; pytest's root by default.
    :cvar command: The command line before ``prefork-run``, if it isn't ``flask``'s.
    :cvar timeout: Seconds to wait until it is ready.
    """

    app: str = ""
    options: Sequence[str] = ()
    variables: Mapping[str, str] = {}
    directory: str | os.PathLike[str] | None = None
    command: Sequence[str] | None = None
    #: More arguments for :class:`subprocess.Popen`.
    more: Mapping[str, t.Any] = {}
    timeout = 60
    terminate_on_interrupt = True

    def __init__(self, control_dir: t.Any, process: XProcess) -> None:
        super().__init__(control_dir, process)
        # Not in the control directory: a unix socket's path has to be short.
        folder = tempfile.mkdtemp(prefix="prefork-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        self.admin = Address("", 0, f"{folder}/admin")
        own = {k: v for k, v in os.environ.items() if not k.startswith("FLASK_")}
        own.pop("WEB_CONCURRENCY", None)
        self.env = {**own, **self.variables}
        directory = self.directory or process.config.rootpath
        self.popen_kwargs = {"cwd": str(directory), **self.more}

    @property
    def args(self) -> list[str]:
        """The command line."""
        command = self.command
        if command is None:
            command = [sys.executable, "-m", "flask", "--app", self.app, "prefork-run"]
        return [*command, "--port", "0", "--admin", str(self.admin), *self.options]

    def startup_check(self) -> bool:
        """Whether a request would be served."""
        try:
            return ask(self.admin).snapshot.ready
        except AskError:
            return False

    def wait_callback(self) -> bool:
        """Wait until it is ready.

        :raises RuntimeError: If it ends instead.
        :raises TimeoutError: If it is neither in time.
        """
        popen: subprocess.Popen[bytes] = self.process.resources[-1].popen
        end = time.monotonic() + self.timeout
        while not self.startup_check():
            if time.monotonic() > end:
                raise TimeoutError(f"not ready within {self.timeout} s: {self.args}")
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = popen.wait(STEP)
                raise RuntimeError(f"it ended with status {status}: {self.args}")
        return True
