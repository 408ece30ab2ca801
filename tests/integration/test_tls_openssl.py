"""What ``openssl s_client`` and hand-made records find out about our TLS."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import subprocess
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path

import programs
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from werkzeug.serving import make_ssl_devcert

from .conftest import Serve
from .gate import DEADLINE
from .server import Server
from .server import wait_for

OPENSSL = programs.find("openssl")
pytestmark = pytest.mark.skipif(OPENSSL is None, reason=programs.lack("openssl"))
CLOSE = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
#: All that is offered in TLS 1.2 with an RSA certificate, the preferred first.
OFFERED = [
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-RSA-CHACHA20-POLY1305",
]
APPLICATION_DATA, HANDSHAKE, HEARTBEAT = 23, 22, 24
#: The most that a record may have in TLS 1.3 (RFC 8446, 5.2).
LONGEST = 16384 + 256


@pytest.fixture
def server(serve: Serve, tmp_path: Path) -> Server:
    """With certificates for two names."""
    args = []
    for name in ("a.test", "b.test"):
        cert, key = make_ssl_devcert(str(tmp_path / name), host=name)
        args += ["--cert", cert, "--key", key]
    return serve("fronted", "--min-idle", "2", "--max-workers", "2", *args)


def address(server: Server) -> tuple[str, int]:
    host, _, port = server.url.rpartition("/")[2].rpartition(":")
    return host, int(port)


def s_client_line(server: Server, *args: str) -> list[str]:
    assert OPENSSL is not None
    place = "{}:{}".format(*address(server))
    return [OPENSSL, "s_client", "-connect", place, *args]


def s_client(server: Server, *args: str, data: bytes = b"") -> str:
    """Run ``openssl s_client``, and give it something to send.

    :return: Its output and errors. With ``data`` it ends with the connection.
    """
    if data:
        args = ("-ign_eof", *args)
    done = subprocess.run(
        s_client_line(server, *args),
        input=data,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=DEADLINE,
    )
    return done.stdout.decode(errors="replace")


def assert_served(server: Server) -> None:
    assert "HTTP/1.1 200 OK" in s_client(server, data=CLOSE)


# Versions and ciphers


def test_versions(server: Server) -> None:
    for ciphers in ("DEFAULT", "DEFAULT@SECLEVEL=0"):
        for version in ("-tls1_2", "-tls1_3"):
            found = s_client(server, version, "-cipher", ciphers)
            assert "Cipher is (NONE)" not in found
        for version in ("-tls1", "-tls1_1"):
            found = s_client(server, version, "-cipher", ciphers)
            assert "Cipher is (NONE)" in found
            # With other defaults a client may not offer them at all.
            if "SECLEVEL" in ciphers:
                assert "alert protocol version" in found
    assert_served(server)


def test_ssl_3(server: Server) -> None:
    """No program of today sends its hello."""
    body = b"\x03\x00" + bytes(32) + b"\0" + b"\x00\x04\x00\x35\x00\x2f" + b"\x01\0"
    hello = b"\x01" + len(body).to_bytes(3, "big") + body
    answer = talk(server, b"\x16\x03\x00" + len(hello).to_bytes(2, "big") + hello)
    assert answer[:1] == b"\x15"
    # Fatal: handshake_failure or protocol_version (RFC 8446, 6).
    assert answer[5:] in (b"\x02\x28", b"\x02\x46")
    assert_served(server)


def test_ciphers(server: Server) -> None:
    """All have forward secrecy; there is none without encryption, without
    authentication, of export's strength, with RC4, 3DES or static RSA."""
    assert OPENSSL is not None
    listed = subprocess.run(
        [OPENSSL, "ciphers", "-tls1_2", "ALL:COMPLEMENTOFALL:@SECLEVEL=0"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout.strip()
    left = [name for name in listed.split(":") if not name.startswith("TLS_")]
    assert {"NULL-SHA256", "AES128-SHA", "AECDH-NULL-SHA"} < set(left)
    found = []
    while chosen := cipher(server, left):
        found.append(chosen)
        left.remove(chosen)
    # Our order counts, not the client's.
    assert found == OFFERED
    assert cipher(server, OFFERED[::-1]) == OFFERED[0]
    for group in ("aNULL", "eNULL", "kRSA", "kDHE", "PSK"):
        assert cipher(server, [group]) is None


def cipher(server: Server, wanted: list[str]) -> str | None:
    """Which one is chosen of some."""
    given = ":".join([*wanted, "@SECLEVEL=0"])
    found = s_client(server, "-tls1_2", "-cipher", given)
    (line,) = (line for line in found.splitlines() if "Cipher is" in line)
    name = line.rpartition(" ")[2]
    return None if name == "(NONE)" else name


# Extensions


def test_renegotiation_and_compression(server: Server, tmp_path: Path) -> None:
    assert "Compression: NONE" in s_client(server, "-comp", "-tls1_2")
    output = tmp_path / "output"
    with (
        output.open("wb") as file,
        subprocess.Popen(
            s_client_line(server, "-tls1_2"),
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
        ) as client,
    ):
        try:
            assert client.stdin is not None
            wait_for(lambda: b"Verify return code" in output.read_bytes())
            client.stdin.write(b"R\n")
            client.stdin.flush()
            wait_for(lambda: b"no renegotiation" in output.read_bytes())
        finally:
            client.kill()
    assert b"Secure Renegotiation IS supported" in output.read_bytes()
    assert_served(server)


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_tickets(server: Server, tmp_path: Path, version: str) -> None:
    ticket = str(tmp_path / "ticket")
    early = tmp_path / "early"
    early.write_bytes(CLOSE)
    found = s_client(
        server, version, "-servername", "a.test", "-sess_out", ticket, data=CLOSE
    )
    assert "New, TLSv1." in found
    again = ("-sess_in", ticket, version)
    found = s_client(server, *again, "-servername", "a.test", data=CLOSE)
    assert "Reused, TLSv1." in found
    assert "HTTP/1.1 200 OK" in found
    # No certificate is sent, so the name is the client's affair (RFC 8446, 4.6.1).
    found = s_client(server, *again, "-servername", "b.test", data=CLOSE)
    assert "HTTP/1.1 200 OK" in found
    if version == "-tls1_3":
        found = s_client(server, *again, "-early_data", str(early), data=CLOSE)
        assert "Early data was not sent" in found
        assert "Max Early Data: 0" in found


def test_names(server: Server) -> None:
    def subject(*args: str) -> str:
        found = s_client(server, *args)
        (line,) = (one for one in found.splitlines() if one.startswith("subject="))
        return line.rpartition(" ")[2].rpartition("=")[2]

    assert subject("-servername", "a.test") == "a.test"
    assert subject("-servername", "B.test") == "b.test"
    assert subject("-servername", "www.b.test") == "b.test"
    assert subject("-servername", "c.test") == "a.test"
    assert subject("-noservername") == "a.test"


def test_alpn(server: Server) -> None:
    both = s_client(server, "-alpn", "h2,http/1.1")
    assert "ALPN protocol: http/1.1" in both
    # OpenSSL's server goes on without, and so does Python's.
    found = s_client(server, "-alpn", "h2", data=CLOSE)
    assert "No ALPN negotiated" in found
    assert "HTTP/1.1 200 OK" in found


def test_the_end(server: Server) -> None:
    for version in ("-tls1_2", "-tls1_3"):
        found = s_client(server, version, "-state", data=CLOSE)
        assert "alert read:warning:close notify" in found
        assert "unexpected eof" not in found


# No TLS


def test_no_tls(server: Server) -> None:
    """An alert at most; in any case the connection ends."""
    for sent in (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.9\r\n" * 10,
        bytes(5000),
        b"\x18\x03\x03\x00\x03\x01\x40\x00",  # a heartbeat (RFC 6520)
        b"\x16\x03\x01\x00\x00" * 100,
        b"\x17\x03\x03\x00\x00" * 100,
        b"\x16\x03\x01\xff\xff" + bytes(65535),
    ):
        answer = talk(server, sent)
        assert answer[:1] in (b"", b"\x15"), sent[:20]
        assert len(answer) in (0, 7)
    assert_served(server)


def test_plain_http(server: Server) -> None:
    """An answer that the client can read, whatever else it sends."""
    for more in (b"", bytes(1_000_000)):
        answer = talk(server, CLOSE + more)
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert b"Content-Length: %d\r\n" % len(body) in head + b"\r\n"
        assert b"HTTPS" in body
    assert_served(server)
    server.wait_for_log("No TLS handshake with 127.0.0.1: it speaks plain HTTP")


def talk(server: Server, sent: bytes) -> bytes:
    """Send something without TLS.

    :return: All that comes until the server closes the connection.
    """
    with socket.create_connection(address(server), DEADLINE) as sock:
        sock.sendall(sent)
        return read_all(sock)


def read_all(sock: socket.socket) -> bytes:
    data = b""
    try:
        while part := sock.recv(65536):
            data += part
    except ConnectionResetError:
        pass  # some of what we sent was not read any more
    return data


# Records that no library makes


class Hand:
    """A client of TLS 1.3 that encrypts its records itself after the handshake."""

    def __init__(self, server: Server, folder: Path) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.keylog_filename = str(folder / "keys")
        sock = socket.create_connection(address(server), DEADLINE)
        self.tls = context.wrap_socket(sock)
        assert self.tls.cipher() == ("TLS_AES_256_GCM_SHA384", "TLSv1.3", 256)
        # The same socket, past the library.
        self.raw = socket.socket(fileno=os.dup(self.tls.fileno()))
        self.raw.settimeout(DEADLINE)
        for line in (folder / "keys").read_text().splitlines():
            if line.startswith("CLIENT_TRAFFIC_SECRET_0 "):
                self._set(bytes.fromhex(line.rpartition(" ")[2]))

    def _set(self, secret: bytes) -> None:
        self._secret, self._count = secret, 0
        self._aead = AESGCM(expand(secret, b"key", 32))
        self._iv = int.from_bytes(expand(secret, b"iv", 12), "big")

    def record(self, kind: int, content: bytes) -> bytes:
        """An encrypted record (RFC 8446, 5.2)."""
        inner = content + bytes([kind])
        head = b"\x17\x03\x03" + (len(inner) + 16).to_bytes(2, "big")
        nonce = (self._iv ^ self._count).to_bytes(12, "big")
        self._count += 1
        return head + self._aead.encrypt(nonce, inner, head)

    def key_update(self) -> bytes:
        """A new key for us, and the wish that the server takes one too."""
        made = self.record(HANDSHAKE, b"\x18\x00\x00\x01\x01")
        self._set(expand(self._secret, b"traffic upd", 48))
        return made

    def close(self) -> None:
        self.raw.close()
        self.tls.close()


Connect = Callable[[], Hand]


def expand(secret: bytes, label: bytes, size: int) -> bytes:
    """``HKDF-Expand-Label`` without a context (RFC 8446, 7.1)."""
    label = b"tls13 " + label
    info = size.to_bytes(2, "big") + bytes([len(label)]) + label + b"\0"
    return HKDFExpand(hashes.SHA384(), size, info).derive(secret)


@pytest.fixture
def by_hand(server: Server, tmp_path: Path) -> Iterator[Connect]:
    """Connects such clients."""
    with contextlib.ExitStack() as stack:

        def connect() -> Hand:
            (tmp_path / "keys").unlink(missing_ok=True)
            hand = Hand(server, tmp_path)
            stack.callback(hand.close)
            return hand

        yield connect


def alert(hand: Hand) -> str:
    """How the server ends the connection."""
    with pytest.raises(ssl.SSLError) as caught:
        while hand.tls.recv(65536):
            pass
    return str(caught.value.reason).partition("_ALERT_")[2]


def test_small_records(by_hand: Connect) -> None:
    hand = by_hand()
    hand.raw.sendall(hand.record(APPLICATION_DATA, b""))
    for at in range(0, len(CLOSE), 5):
        hand.raw.sendall(hand.record(APPLICATION_DATA, CLOSE[at : at + 5]))
    assert hand.tls.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_broken_records(by_hand: Connect, server: Server) -> None:
    hand = by_hand()
    head = b"\x17\x03\x03" + (LONGEST + 1).to_bytes(2, "big")
    hand.raw.sendall(head + bytes(LONGEST + 1))
    assert alert(hand) == "RECORD_OVERFLOW"
    hand = by_hand()
    hand.raw.sendall(hand.record(APPLICATION_DATA, bytes(16385)))
    assert alert(hand) == "RECORD_OVERFLOW"
    hand = by_hand()
    hand.raw.sendall(hand.record(HEARTBEAT, b"\x01\x40\x00"))
    assert alert(hand) == "UNEXPECTED_MESSAGE"
    hand = by_hand()
    hand.raw.sendall(b"\x17\x03\x03\x00\x40" + bytes(64))
    assert alert(hand) == "BAD_RECORD_MAC"
    assert_served(server)


def test_a_flood_of_empty_records(by_hand: Connect, server: Server) -> None:
    hand = by_hand()
    records = [hand.record(APPLICATION_DATA, b"") for _ in range(1000)]
    hand.raw.sendall(b"".join(records))
    assert alert(hand) == "UNEXPECTED_MESSAGE"
    assert_served(server)


def test_a_flood_of_key_updates(by_hand: Connect, server: Server) -> None:
    """All are followed; others are served meanwhile."""
    hand = by_hand()
    for _ in range(5):
        hand.raw.sendall(b"".join(hand.key_update() for _ in range(1000)))
        assert_served(server)
    hand.raw.sendall(hand.record(APPLICATION_DATA, CLOSE))
    assert hand.tls.recv(65536).startswith(b"HTTP/1.1 200 ")
