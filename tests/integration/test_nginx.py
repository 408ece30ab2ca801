"""nginx in front, with the configuration files of ``deploy/nginx``."""

from __future__ import annotations

import contextlib
import grp
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import ssl
import tempfile
import threading
import typing as t
from collections.abc import Callable
from collections.abc import Iterator
from http.client import HTTPConnection
from http.client import HTTPSConnection
from pathlib import Path

import programs
import psutil
import pytest
from faults.load import now_and_then
from werkzeug.serving import make_ssl_devcert

from .conftest import Run
from .conftest import Serve
from .gate import DEADLINE
from .server import APPS
from .server import command
from .server import Server
from .server import wait_for

NGINX = programs.find("nginx")
STREAM = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
DEPLOY = Path(__file__).parent.parent.parent / "deploy" / "nginx"

pytestmark = pytest.mark.skipif(NGINX is None, reason=programs.lack("nginx"))

MAIN = """\
daemon off;
{user}
worker_processes 1;
pid {directory}/pid;
error_log stderr notice;
{modules}
events {{}}
"""
HTTP = """\
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    include {directory}/site.conf;
}}
"""


class Client:
    """Speaks to nginx from another address than nginx's own.

    :param port: nginx's.
    """

    def __init__(self, port: int) -> None:
        self.connection = HTTPConnection(
            "127.0.0.1", port, DEADLINE, source_address=("127.0.0.2", 0)
        )

    def ask(
        self, path: str = "/", body: bytes | None = None, **fields: str
    ) -> tuple[int, bytes]:
        headers = {name.replace("_", "-"): value for name, value in fields.items()}
        method = "GET" if body is None else "POST"
        self.connection.request(method, path, body, headers)
        response = self.connection.getresponse()
        return response.status, response.read()

    def ask_json(
        self, path: str = "/", body: bytes | None = None, **fields: str
    ) -> t.Any:
        status, content = self.ask(path, body, **fields)
        assert status == 200
        return json.loads(content)

    def close(self) -> None:
        self.connection.close()


class Front:
    """A running nginx.

    :ivar port: Its TCP port on 127.0.0.1.
    """

    def __init__(self, process: Server, port: int) -> None:
        self.process = process
        self.port = port
        self.clients: list[Client] = []

    def client(self) -> Client:
        self.clients.append(Client(self.port))
        return self.clients[-1]


Put = t.Callable[..., Front]


def with_tls(text: str, pem: str) -> str:
    """The file as its comment says.

    :param pem: The file with the certificate and its key.
    """
    text, count = re.subn(
        r"( +)listen 80;\n +# For TLS, .*\n((?: +# (?:listen|ssl_).*\n)+)",
        lambda found: found[2].replace("# ", ""),
        text,
    )
    assert count == 1
    return text.replace("/etc/ssl/shop.pem", pem)


@pytest.fixture
def put(run: Run, tmp_path: Path) -> Iterator[Put]:
    """Puts nginx in front of a server."""
    fronts = []

    def put(
        server: Server,
        file: str = "flask_prefork.conf",
        user: str = "root",
        pem: str = "",
    ) -> Front:
        scheme, _, address = server.url.partition("://")
        target = f"unix:{address}" if scheme == "unix" else address
        directory = tmp_path / "nginx"
        directory.mkdir()
        # nginx is given the socket, so no other program can have the port.
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            text = (DEPLOY / file).read_text()
            if pem:
                text = with_tls(text, pem)
            text, listens = re.subn(
                r"(?m)^( +listen) \d+( ssl)?;", rf"\1 127.0.0.1:{port}\2;", text
            )
            text, servers = re.subn(
                r"(?m)^( +(?:server|proxy_pass)) 127\.0\.0\.1:5000;",
                rf"\1 {target};",
                text,
            )
            assert (listens, servers) == (1, 1)
            (directory / "site.conf").write_text(text)
            is_stream = "stream" in file
            main = MAIN + ("include {directory}/site.conf;" if is_stream else HTTP)
            settings = {
                "directory": directory,
                # Its workers must reach what only this user reaches.
                "user": f"user {user};" if os.geteuid() == 0 else "",
                "modules": f"load_module {STREAM};" if is_stream else "",
            }
            (directory / "nginx.conf").write_text(main.format(**settings))
            line = [str(NGINX), "-p", str(directory), "-e", "stderr"]
            process = run(
                [*line, "-c", str(directory / "nginx.conf")],
                env={"NGINX": f"{listener.fileno()};"},
                pass_fds=(listener.fileno(),),
                begun="start worker process ",
            )
        fronts.append(Front(process, port))
        return fronts[-1]

    yield put
    for front in fronts:
        for client in front.clients:
            client.close()


class Behind(t.Protocol):
    """Starts a server and puts nginx in front of it."""

    def __call__(self, *args: str) -> tuple[Server, Front]: ...


@pytest.fixture(params=["tcp", "unix"])
def behind(
    request: pytest.FixtureRequest, serve: Serve, put: Put, tmp_path: Path
) -> Behind:
    def start(*args: str) -> tuple[Server, Front]:
        host, peer = None, "127.0.0.1"
        if request.param == "unix":
            host, peer = f"unix://{tmp_path / 'http.sock'}", "unix:"
        server = serve("fronted", "--forwarded-allow-ips", peer, *args, host=host)
        return server, put(server)

    return start


WEB = "www-data"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_nginx_as_a_user_of_its_own(run: Run, put: Put) -> None:
    """By the command line that stands in the shipped file."""
    text = (DEPLOY / "flask_prefork.conf").read_text().replace("\n    #", " ")
    found = re.search(r"prefork-run (--host unix:(\S+) [^\n]*?unix:)", text)
    assert found is not None
    options = found[1].replace("\\", "").replace(" shop", " daemon").split()
    assert options[options.index("--socket-group") + 1] == WEB
    if WEB not in {one.gr_name for one in grp.getgrall()}:
        pytest.skip(f"there is no group {WEB} here")
    folder = Path(tempfile.mkdtemp(prefix="flask-prefork-", dir="/tmp"))
    try:
        folder.chmod(0o755)
        for name, content in (
            ("fronted.py", (APPS / "fronted.py").read_text()),
            ("sitecustomize.py", "import encodings.idna\n"),
        ):
            (folder / name).write_text(content)
            (folder / name).chmod(0o644)
        options[options.index("--host") + 1] = f"unix://{folder}/http.sock"
        line = command(str(folder / "fronted.py"), *options, "--no-access-log")
        # The interpreter may be out of daemon's reach, and is loaded as root.
        server = run(line, env={"PYTHONPATH": str(folder)})
        front = put(server, user=WEB)
        (worker,) = psutil.Process(front.process.pid).children()
        assert worker.username() == WEB
        assert front.client().ask_json(Host="shop.example")["host"] == "shop.example"
        assert psutil.Process(server.workers()[0]).username() == "daemon"
        server.popen.terminate()
        assert server.wait() == 0
    finally:
        shutil.rmtree(folder)


def test_the_client_is_told(behind: Behind) -> None:
    _, front = behind()
    seen = front.client().ask_json(
        Host="shop.example:8080",
        X_Forwarded_For="6.6.6.6",
        X_Forwarded_Proto="https",
        X_Forwarded_Host="evil.example",
        X_Forwarded_Port="666",
        X_Forwarded_Prefix="/evil",
        X_Request_ID="evil",
    )
    assert seen["address"] == "127.0.0.2"
    assert seen["scheme"] == "http"
    assert seen["host"] == "shop.example:8080"
    assert seen["url"] == "http://shop.example:8080/"
    assert seen["root"] == ""
    assert re.fullmatch("[0-9a-f]{32}", seen["id"])
    assert seen["forwarded"] == {
        "HTTP_X_FORWARDED_FOR": "6.6.6.6, 127.0.0.2",
        "HTTP_X_FORWARDED_PROTO": "http",
        "HTTP_X_FORWARDED_HOST": "shop.example:8080",
    }


def test_tls_in_front(serve: Serve, put: Put, tmp_path: Path) -> None:
    cert, key = make_ssl_devcert(str(tmp_path / "shop"), host="localhost")
    pem = tmp_path / "shop.pem"
    pem.write_bytes(Path(cert).read_bytes() + Path(key).read_bytes())
    server = serve("fronted", "--forwarded-allow-ips", "127.0.0.1")
    front = put(server, pem=str(pem))
    context = ssl.create_default_context(cafile=cert)
    context.check_hostname = False
    with contextlib.closing(
        HTTPSConnection("localhost", front.port, timeout=DEADLINE, context=context)
    ) as connection:
        connection.request("GET", "/", headers={"X-Forwarded-Proto": "ftp"})
        seen = json.loads(connection.getresponse().read())
    assert seen["scheme"] == "https"
    assert seen["url"].startswith("https://localhost:")


def test_http_1_0_without_a_host(behind: Behind) -> None:
    _, front = behind()
    with socket.create_connection(("127.0.0.1", front.port), DEADLINE) as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        data = b"".join(iter(lambda: client.recv(65536), b""))
    assert data.startswith(b"HTTP/1.1 200 ")


def test_an_unlisted_proxy_is_not_believed(serve: Serve, put: Put) -> None:
    front = put(serve("fronted", "--forwarded-allow-ips", "10.0.0.0/8"))
    seen = front.client().ask_json()
    assert seen["address"] == "127.0.0.1"
    assert seen["forwarded"]["HTTP_X_FORWARDED_FOR"] == "127.0.0.2"


def test_its_connections_are_kept(behind: Behind) -> None:
    server, front = behind("--min-idle", "2", "--max-workers", "2")
    clients = [front.client() for _ in range(5)]
    seen = [client.ask_json() for _ in range(4) for client in clients]
    assert len({one["connection"] for one in seen}) == 1
    # Between requests it holds no worker.
    server.wait_for_state("II")
    assert front.client().ask_json()["connection"] == seen[0]["connection"]


def test_slow_clients_hold_no_worker(behind: Behind) -> None:
    _, front = behind("--min-idle", "1", "--max-workers", "1", "--timeout", "0")
    size = 16 << 20
    with (
        socket.create_connection(("127.0.0.1", front.port), DEADLINE) as head,
        socket.create_connection(("127.0.0.1", front.port), DEADLINE) as body,
        socket.create_connection(("127.0.0.1", front.port), DEADLINE) as taker,
    ):
        head.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n")
        body.sendall(
            b"POST /digest HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc"
        )
        # It reads nothing of what nginx has for it.
        request = f"GET /zeros/{size} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        taker.sendall(request.encode())
        client = front.client()
        for _ in range(10):
            assert client.ask()[0] == 200
        body.sendall(b"x" * 97)
        head.sendall(b"\r\n")
        assert body.recv(15) == head.recv(15) == b"HTTP/1.1 200 OK"
        data = b"".join(iter(lambda: taker.recv(1 << 20), b""))
        assert len(data.partition(b"\r\n\r\n")[2]) == size


def test_bodies(behind: Behind) -> None:
    _, front = behind()
    data = os.urandom(1 << 16) * 128
    client = front.client()
    seen = client.ask_json("/digest", data)
    assert seen == {"size": len(data), "digest": hashlib.sha256(data).hexdigest()}
    assert client.ask("/zeros/8388608") == (200, bytes(8388608))


class Load(threading.Thread):
    """Requests, now and then, until it is told to stop.

    :ivar statuses: What they were answered with.
    """

    def __init__(self, client: Client, body: bytes | None) -> None:
        super().__init__()
        self.statuses: list[int] = []
        self.failed: Exception | None = None
        self._client = client
        self._body = body
        self._end = threading.Event()

    def run(self) -> None:
        path = "/" if self._body is None else "/digest"
        try:
            while not self._end.wait(now_and_then()):
                self.statuses.append(self._client.ask(path, self._body)[0])
        except Exception as e:
            self.failed = e

    def stop(self) -> None:
        self._end.set()
        self.join()


def loaded(front: Front, act: Callable[[list[Load]], None]) -> None:
    """Do something while there is load; no request must be lost by it."""
    loads = [Load(front.client(), b"x" * 1000 if i % 2 else None) for i in range(4)]
    for load in loads:
        load.start()
    try:
        act(loads)
    finally:
        for load in loads:
            load.stop()
    for load in loads:
        assert load.failed is None
        assert set(load.statuses) == {200}


def more(loads: list[Load], count: int = 25) -> None:
    """Wait until each had so many more answers."""
    wanted = {load: len(load.statuses) + count for load in loads}
    wait_for(
        lambda: (
            any(load.failed for load in loads)
            or all(len(load.statuses) >= wanted[load] for load in loads)
        )
    )


def test_reloads_lose_nothing(behind: Behind) -> None:
    server, front = behind("--min-idle", "2", "--max-workers", "4")

    def act(loads: list[Load]) -> None:
        for generation in (2, 3, 4):
            more(loads)
            server.signal(signal.SIGHUP)
            server.wait_for_log(rf"^Generation {generation} serves\.$")
            more(loads)

    loaded(front, act)


def test_retirements_lose_nothing(behind: Behind) -> None:
    server, front = behind(
        "--min-idle", "2", "--max-workers", "4", "--max-requests", "20"
    )
    before = set(server.workers())

    def act(loads: list[Load]) -> None:
        wait_for(lambda: before - set(server.workers()))
        more(loads)

    loaded(front, act)


def test_the_log_has_its_client_and_its_request_id(behind: Behind) -> None:
    server, front = behind("--access-log", "--access-log-format", "json")
    seen = front.client().ask_json(User_Agent='a "b" \x9b31m')
    line = server.wait_for_log(r'^\{"time": .*\}$')[0]
    logged = json.loads(line)
    assert logged["address"] == "127.0.0.2"
    assert logged["request_id"] == seen["id"] == seen["own_id"]
    # When nginx has received it.
    assert re.fullmatch(r"t=[0-9]{10}\.[0-9]{3}", seen["request_start"])
    assert logged["user_agent"] == 'a "b" \x9b31m'
    assert logged["slot"] == seen["slot"]


# Connections that are passed on as they are

needs_stream = pytest.mark.skipif(
    not STREAM.exists(),
    reason="nginx's stream module isn't installed (apt install libnginx-mod-stream)",
)


@pytest.fixture
def passed_on(serve: Serve, put: Put) -> Callable[..., tuple[Server, Front]]:
    def start(*args: str) -> tuple[Server, Front]:
        server = serve(
            "fronted", "--proxy-protocol", "--proxy-allow-from", "127.0.0.1", *args
        )
        return server, put(server, "flask_prefork.stream.conf")

    return start


@needs_stream
def test_proxy_protocol(passed_on: Callable[..., tuple[Server, Front]]) -> None:
    server, front = passed_on(
        "--min-idle", "2", "--max-workers", "2", "--forwarded-allow-ips", "127.0.0.1"
    )
    client = front.client()
    connections = set()
    for _ in range(3):
        seen = client.ask_json(X_Forwarded_For="6.6.6.6")
        assert seen["address"] == "127.0.0.2"
        connections.add(seen["connection"])
        # It waits for the next request, and for no worker.
        server.wait_for_state("II")
    assert len(connections) == 1
    # Also with a new generation.
    server.signal(signal.SIGHUP)
    server.wait_for_log(r"^Generation 2 serves\.$")
    seen = client.ask_json()
    assert (seen["address"], seen["generation"]) == ("127.0.0.2", 2)
    assert seen["connection"] in connections


@needs_stream
def test_proxy_protocol_holds_no_worker(
    passed_on: Callable[..., tuple[Server, Front]],
) -> None:
    server, front = passed_on("--min-idle", "1", "--max-workers", "1")
    with socket.create_connection(("127.0.0.1", front.port), DEADLINE) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\n")
        client = front.client()
        assert client.ask()[0] == 200
        server.wait_for_state("I")
        slow.sendall(b"Host: a\r\n\r\n")
        assert slow.recv(15) == b"HTTP/1.1 200 OK"


@needs_stream
def test_who_comes_without_a_header(
    passed_on: Callable[..., tuple[Server, Front]],
) -> None:
    server, front = passed_on()
    with pytest.raises(ConnectionError):
        server.get()
    server.wait_for_log(r"^127\.0\.0\.1 - - \[.*\] closed, no PROXY header$")
    assert front.client().ask()[0] == 200
