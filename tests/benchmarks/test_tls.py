"""TLS: clients that do handshakes or are silent, and how they are shown."""

from __future__ import annotations

import contextlib
import socket
import ssl
import sys
import threading
import typing as t
from collections.abc import Iterator
from pathlib import Path

import pytest

from .test_suites import made_up

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import ask
import certificate
import servers
import tls_client
import tls_front_server
from suites import tls
from tables import NOTHING

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> certificate.Certificate:
    return certificate.make_certificate(tmp_path_factory.mktemp("tls"))


@contextlib.contextmanager
def serving(files: certificate.Certificate, forgetful: bool = False) -> Iterator[int]:
    """A TLS server with a thread for each connection.

    :param forgetful: It gives no tickets and knows no session: each connection has
        another context, as Python can't switch off OpenSSL's cache of TLS 1.2.
    :return: Its port.
    """

    def make_context() -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files.both)
        if forgetful:
            context.num_tickets = 0
            context.options |= ssl.OP_NO_TICKET
        return context

    shared = make_context()

    def serve(sock: socket.socket) -> None:
        context = make_context() if forgetful else shared
        with (
            contextlib.suppress(OSError),
            context.wrap_socket(sock, server_side=True) as client,
        ):
            while data := client.recv(4096):
                client.sendall(ANSWER)
                if b"Connection: close" in data:
                    break

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = listener.accept()
                threading.Thread(target=serve, args=(sock,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


# Clients


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_sessions_are_resumed_only_if_both_want(
    files: certificate.Certificate, version: str
) -> None:
    with serving(files) as port:
        once = tls_client.Handshakes(port, version, resume=True)
        session = once._once(None)
        assert once._once(session) is not None
        assert once.counts["resumed"] == 1
        full = tls_client.Handshakes(port, version, resume=False)
        report = full.run(0.05, threads=2)
        assert (report["resumed"], report["failed"]) == (0, 0)
        assert report["requests"] == report["tickets"] > 0
    with serving(files, forgetful=True) as port:
        none = tls_client.Handshakes(port, version, resume=True)
        none._once(none._once(None))
        assert none.counts == {"answered": 2}


def test_latency_is_of_each_request(files: certificate.Certificate) -> None:
    with serving(files) as port:
        found = tls_client.latency(port, 0.05, certificate.untrusting())
    assert len(found["latencies"]) == 0.05 * tls_client.RATE
    assert found["again"] == 0 and min(found["latencies"]) > 0


@pytest.mark.parametrize("request_first", [False, True])
def test_silent_clients_stay_connected(
    files: certificate.Certificate, request_first: bool
) -> None:
    reports: list[dict[str, t.Any]] = []
    with serving(files) as port:
        served: list[bytes] = []

        def wait() -> None:
            served.append(ask.by_https(port, "", 10.0))

        tls_client.idle(port, 3, request_first, wait, reports.append)
    assert served == [b"ok"]
    assert reports[0]["connected"] == 3 and reports[1]["closed"] == 0


def test_silent_clients_do_not_try_for_ever() -> None:
    reports: list[dict[str, t.Any]] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    tls_client.idle(port, 100, False, lambda: None, reports.append)
    assert reports[0]["failed"] == tls_client.MOST_FAILED


def test_who_is_closed_is_counted() -> None:
    one, other = socket.socketpair()
    with one, other:
        other.sendall(b"a ticket")
        assert not tls_client._is_closed(one.fileno())
        other.close()
        assert tls_client._is_closed(one.fileno())


def test_clients_have_addresses_enough() -> None:
    assert tls_client.source(0) == "127.0.0.1"
    assert tls_client.source(2 * tls_client.PER_ADDRESS) == "127.0.0.3"


# Servers


@pytest.mark.parametrize("name", tls.OTHERS)
def test_each_server_is_told_the_certificate(
    name: str, files: certificate.Certificate, tmp_path: Path
) -> None:
    setup = servers.Setup(
        python=Path(sys.executable),
        port=1,
        workers=2,
        app="hello",
        keep_alive=True,
        folder=tmp_path,
        certificate=files,
    )
    server = servers.SERVERS[name]
    command = " ".join(server.command(setup))
    both = str(files.both) in command
    assert both or (str(files.certificate) in command and str(files.key) in command)
    # Who is behind another one has none.
    assert server.tls_only == ("--cert " not in command and "prefork" in name)


@pytest.mark.parametrize("program", ["haproxy", "nginx"])
def test_the_front_has_two_ports(program: str) -> None:
    folder = Path("/folder")
    text = tls_front_server.config(program, 1, 2, 3, folder, folder / "tls.pem")
    assert "127.0.0.1:1 ssl" in text and "127.0.0.1:2" in text
    assert "/folder/tls.pem" in text and "{" + "port}" not in text


# Tables


def test_memory_is_of_the_one_that_grew_and_of_all() -> None:
    before = {1: (100, 50), 2: (100, 50), 3: (1, 1)}
    after = {1: (110, 60), 2: (300, 200), 4: (5, 5)}
    assert tls.grown(before, after) == {"rss_one": 200, "pss_one": 150, "pss_all": 165}
    assert tls.grown({}, {}) == {"rss_one": 0, "pss_one": 0, "pss_all": 0}


def test_tables_say_what_was_resumed_and_gained() -> None:
    results = made_up("tls")
    full, latency, idle = (
        next(table for table in tls._tables(results) if word in table.title)
        for word in ("TLS 1.3", "Latency", "asked once")
    )
    assert " %" in full.rows[0][3]
    plain = next(row for row in latency.rows if row[0].startswith(tls.PLAIN))
    assert plain[3] == NOTHING
    assert all(row[3] != NOTHING for row in latency.rows if row is not plain)
    assert idle.rows[0][3:6] == [
        "20.0 (20.0–20.0)",
        "15.0 (15.0–15.0)",
        "16.0 (16.0–16.0)",
    ]
    assert idle.rows[0][6] == "3.0, 4.0"


def test_a_few_clients_tell_nothing_of_one() -> None:
    results = made_up("tls")
    results.meta.options["idle"] = 30_000
    (table,) = [one for one in tls._tables(results) if "asked once" in one.title]
    assert table.rows[0][3] == NOTHING


def test_quantiles_and_parts() -> None:
    assert tls.quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert tls.quantile([1.0], 0.99) == 1.0
    with pytest.raises(ValueError, match="no values"):
        tls.quantile([], 0.5)
    assert tls.resumed({"resumed": 0, "requests": 0}) == 0.0
    assert tls.resumed({"resumed": 3, "requests": 4}) == 0.75
