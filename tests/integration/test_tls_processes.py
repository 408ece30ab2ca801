"""A TLS proxy of several processes, with real servers."""

from __future__ import annotations

import os
import signal
import ssl
from pathlib import Path

import psutil
import pytest

from .admin import Admin
from .conftest import Serve
from .server import Server
from .server import wait_for
from .test_tls import client_certificate
from .test_tls import Clients
from .test_tls import clients
from .test_tls import files
from .test_tls import is_served
from .test_tls import proxies
from .test_tls import REQUEST
from .test_tls import shows_client
from .test_tls import untrusting

__all__ = ["clients", "files"]

POOL = ("--min-idle", "2", "--max-workers", "2", "--tls-processes", "3")


def members(server: Server) -> list[psutil.Process]:
    """The three processes that have clients."""

    def find() -> list[psutil.Process]:
        (group,) = proxies(server)
        found = group.children()
        return found if len(found) == 3 else []

    return wait_for(find)


def resume(
    server: Server, clients: Clients, session: ssl.SSLSession | None
) -> ssl.SSLSocket:
    """A client that has an answer, and continues a session."""
    sock = clients.context.wrap_socket(clients.plain(server), session=session)
    clients.enter(sock)
    sock.sendall(REQUEST)
    assert is_served(sock)
    return sock


def connections(process: psutil.Process) -> int:
    """How many TLS clients a process has."""
    return sum(one.status == "ESTABLISHED" for one in process.net_connections("tcp"))


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_sessions_are_resumed_by_all(
    serve: Serve, files: list[str], clients: Clients, version: str
) -> None:
    """A ticket of one is good for another one: also of one that has died."""
    server = serve("held", *POOL, *files, "--admin", "0")
    clients.context.maximum_version = ssl.TLSVersion[version]
    first = clients.ask(server)
    (owner,) = [one for one in members(server) if connections(one)]
    owner.kill()
    server.wait_for_log(rf"^A process of the TLS proxy \(pid {owner.pid}\) died")
    for _ in range(5):
        assert resume(server, clients, first.session).session_reused
    admin = Admin(server)
    admin.wait_until(lambda s: s["totals"]["tls_handshakes"]["resumed"] == 5)


def test_one_is_killed(serve: Serve, files: list[str], clients: Clients) -> None:
    """Its connections are lost, those of the others are not. It is replaced."""
    server = serve("held", *POOL, *files, "--admin", "0")
    admin = Admin(server)
    sockets = [clients.ask(server) for _ in range(12)]
    admin.wait_until(lambda s: s["tls_connections"] == 12)
    before = members(server)
    one = max(before, key=connections)
    count = connections(one)
    one.kill()
    admin.wait_until(lambda s: s["totals"]["tls_aborted"]["lost"] == count)
    admin.wait_until(lambda s: s["tls_connections"] == 12 - count)
    served = 0
    for sock in sockets:
        try:
            sock.sendall(REQUEST)
            served += is_served(sock)
        except OSError:
            pass
    assert served == 12 - count
    assert set(members(server)) & set(before) == set(before) - {one}


def test_one_hangs(serve: Serve, files: list[str], clients: Clients) -> None:
    """It is killed when it was silent for ten seconds; meanwhile others serve."""
    server = serve("held", *POOL, *files)
    (one, *_) = members(server)
    one.send_signal(signal.SIGSTOP)
    for _ in range(6):
        # Nobody waits for the one that is stopped, not even who has connected to it.
        clients.ask(server)
    server.wait_for_log(
        rf"^A process of the TLS proxy \(pid {one.pid}\) is silent: it is killed"
    )
    wait_for(lambda: one not in members(server))


def test_all_end_with_their_group(
    serve: Serve, files: list[str], clients: Clients
) -> None:
    """Killed, they are replaced as one; and none is left of the old ones."""
    server = serve("held", *POOL, *files)
    client = clients.ask(server)
    before = members(server)
    (group,) = proxies(server)
    group.kill()
    psutil.wait_procs(before, timeout=20)
    assert not any(one.is_running() for one in before)
    try:
        assert client.recv(1) == b""
    except ConnectionResetError:
        pass
    wait_for(lambda: proxies(server) and proxies(server) != [group])
    clients.ask(server)


def test_a_reload(serve: Serve, files: list[str], clients: Clients) -> None:
    """The old ones serve whom they have, and end after the last one."""
    server = serve("held", *POOL, *files)
    client = clients.ask(server)
    (before,) = proxies(server)
    server.signal(signal.SIGHUP)
    wait_for(lambda: len(proxies(server)) == 2)
    wait_for(lambda: len(before.children()) == 1)
    client.sendall(REQUEST)
    assert is_served(client)
    clients.ask(server)
    client.unwrap().close()
    wait_for(lambda: before not in proxies(server))
    assert len(members(server)) == 3


def test_the_end(serve: Serve, files: list[str], clients: Clients) -> None:
    server = serve("held", *POOL, *files)
    clients.ask(server)
    found = [*proxies(server), *members(server)]
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert not any(one.is_running() for one in found)


def test_each_client_is_itself(
    serve: Serve, files: list[str], clients: Clients, tmp_path: Path
) -> None:
    """The certificate in the environ is the client's own, whichever process it has
    come by, also from a parked connection and after a reload."""
    made = []
    for number in range(6):
        folder = tmp_path / str(number)
        folder.mkdir()
        made.append(client_certificate(folder, f"client {number}"))
    known = tmp_path / "known.pem"
    known.write_text("".join(Path(cert).read_text() for cert, _ in made))
    env = shows_client(tmp_path, files, str(known))
    app = str(tmp_path / "shows_client.py")
    server = serve(app, *POOL, "--cert", "own_tls.make", env=env)
    opened: list[tuple[ssl.SSLSocket, list[str]]] = []

    def connect() -> None:
        for cert, key in made:
            clients.context = untrusting()
            clients.context.load_cert_chain(cert, key)
            opened.append((clients.open(server), Path(cert).read_text().split()))

    connect()
    for number in range(3):
        for sock, expected in opened:
            sock.sendall(REQUEST)
            body = sock.recv(65536).partition(b"\r\n\r\n")[2]
            assert body.decode().split() == expected
        server.wait_for_state("II")
        if not number:
            server.signal(signal.SIGHUP)
            server.wait_for_log("^Generation 2 serves")
            wait_for(lambda: len(proxies(server)) == 2)
            connect()


def test_how_many_by_default(serve: Serve, files: list[str]) -> None:
    """One for every four cores."""
    server = serve("held", "--min-idle", "1", *files)
    count = len(os.sched_getaffinity(0)) // 4
    (proxy,) = proxies(server)
    assert len(proxy.children()) == (count if count > 1 else 0)
