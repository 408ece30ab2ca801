"""Where the server listens."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from .conftest import Fail
from .conftest import Run
from .conftest import Serve
from .server import command

#: A name that the resolver asks for, and waits.
SLOW = """
import os
import socket
import time

known = socket.getaddrinfo


def getaddrinfo(host, *args, **kwargs):
    if host == "slow.example":
        os.write(2, b"asked\\n")
        time.sleep(3600)
    return known(host, *args, **kwargs)


socket.getaddrinfo = getaddrinfo
"""


def test_ipv4(serve: Serve) -> None:
    server = serve("held", host="127.0.0.1")
    assert server.url.startswith("http://127.0.0.1:")
    assert server.get().status == 200


def test_ipv6(serve: Serve) -> None:
    server = serve("held", host="::1")
    assert server.url.startswith("http://[::1]:")
    assert server.get().status == 200


def test_a_name(serve: Serve) -> None:
    assert serve("held", host="localhost").get().status == 200


@pytest.mark.parametrize(
    "args",
    [("--host", "slow.example"), ("--admin", "slow.example:0")],
    ids=["host", "admin"],
)
def test_a_name_service_that_does_not_answer(
    run: Run, tmp_path: Path, args: tuple[str, ...]
) -> None:
    """It keeps the server from starting, and from nothing else."""
    (tmp_path / "sitecustomize.py").write_text(SLOW)
    line = command("held", "--port", "0", *args)
    server = run(line, env={"PYTHONPATH": str(tmp_path)}, begun="asked")
    server.popen.terminate()
    server.wait()


def test_all_addresses(serve: Serve) -> None:
    server = serve("held", host="0.0.0.0")
    assert server.url.startswith("http://127.0.0.1:")
    assert "all addresses (0.0.0.0)" in server.log()
    assert server.get().status == 200


def test_unix(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    server = serve("held", host=f"unix://{path}")
    assert server.url == f"unix://{path}"
    assert path.is_socket()
    assert {server.get().status for _ in range(20)} == {200}
    server.popen.terminate()
    assert server.wait() == 0
    assert not path.exists()


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_an_inherited_socket(serve: Serve, family: socket.AddressFamily) -> None:
    host = "127.0.0.1" if family is socket.AF_INET else "::1"
    with socket.create_server((host, 0), family=family) as sock:
        fd = sock.fileno()
        server = serve("held", host=f"fd://{fd}", pass_fds=(fd,))
        assert server.url.rpartition(":")[2] == str(sock.getsockname()[1])
        assert server.get().status == 200
        server.popen.terminate()
        assert server.wait() == 0
        # It is ours; the next server may take over what waits.
        assert server.is_accepting()


def test_an_inherited_unix_socket(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        fd = sock.fileno()
        server = serve("held", host=f"fd://{fd}", pass_fds=(fd,))
        assert server.get().status == 200
        server.popen.terminate()
        assert server.wait() == 0
        assert path.is_socket(), "who made it removes it"


def test_a_port_in_use(fail: Fail, taken_port: int) -> None:
    status, output = fail("held", "--port", str(taken_port))
    assert status == 1
    assert "Address already in use" in output
    assert f"Port {taken_port} is in use by another program." in output
    assert "Traceback" not in output
    assert "Running on" not in output


def test_a_stale_unix_socket_is_replaced(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    server = serve("held", host=f"unix://{path}")
    assert server.get().status == 200


def test_a_live_unix_socket_is_refused(fail: Fail, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(str(path))
        live.listen()
        status, output = fail("held", "--host", f"unix://{path}")
        assert status == 1
        assert f"Can't listen on {path}: another program does." in output
        assert path.is_socket()


def test_a_file_that_is_no_socket_is_kept(fail: Fail, tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    status, output = fail("held", "--host", f"unix://{path}")
    assert status == 1
    assert f"Can't listen on {path}" in output
    assert path.read_text() == "data"


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (("--socket-mode", "999"), "octal number such as 660, not '999'."),
        (("--socket-group", "no such"), "There is no group 'no such'."),
        (("--socket-owner", "no such"), "There is no user 'no such'."),
    ],
)
def test_a_unix_socket_for_nobody(
    fail: Fail, tmp_path: Path, args: tuple[str, ...], error: str
) -> None:
    ended = fail("held", "--host", f"unix://{tmp_path}/s", *args)
    (message,) = ended.errors
    assert message.endswith(error)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("host", ["127.0.0.1", "fd://3"])
def test_options_of_a_socket_that_is_not_made(fail: Fail, host: str) -> None:
    ended = fail("held", "--host", host, "--socket-mode", "660")
    assert ended.errors == ["--socket-mode has no effect without --host unix:PATH."]
    env = {"FLASK_PREFORK_RUN_SOCKET_GROUP": "sys"}
    ended = fail("held", "--host", host, env=env)
    assert ended.errors == [
        "FLASK_PREFORK_RUN_SOCKET_GROUP has no effect without --host unix:PATH."
    ]


@pytest.mark.parametrize(
    ("host", "status", "right"),
    [
        (
            "unix:///nowhere/at/all",
            1,
            "Can't listen on /nowhere/at/all: No such file or directory: there is no"
            " folder /nowhere/at; make it first.",
        ),
        (f"unix:/{'x' * 200}", 1, "bytes, and 107 are possible for a unix socket"),
        ("fd://999", 1, "Can't listen on fd://999: Bad file descriptor; whoever"),
        ("fd://0", 1, "Can't listen on fd://0: descriptor 0 is no socket."),
        ("192.0.2.1:81", 1, "Can't listen on 192.0.2.1:81: Cannot assign requested"),
        ("no.such.host.invalid", 1, "Can't find the address of 'no.such.host.invalid'"),
        ("fd://none", 2, "'fd://none' names no descriptor; give one as fd://3."),
        ("no name", 2, "'no name' is not one address; give --host for each."),
        ("*:80", 2, "'*' is not a host; give 0.0.0.0 for all IPv4 addresses"),
        ("127.0.0.1:http", 2, "'http' in '127.0.0.1:http' is not a port;"),
    ],
)
def test_an_impossible_address(fail: Fail, host: str, status: int, right: str) -> None:
    ended = fail("held", "--host", host, "--port", "0")
    assert ended.status == status
    assert right in ended.output
    assert "Traceback" not in ended.output
    assert "Running on" not in ended.output
