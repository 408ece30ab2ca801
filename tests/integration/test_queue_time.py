"""How long requests have waited for a worker, with real processes."""

from __future__ import annotations

import re
import socket
import struct
import time

import pytest

from .conftest import Serve
from .gate import Gate
from .server import wait_for

ONE = ("--max-workers", "1", "--access-log", "--access-log-format")


def test_request_start(serve: Serve) -> None:
    server = serve("fronted", "--request-start")
    before = time.time()
    found = re.fullmatch("t=([0-9]{16})", server.get().json["request_start"])
    assert found is not None
    # The kernel tells ages to its tick, of 10 ms at most.
    assert before - 0.01 <= int(found[1]) / 1e6 <= time.time()


def test_no_request_start_unasked(serve: Serve) -> None:
    assert serve("fronted").get().json["request_start"] is None


@pytest.mark.parametrize("dispatch", ["ordered", "blocking"])
def test_waiting_for_the_only_worker(serve: Serve, gate: Gate, dispatch: str) -> None:
    text = "%(U)s %(queue_time)s"
    server = serve("held", *ONE, text, "--dispatch", dispatch)
    before = time.monotonic()
    first = server.send(gate.path)
    held = gate.wait_for_one()
    second = server.send("/")
    sent = time.monotonic()
    # Longer than the kernel's tick.
    wait_for(lambda: time.monotonic() > sent + 0.1)
    waited = time.monotonic() - sent
    held.release()
    assert first.answer().status == second.answer().status == 200
    seconds = float(server.wait_for_log(r"^/ ([0-9.]+)$")[1])
    assert waited - 0.01 <= seconds <= time.monotonic() - before


@pytest.mark.parametrize("dispatch", ["ordered", "blocking"])
def test_who_has_left_is_not_served(serve: Serve, gate: Gate, dispatch: str) -> None:
    server = serve("held", *ONE, "%(q)s.", "--dispatch", dispatch)
    first = server.send(gate.path)
    held = gate.wait_for_one()
    gone = server.send("/?gone").sock
    # Closed by a reset (socket(7), SO_LINGER).
    gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    gone.close()
    last = server.send("/?last")
    held.release()
    assert first.answer().status == last.answer().status == 200
    server.wait_for_log(r"^last\.$")
    assert "gone." not in server.log()
