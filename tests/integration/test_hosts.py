"""Several addresses at a time, of all kinds, with real servers."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import ssl
import stat
import typing as t
from collections.abc import Sequence
from http.client import HTTPConnection
from http.client import HTTPSConnection
from pathlib import Path

import pytest
from werkzeug.serving import make_ssl_devcert

from .admin import Admin
from .conftest import Fail
from .conftest import Run
from .gate import DEADLINE
from .server import command
from .server import Server

needs_ipv6 = pytest.mark.skipif(not socket.has_ipv6, reason="there is no IPv6")

#: What it sees of the address at which it is asked.
APP = """
from flask import Flask
from flask import request

app = Flask(__name__)
KEYS = "SERVER_NAME SERVER_PORT wsgi.url_scheme flask_prefork.generation".split()


@app.get("/")
def index():
    return [request.environ[key] for key in KEYS]
"""


class Start(t.Protocol):
    """Starts a server.

    :param args: Of its command.
    :param variables: Of its environment.
    :param pass_fds: Descriptors that it inherits.
    """

    def __call__(
        self, *args: str, pass_fds: tuple[int, ...] = (), **variables: str
    ) -> Server: ...


@pytest.fixture
def start(run: Run, tmp_path: Path) -> Start:
    (tmp_path / "asked.py").write_text(APP)

    def start(*args: str, pass_fds: tuple[int, ...] = (), **variables: str) -> Server:
        line = command("asked", *args, "--admin", "0", "--min-idle", "1")
        server = run(line, env=variables, pass_fds=pass_fds)
        server.wait_for_log("CTRL")
        return server

    return start


def told(server: Server) -> list[str]:
    """The addresses of the banner, without those that are for everybody."""
    return re.findall(r"Running on (\S+://\S+)", server.log())


class Unix(HTTPConnection):
    """A client of a unix socket.

    :param path: The socket's.
    :param context: For TLS.
    """

    def __init__(self, path: str, context: ssl.SSLContext | None) -> None:
        super().__init__("localhost", timeout=DEADLINE)
        self._path = path
        self._context = context

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(DEADLINE)
        self.sock.connect(self._path)
        if self._context is not None:
            self.sock = self._context.wrap_socket(self.sock)


def ask(address: str, is_tls: bool = False) -> list[t.Any]:
    """Ask the app at one of its addresses."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if is_tls else None
    if context is not None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    scheme, _, rest = address.partition("://")
    client: HTTPConnection
    if scheme == "unix":
        client = Unix(rest, context)
    elif context is not None:
        assert scheme == "https"
        client = HTTPSConnection(rest, timeout=DEADLINE, context=context)
    else:
        assert scheme == "http"
        client = HTTPConnection(rest, timeout=DEADLINE)
    client.request("GET", "/")
    found: list[t.Any] = json.loads(client.getresponse().read())
    client.close()
    return found


def stop(server: Server) -> None:
    server.popen.terminate()
    assert server.wait() == 0


def seen(
    addresses: Sequence[str], scheme: str = "http", generation: int = 1
) -> list[list[t.Any]]:
    """What the app has to see of each of its addresses."""
    found = []
    for address in addresses:
        name, port = "localhost", "80" if scheme == "http" else "443"
        if not address.startswith("unix:"):
            name, _, port = address.partition("://")[2].rpartition(":")
        found.append([name.strip("[]"), port, scheme, generation])
    return found


@needs_ipv6
def test_all_kinds_at_once(start: Start, tmp_path: Path) -> None:
    """Each is served, told and seen by the app as what it is, also after a reload."""
    paths = [tmp_path / "a.sock", tmp_path / "b.sock"]
    with socket.create_server(("127.0.0.3", 0)) as given:
        fd = given.fileno()
        hosts = ["127.0.0.1", "127.0.0.2:0", "[::1]", f"unix:{paths[0]}", f"fd://{fd}"]
        args = [arg for host in hosts for arg in ("--host", host)]
        more = ("-h", "unix://b.sock", "--port", "0", "--socket-mode", "610")
        server = start(*args, *more, pass_fds=(fd,))
        addresses = told(server)
        names = [re.sub(r":\d+$", "", address) for address in addresses]
        assert names == [
            "http://127.0.0.1",
            "http://127.0.0.2",
            "http://[::1]",
            f"unix://{paths[0]}",
            "http://127.0.0.3",
            f"unix://{paths[1]}",
        ]
        assert {stat.S_IMODE(path.stat().st_mode) for path in paths} == {0o610}
        assert Admin(server).get("/status.json").json["addresses"] == addresses
        assert [ask(one) for one in addresses] == seen(addresses)
        inodes = [path.stat().st_ino for path in paths]
        server.signal(signal.SIGHUP)
        server.wait_for_log(r"^Generation 2 serves")
        assert [ask(one) for one in addresses] == seen(addresses, generation=2)
        assert [path.stat().st_ino for path in paths] == inodes
        stop(server)
    assert not any(path.exists() for path in paths)
    assert "Traceback" not in server.log()


@needs_ipv6
def test_several_of_a_variable(start: Start, tmp_path: Path) -> None:
    hosts = f"127.0.0.1:0,  [::1]:0\tunix:{tmp_path}/s"
    server = start(FLASK_RUN_HOST=hosts)
    addresses = told(server)
    assert len(addresses) == 3
    assert [ask(one) for one in addresses] == seen(addresses)


@needs_ipv6
def test_all_addresses_of_both_kinds(start: Start) -> None:
    with socket.socket() as probe:
        # It keeps others away, but not who reuses it.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        server = start("--host", "0.0.0.0", "--host", "[::]", "--port", str(port))
        addresses = told(server)
        assert addresses == [f"http://127.0.0.1:{port}", f"http://[::1]:{port}"]
        assert [ask(one)[0] for one in addresses] == ["0.0.0.0", "::"]


@needs_ipv6
def test_tls_on_all_of_them(start: Start, tmp_path: Path) -> None:
    cert, key = make_ssl_devcert(str(tmp_path / "shop"), host="localhost")
    hosts = ("--host", "127.0.0.1:0", "--host", "[::1]:0", "--host", "unix:s")
    server = start(*hosts, "--cert", cert, "--key", key)
    addresses = told(server)
    assert len(addresses) == 3
    assert [ask(one, True) for one in addresses] == seen(addresses, "https")
    server.signal(signal.SIGHUP)
    server.wait_for_log(r"^Generation 2 serves")
    assert [ask(one, True) for one in addresses] == seen(addresses, "https", 2)
    stop(server)
    assert not (tmp_path / "s").exists()


def test_as_many_as_are_possible(start: Start, tmp_path: Path) -> None:
    """With TLS, by which each takes the most descriptors."""
    cert, key = make_ssl_devcert(str(tmp_path / "shop"), host="localhost")
    hosts = [arg for _ in range(30) for arg in ("--host", "127.0.0.1:0")]
    server = start(*hosts, "--cert", cert, "--key", key)
    addresses = told(server)
    assert len(set(addresses)) == 30
    assert [ask(one, True) for one in addresses] == seen(addresses, "https")


def test_one_that_fails_leaves_nothing(
    fail: Fail, tmp_path: Path, taken_port: int
) -> None:
    hosts = (f"unix:{tmp_path}/a", f"127.0.0.1:{taken_port}", f"unix:{tmp_path}/b")
    args = [arg for host in hosts for arg in ("--host", host)]
    ended = fail("held", *args, "--pid", str(tmp_path / "pid"), "--admin", "0")
    assert ended.status == 1
    (line,) = [text for text in ended.output.splitlines() if "Can't" in text]
    assert line.endswith(
        f"Can't listen on 127.0.0.1:{taken_port}: Address already in use. Port"
        f" {taken_port} is in use by another program. Either identify and stop that"
        " program, or start the server with a different port."
    )
    assert "Running on" not in ended.output and "Traceback" not in ended.output
    assert not {"a", "b", "pid"} & set(os.listdir(tmp_path))


@pytest.mark.parametrize("host", ["127.0.0.1:{}", "localhost:{}", "0.0.0.0:{}"])
def test_the_admin_address_is_none_of_them(
    fail: Fail, tmp_path: Path, host: str
) -> None:
    hosts = ("--host", f"unix:{tmp_path}/s", "--host", host.format(5999))
    ended = fail("held", *hosts, "--admin", "5999")
    assert ended.status == 1
    assert "give the admin address another port." in ended.output
    ended = fail("held", *hosts, "--admin", f"unix:{tmp_path}/../{tmp_path.name}/s")
    assert ended.status == 1
    assert "give the admin address another path." in ended.output
    assert not (tmp_path / "s").exists()


def test_names_of_the_same_address(fail: Fail) -> None:
    """What only the name service tells."""
    ended = fail("held", "--host", "127.0.0.1:81", "--host", "127.1:81")
    assert ended.errors == [
        "--host 127.0.0.1:81 and --host 127.1:81 are the same address; give it once."
    ]
