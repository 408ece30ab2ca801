"""``current_worker``."""

from __future__ import annotations

import os

import pytest

from flask_prefork import current_worker
from flask_prefork.zygote import hooks


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is a worker for the length of a test at most."""
    monkeypatch.setattr(hooks, "_worker", None)


def test_outside_of_a_worker() -> None:
    assert not current_worker
    with pytest.raises(RuntimeError, match="outside of a worker"):
        _ = current_worker.slot


def test_inside_of_a_worker() -> None:
    served = 0
    hooks.become(2, 3, lambda: served)
    assert current_worker
    assert (current_worker.slot, current_worker.generation) == (2, 3)
    assert current_worker.pid == os.getpid()
    assert current_worker.served == 0
    served = 5
    assert current_worker.served == 5


def test_another_process_is_not_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    hooks.become(0, 1, lambda: 0)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert not current_worker
