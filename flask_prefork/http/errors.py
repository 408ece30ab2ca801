"""Exceptions for faults of clients, with the status of the response.

Whoever reads from the client raises these; the handler answers them, or the app does.
"""

from __future__ import annotations

from werkzeug.exceptions import BadRequest
from werkzeug.exceptions import HTTPException


class Refused(Exception):
    """A request that can't be served as HTTP; the connection ends with it.

    :param status: What it is answered with, for example 400.
    :param reason: One phrase for the response's body. It never quotes the client.
    :param retry_after: Seconds after which it may be served, if that is known.
    """

    def __init__(self, status: int, reason: str, retry_after: int = 0) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason
        self.retry_after = retry_after


class BodyRefused(HTTPException):
    """A request's body can't be read to its end.

    An :class:`~werkzeug.exceptions.HTTPException`, so that Flask answers it with its
    status, where any other error is a 500 of the app. Werkzeug's ``LimitedStream``
    raises a 400 of its own for whatever :class:`OSError` it gets, so it gets this one,
    which is none.

    :param status: The answer if the app gives none: 400 for bad framing, 408 for
        a slow client, 413 for too much.
    :param reason: One phrase that never quotes the client.
    """

    retry_after = 0

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.code = self.status = status
        self.reason = reason


class BodyError(BodyRefused, OSError):
    """The same; ``wsgi.input`` raises it.

    An :class:`OSError` too, because that is what frameworks expect of a stream.
    """


class ClientDisconnected(BadRequest, ConnectionError):
    """The client left, or was dropped because it doesn't take its response.

    Its own class, so that a :exc:`ConnectionError` of the app, say for its
    database, is never taken for one of the client. To Flask it is a 400, as
    Werkzeug's own of this name.
    """


class TakenOver(ConnectionError):
    """There is no client to write to: the app has taken the connection over.

    A :exc:`ConnectionError`, as what libraries raise who do that.
    """


class RequestTimeout(BaseException):
    """The app makes no progress, and its request is aborted.

    Raised in the app, wherever it is; not an :class:`Exception`, so that the app
    doesn't take it for one of its own.
    """
