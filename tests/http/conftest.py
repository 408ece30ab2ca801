from __future__ import annotations

import contextlib
import typing as t

import pytest
from harness import Line
from harness import Site

from flask_prefork.http import fields

DATE = b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"


@pytest.fixture
def make_site(monkeypatch: pytest.MonkeyPatch) -> t.Iterator[t.Callable[..., Site]]:
    """Makes sites that are closed at the end. Their responses are all of the same
    second, so that they can be compared."""
    monkeypatch.setattr(fields, "date_line", lambda: DATE)
    with contextlib.ExitStack() as stack:

        def make(*args: t.Any, **options: t.Any) -> Site:
            site = Site(*args, **options)
            stack.callback(site.close)
            return site

        yield make


@pytest.fixture
def site(make_site: t.Callable[..., Site]) -> Site:
    """A site with the app that says which path it was."""
    return make_site()


@pytest.fixture
def line(site: Site) -> Line:
    """A connection to that site, to be served step by step."""
    return Line(site)
