"""Responses to requests that never reach the app.

The handler sends it for whatever is refused, and for requests that are aborted.
"""

from __future__ import annotations

from http import HTTPStatus

from .fields import date_line


def error_response(status: int, reason: str, server: str, body: bool) -> bytes:
    """A whole response that ends the connection.

    :param reason: One phrase, ours.
    :param server: For the Server field.
    :param body: Whether a body may be sent; not for HEAD.
    """
    phrase = HTTPStatus(status).phrase
    text = f"{status} {phrase}: {reason}\n".encode()
    head = (
        f"HTTP/1.1 {status} {phrase}\r\n{date_line().decode()}Server: {server}\r\n"
        f"Content-Type: text/plain; charset=utf-8\r\nContent-Length: {len(text)}\r\n"
        "Connection: close\r\n\r\n"
    ).encode("latin-1")
    return head + text if body else head
