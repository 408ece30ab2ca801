from __future__ import annotations

import mmap
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import HealthCheck
from hypothesis import settings
from hypothesis import strategies as st

from flask_prefork.ipc import records
from flask_prefork.ipc.durations import count
from flask_prefork.ipc.durations import Durations
from flask_prefork.ipc.durations import FINE_BOUNDS
from flask_prefork.ipc.growth import Grown
from flask_prefork.ipc.records import Record
from flask_prefork.ipc.records import RecordWriter


@pytest.fixture
def board() -> Iterator[mmap.mmap]:
    board = mmap.mmap(-1, 3 * records.SIZE + 1)
    yield board
    board.close()


@pytest.fixture
def entry(board: mmap.mmap) -> Iterator[RecordWriter]:
    entry = RecordWriter(board, records.SIZE, mark=3 * records.SIZE)
    entry.enter(1234, 7, 1.5)
    yield entry
    entry.release()


def read(board: mmap.mmap) -> Record:
    return records.read(board, records.SIZE)


def durations(board: mmap.mmap) -> Durations:
    return records.durations(board, records.SIZE)


def test_new_worker(board: mmap.mmap, entry: RecordWriter) -> None:
    assert read(board) == Record(pid=1234, generation=7, since=1.5)


def test_request_from_begin_to_end(board: mmap.mmap, entry: RecordWriter) -> None:
    born = read(board)
    entry.accept()
    # It is seen at once: many a connection waits long for its first request.
    born = born._replace(connections=1)
    assert read(board) == born
    entry.begin(7.5, "GET", "/caf%C3%A9?x=1", "2001:db8::7")
    begun = born._replace(
        began=7.5, method="GET", target="/caf%C3%A9?x=1", client="2001:db8::7"
    )
    assert read(board) == begun
    entry.move(8.5)
    assert read(board) == begun._replace(moved=8.5)
    entry.end(9.5, 204, 321)
    over = read(board)
    assert over == born._replace(
        requests=1,
        sent=321,
        classes=(0, 0, 1, 0, 0, 0),
        moved=8.5,
        spent=2.0,
    )
    entry.begin(10.0, "POST", "/")
    assert read(board) == over._replace(
        began=10.0, moved=0.0, method="POST", target="/"
    )


def test_client_behind_a_proxy(board: mmap.mmap, entry: RecordWriter) -> None:
    for peer, client in (("10.0.0.1", "192.0.2.77"), ("2001:db8::7", "10.0.0.7")):
        entry.begin(7.5, "GET", "/cart?name=a b", peer)
        assert read(board).client == peer
        entry.set_client(client)
        assert read(board)[-4:-1] == ("GET", "/cart?name=a b", client)
    entry.begin(7.5, "GET", "/" + "x" * 300, "::")
    entry.set_client("x" * 500)
    assert read(board).client == "x" * records._REQUEST
    assert records.read(board, 2 * records.SIZE) == Record()


@pytest.mark.parametrize(
    ("status", "index"),
    [(0, 0), (101, 1), (200, 2), (304, 3), (404, 4), (500, 5), (599, 5)],
)
def test_classes(
    board: mmap.mmap, entry: RecordWriter, status: int, index: int
) -> None:
    entry.begin(1.0, "GET", "/")
    entry.end(1.0, status, 0)
    assert read(board).classes == tuple(int(i == index) for i in range(6))


@pytest.mark.parametrize(
    ("seconds", "index"),
    [
        (0.0, 0),
        *((b, i) for i, b in [*enumerate(FINE_BOUNDS)][::25]),
        (9999.0, len(FINE_BOUNDS)),
    ],
)
def test_buckets_hold_their_upper_bound(
    board: mmap.mmap, entry: RecordWriter, seconds: float, index: int
) -> None:
    entry.begin(0.0, "GET", "/")
    entry.end(seconds, 200, 0)
    found = durations(board)
    assert found.latencies.index(1) == index
    assert (sum(found.latencies), sum(found.queue_times)) == (1, 0)
    entry.wait(seconds)
    assert durations(board) == Durations(found.latencies, found.latencies)


def test_histograms_are_no_other_records(board: mmap.mmap, entry: RecordWriter) -> None:
    entry.begin(0.0, "GET", "/" + "x" * 300)
    entry.grow(Grown(2**40, 2**33, "GET /leak/" + "y" * 300))
    for seconds in (0.0, 9999.0):
        entry.wait(seconds)
    assert sum(durations(board).queue_times) == 2
    before = durations(board)
    entry.begin(0.0, "GET", "/" + "z" * 300)
    assert durations(board) == before
    for other in (0, 2 * records.SIZE):
        assert records.read(board, other) == Record()
        assert records.durations(board, other) == Durations()
    entry.enter(1235, 7, 2.5)
    assert durations(board) == Durations()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.from_regex(r"[!-~]{0,300}", fullmatch=True), st.text())
def test_any_request_fits_its_record_and_no_other(
    board: mmap.mmap, entry: RecordWriter, method: str, target: str
) -> None:
    entry.begin(1.0, method, target)
    found = read(board)
    sent = f"{method} {target}".encode("latin-1", "replace")[: records.LINE]
    shown = f"{found.method} {found.target}".encode("latin-1")
    assert shown[: records.LINE] == sent
    assert found[:11] == Record(pid=1234, generation=7, since=1.5, began=1.0)[:11]
    assert records.read(board, 0) == records.read(board, 2 * records.SIZE) == Record()


def test_upgraded_request(board: mmap.mmap, entry: RecordWriter) -> None:
    """It took until then, however long its connection lasts."""
    entry.begin(7.0, "GET", "/chat")
    entry.upgrade(7.5)
    assert read(board).upgraded == 7.5
    entry.end(1000.0, 101, 0)
    over = read(board)
    assert (over.began, over.upgraded, over.spent) == (0.0, 0.0, 0.5)
    assert over.classes == (0, 1, 0, 0, 0, 0)
    assert durations(board).latencies == count(Durations().latencies, 0.5)
    entry.begin(1001.0, "GET", "/")
    entry.end(1003.0, 200, 0)
    assert read(board).spent == 2.5


def test_mapping_can_be_closed_after_release() -> None:
    board = mmap.mmap(-1, records.SIZE)
    entry = RecordWriter(board, 0, records.SIZE)
    with pytest.raises(BufferError):
        board.close()
    entry.release()
    board.close()


def test_which_requests_have_grown_it(board: mmap.mmap, entry: RecordWriter) -> None:
    entry.begin(7.5, "GET", "/" + "x" * 300)
    before = read(board)
    grown = Grown(2**40, 2**33, "GET /leak/" + "y" * 300)
    entry.grow(grown)
    cut = grown._replace(line=grown.line[: records.LINE])
    assert read(board) == before._replace(grown=cut)
    entry.grow(Grown())
    assert read(board) == before
