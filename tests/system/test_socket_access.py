"""Whose unix sockets are."""

from __future__ import annotations

import os
import pwd
import socket
import stat
import typing as t
from collections.abc import Iterator
from pathlib import Path

import pytest

from flask_prefork.ipc.listener import bind
from flask_prefork.ipc.listener import BindError
from flask_prefork.system import socket_access
from flask_prefork.system.privileges import Identity
from flask_prefork.system.privileges import look_up_access
from flask_prefork.system.socket_access import Access

needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can give a file away"
)
DAEMON = pwd.getpwnam("daemon")


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as sock:
        yield sock


@pytest.fixture(params=[0, 0o022, 0o777])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    assert os.umask(before) == request.param, "it is as it was"


@pytest.mark.parametrize("mode", [0o660, 0o666, 0o600, 0o777, 0])
def test_its_mode_is_what_was_asked_for(
    tmp_path: Path, sock: socket.socket, umask: int, mode: int
) -> None:
    socket_access.bind(sock, str(tmp_path / "s"), Access(mode))
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == mode


def test_its_mode_is_what_the_umask_leaves(
    tmp_path: Path, sock: socket.socket, umask: int
) -> None:
    socket_access.bind(sock, str(tmp_path / "s"), Access())
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o777 & ~umask


def test_it_has_its_mode_before_it_has_a_name(
    tmp_path: Path, sock: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("there would be a moment before")

    monkeypatch.setattr(os, "chmod", refuse)
    monkeypatch.setattr(os, "fchmod", refuse)
    socket_access.bind(sock, str(tmp_path / "s"), Access(0o640))
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o640


@needs_root
@pytest.mark.parametrize(("uid", "gid"), [(7, 8), (7, -1), (-1, 8)])
def test_its_owners(tmp_path: Path, uid: int, gid: int) -> None:
    listener = bind(f"unix://{tmp_path}/s", 0, 5, Access(None, uid, gid))
    status = (tmp_path / "s").stat()
    assert status.st_uid == (uid if uid >= 0 else os.geteuid())
    assert status.st_gid == (gid if gid >= 0 else os.getegid())
    listener.close()


@pytest.mark.parametrize(
    ("uid", "gid", "who", "right"),
    [
        (7, 8, "user 7 and group 8", "only root, or a process with CAP_CHOWN,"),
        (7, -1, "user 7", "only root, or a process with CAP_CHOWN,"),
        (-1, 8, "group 8", "the server's user must be a member of the group,"),
    ],
)
def test_one_that_can_not_be_given_away_is_not_left(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    uid: int,
    gid: int,
    who: str,
    right: str,
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(BindError) as caught:
        bind(f"unix://{tmp_path}/s", 0, 5, Access(None, uid, gid))
    assert str(caught.value).startswith(
        f"Can't listen on {tmp_path}/s: it can't be given to {who}:"
        f" Operation not permitted; {right}"
    )
    assert os.listdir(tmp_path) == []


@pytest.fixture(params=["/proc/self/fd", "/no/such"])
def files(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(socket_access, "_FILES", request.param)
    return str(request.param)


@needs_root
def test_its_owners_with_and_without_proc(
    tmp_path: Path, sock: socket.socket, files: str
) -> None:
    socket_access.bind(sock, str(tmp_path / "s"), Access(0o600, 7, 8))
    status = (tmp_path / "s").stat()
    assert (status.st_uid, status.st_gid) == (7, 8)


class Swapping:
    """A socket in a directory whose owner replaces it at once."""

    def __init__(self, sock: socket.socket, other: Path) -> None:
        self.sock = sock
        self.other = other

    def bind(self, path: str) -> None:
        self.sock.bind(path)
        os.rename(path, path + ".away")
        os.rename(self.other, path)


@needs_root
@pytest.mark.parametrize("kind", ["file", "link", "socket"])
def test_what_takes_its_place_is_not_given_away(
    tmp_path: Path, sock: socket.socket, kind: str
) -> None:
    other, secret, path = tmp_path / "other", tmp_path / "secret", tmp_path / "s"
    secret.touch()
    if kind == "file":
        os.link(secret, other)
    elif kind == "link":
        other.symlink_to(secret)
    else:
        with socket.socket(socket.AF_UNIX) as theirs:
            theirs.bind(str(other))
        os.chown(other, 9, 9)
    swapping = t.cast(socket.socket, Swapping(sock, other))
    with pytest.raises(OSError, match="another file has taken its place"):
        socket_access.bind(swapping, str(path), Access(None, 7, 8))
    assert secret.stat().st_uid == os.geteuid()
    assert path.lstat().st_uid != 7
    assert path.is_symlink() == (kind == "link"), "it stays as it is"


def test_what_was_said_of_it() -> None:
    web = Identity(70, 71, (71,), "web", "/")
    daemon = DAEMON.pw_gid
    assert look_up_access(None, None, None) == Access(None, -1, -1)
    assert look_up_access(web, None, None) == Access(None, 70, 71)
    assert look_up_access(web, "600", None) == Access(0o600, 70, 71)
    # Else the group would be of no use, with most umasks.
    assert look_up_access(web, None, "daemon") == Access(0o660, 70, daemon)
    assert look_up_access(None, "0666", str(daemon)) == Access(0o666, -1, daemon)
    user = DAEMON.pw_uid
    assert look_up_access(None, None, None, "daemon") == Access(None, user, -1)
    assert look_up_access(web, "600", None, str(user)) == Access(0o600, user, 71)
    assert look_up_access(web, None, "daemon", "daemon") == Access(0o660, user, daemon)


@pytest.mark.parametrize("mode", ["", "66", "668", "-66", "1777", "0o660", "٦٦٠"])
def test_modes_that_are_none(mode: str) -> None:
    with pytest.raises(ValueError, match="octal number such as 660, not"):
        look_up_access(None, mode, None)


def test_owners_that_are_none() -> None:
    with pytest.raises(ValueError, match="There is no user 'no such'"):
        look_up_access(None, None, None, "no such")


def test_groups_that_are_none() -> None:
    with pytest.raises(ValueError, match="There is no group 'no such'"):
        look_up_access(None, None, "no such")
