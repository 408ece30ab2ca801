"""Restores the mode of the terminal in which the server was started.

A worker at a debugger's prompt (``breakpoint()`` in a view) has put it into a mode
without echo (``readline(3)``). If that worker is killed, as by a Ctrl-C at the
prompt, nobody puts it back, and the user's shell would go on with it. So the
command looks at it before it forks, and the dispatcher's end is to restore it.
"""

from __future__ import annotations

import os
import termios
import typing as t


class Terminal:
    """The modes of a terminal, as they are now.

    :param fd: What may be a terminal, standard input by default.
    """

    def __init__(self, fd: int = 0) -> None:
        self._fd = fd
        self._modes: list[t.Any] | None = None
        try:
            self._modes = termios.tcgetattr(fd)
        except termios.error:
            pass  # it is none

    def restore(self) -> None:
        """Put it back into these modes, if it is ours to change."""
        if self._modes is None:
            return
        try:
            # In the background we would be stopped for trying (termios(3)).
            if os.tcgetpgrp(self._fd) == os.getpgrp():
                # At once: a terminal that is paused must keep nobody waiting.
                termios.tcsetattr(self._fd, termios.TCSANOW, self._modes)
        except (OSError, termios.error):
            pass  # it was hung up
