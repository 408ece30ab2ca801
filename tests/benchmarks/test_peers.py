"""The other servers' environment."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from peers import Peers


@pytest.fixture(scope="module")
def peers() -> Peers:
    """Of the suite's own environment: nothing is to be installed there."""
    peers = Peers(Path(sys.prefix))
    assert peers.prepare(["flask", "pytest_xprocess"], pytest.fail) == {}
    return peers


@pytest.mark.parametrize(
    "name", ["pytest-xprocess", "pytest_xprocess", "Pytest.Xprocess"]
)
def test_a_name_may_be_written_in_any_way(peers: Peers, name: str) -> None:
    assert peers.version(name) is not None


def test_what_is_not_there_has_no_version(peers: Peers) -> None:
    assert peers.version("no-such-server") is None
