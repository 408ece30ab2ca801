"""``--cert`` and ``--key``."""

from __future__ import annotations

from pathlib import Path

import pytest

from flask_prefork.settings.certificates import Certificate
from flask_prefork.settings.certificates import pair


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    found = [tmp_path / name for name in ("a", "b")]
    for path in found:
        path.touch()
    return [str(path) for path in found]


def test_none() -> None:
    assert pair([], []) == ()


def test_files(paths: list[str]) -> None:
    first, second = paths
    assert pair([first], [second]) == (Certificate(first, second),)
    assert pair(paths, paths) == (
        Certificate(first, first),
        Certificate(second, second),
    )
    assert pair([first], [second])[0].is_file


@pytest.mark.parametrize("name", ["adhoc", "shop.tls.make_context"])
def test_others(name: str) -> None:
    assert pair([name], []) == (Certificate(name),)
    assert not Certificate(name).is_file


def test_slips(paths: list[str]) -> None:
    slips = [
        ([], paths, "--cert.*must also be specified"),
        (paths, paths[:1], r"\(certificates: 2, keys: 1\)"),
        (paths, [], r"\(certificates: 2, keys: 0\)"),
        (["adhoc"], paths, 'When "--cert" is "adhoc"'),
        (["shop.context"], paths, 'When "--cert" is an SSL context'),
        ([paths[0], "adhoc"], paths, "'adhoc' can't be used beside another"),
    ]
    for names, keys, message in slips:
        with pytest.raises(ValueError, match=message):
            pair(names, keys)
