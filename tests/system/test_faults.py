"""Faults on demand."""

from __future__ import annotations

import errno
import os
import signal

import pytest

from flask_prefork.system import faults


def test_nothing_happens_unless_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(faults.VARIABLE, raising=False)
    assert faults.at("worker-ordered") is None
    monkeypatch.setenv(faults.VARIABLE, "zygote-fork:fail:1")
    assert faults.at("worker-ordered") is None


def test_every_third_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(faults.VARIABLE, "worker-ordered:kill:1 zygote-fork:fail:3")
    fault = faults.at("zygote-fork")
    assert fault is not None
    for _ in range(2):
        fault()
        fault()
        with pytest.raises(OSError) as caught:
            fault()
        assert caught.value.errno == errno.EAGAIN


@pytest.mark.parametrize(
    ("deed", "number"), [("kill", signal.SIGKILL), ("stop", signal.SIGSTOP)]
)
def test_deeds(
    monkeypatch: pytest.MonkeyPatch, deed: str, number: signal.Signals
) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    monkeypatch.setenv(faults.VARIABLE, f"here:{deed}:1")
    fault = faults.at("here")
    assert fault is not None
    fault()
    assert sent == [(os.getpid(), number)]
