"""What the system tells of a process's memory."""

from __future__ import annotations

import builtins
import mmap
import os
import typing as t
from pathlib import Path

import pytest

from flask_prefork.system import smaps
from flask_prefork.system.smaps import AnonymousMemory
from flask_prefork.system.smaps import Smaps

from .forked import in_child

ROLLUP = """\
55abbcae2000-7ffd088ec000 ---p 00000000 00:00 0                          [rollup]
Rss:              128264 kB
Pss:               63020 kB
Pss_Dirty:         62866 kB
Shared_Clean:       3584 kB
Shared_Dirty:     123628 kB
Private_Clean:        10 kB
Private_Dirty:      1052 kB
Swap:                900 kB
SwapPss:             700 kB
"""


def test_what_is_added_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "smaps_rollup"
    file.write_text(ROLLUP)
    asked = []

    def read(path: str, mode: str) -> t.Any:
        asked.append(path)
        return builtins.open(file, mode)

    monkeypatch.setattr(smaps, "open", read, raising=False)
    own = 10 + 1052 + 700
    found = Smaps(63020 * 1024, own * 1024, (own + 123628) * 1024)
    assert smaps.read() == found
    smaps.read(17)
    assert asked == ["/proc/self/smaps_rollup", "/proc/17/smaps_rollup"]
    # Of one that is about to end.
    file.write_text(ROLLUP.partition("\n")[0] + "\n")
    assert smaps.read() is None


def test_nobody() -> None:
    assert smaps.read(2**22 + 1) is None


def test_what_is_shared_is_not_its_own() -> None:
    """After a fork memory is nobody's own, until it is written to."""
    size = 32 * 2**20
    with mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.write(b"x" * size)
        before = smaps.read()
        ours, theirs = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                os.close(theirs)
                os.read(ours, 1)
            finally:
                os._exit(0)
        try:
            shared = smaps.read()
            child = smaps.read(pid)
            memory.seek(0)
            memory.write(b"y" * size)
            after = smaps.read()
        finally:
            os.close(theirs)
            os.close(ours)
            os.waitpid(pid, 0)
    assert before is not None and shared is not None
    assert child is not None and after is not None
    assert before.own >= size
    assert shared.own <= before.own - size
    assert child.own < size
    assert child.pss >= size // 2
    assert after.own >= shared.own + size


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_only_itself_can_look_at_who_has_changed_its_user() -> None:
    """That is why workers do, and nobody for them."""

    def look() -> list[bool]:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        own = smaps.read() is not None
        return [own, in_child(lambda: smaps.read(os.getppid()) is not None)]

    assert in_child(look) == [True, False]


# Anonymous memory, cheaply


def test_growth_is_seen_cheaply() -> None:
    size = 32 * 2**20
    anonymous = AnonymousMemory()
    before = anonymous.read()
    with mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        assert anonymous.read() < before + size // 2, "nothing was written to it"
        memory.write(b"x" * size)
        after = anonymous.read()
    # The kernel counts some pages later.
    assert before + size - 2**20 <= after < before + 2 * size
    assert anonymous.read() < before + size // 2
    anonymous.close()
    anonymous.close()
    assert anonymous.read() == 0


@pytest.mark.parametrize("other", [os.devnull, "/proc/self/comm"])
def test_a_file_that_the_app_has_closed(other: str) -> None:
    """Another file may have its number, which is not to be closed for it."""
    anonymous = AnonymousMemory()
    fd = os.open(other, os.O_RDONLY)
    os.dup2(fd, anonymous._fd)
    replaced = anonymous._fd
    assert anonymous.read() == 0
    assert anonymous.read() == 0
    anonymous.close()
    os.close(replaced)
    os.close(fd)


def test_a_system_that_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: t.Any) -> int:
        raise FileNotFoundError

    monkeypatch.setattr(os, "open", refuse)
    anonymous = AnonymousMemory()
    assert anonymous.read() == 0
    anonymous.close()
