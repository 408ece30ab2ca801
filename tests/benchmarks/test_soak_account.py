"""The soak's account, by hand-made requests and faults. Nothing is started."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from soak.account import ANSWERED
from soak.account import DOWNLOAD
from soak.account import Fault
from soak.account import HANG
from soak.account import KILL
from soak.account import LEFT
from soak.account import LIMITED
from soak.account import LOST
from soak.account import NO_SERVER
from soak.account import NOTICED
from soak.account import REFUSED
from soak.account import Request
from soak.account import settle
from soak.account import STATUS
from soak.account import STOP
from soak.account import WEBSOCKET
from soak.account import Window
from soak.account import WRONG
from soak.cycle import deaths
from soak.cycle import Findings
from soak.cycle import retirements
from soak.exchange import Connection
from soak.exchange import Target
from soak.faults import ENDS
from soak.faults import EVENTS
from soak.faults import HANGS
from soak.flat import growth
from soak.flat import Holding
from soak.flat import thirds
from soak.kinds import KINDS
from soak.logs import check_access
from soak.logs import check_errors
from soak.logs import read_journal
from soak.report import Report

WORKER = Fault("plain", "worker", KILL, 7, 11.0, 11.1)


def lost(name: str = "a", kind: str = "quick", **more: object) -> Request:
    """A request that was lost when :data:`WORKER` was killed."""
    request = Request(name, kind, "plain", 10.0, 11.05, LOST)
    return request._replace(**more)  # type: ignore[arg-type]


def unexplained(
    requests: list[Request], faults: list[Fault], served: dict[str, list[int]]
) -> list[str]:
    account = settle(requests, faults, [], served)
    assert account.count(LOST) == len(requests)
    assert account.explained.total() == len(requests) - len(account.lost)
    assert account.holds == (not account.lost)
    return [one.id for one in account.lost]


def test_a_request_is_lost_for_no_reason() -> None:
    assert unexplained([lost()], [], {}) == ["a"]


@pytest.mark.parametrize("served", [{}, {"a": [7]}], ids=["not called", "called"])
def test_a_worker_explains_one_request(served: dict[str, list[int]]) -> None:
    assert unexplained([lost()], [WORKER], served) == []
    assert len(unexplained([lost(), lost("b")], [WORKER], served)) == 1


def test_a_worker_explains_the_request_that_its_app_was_called_with() -> None:
    assert unexplained([lost()], [WORKER], {"a": [8]}) == ["a"]
    assert unexplained([lost("b"), lost()], [WORKER], {"a": [7]}) != []
    other = WORKER._replace(pid=8)
    assert unexplained([lost("b"), lost()], [WORKER, other], {"a": [7]}) == []
    assert unexplained([lost("b"), lost()], [other, WORKER], {"a": [7]}) == []


@pytest.mark.parametrize(
    "change",
    [
        {"how": STOP},
        {"server": "tls"},
        {"begun": 11.06, "ended": 11.2},
        {"begun": 9.0, "ended": 9.9},
        {"role": "zygote"},
        {"role": "observer"},
        {"role": "sender"},
        {"role": "generation"},
    ],
)
def test_other_faults_explain_nothing(change: dict[str, object]) -> None:
    fault = WORKER._replace(**change)  # type: ignore[arg-type]
    assert unexplained([lost()], [fault], {}) == ["a"]


def test_a_loss_is_noticed_soon_unless_the_connection_was_kept() -> None:
    late = {"ended": WORKER.ended + NOTICED + 1}
    assert unexplained([lost(**late)], [WORKER], {}) == ["a"]
    assert unexplained([lost(kept=True, **late)], [WORKER], {}) == []


@pytest.mark.parametrize(
    ("role", "kind"),
    [
        ("sender", DOWNLOAD),
        ("observer", STATUS),
        ("generation", WEBSOCKET),
        ("tlsproxy", "quick"),
        ("dispatcher", "quick"),
        ("dispatcher", STATUS),
    ],
)
@pytest.mark.parametrize("how", [KILL, HANG])
def test_who_has_many_explains_many(role: str, kind: str, how: str) -> None:
    fault = WORKER._replace(role=role, how=how)
    assert unexplained([lost(kind=kind), lost("b", kind)], [fault], {}) == []
    gone = fault._replace(begun=12.0, ended=13.0)
    assert unexplained([lost(kind=kind)], [gone], {}) == ["a"]


def test_who_had_no_connection_is_counted_apart() -> None:
    fault = WORKER._replace(role="dispatcher")
    requests = [lost(), lost("b", connected=False)]
    account = settle(requests, [fault])
    assert account.explained == {"dispatcher": 1, NO_SERVER: 1}
    for faults in ([], [WORKER], [WORKER._replace(role="tlsproxy")]):
        assert [one.id for one in settle(requests[1:], faults).lost] == ["b"]


@pytest.mark.parametrize("role", ["worker", "tlsproxy", "sender"])
def test_the_status_is_of_the_observer(role: str) -> None:
    fault = WORKER._replace(role=role)
    assert unexplained([lost(kind=STATUS)], [fault], {}) == ["a"]


def test_requests_are_refused_while_there_are_too_many() -> None:
    request = lost()._replace(outcome=REFUSED, status=503)
    account = settle([request], [WORKER])
    assert account.refused == [request]
    assert not account.holds
    for window, fits in (
        (Window("plain", 10.5, 12.0), True),
        (Window("plain", 10.5, 12.0, frozenset({"quick"})), True),
        (Window("plain", 10.5, 12.0, frozenset({DOWNLOAD})), False),
        (Window("tls", 10.5, 12.0), False),
        (Window("plain", 11.5, 12.0), False),
        (Window("plain", 9.0, 9.9), False),
    ):
        assert settle([request], [], [window]).holds is fits
    assert settle([request._replace(kind=LIMITED)], []).holds


def test_a_wrong_answer_is_excused_by_nothing() -> None:
    request = lost()._replace(outcome=WRONG, status=200)
    window = Window("plain", 0.0, 100.0)
    assert settle([request], [WORKER], [window], {"a": [7]}).wrong == [request]


def test_an_app_is_called_once() -> None:
    request = lost()._replace(outcome=ANSWERED)
    account = settle([request], [], [], {"a": [7, 8]})
    assert account.twice == ["a"]
    assert not account.holds


def test_accounts_add_up() -> None:
    left = lost()._replace(outcome=LEFT)
    account = settle([lost(), lost("b", kind=DOWNLOAD)], [WORKER])
    account.add(settle([left, lost("c")], [WORKER]))
    assert account.total == 4
    assert account.count(LEFT) == 1
    assert account.count(LOST) == 3
    assert len(account.lost) == 1
    assert account.explained == {"worker": 2}


# The clients


def test_a_client_is_refused_while_it_sends() -> None:
    """Its next writes fail, and the response that it has got counts."""
    refused = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\nno"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connection = Connection(Target("plain", listener.getsockname()))
        peer, _ = listener.accept()

        def body() -> Iterator[bytes]:
            with peer:
                peer.sendall(refused)
            # What the peer hasn't read is answered with a reset.
            while True:
                yield bytes(1000)

        with contextlib.closing(connection):
            length = "Content-Length: 100000000"
            assert connection.ask("POST", "/", length, body=body()) == (503, b"no")


def test_a_client_is_cut_off_while_it_sends() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connection = Connection(Target("plain", listener.getsockname()))
        peer, _ = listener.accept()

        def body() -> Iterator[bytes]:
            peer.close()
            while True:
                yield bytes(1000)

        with contextlib.closing(connection), pytest.raises(ConnectionError):
            connection.ask("POST", "/", "Content-Length: 100000000", body=body())


# The logs


def answered(name: str, **more: object) -> Request:
    return lost(name, outcome=ANSWERED, status=200, **more)


LINE = '200 "GET /quick?id={} HTTP/1.1"'


def test_each_answered_request_has_a_line() -> None:
    requests = [answered("quick-1"), answered("quick-2"), answered("quick-3")]
    served = {one.id: [7] for one in requests}
    lines = [LINE.format("quick-1"), LINE.format("quick-2"), '408 "-"']
    check = check_access(lines, requests, served, {8})
    assert (check.lines, check.missing, check.doubled, check.torn) == (3, 1, 0, 0)
    assert not check.holds
    # Who was killed may not have come to it.
    assert check_access(lines, requests, served, {7}).holds
    assert check_access(lines, requests, served, (), lambda one: True).holds
    # What no app was called with has none.
    del served["quick-3"]
    assert check_access(lines, requests, served, ()).holds


def test_no_line_is_there_twice() -> None:
    lines = [LINE.format("quick-1")] * 2
    check = check_access(lines, [answered("quick-1")], {"quick-1": [7]}, ())
    assert check.doubled == 1
    assert not check.holds


def test_a_line_may_be_torn_by_a_kill() -> None:
    lines = [LINE.format("quick-1")[:-4], '200 "GET /quick?id=quick-2 200 "GET'] * 2
    assert check_access(lines, [], {}, {1, 2}).torn == 2
    assert check_access(lines, [], {}, {1, 2, 3, 4}).holds


def test_records_of_the_log_begin_a_line() -> None:
    record = "[2026-11-24 01:25:51 +0000] [3003] [INFO] [zygote 1] The app is loaded."
    assert check_errors([record, "Traceback:", "  more"]).holds
    assert check_errors([record, record]).records == 2
    assert check_errors([record + record]).mixed == 1
    assert not check_errors(["half a rec" + record]).holds


def test_the_journal_has_the_pids_of_each_request() -> None:
    text = "quick-1 7\nquick-2 8\nquick-1 9\nquick-"
    assert read_journal(text) == {"quick-1": [7, 9], "quick-2": [8]}


def test_a_retirement_is_read_from_the_log() -> None:
    line = (
        "[2026-11-24 01:25:51 +0000] [3003] [INFO] [dispatcher] Generation 2 took over"
        " 0.9 s after its beginning; generation 1 retires, and its workers: 3."
    )
    (fault,) = retirements("plain", ["other", line])
    assert (fault.role, fault.server) == ("generation", "plain")
    assert fault.ended - fault.begun == pytest.approx(1.0)


def test_a_process_ends_that_nobody_has_touched() -> None:
    lines = [
        "Worker 0 (pid 7) while serving GET / died: SIGKILL.",
        "Worker 1 (pid 8) of generation 1 was killed: it did not become idle.",
        "The sender (pid 9) is silent: it is killed.",
        "Worker 2 (pid 10) has ended.",
    ]
    assert deaths(lines, set()) == lines[:3]
    assert deaths(lines, {7, 8, 9}) == []


# What processes hold


def test_growth_is_from_the_first_third_to_the_last() -> None:
    flat = Holding(40_000, 20_000, 30, 2)
    assert growth([flat] * 9) == []
    # One sample that is high is no growth.
    high = flat._replace(rss=90_000, descriptors=90)
    assert growth([flat] * 8 + [high]) == []
    more = flat._replace(rss=50_000, descriptors=34, threads=4)
    assert growth([flat] * 3 + [high] * 3 + [more] * 3) == [
        "rss 40000 to 50000",
        "descriptors 30 to 34",
        "threads 2 to 4",
    ]
    assert thirds([flat, more]) == (flat, more)
    assert thirds([flat]) == (flat, flat)


# The report


def report(findings: Findings, **more: object) -> Report:
    return Report(findings, {}, "command", 60.0, "a machine", {}, **more)  # type: ignore[arg-type]


def test_the_verdict_names_what_fails() -> None:
    assert report(Findings()).failures() == []
    assert "All holds." in report(Findings()).text()
    findings = Findings(zombies=1, tracebacks=2, problems=["no rest"])
    findings.account = settle([lost()], [])
    findings.samples["observer"] = [Holding(1, 1, 1, 1), Holding(1, 1, 9, 1)]
    failed = report(findings, left=["a file"])
    assert [text.partition(":")[0] for text in failed.failures()] == [
        "no rest",
        "a file",
        "lost for no reason",
        "zombies",
        "tracebacks in the log",
        "observer has grown",
    ]
    assert "FAILED: lost for no reason: a of plain" in failed.text()
    assert "All holds." not in failed.text()


def test_the_tables_have_a_row_for_each_kind() -> None:
    text = report(Findings()).rst()
    for kind in KINDS:
        assert kind.about in text


def test_every_role_is_killed_stopped_and_hung() -> None:
    names = {event.name for event in (*EVENTS, *HANGS, *ENDS)}
    for role in ("worker", "zygote", "observer", "sender", "tlsproxy"):
        assert {f"{role}, {how}" for how in (KILL, STOP, HANG)} <= names
    assert {f"dispatcher, {how}" for how in (KILL, STOP)} <= names
