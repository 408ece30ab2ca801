from __future__ import annotations

import contextlib
import typing as t

import pytest
from harness import Site


@pytest.fixture
def make_site() -> t.Iterator[t.Callable[..., Site]]:
    """Makes sites that are closed at the end."""
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
