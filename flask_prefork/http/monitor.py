"""Who watches requests: what this package calls at their turns.

In a worker that is ``worker/worker.py``, in the observer ``observe/admin_server.py``.
``PreforkServer.watch`` sets it.
"""

from __future__ import annotations

import sys
import typing as t


class Monitor(t.Protocol):
    """How the worker watches its requests, and tells what goes on around it."""

    #: The worker's number, for the environ.
    slot: int
    #: The generation of the app it serves, for the environ.
    generation: int
    #: Set while the app runs: :exc:`~.errors.RequestTimeout` may be raised in it.
    abortable: bool

    def begin(self, method: str, path: str, client: str) -> None:
        """A request's head was read.

        :param path: The request target as it came: anything printable.
        :param client: The peer's address, without a port.
        """

    def set_client(self, client: str) -> None:
        """A proxy has told that the request is of another client than its peer.

        :param client: Its address.
        """

    def add_queue_time(self, seconds: float) -> None:
        """The request has waited for a worker: called only for one that has.

        :param seconds: From its arrival until a worker took its connection.
        """

    def set_timeout(self, seconds: float) -> None:
        """The request's route has a timeout of its own.

        :param seconds: Without progress; 0 is never.
        """

    def ask_for_permit(self, limit: int) -> bool:
        """Ask for a permit of a route's limit, for a request that can't wait parked.

        :param limit: Its number, from 1.
        :return: Whether there is one.
        """

    def refused(self, limit: int) -> None:
        """A request was refused that has waited longer than its route's limit lets it.

        :param limit: Its number, from 1.
        """

    def release_permit(self) -> None:
        """The request is over that had a permit."""

    def progress(self) -> None:
        """Some of its body was read, or of its response sent."""

    def upgrade(self) -> None:
        """The app has taken its connection over: there will be no response, and no
        :exc:`~.errors.RequestTimeout` is to be raised. Any thread may call this and
        :meth:`progress`."""

    def end(self, status: int, sent: int) -> None:
        """Its response is over.

        :param status: The status sent, 0 if nothing could be sent.
        :param sent: Bytes sent, the head's included.
        """

    def about_to_accept(self) -> None:
        """The last byte of a response is about to be sent: unless the next request
        is there at once, the worker is free in a moment."""

    def draining(self) -> bool:
        """Whether the server stops, so that connections must end."""

    def retiring(self) -> bool:
        """Whether the worker is to end, so that connections must that the app has
        taken over."""

    def others_ready(self) -> bool:
        """Whether others with a request wait for a worker, as far as it is known
        without asking."""

    def contended(self) -> bool:
        """Whether others wait for a worker."""

    def spool_room(self) -> int:
        """How many bytes the spools of all connections may still take."""


class NullMonitor:
    """A monitor for use without a pool: a lone worker that never stops."""

    slot = 0
    generation = 0
    abortable = False

    def begin(self, method: str, path: str, client: str) -> None:
        """Do nothing."""

    def set_client(self, client: str) -> None:
        """Do nothing."""

    def add_queue_time(self, seconds: float) -> None:
        """Do nothing."""

    def set_timeout(self, seconds: float) -> None:
        """Do nothing."""

    def ask_for_permit(self, limit: int) -> bool:
        """There is always one."""
        return True

    def refused(self, limit: int) -> None:
        """Do nothing."""

    def release_permit(self) -> None:
        """Do nothing."""

    def progress(self) -> None:
        """Do nothing."""

    def upgrade(self) -> None:
        """Do nothing."""

    def end(self, status: int, sent: int) -> None:
        """Do nothing."""

    def about_to_accept(self) -> None:
        """Do nothing."""

    def draining(self) -> bool:
        """Never."""
        return False

    def retiring(self) -> bool:
        """Never."""
        return False

    def others_ready(self) -> bool:
        """Never."""
        return False

    def contended(self) -> bool:
        """Never."""
        return False

    def spool_room(self) -> int:
        """More than anybody wants."""
        return sys.maxsize
