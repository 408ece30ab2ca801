"""The OOM killer's counter, in control groups of both versions."""

from __future__ import annotations

import builtins
import os
import typing as t
from collections.abc import Callable
from pathlib import Path

import pytest

from flask_prefork.system import cgroup

EVENTS = "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n"
CONTROL = "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n"
V1 = "5:cpu,cpuacct:/a\n4:memory:/a/b\n1:name=systemd:/\n"
V2 = "0::/system.slice/web.service\n"

System = Callable[[dict[str, str]], None]


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> System:
    """Gives the module other files to read, by their absolute paths."""

    def elsewhere(path: str) -> str:
        return f"{tmp_path}{path}"

    def look(path: str, mode: int) -> bool:
        return Path(elsewhere(path)).exists()

    def read(path: str, **kwargs: t.Any) -> t.Any:
        return builtins.open(elsewhere(path), **kwargs)

    monkeypatch.setattr(os, "access", look)
    monkeypatch.setattr(cgroup, "open", read, raising=False)

    def write(files: dict[str, str]) -> None:
        for name, content in files.items():
            path = Path(elsewhere(name))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)

    return write


@pytest.mark.parametrize(
    ("groups", "place", "content", "kills"),
    [
        pytest.param(
            V2,
            "/sys/fs/cgroup/system.slice/web.service/memory.events",
            EVENTS,
            2,
            id="v2",
        ),
        # The group's name is the host's, and what is mounted is the container's.
        pytest.param(V2, "/sys/fs/cgroup/memory.events", EVENTS, 2, id="v2-container"),
        pytest.param("0::/\n", "/sys/fs/cgroup/memory.events", EVENTS, 2, id="v2-root"),
        pytest.param(
            "0::/a:b\n",
            "/sys/fs/cgroup/a:b/memory.events",
            EVENTS,
            2,
            id="v2-with-a-colon",
        ),
        pytest.param(
            V1, "/sys/fs/cgroup/memory/a/b/memory.oom_control", CONTROL, 5, id="v1"
        ),
        pytest.param(
            V1,
            "/sys/fs/cgroup/memory/memory.oom_control",
            CONTROL,
            5,
            id="v1-container",
        ),
        pytest.param(
            "4:hugetlb,memory:/a\n",
            "/sys/fs/cgroup/memory/a/memory.oom_control",
            CONTROL,
            5,
            id="v1-with-another-controller",
        ),
        # Both are mounted, and memory is with the first.
        pytest.param(
            V1 + "0::/a\n",
            "/sys/fs/cgroup/memory/a/b/memory.oom_control",
            CONTROL,
            5,
            id="hybrid-v1",
        ),
        pytest.param(
            "1:name=systemd:/a\n0::/a\n",
            "/sys/fs/cgroup/unified/a/memory.events",
            EVENTS,
            2,
            id="hybrid-v2",
        ),
    ],
)
def test_where_the_counter_is(
    system: System, groups: str, place: str, content: str, kills: int
) -> None:
    system({"/proc/self/cgroup": groups, place: content})
    assert cgroup.oom_kills() == kills


def test_our_own_group_comes_before_the_mounts_root(system: System) -> None:
    system(
        {
            "/proc/self/cgroup": "0::/a\n",
            "/sys/fs/cgroup/a/memory.events": "oom_kill 1\n",
            "/sys/fs/cgroup/memory.events": "oom_kill 9\n",
        }
    )
    assert cgroup.oom_kills() == 1


@pytest.mark.parametrize(
    "files",
    [
        pytest.param({}, id="no-groups"),
        pytest.param({"/proc/self/cgroup": ""}, id="none-of-ours"),
        pytest.param({"/proc/self/cgroup": V2}, id="not-mounted"),
        pytest.param(
            {"/proc/self/cgroup": V2, "/sys/fs/cgroup/memory.events": "oom 3\n"},
            id="old-kernel",
        ),
        pytest.param(
            {"/proc/self/cgroup": V2, "/sys/fs/cgroup/memory.events": "oom_kill\n"},
            id="no-number",
        ),
    ],
)
def test_a_system_that_does_not_tell(system: System, files: dict[str, str]) -> None:
    system(files)
    assert cgroup.oom_kills() == 0


def test_a_counter_that_goes_away(
    system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system({"/proc/self/cgroup": V2})
    monkeypatch.setattr(os, "access", lambda path, mode: True)
    assert cgroup.oom_kills() == 0


def test_this_system() -> None:
    assert cgroup.oom_kills() >= 0
    limit = cgroup.memory_limit()
    assert limit is None or limit > 0


# The limit

ROOT = "/sys/fs/cgroup"
NO_LIMIT = f"{2**63 - 4096}\n"


@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        pytest.param(
            V2,
            {"/system.slice/web.service/memory.max": "700\n"},
            700,
            id="v2",
        ),
        # What is above it bounds it too.
        pytest.param(
            V2,
            {
                "/system.slice/web.service/memory.max": "max\n",
                "/system.slice/memory.max": "500\n",
            },
            500,
            id="v2-parent",
        ),
        # Above this the kernel makes the group wait.
        pytest.param(
            V2,
            {
                "/system.slice/web.service/memory.max": "700\n",
                "/system.slice/web.service/memory.high": "600\n",
            },
            600,
            id="v2-high",
        ),
        pytest.param(V2, {"/memory.max": "700\n"}, 700, id="v2-container"),
        pytest.param(
            "0::/a:b\n", {"/a:b/memory.max": "700\n"}, 700, id="v2-with-a-colon"
        ),
        pytest.param(V2, {"/memory.max": "max\n"}, None, id="v2-none"),
        pytest.param(
            V1,
            {
                "/memory/a/b/memory.limit_in_bytes": "700\n",
                "/memory/a/memory.limit_in_bytes": "900\n",
                "/memory/memory.limit_in_bytes": NO_LIMIT,
            },
            700,
            id="v1",
        ),
        pytest.param(
            V1, {"/memory/memory.limit_in_bytes": "700\n"}, 700, id="v1-container"
        ),
        pytest.param(
            V1, {"/memory/a/b/memory.limit_in_bytes": NO_LIMIT}, None, id="v1-none"
        ),
        pytest.param(
            "1:name=systemd:/a\n0::/a\n",
            {"/unified/a/memory.max": "700\n"},
            700,
            id="hybrid-v2",
        ),
        pytest.param(V2, {"/memory.max": "\n"}, None, id="empty"),
        pytest.param("", {"/memory.max": "700\n"}, None, id="none-of-ours"),
        pytest.param("garbage\n", {"/memory.max": "700\n"}, None, id="garbage"),
    ],
)
def test_what_the_limit_is(
    system: System, groups: str, files: dict[str, str], limit: int | None
) -> None:
    there = {ROOT + name: content for name, content in files.items()}
    system({"/proc/self/cgroup": groups, **there})
    assert cgroup.memory_limit() == limit


def test_a_system_without_groups_has_no_limit(system: System) -> None:
    system({})
    assert cgroup.memory_limit() is None
