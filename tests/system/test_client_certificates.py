"""Clients' certificates in shared memory."""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Iterator

import pytest

from flask_prefork.system import client_certificates
from flask_prefork.system.client_certificates import ClientCertificates


@pytest.fixture
def kept() -> Iterator[ClientCertificates]:
    made = ClientCertificates()
    yield made
    os.close(made.fd)


def read(kept: ClientCertificates, slot: int) -> bytes | None:
    return client_certificates.read(os.dup(kept.fd), slot)


def test_each_has_its_slot(kept: ClientCertificates) -> None:
    slots = [kept.add(bytes([number]) * 1000) for number in range(5)]
    assert slots == [0, 1, 2, 3, 4]
    for slot in slots:
        assert read(kept, slot) == bytes([slot]) * 1000


def test_the_lowest_free_one_is_used_again(kept: ClientCertificates) -> None:
    for _ in range(4):
        kept.add(b"old")
    kept.remove(2)
    kept.remove(1)
    assert [kept.add(b"new") for _ in range(3)] == [1, 2, 4]
    assert read(kept, 1) == b"new"


def test_what_is_too_long(kept: ClientCertificates) -> None:
    assert kept.add(bytes(8190)) == 0
    with pytest.raises(ValueError, match="has 8191 bytes"):
        kept.add(bytes(8191))


def test_too_many(kept: ClientCertificates, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_certificates, "_SLOTS", 2)
    kept.add(b"1")
    kept.add(b"2")
    with pytest.raises(ValueError, match="there are 2 clients"):
        kept.add(b"3")
    kept.remove(0)
    assert kept.add(b"3") == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has seals")
def test_nobody_else_can_write(kept: ClientCertificates) -> None:
    with pytest.raises(PermissionError):
        os.pwrite(kept.fd, b"x", 0)
    with pytest.raises(PermissionError):
        mmap.mmap(kept.fd, 8192)
    assert kept.add(b"still ours") == 0


def test_what_is_not_there(kept: ClientCertificates) -> None:
    assert read(kept, 1 << 30) is None
    ours, theirs = os.pipe()
    os.close(theirs)
    assert client_certificates.read(ours, 0) is None
