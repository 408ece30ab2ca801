"""The dispatcher's side of what is around it, with a stand-in for each of it."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from flask_prefork.dispatcher.service import ServiceHost
from flask_prefork.dispatcher.service import StartOptions
from flask_prefork.ipc.listener import BindError
from flask_prefork.ipc.listener import MAX_LISTENERS
from flask_prefork.settings.addresses import Address
from flask_prefork.settings.addresses import parse_host
from flask_prefork.system.pid_file import PidFileError
from flask_prefork.system.privileges import Identity
from flask_prefork.system.socket_access import Access
from flask_prefork.system.systemd import Notifier

NOBODY = Identity(54321, 54322, (54322, 54323), "nobody", "/")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Calls:
    """Stands in for the calls that change who the process is.

    :ivar made: The calls, in order.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[tuple[str, object]] = []
        self.uid = 0
        monkeypatch.setattr(os, "getuid", lambda: 0)
        monkeypatch.setattr(os, "getgid", lambda: 0)
        monkeypatch.setattr(os, "geteuid", lambda: self.uid)
        for name in ("setgroups", "setegid", "seteuid"):
            monkeypatch.setattr(os, name, self._noting(name))

    def _noting(self, name: str) -> object:
        def note(value: int) -> None:
            if self.uid != 0 and name != "seteuid":
                raise PermissionError(name)
            self.made.append((name, value))
            if name == "seteuid":
                self.uid = value

        return note


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    return Calls(monkeypatch)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """systemd's end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.setblocking(False)
        yield sock


def hear(manager: socket.socket) -> list[str]:
    """All that has been said."""
    said = []
    while True:
        try:
            said += manager.recv(4096).decode().splitlines()
        except BlockingIOError:
            return said


def start_options(
    *hosts: str,
    fds: tuple[int, ...] = (),
    environ: dict[str, str] | None = None,
    pid_file: Path | None = None,
    identity: Identity | None = None,
) -> StartOptions:
    notifier = Notifier({} if environ is None else environ)
    path = None if pid_file is None else str(pid_file)
    wanted = [parse_host(host, 0) for host in hosts or ("127.0.0.1",)]
    return StartOptions(wanted, (), fds, notifier, path, identity)


# Listening


def test_what_systemd_passed_goes_before_host_and_port(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as first,
        socket.create_server(("127.0.0.1", 0)) as second,
    ):
        # It takes them over.
        fds = (os.dup(second.fileno()), os.dup(first.fileno()))
        outside = start_options(f"unix://{tmp_path / 'unused'}", fds=fds)
        listeners = ServiceHost(outside, Clock()).listen(16)
        ports = [listener.sock.getsockname()[1] for listener in listeners]
        for listener in listeners:
            listener.close()
        assert ports == [second.getsockname()[1], first.getsockname()[1]]
    assert os.listdir(tmp_path) == []


def test_a_failed_start_keeps_nothing(tmp_path: Path, calls: Calls) -> None:
    path, pid_file = tmp_path / "web.sock", tmp_path / "nowhere" / "web.pid"
    outside = start_options(f"unix://{path}", pid_file=pid_file, identity=NOBODY)
    service = ServiceHost(outside, Clock())
    with pytest.raises(PidFileError):
        service.listen(16)
    assert os.listdir(tmp_path) == []
    service.close()
    assert calls.made == []


def test_a_second_socket_that_is_none(tmp_path: Path) -> None:
    pid_file = tmp_path / "web.pid"
    with (
        socket.create_server(("127.0.0.1", 0)) as first,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as second,
    ):
        fds = (os.dup(first.fileno()), second.fileno())
        service = ServiceHost(start_options(fds=fds, pid_file=pid_file), Clock())
        with pytest.raises(BindError):
            service.listen(16)
    assert not pid_file.exists()


def test_all_addresses_of_all_kinds(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as given:
        paths = [tmp_path / name for name in "ab"]
        hosts = [f"unix:{path}" for path in paths]
        hosts += ["127.0.0.1", "127.0.0.2:0", f"fd://{os.dup(given.fileno())}"]
        options = start_options(*hosts)._replace(access=Access(0o612))
        listeners = ServiceHost(options, Clock()).listen(16)
        names = [listener.sock.getsockname() for listener in listeners]
        assert names[:2] == [str(path) for path in paths]
        assert [name[0] for name in names[2:4]] == ["127.0.0.1", "127.0.0.2"]
        assert names[4] == given.getsockname()
        assert {stat.S_IMODE(path.stat().st_mode) for path in paths} == {0o612}
        for listener in listeners:
            listener.close()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("place", range(3))
def test_one_of_several_addresses_in_use(tmp_path: Path, place: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        hosts = [f"unix:{tmp_path}/a", f"unix:{tmp_path}/b"]
        hosts.insert(place, f"127.0.0.1:{port}")
        service = ServiceHost(start_options(*hosts), Clock())
        with pytest.raises(BindError, match=rf"^Can't listen on 127\.0\.0\.1:{port}: "):
            service.listen(16)
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not socket.has_ipv6, reason="there is no IPv6")
def test_all_addresses_of_both_families() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    options = start_options(f"[::]:{port}", f"0.0.0.0:{port}")
    listeners = ServiceHost(options, Clock()).listen(16)
    for host in ("127.0.0.1", "::1"):
        socket.create_connection((host, port)).close()
    for listener in listeners:
        listener.close()


def test_an_address_is_told_by_its_name() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        options = start_options()._replace(
            addresses=[Address("127.0.0.1", port, name="shop.test")]
        )
        with pytest.raises(BindError) as caught:
            ServiceHost(options, Clock()).listen(16)
    told = f"Can't listen on shop.test:{port} (127.0.0.1): Address already in use"
    assert str(caught.value).startswith(told)


def test_too_many_addresses() -> None:
    most = ["127.0.0.1"] * MAX_LISTENERS
    service = ServiceHost(start_options(*most), Clock())
    for listener in service.listen(16):
        listener.close()
    with pytest.raises(BindError, match="There are 31 addresses.*; 30 are possible"):
        ServiceHost(start_options(*most, "127.0.0.1"), Clock()).listen(16)


# The admin address


def test_no_admin_address(tmp_path: Path) -> None:
    service = ServiceHost(start_options(pid_file=tmp_path / "web.pid"), Clock())
    for listener in service.listen(16):
        listener.close()
    assert service.admin is None
    assert os.listdir(tmp_path) == ["web.pid"]
    service.close()


def test_the_admin_address_is_told_beside_the_pid_file(tmp_path: Path) -> None:
    service = ServiceHost(start_options(pid_file=tmp_path / "web.pid"), Clock())
    for listener in service.listen(16, "0.0.0.0:0"):
        listener.close()
    assert service.admin is not None
    port = service.admin.port
    assert str(service.admin_address) == f"0.0.0.0:{port}"
    assert (tmp_path / "web.pid.admin").read_text() == f"127.0.0.1:{port}\n"
    service.close()
    assert os.listdir(tmp_path) == []
    assert service.admin is None


def test_an_admin_socket_is_its_owners(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    service = ServiceHost(start_options(), Clock())
    mask = os.umask(0)
    try:
        for listener in service.listen(16, f"unix:{path}"):
            listener.close()
    finally:
        assert os.umask(mask) == 0, "and nothing else"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    service.close()
    assert os.listdir(tmp_path) == []


def test_an_admin_socket_is_given_to_the_user(
    tmp_path: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[object, ...]] = []

    def chown(file: str, uid: int, gid: int) -> None:
        given.append((os.path.realpath(file), uid, gid))

    monkeypatch.setattr(os, "chown", chown)
    path = tmp_path / "admin.sock"
    service = ServiceHost(start_options(identity=NOBODY), Clock())
    for listener in service.listen(16, f"unix:{path}"):
        listener.close()
    assert given == [(str(path), NOBODY.uid, NOBODY.gid)]
    service.close()


def test_an_admin_address_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        outside = start_options(
            f"unix://{tmp_path / 'web.sock'}", pid_file=tmp_path / "web.pid"
        )
        service = ServiceHost(outside, Clock())
        with pytest.raises(BindError, match=f"bind the admin address 127.0.0.1:{port}"):
            service.listen(16, str(port))
    assert os.listdir(tmp_path) == []
    service.close()


def test_the_apps_address_is_no_admin_address(tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    service = ServiceHost(start_options("127.0.0.1", f"unix://{path}"), Clock())
    with pytest.raises(BindError, match="give the admin address another path"):
        service.listen(16, f"unix:{path}")
    with pytest.raises(BindError, match="give the admin address another path"):
        service.listen(16, f"unix:{os.path.relpath(path)}")
    assert os.listdir(tmp_path) == []
    service.close()


def test_an_admin_address_that_cant_be_told(tmp_path: Path) -> None:
    (tmp_path / "web.pid.admin").mkdir()
    service = ServiceHost(start_options(pid_file=tmp_path / "web.pid"), Clock())
    with pytest.raises(PidFileError, match="Can't write .*web.pid.admin: Is a dir"):
        service.listen(16, "0")
    service.close()
    assert os.listdir(tmp_path) == ["web.pid.admin"]


# Rights


def test_rights_are_given_up_last(tmp_path: Path, calls: Calls) -> None:
    pid_file = tmp_path / "web.pid"
    outside = start_options(pid_file=pid_file, identity=NOBODY)
    service = ServiceHost(outside, Clock())
    for listener in service.listen(16):
        listener.close()
    assert calls.made == [
        ("setgroups", (54322, 54323)),
        ("setegid", 54322),
        ("seteuid", 54321),
    ]
    service.close()
    assert not pid_file.exists()


def test_rights_for_a_moment(calls: Calls) -> None:
    service = ServiceHost(start_options(identity=NOBODY), Clock())
    for listener in service.listen(16):
        listener.close()
    calls.made.clear()
    with pytest.raises(LookupError), service.rights():
        # The user first: without root's rights the group can't be changed.
        assert calls.made == [("seteuid", 0), ("setegid", 0)]
        with service.rights():
            pass
        assert calls.uid == 0, "the inner one gives nothing up"
        raise LookupError
    assert calls.uid == NOBODY.uid
    assert calls.made[2:] == [
        ("setgroups", (54322, 54323)),
        ("setegid", 54322),
        ("seteuid", 54321),
    ]
    service.close()


def test_without_a_user_there_is_nothing_to_give_up(calls: Calls) -> None:
    service = ServiceHost(start_options(), Clock())
    for listener in service.listen(16):
        listener.close()
    with service.rights():
        pass
    service.close()
    assert calls.made == []


# Telling systemd


def test_without_systemd_there_is_no_deadline() -> None:
    service = ServiceHost(start_options(), Clock())
    assert service.deadline() is None
    service.notify(100.0, "workers: I")
    assert service.deadline() is None
    service.close()


@pytest.mark.parametrize(
    ("variables", "interval"),
    [
        pytest.param({}, 5.0, id="no-watchdog"),
        pytest.param({"WATCHDOG_USEC": "4000000"}, 2.0, id="half-of-its-patience"),
        pytest.param({"WATCHDOG_USEC": "60000000"}, 5.0, id="status-is-more-often"),
    ],
)
def test_how_often_it_tells(
    manager: socket.socket, variables: dict[str, str], interval: float
) -> None:
    clock = Clock()
    environ = {"NOTIFY_SOCKET": manager.getsockname(), **variables}
    service = ServiceHost(start_options(environ=environ), clock)
    fed = ["WATCHDOG=1"] if variables else []
    assert service.deadline() == 100.0
    service.notify(100.0, "workers: I")
    assert hear(manager) == [*fed, "STATUS=workers: I"]
    assert service.deadline() == 100.0 + interval
    # Turns of the loop in between say nothing.
    service.notify(100.0 + interval / 2, "workers: B")
    assert hear(manager) == []
    service.notify(100.0 + interval, "workers: I")
    assert hear(manager) == fed
    service.close()


def test_what_is_told_of_the_life(manager: socket.socket) -> None:
    environ = {"NOTIFY_SOCKET": manager.getsockname()}
    service = ServiceHost(start_options(environ=environ), Clock())
    service.ready("up")
    service.reloading()
    service.stopping()
    said = hear(manager)
    assert [line for line in said if not line.startswith("MONOTONIC_USEC=")] == [
        "READY=1",
        f"MAINPID={os.getpid()}",
        "STATUS=up",
        "RELOADING=1",
        "STOPPING=1",
    ]
    service.close()
