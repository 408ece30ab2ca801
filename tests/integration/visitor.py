"""A browser without scripts, for apps with forms."""

from __future__ import annotations

import re
import typing as t

import requests

from .gate import DEADLINE

#: The hidden field that protects a form.
_TOKEN = re.compile(r'name="csrf_token"[^>]* value="([^"]+)"')


class Visitor:
    """It has cookies, follows redirects and fills in forms.

    :param url: The server's address.

    :ivar session: Its cookies and connections. Close it.
    :ivar path: Of the page that was seen last.
    :ivar token: Of its forms; empty if it has none.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.session = requests.Session()
        # No proxies, no .netrc.
        self.session.trust_env = False
        self.token = ""
        self.path = ""

    def visit(self, path: str) -> str:
        """Look at a page, and keep its forms' token."""
        return self._see(self.session.get(self.url + path, timeout=DEADLINE))

    def send(self, path: str, **fields: t.Any) -> str:
        """Send the form of the page that was seen last."""
        data = {**fields, "csrf_token": self.token}
        return self._see(self.session.post(self.url + path, data, timeout=DEADLINE))

    def _see(self, response: requests.Response) -> str:
        assert response.status_code == 200, response.text
        token = _TOKEN.search(response.text)
        self.token = token[1] if token else ""
        self.path = response.url.removeprefix(self.url)
        return response.text
