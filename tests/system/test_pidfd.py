"""Descriptors of processes, and systems that have or allow none."""

from __future__ import annotations

import errno
import os
import select
import subprocess
import sys

import pytest

from flask_prefork.settings.spec import SettingsError
from flask_prefork.settings.table import resolve
from flask_prefork.system import pidfd

needs_pidfds = pytest.mark.skipif(
    not hasattr(os, "pidfd_open"), reason="no pidfd_open(2) here"
)


@pytest.fixture(params=["missing", errno.ENOSYS, errno.EPERM])
def refused(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no such system call: Python knows none, or the kernel, or a filter."""

    def refuse(pid: int, flags: int = 0) -> int:
        raise OSError(request.param, os.strerror(request.param))

    if request.param == "missing":
        monkeypatch.delattr(os, "pidfd_open", raising=False)
    else:
        monkeypatch.setattr(os, "pidfd_open", refuse, raising=False)


@needs_pidfds
def test_it_is_readable_at_the_end() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE
    ) as process:
        fd = pidfd.open_pidfd(process.pid)
        assert not os.get_inheritable(fd)
        assert not select.select([fd], (), (), 0)[0]
        process.kill()
        assert select.select([fd], (), (), 20)[0]
    os.close(fd)
    assert pidfd.are_available()


@pytest.mark.usefixtures("refused")
def test_there_are_none() -> None:
    assert pidfd.open_pidfd(os.getpid()) == -1
    assert not pidfd.are_available()


@pytest.mark.usefixtures("refused")
def test_a_refork_needs_them() -> None:
    with pytest.raises(SettingsError, match=r"needs pidfd_open\(2\), which this"):
        resolve({"refork_after": 5}, {}, {})
