"""The dispatcher's heartbeat, as the observer feels it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from flask_prefork.observe import process
from flask_prefork.observe.process import Heartbeat

needs_proc = pytest.mark.skipif(
    sys.platform != "linux", reason="the system has no proc(5)"
)


def test_a_pulse() -> None:
    heartbeat = Heartbeat(os.getpid())
    assert heartbeat.is_responsive()
    heartbeat.unanswered = process._MAX_UNANSWERED - 1
    assert heartbeat.is_responsive()
    heartbeat.unanswered = process._MAX_UNANSWERED
    assert not heartbeat.is_responsive()


@needs_proc
def test_the_pulse_of_who_is_stopped() -> None:
    with subprocess.Popen(["sleep", "600"]) as child:
        heartbeat = Heartbeat(child.pid)
        try:
            assert heartbeat.is_responsive()
            child.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
            assert not heartbeat.is_responsive()
            child.send_signal(signal.SIGCONT)
            os.waitid(os.P_PID, child.pid, os.WCONTINUED)
            assert heartbeat.is_responsive()
        finally:
            child.kill()


def test_who_cant_be_seen_may_live() -> None:
    """``hidepid`` hides processes of others (proc(5)); pings tell too."""
    assert Heartbeat(2**22 + 1).is_responsive()
