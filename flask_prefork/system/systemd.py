"""systemd: sockets that it passes, notifications, and its watchdog.

The dispatcher takes over the listening sockets of a ``.socket`` unit and reports
the server's status (``Type=notify`` and ``notify-reload``, ``WatchdogSec=``).
Both go by environment variables. They are for one process alone, so they are
taken out of the environment before a child could take them for its own.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections import deque
from collections.abc import MutableMapping

from . import socket_modes

#: All that is taken out of the environment: whoever starts a child from the
#: environment as it was at first (``/proc/PID/environ``) leaves these out.
VARIABLES = (
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
)
#: ``SD_LISTEN_FDS_START`` in ``sd_listen_fds(3)``.
_FIRST_FD = 3
#: Longer numbers don't fit into the 64 bits that systemd reads them into.
_MAX_DIGITS = 20
#: States that are kept for a systemd that doesn't read; a reload has two.
_MAX_OWED = 8


def _number(name: str, value: str) -> int:
    if value.isascii() and value.isdigit() and len(value) <= _MAX_DIGITS:
        return int(value)
    raise ValueError(f"{name} is {value!r}, which is no number.")


def listen_fds(
    environ: MutableMapping[str, str] = os.environ, pid: int | None = None
) -> list[int]:
    """The listening sockets that this process was started with.

    By ``sd_listen_fds(3)``: ``LISTEN_FDS`` of them, from descriptor 3 on, if
    ``LISTEN_PID`` is this process. They aren't inherited any further by programs
    that are executed. Whether they are of a use is for :func:`.listener.bind` to
    see (``fd://N``).

    :param environ: The variables; they are removed, whatever comes of it.
    :param pid: Who we are, if not :func:`os.getpid`.
    :return: The descriptors, in the order of the unit's ``ListenStream=``; none
        if there are none for us.
    :raises ValueError: If the variables are wrong, with what is.
    """
    whose = environ.pop("LISTEN_PID", None)
    count = environ.pop("LISTEN_FDS", None)
    environ.pop("LISTEN_FDNAMES", None)
    if whose is None or count is None:
        return []
    # A shell or a supervisor between systemd and us has another pid; what it
    # left open may be anything.
    if _number("LISTEN_PID", whose) != (os.getpid() if pid is None else pid):
        return []
    number = _number("LISTEN_FDS", count)
    if not number:
        raise ValueError("LISTEN_FDS is 0: no socket was passed.")
    fds = []
    # The first that isn't open ends it, however great the number is.
    for fd in range(_FIRST_FD, _FIRST_FD + number):
        try:
            os.set_inheritable(fd, False)
        except OSError as e:
            raise ValueError(
                f"LISTEN_FDS is {number}, but descriptor {fd} can't be used:"
                f" {e.strerror}."
            ) from None
        fds.append(fd)
    return fds


class Notifier:
    """Reports the server's status to systemd, by ``sd_notify(3)``.

    It never waits. What tells of the server's state and can't be sent, because
    systemd is behind with reading, goes ahead of the next message. Where nobody
    listens nothing happens.

    No descriptor is open before the first message, so a process that is forked
    before it inherits none.

    :param environ: Has ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID``;
        they are removed, lest an app's child speaks for the server.
    :param pid: The server's main process, if it is not this one.
    :raises ValueError: If the variables are wrong, with what is.

    :ivar watchdog_interval: How often to call :meth:`watchdog`, in seconds: in half
        of the time that systemd waits (``sd_watchdog_enabled(3)``). ``None`` if it
        doesn't.
    """

    def __init__(
        self, environ: MutableMapping[str, str] = os.environ, pid: int | None = None
    ) -> None:
        place = environ.pop("NOTIFY_SOCKET", None)
        timeout = environ.pop("WATCHDOG_USEC", None)
        watched = environ.pop("WATCHDOG_PID", None)
        self._pid = os.getpid() if pid is None else pid
        self._address = _address(place) if place else None
        self.watchdog_interval: float | None = None
        if self._address is not None and timeout is not None:
            self.watchdog_interval = _interval(timeout, watched, self._pid)
        self._socket: socket.socket | None = None
        self._owed: deque[bytes] = deque(maxlen=_MAX_OWED)
        self._sent_status: str | None = None

    @property
    def listened_to(self) -> bool:
        """Whether systemd wants to be notified."""
        return self._address is not None

    def ready(self, status: str) -> None:
        """The server serves: for the first time, or again after a reload.

        :param status: One line for ``systemctl status``.
        """
        self._state(f"READY=1\nMAINPID={self._pid}\n{_status(status)}")
        self._sent_status = status

    def reloading(self) -> None:
        """A reload begins; :meth:`ready` ends it."""
        # By this systemd tells the reload that it asked for from one before
        # it. time.monotonic is CLOCK_MONOTONIC wherever there is a systemd.
        self._state(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The server goes down."""
        self._state("STOPPING=1")

    def status(self, text: str) -> None:
        """The server's status, in one line; sent only if it has changed."""
        if (
            text != self._sent_status
            and self._settle()
            and self._send(_encode(_status(text)))
        ):
            self._sent_status = text

    def watchdog(self) -> None:
        """The server is alive; for each :attr:`watchdog_interval`."""
        if self._settle() and self.watchdog_interval is not None:
            self._send(b"WATCHDOG=1")

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _state(self, message: str) -> None:
        if self._address is not None:
            self._owed.append(_encode(message))
            self._settle()

    def _settle(self) -> bool:
        """Send what is owed, in its order.

        :return: Whether nothing is left of it.
        """
        while self._owed and self._send(self._owed[0]):
            self._owed.popleft()
        return not self._owed

    def _send(self, message: bytes) -> bool:
        """Send one message.

        :return: Whether it's over with: ``False`` if it may be sent later.
        """
        if self._address is None:
            return True
        try:
            if self._socket is None:
                self._socket = socket_modes.make(
                    socket.AF_UNIX, socket.SOCK_DGRAM, blocking=False
                )
            # Not connected: systemd may have been started anew since.
            self._socket.sendto(message, self._address)
        except OSError as e:
            return e.errno not in (errno.EAGAIN, errno.ENOBUFS, errno.EMFILE)
        return True


def _address(place: str) -> str:
    """The address of ``NOTIFY_SOCKET`` as :mod:`socket` wants it."""
    if len(place) > 1 and place[0] == "/":
        return place
    if len(place) > 1 and place[0] == "@":
        return f"\0{place[1:]}"
    raise ValueError(
        f"NOTIFY_SOCKET is {place!r}; it has to be an absolute path, or @ and a name."
    )


def _interval(timeout: str, watched: str | None, pid: int) -> float | None:
    if watched is not None and _number("WATCHDOG_PID", watched) != pid:
        return None
    microseconds = _number("WATCHDOG_USEC", timeout)
    if not microseconds:
        raise ValueError("WATCHDOG_USEC is 0, which is no time to wait.")
    return microseconds / 2 / 1e6


def _encode(message: str) -> bytes:
    # systemd passes over a message that isn't UTF-8.
    return message.encode(errors="replace")


def _status(text: str) -> str:
    # A line's end would begin another assignment.
    return f"STATUS={' '.join(text.splitlines())}"
