"""Slow clients: their pace, what they say, and how what came of them is shown."""

from __future__ import annotations

import re
import socket
import sys
import threading
import typing as t
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import nginx_server
import paired
import slow_check
from slow import ClientLoop
from slow import head
from slow import Pace
from slow import PERIOD
from slow import piece
from slow import Response
from slow import Wheel

# By a clock that we have


def test_who_is_slow_moves_its_rate_and_no_more() -> None:
    pace = Pace(rate=1200, size=60_000, start=100.0)
    moves = []
    now = 100.0
    while not pace.whole:
        moves.append(pace.due(now))
        pace.moved += moves[-1]
        assert pace.due(now) == 0
        now += PERIOD
    assert moves == [1200] * 50


def test_who_was_late_catches_up() -> None:
    pace = Pace(rate=1000, size=10_000, start=0.0)
    pace.moved = pace.due(0.0)
    assert pace.due(3 * PERIOD) == 3000
    pace.moved = 9500
    assert pace.due(100.0) == 500


def test_each_timer_comes_once_and_not_before_its_time() -> None:
    wheel = Wheel(0.0)
    for when in (5.0, 1.0, 3.0):
        wheel.add(when, when)
    assert wheel.pop(0.9) == []
    assert wheel.pop(3.5) == [1.0, 3.0]
    # What is late is next.
    wheel.add("late", 2.0)
    assert wheel.pop(5.5) == ["late", 5.0]
    assert wheel.pop(1000.0) == []


# On the wire


def test_pieces_are_a_body() -> None:
    assert piece("body", 3, True) == bytes(3)
    chunks = piece("chunked", 17, False) + piece("chunked", 1, True)
    assert chunks == b"11\r\n" + bytes(17) + b"\r\n1\r\n\0\r\n0\r\n\r\n"


def test_heads() -> None:
    assert b"\r\nContent-Length: 60000\r\n" in head("body", 60_000)
    assert b"Content-Length" not in head("chunked", 60_000)
    assert head("read", 900).startswith(b"GET /large?size=900 HTTP/1.1\r\n")
    assert b"HTTP" not in head("garbage", 0).split(b"\r\n")[1]


def test_a_response_is_complete_however_it_is_cut() -> None:
    whole = b"HTTP/1.1 408 Late\r\nContent-Length: 2\r\n\r\nno"
    for cut in range(1, len(whole)):
        response = Response()
        assert not response.take(whole[:cut])
        assert response.take(whole[cut:])
        assert response.status == 408


def served(listener: socket.socket, answer: bytes, got: list[bytes]) -> None:
    """Serve one client, whose request ends with a zero byte's chunk or body."""
    client, _ = listener.accept()
    with client:
        data = b""
        while data.count(b"\0") < 30:
            data += client.recv(4096)
        got.append(data)
        client.sendall(answer)


@pytest.mark.parametrize("kind", ["body", "chunked"])
def test_a_body_is_sent_and_its_response_taken(kind: str) -> None:
    got: list[bytes] = []
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        words = (listener, answer, got)
        thread = threading.Thread(target=served, args=words, daemon=True)
        thread.start()
        ready: list[int] = []
        port = listener.getsockname()[1]
        report = ClientLoop(port, kind, 1, 30, 1e6).run(lambda: ready.append(1))
        thread.join()
    assert report["ended"] == {"200": 1}
    assert (report["connected"], report["left"], ready) == (1, 0, [1])
    assert got[0].startswith(b"POST / ")


def test_who_is_refused_stays_and_comes_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("slow.STAY", 0.0)
    monkeypatch.setattr("slow.PERIOD", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        clients = ClientLoop(listener.getsockname()[1], "garbage", 1, 0, 1)

        def refuse() -> None:
            for _ in range(2):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(b"HTTP/1.1 400 Bad\r\n\r\n")
                    connection.shutdown(socket.SHUT_WR)
                    # It ends when the client has left.
                    assert connection.recv(4096) == b""
            clients.stop()

        thread = threading.Thread(target=refuse, daemon=True)
        thread.start()
        report = clients.run(lambda: None)
        thread.join()
    assert report["ended"]["left"] >= 2


# Checks


def finding(**changes: t.Any) -> slow_check.Finding:
    values: dict[str, t.Any] = {
        "longest": 0.1,
        "quick": 9,
        "failed": 0,
        "whole": 50,
        "ended": {"200": 50},
        "seconds": 50.0,
    }
    return slow_check.Finding(**{**values, **changes})


def test_a_check_passes_only_if_nobody_waits_and_all_are_served() -> None:
    check = slow_check.CHECKS[0]
    assert finding().passed(check, 50)
    for changes in ({"longest": 0.6}, {"failed": 1}, {"whole": 49}):
        assert not finding(**changes).passed(check, 50)
    refused = slow_check.CHECKS[-1]
    assert finding(whole=0, ended={}).passed(refused, 50)
    text = slow_check.line(check, 10, 50, finding(longest=0.6))
    assert "FAILED" in text and "0.600 s (at most 0.5 s)" in text
    assert "1/10 of the bytes: 50 200" in text


def test_our_server_serves_slow_and_quick_clients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(slow_check, "REST", 0.0)
    check = slow_check.Check("few", "chunked", 2000, 4000, 60.0)
    found = slow_check.run(check, 2, 1)
    assert found.whole == 2
    assert found.quick > 0 and not found.failed
    assert len(found.used) == 3
    assert all(one.descriptors > 0 and one.pss > 0 for one in found.used)


# Pairs


def test_ratios_are_of_rounds() -> None:
    assert paired.ratios([100, 200, 50], [110, 200, 40]) == "1.000 (0.800–1.100)"
    assert {paired.order(number)[0] for number in range(4)} == {0, 1}


def test_a_tree_without_the_package_is_no_tree(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="has no flask_prefork"):
        paired.in_tree(tmp_path)
    root = Path(paired.__file__).parents[1]
    assert str(root) in paired.in_tree(root)["PYTHONPATH"]


def test_nginx_writes_nowhere_else() -> None:
    text = nginx_server.CONFIG.format(user="", folder="/folder", port=1)
    assert len(re.findall(r"_temp_path /folder/", text)) == 5
    assert "listen 127.0.0.1:1 " in text
