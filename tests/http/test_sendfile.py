"""``wsgi.file_wrapper``: files that the kernel sends, and those that it can't."""

from __future__ import annotations

import gzip
import io
import socket
import tempfile
import typing as t
from pathlib import Path

import pytest
from harness import parse
from harness import read_all
from harness import Site

from flask_prefork.http import wire

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OLD = b"GET / HTTP/1.0\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"


def size(n: int) -> list[tuple[str, str]]:
    return [("Content-Length", str(n))]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 1000)
    return path


def wrap(make_site: t.Any, file: t.Any, headers: t.Any = (), seek: int = 0) -> Site:
    def app(environ: t.Any, start_response: t.Any) -> t.Any:
        start_response("200 OK", list(headers))
        if seek:
            file.read(seek)
        return environ["wsgi.file_wrapper"](file, 1000)

    site: Site = make_site(app)
    return site


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What each ``sendfile(2)`` has sent."""
    counts: list[int] = []
    send = wire.os.sendfile

    def sendfile(*args: t.Any) -> int:
        counts.append(send(*args))
        return counts[-1]

    monkeypatch.setattr(wire.os, "sendfile", sendfile)
    return counts


@pytest.mark.parametrize("request_", [GET, OLD])
@pytest.mark.parametrize("seek", [0, 700])
def test_sendfile(
    make_site: t.Any,
    path: Path,
    request_: bytes,
    seek: int,
    counts: list[int],
) -> None:
    with path.open("rb") as file:
        site = wrap(make_site, file, seek=seek)
        with site.serving() as client:
            client.sendall(request_)
            client.shutdown(socket.SHUT_WR)
            (answer,) = parse(read_all(client))
        assert file.closed
    expected = path.read_bytes()[seek:]
    assert answer.body == expected
    assert answer.headers["content-length"] == str(len(expected))
    assert sum(counts) == len(expected)


def test_more_than_the_kernel_takes_at_once(make_site: t.Any) -> None:
    with tempfile.TemporaryFile() as file:
        file.truncate(20_000_000)
        with wrap(make_site, file).serving() as client:
            client.sendall(GET)
            client.shutdown(socket.SHUT_WR)
            assert parse(read_all(client))[0].body == bytes(20_000_000)


def test_client_leaves(make_site: t.Any) -> None:
    with tempfile.TemporaryFile() as file:
        file.truncate(20_000_000)
        site = wrap(make_site, file)
        with site.serving() as client:
            client.sendall(GET)
            client.recv(10)
        assert file.closed
    assert site.results == [None]


def test_part_of_a_file(make_site: t.Any, path: Path) -> None:
    first, second = wrap_two(make_site, path, size(100))
    assert first.body == second.body == path.read_bytes()[:100]


def wrap_two(make_site: t.Any, path: Path, headers: t.Any) -> t.Any:
    def app(environ: t.Any, start_response: t.Any) -> t.Any:
        start_response("200 OK", list(headers))
        return environ["wsgi.file_wrapper"](path.open("rb"))

    return make_site(app).ask(GET + GET)


def test_file_that_is_too_short(make_site: t.Any, path: Path) -> None:
    with path.open("rb") as file:
        raw = wrap(make_site, file, size(256_001)).exchange(GET + GET)
    assert raw.count(b"HTTP/1.1 ") == 1
    assert raw.endswith(path.read_bytes())


def test_file_for_head(make_site: t.Any, path: Path) -> None:
    with path.open("rb") as file:
        site = wrap(make_site, file, size(256_000))
        (answer,) = site.ask(HEAD, "HEAD")
        assert file.closed
    assert answer.headers["content-length"] == "256000"


def test_what_the_kernel_cannot_send(
    make_site: t.Any, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (answer,) = wrap(make_site, io.BytesIO(b"x" * 5000)).ask(GET)
    assert answer.body == b"x" * 5000

    def sendfile(*args: t.Any) -> int:
        raise OSError(22, "EINVAL")

    monkeypatch.setattr(wire.os, "sendfile", sendfile)
    with tempfile.TemporaryFile() as file:
        file.write(b"abc" * 1000)
        file.seek(3)
        first, _ = wrap(make_site, file).ask(GET + HEAD, "GET", "HEAD")
    assert first.body == b"abc" * 999


class Shouting(io.FileIO):
    """A file that isn't read as it is."""

    def read(self, size: int | None = -1, /) -> bytes:
        return (super().read(size) or b"").upper()


class Other:
    """A file-like object with the descriptor of something else."""

    def __init__(self, file: io.FileIO) -> None:
        self.pieces = [b"", b"ABC"]
        self.close = file.close
        self.fileno = file.fileno

    def read(self, size: int) -> bytes:
        return self.pieces.pop()

    def tell(self) -> None:
        pass


def test_descriptors_of_something_else(make_site: t.Any, path: Path) -> None:
    path.write_bytes(gzip.compress(b"ABC"))
    plain = path.with_name("plain")
    plain.write_bytes(b"abc")
    for file in (gzip.GzipFile(path), Shouting(plain), Other(io.FileIO(plain))):
        (answer,) = wrap(make_site, file).ask(GET)
        assert answer.body == b"ABC"


def test_files_without_a_size(make_site: t.Any) -> None:
    with open("/proc/self/limits", "rb") as file:
        (answer,) = wrap(make_site, file).ask(GET)
    assert answer.body == Path("/proc/self/limits").read_bytes()


@pytest.mark.parametrize("how", [tempfile.TemporaryFile, tempfile.NamedTemporaryFile])
def test_temporary_files(make_site: t.Any, how: t.Any, counts: list[int]) -> None:
    with how() as file:
        file.write(b"abc")
        file.seek(1)
        (answer,) = wrap(make_site, file).ask(GET)
    assert answer.body == b"bc"
    assert counts == [2]
