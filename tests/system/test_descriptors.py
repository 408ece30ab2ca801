"""The limit of descriptors, whatever it was."""

from __future__ import annotations

import resource

import pytest

from flask_prefork.system.descriptors import raise_descriptor_limit


def test_the_limit_is_raised_to_the_hard_one(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [(100, 5000)]
    monkeypatch.setattr(resource, "getrlimit", lambda which: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda which, new: limits.append(new))
    assert raise_descriptor_limit() == 5000
    assert limits[-1] == (5000, 5000)


@pytest.mark.parametrize("error", [OSError, ValueError])
def test_a_limit_that_stays(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    tried = []

    def refuse(which: int, new: tuple[int, int]) -> None:
        tried.append(new)
        raise error

    infinite = (100, resource.RLIM_INFINITY)
    monkeypatch.setattr(resource, "getrlimit", lambda which: infinite)
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert raise_descriptor_limit() == 100
    # The kernel has a maximum of its own (fs.nr_open in proc(5)).
    assert tried == [(1_048_576, resource.RLIM_INFINITY)]
