"""Bounds on what a client may send and how long it may take: made of the settings."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds on what a client may send and for how long it may take.

    The head as a whole is bounded too: see :attr:`head`.
    """

    #: Bytes of the request line without its CRLF; 414 above.
    request_line: int = 8190
    #: How many field lines; 431 above.
    fields: int = 100
    #: Bytes of one field line without its CRLF; 431 above.
    field_size: int = 8190
    #: Bytes of the body, decoded; 413 above, 0 is no limit.
    body: int = 0
    #: Seconds for the whole head, from the accept or, on a connection that was
    #: kept alive, from the head's first byte; 408 above.
    header_timeout: float = 10.0
    #: Seconds a connection may wait for its next request; 0 keeps none alive.
    keep_alive: float = 15.0
    #: Bytes per second below which a client is too slow, for bodies in and
    #: responses out, after a grace; 0 is off.
    min_data_rate: float = 240.0
    #: Seconds that a connection which the app has taken over may be silent; 0 is for
    #: ever.
    upgrade_timeout: float = 0.0
    #: Bytes of a request's body that are collected before the app is called, so that no
    #: slow client holds a worker; 0 is none.
    buffer_body: int = 0
    #: Bytes of a response that are taken from the app before its client has taken what
    #: went before, so that none holds a worker; 0 is none.
    buffer_response: int = 0
    #: Seconds a kept-alive connection may hold its worker while others wait.
    slice: float = 0.0005

    @property
    def head(self) -> int:
        """Bytes of a whole head; 431 above."""
        return max(65536, self.request_line + self.field_size)
