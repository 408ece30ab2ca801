"""The dispatcher's pulse, as the observer feels it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from flask_prefork.observe import process
from flask_prefork.observe.process import Pulse

needs_proc = pytest.mark.skipif(
    sys.platform != "linux", reason="the system has no proc(5)"
)


def test_a_pulse() -> None:
    pulse = Pulse(os.getpid())
    assert pulse.is_felt()
    pulse.unanswered = process._PATIENCE - 1
    assert pulse.is_felt()
    pulse.unanswered = process._PATIENCE
    assert not pulse.is_felt()


@needs_proc
def test_the_pulse_of_who_is_stopped() -> None:
    with subprocess.Popen(["sleep", "600"]) as child:
        pulse = Pulse(child.pid)
        try:
            assert pulse.is_felt()
            child.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
            assert not pulse.is_felt()
            child.send_signal(signal.SIGCONT)
            os.waitid(os.P_PID, child.pid, os.WCONTINUED)
            assert pulse.is_felt()
        finally:
            child.kill()


def test_who_cant_be_seen_may_live() -> None:
    """``hidepid`` hides processes of others (proc(5)); pings tell too."""
    assert Pulse(2**22 + 1).is_felt()
