"""The manual names every setting of gunicorn's, and the common ones of uWSGI's.

``gunicorn-settings.txt`` is made by::

    from gunicorn import __version__
    from gunicorn.config import KNOWN_SETTINGS

    print(f"# The settings of gunicorn {__version__}: each with its options.")
    for one in sorted(KNOWN_SETTINGS, key=lambda one: one.name):
        print(" ".join([one.name, *(one.cli or [])]))
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .pages import PAGES

LIST = (Path(__file__).parent / "gunicorn-settings.txt").read_text("utf-8")
PAGE = PAGES["docs/gunicorn.rst"]
_ROW = re.compile(r"^    \* - (``.+(?:\n        .+)*)\n      - (\S.*)$", re.MULTILINE)


def settings() -> dict[str, list[str]]:
    """gunicorn's settings, each with its options."""
    lines = [line.split() for line in LIST.splitlines() if not line.startswith("#")]
    return {name: options for name, *options in lines}


def rows(text: str) -> list[list[str]]:
    """What the rows of the tables name."""
    found = _ROW.findall(text)
    assert len(found) == text.count("\n    * - ``")
    return [re.findall("``(.+?)``", names) for names, _ in found]


def hooks() -> str:
    """The table of gunicorn's hooks."""
    _, _, rest = PAGES["docs/hooks.rst"].partition(".. _gunicorn-hooks:\n")
    return re.split(r"\n\n\n", rest.partition("list-table::")[2])[0] + "\n"


def test_every_setting_and_hook_is_there_once() -> None:
    named = [row[0] for row in rows(PAGE) + rows(hooks())]
    assert len(named) == len(set(named))
    assert set(named) == set(settings())
    assert len(named) > 100


@pytest.mark.parametrize("row", rows(PAGE), ids=lambda row: row[0])
def test_a_setting_has_its_options(row: list[str]) -> None:
    name, *options = row
    assert options == settings()[name]


def test_the_version_is_told() -> None:
    version = re.match(r"# The settings of gunicorn (\S+):", LIST)
    assert version is not None
    assert f"gunicorn {version[1]} " in PAGE


def test_what_is_referred_to_is_there() -> None:
    for name in re.findall(r"[Ss]ee ``(\w+)``", PAGE):
        assert name in settings()


def test_the_common_settings_of_uwsgi() -> None:
    named = [name for row in rows(PAGES["docs/uwsgi.rst"]) for name in row]
    assert len(named) == len(set(named))
    for name in ("http-socket", "processes", "cheaper", "harakiri", "uid", "stats"):
        assert name in named
