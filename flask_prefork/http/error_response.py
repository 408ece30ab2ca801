"""Responses to requests that never reach the app.

The handler sends it for whatever is refused, and for requests that are aborted.
"""

from __future__ import annotations

from http import HTTPStatus

from .fields import date_line


def error_response(
    status: int, reason: str, server: str, body: bool, retry_after: int = 0
) -> bytes:
    """A whole response that ends the connection.

    :param reason: One phrase, ours.
    :param server: For the Server field; empty if there is to be none.
    :param body: Whether a body may be sent; not for HEAD.
    :param retry_after: Seconds for the Retry-After field (RFC 9110, 10.2.3), if any.
    """
    phrase = HTTPStatus(status).phrase
    text = f"{status} {phrase}: {reason}\n".encode()
    named = f"Server: {server}\r\n" if server else ""
    retry = f"Retry-After: {retry_after}\r\n" if retry_after else ""
    head = (
        f"HTTP/1.1 {status} {phrase}\r\n{date_line().decode()}{named}"
        f"Content-Type: text/plain; charset=utf-8\r\nContent-Length: {len(text)}\r\n"
        f"{retry}Connection: close\r\n\r\n"
    ).encode("latin-1")
    return head + text if body else head
