"""TLS in a process of its own, with real servers."""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
import socket
import ssl
import sys
import typing as t
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from werkzeug.serving import make_ssl_devcert

from .admin import Admin
from .conftest import Fail
from .conftest import Run
from .conftest import Serve
from .gate import DEADLINE
from .gate import Gate
from .server import APPS
from .server import runs
from .server import Server
from .server import wait_for

TWO = ("--min-idle", "2", "--max-workers", "2")
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
HALF = b"POST /digest HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\nhalf"


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Options with a certificate."""
    cert, key = make_ssl_devcert(str(tmp_path / "shop"), host="localhost")
    return ["--cert", cert, "--key", key]


def untrusting() -> ssl.SSLContext:
    """A client that believes anybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Clients:
    """TLS clients, all closed at the end."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self.context = untrusting()

    def plain(self, server: Server, data: bytes = b"") -> socket.socket:
        address = server.url.rpartition("/")[2].split(":")
        sock = socket.create_connection((address[0], int(address[1])), DEADLINE)
        self._stack.enter_context(sock)
        sock.sendall(data)
        return sock

    def open(self, server: Server, data: bytes = b"") -> ssl.SSLSocket:
        sock = self.context.wrap_socket(self.plain(server))
        self._stack.enter_context(sock)
        sock.sendall(data)
        return sock

    def enter(self, sock: socket.socket) -> None:
        """Close it at the end."""
        self._stack.enter_context(sock)

    def ask(self, server: Server) -> ssl.SSLSocket:
        """One that was served."""
        sock = self.open(server, REQUEST)
        assert is_served(sock)
        return sock


def is_served(sock: ssl.SSLSocket) -> bool:
    return sock.recv(65536).startswith(b"HTTP/1.1 200 ")


@pytest.fixture
def clients() -> Iterator[Clients]:
    with contextlib.ExitStack() as stack:
        yield Clients(stack)


def proxies(server: Server) -> list[psutil.Process]:
    """The TLS proxies of a server."""
    children = psutil.Process(server.pid).children()
    return [one for one in children if runs(one, "tlsproxy")]


def test_who_waits_for_a_client(
    serve: Serve, files: list[str], clients: Clients
) -> None:
    """Clients that are silent, stop in their hello or in their body, or don't read:
    another one is served, and no worker waits for any of them."""
    server = serve("fronted", *TWO, *files, "--header-timeout", "60")
    for _ in range(60):
        clients.plain(server)
        clients.plain(server, b"\x16\x03\x01\x02\x00\x01")
    for _ in range(40):
        clients.open(server, HALF)
    for _ in range(10):
        clients.open(server, REQUEST.replace(b"/ ", b"/zeros/20000000 "))
    for _ in range(5):
        clients.ask(server)
    server.wait_for_state("II")


def test_the_key_is_nowhere_else(
    serve: Serve, files: list[str], tmp_path: Path
) -> None:
    """Neither as PEM, nor as its numbers, in the memory of any process but the one:
    at the start, and after a reload."""
    server = serve("held", *TWO, *files)
    key = serialization.load_pem_private_key(Path(files[3]).read_bytes(), None)
    numbers = t.cast(t.Any, key).private_numbers()
    secrets = [Path(files[3]).read_bytes().split(b"\n")[3]]
    for number in (numbers.p, numbers.q):
        size = (number.bit_length() + 7) // 8
        # OpenSSL has it in words of the machine.
        secrets += [number.to_bytes(size, order)[8:-8] for order in ("little", "big")]  # type: ignore[arg-type]

    def look() -> psutil.Process:
        (proxy,) = proxies(server)
        assert any(secret in memory(proxy.pid) for secret in secrets), "it isn't seen"
        others = [
            server.pid,
            *(one.pid for one in psutil.Process(server.pid).children(True)),
        ]
        others.remove(proxy.pid)
        assert len(others) >= 4
        for pid in others:
            found = memory(pid)
            assert not any(secret in found for secret in secrets)
        return proxy

    before = look()
    server.signal(signal.SIGHUP)
    server.wait_for_log("^Generation 2 serves")
    wait_for(lambda: before not in proxies(server))
    # Nobody ends meanwhile.
    server.wait_for_log("^Generation 1 has ended")
    server.wait_for_state("II")
    look()


def memory(pid: int) -> bytes:
    """All that a process has in memory."""
    found = []
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as file:
        for line in maps:
            area, rights, *_ = line.split()
            if "r" not in rights or line.rstrip().endswith(("[vvar]", "[vsyscall]")):
                continue
            start, end = (int(one, 16) for one in area.split("-"))
            with contextlib.suppress(OSError, ValueError):
                file.seek(start)
                found.append(file.read(end - start))
    return b"\n".join(found)


def shown(clients: Clients, server: Server) -> str:
    certificate = clients.ask(server).getpeercert(binary_form=True)
    assert certificate is not None
    return ssl.DER_cert_to_PEM_cert(certificate)


def test_a_new_certificate(
    serve: Serve, files: list[str], clients: Clients, tmp_path: Path
) -> None:
    """HUP reads it; a broken one is refused, and nobody is disconnected."""
    server = serve("held", *TWO, *files, "--keep-alive", "60")
    kept = clients.ask(server)
    before = shown(clients, server)
    new = make_ssl_devcert(str(tmp_path / "new"), host="localhost")
    for old, path in zip((files[1], files[3]), new, strict=True):
        os.replace(path, old)
    server.signal(signal.SIGHUP)
    wait_for(lambda: shown(clients, server) != before)
    Path(files[3]).write_text("nothing")
    server.signal(signal.SIGHUP)
    server.wait_for_log(
        r"^Can't use the certificate .*shop\.crt with the key .*shop\.key"
    )
    server.wait_for_log(r"^The certificate could not be replaced; the old one stays\.$")
    assert shown(clients, server) != before
    kept.sendall(REQUEST)
    assert is_served(kept)
    assert not any(word in server.log() for word in ("died", "Traceback"))


def test_an_old_one_ends_with_its_last_connection(
    serve: Serve, files: list[str], clients: Clients
) -> None:
    server = serve("held", *TWO, *files, "--keep-alive", "60")
    kept = clients.ask(server)
    (first,) = proxies(server)
    server.signal(signal.SIGHUP)
    wait_for(lambda: len(proxies(server)) == 2)
    kept.sendall(REQUEST)
    assert is_served(kept)
    kept.close()
    wait_for(
        lambda: (
            [*map(lambda one: one.pid, proxies(server))] != [first.pid]
            and len(proxies(server)) == 1
        )
    )
    assert proxies(server)[0].pid != first.pid
    clients.ask(server)


def test_a_certificate_that_can_not_be_used(
    fail: Fail, files: list[str], tmp_path: Path
) -> None:
    Path(files[3]).write_text("nothing")
    status, output = fail("held", "--port", "0", *files)
    assert status == 1
    assert "Can't use the certificate" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--key", "{key}"], '"--cert" must also be specified.'),
        (["--cert", "{cert}"], "Give a --key for each --cert"),
        (["--cert", "adhoc", "--key", "{key}"], '"--key" is not used'),
        (["--cert", "nowhere.pem", "--key", "{key}"], "'nowhere.pem' does not exist"),
        (["--cert", "no_such_module.context"], "neither a file nor an SSL context"),
    ],
)
def test_slips(fail: Fail, files: list[str], args: list[str], message: str) -> None:
    given = [one.format(cert=files[1], key=files[3]) for one in args]
    status, output = fail("held", "--port", "0", *given)
    assert status != 0
    assert message in output
    assert "Traceback" not in output


def test_it_is_killed(
    serve: Serve, files: list[str], clients: Clients, gate: Gate
) -> None:
    """Its connections are lost, and counted; another one is started."""
    server = serve("held", *TWO, *files, "--admin", "0")
    admin = Admin(server)
    lost = clients.ask(server)
    admin.wait_until(lambda s: s["tls_connections"])
    (proxy,) = proxies(server)
    proxy.kill()
    with contextlib.suppress(ConnectionResetError):
        assert lost.recv(1) == b""
    clients.ask(server)
    server.wait_for_log(
        rf"^The TLS proxy \(pid {proxy.pid}\) died: SIGKILL; about 1 connections"
    )
    admin.wait_until(lambda s: s["totals"]["tls_aborted"]["lost"] == 1)


def client_certificate(folder: Path, subject: str = "client") -> tuple[str, str]:
    """The paths of a client's own certificate and key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "client.crt").write_bytes(made.public_bytes(pem))
    (folder / "client.key").write_bytes(
        key.private_bytes(
            pem,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return str(folder / "client.crt"), str(folder / "client.key")


def shows_client(folder: Path, files: list[str], known: str) -> dict[str, str]:
    """Write an app that shows the client's certificate, and a context that asks for it.

    :param known: The certificates that clients may have.
    :return: Environment variables for them.
    """
    (folder / "own_tls.py").write_text(
        "import ssl\n"
        "def make():\n"
        "    purpose = ssl.Purpose.CLIENT_AUTH\n"
        f"    context = ssl.create_default_context(purpose, cafile={known!r})\n"
        f"    context.load_cert_chain({files[1]!r}, {files[3]!r})\n"
        "    context.verify_mode = ssl.CERT_OPTIONAL\n"
        "    return context\n"
    )
    (folder / "shows_client.py").write_text(
        "from flask import Flask, request\n"
        "app = Flask(__name__)\n"
        "@app.get('/')\n"
        "def index():\n"
        "    return request.environ.get('SSL_CLIENT_CERT', 'nobody')\n"
    )
    return {"PYTHONPATH": str(folder)}


def test_a_client_in_the_environ(
    serve: Serve, files: list[str], clients: Clients, tmp_path: Path
) -> None:
    cert, key = client_certificate(tmp_path)
    env = shows_client(tmp_path, files, cert)
    server = serve(
        str(tmp_path / "shows_client.py"), *TWO, "--cert", "own_tls.make", env=env
    )
    assert b"nobody" in clients.open(server, REQUEST).recv(65536)
    clients.context.load_cert_chain(cert, key)
    client = clients.open(server)
    for _ in range(3):
        client.sendall(REQUEST)
        found = client.recv(65536).partition(b"\r\n\r\n")[2]
        assert found.split() == Path(cert).read_bytes().split()
        # It is parked meanwhile, and the next worker sees the same.
        server.wait_for_state("II")


def test_a_link_leads_to_another_certificate(
    serve: Serve, files: list[str], clients: Clients, tmp_path: Path
) -> None:
    """As certbot renews one, and Kubernetes."""
    live = tmp_path / "live"
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        make_ssl_devcert(str(tmp_path / folder / "shop"), host="localhost")
    live.symlink_to("first")
    server = serve(
        "held", *TWO, "--cert", str(live / "shop.crt"), "--key", str(live / "shop.key")
    )

    def served() -> str:
        found = clients.ask(server).getpeercert(True)
        assert found is not None
        return ssl.DER_cert_to_PEM_cert(found)

    assert served() == (tmp_path / "first" / "shop.crt").read_text()
    (tmp_path / "new").symlink_to("second")
    (tmp_path / "new").rename(live)
    server.signal(signal.SIGHUP)
    wait_for(lambda: served() == (tmp_path / "second" / "shop.crt").read_text())


def test_modules_in_the_directory_are_not_the_servers(
    run: Run, files: list[str], clients: Clients, tmp_path: Path
) -> None:
    """The TLS proxy runs with root's rights at first, and imports none of them."""
    for name in ("_strptime", "prctl"):
        # The app's processes do find them.
        (tmp_path / f"{name}.py").write_text(
            "import sys\nif 'tlsproxy' in ''.join(sys.orig_argv):\n"
            f"    open({str(tmp_path / 'ran')!r}, 'w')\n"
        )
    flask = str(Path(sys.executable).with_name("flask"))
    app = str(APPS / "held.py")
    server = run([flask, "--app", app, "prefork-run", "--port", "0", *TWO, *files])
    clients.ask(server)
    assert not (tmp_path / "ran").exists()


def test_a_server_name_that_is_none(
    serve: Serve, files: list[str], clients: Clients, tmp_path: Path
) -> None:
    """It fails as others do, without a traceback."""
    other = make_ssl_devcert(str(tmp_path / "other"), host="other.test")
    more = ("--cert", other[0], "--key", other[1])
    server = serve("held", *TWO, *files, *more)
    hello, answer = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = clients.context.wrap_bio(answer, hello, server_hostname="named.test")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    sock = clients.plain(
        server, hello.read().replace(b"named", b"\xff\xfe\xfd\xfc\xfb")
    )
    assert sock.recv(7)[:1] == b"\x15"
    clients.ask(server)
    server.wait_for_log("No TLS handshake with 127.0.0.1: ")
    assert "Traceback" not in server.log()
    assert "UnicodeDecodeError" not in server.log()


def test_it_is_the_last_to_end(
    serve: Serve, files: list[str], clients: Clients
) -> None:
    """A client that reads slowly gets all of its response, though the workers that
    have sent it are gone."""
    server = serve("fronted", *TWO, *files)
    client = clients.open(server, REQUEST.replace(b"/ ", b"/zeros/3000000 "))
    data = client.recv(1000)
    server.signal(signal.SIGTERM)
    while part := client.recv(65536):
        data += part
    assert len(data.partition(b"\r\n\r\n")[2]) == 3_000_000
    assert server.wait() == 0
