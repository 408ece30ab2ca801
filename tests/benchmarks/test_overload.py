"""What is made of requests that were sent under overload, with invented ones."""

from __future__ import annotations

import math
import socket
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import overload
import overload_check as check
from openloop import Generator
from options import parse
from overload import Answer
from suites import overload as suite
from suites import SUITES


def answers(
    begin: float, end: float, rate: float, how: str = "200", took: float = 0.1
) -> list[Answer]:
    """Requests that all end in the same way, so many a second."""
    count = round((end - begin) * rate)
    return [(begin + number / rate, took, how) for number in range(count)]


def test_goodput_is_what_was_answered_in_time_while_requests_came() -> None:
    assert overload.goodput(answers(0, 10, 80), 10, 1.0) == pytest.approx(80, rel=0.02)
    assert overload.goodput(answers(0, 10, 80, took=1.1), 10, 1.0) == 0
    assert overload.goodput(answers(0, 10, 80, "timeout"), 10, 1.0) == 0
    # In the warm-up, and after the last was sent.
    assert overload.goodput(answers(0, 0.8, 80), 10, 1.0) == 0
    assert overload.goodput(answers(9.5, 10, 80, took=0.9), 10, 1.0) == 0


def test_a_server_has_recovered_when_it_goes_on_answering() -> None:
    lost = answers(0, 12, 50, "timeout", 1.0)
    fresh = answers(12, 20, 50)
    assert overload.recovery([*lost, *fresh], 10.0, 1.0) == pytest.approx(2.0)
    assert overload.recovery(lost, 10.0, 1.0) is None
    assert overload.recovery(answers(10, 20, 50, took=1.5), 10.0, 1.0) is None
    # A few that were served are no recovery.
    few = [*answers(10, 10.2, 50), *answers(10.2, 12, 50, "timeout"), *fresh]
    assert overload.recovery(few, 10.0, 1.0) == pytest.approx(2.0)


def test_who_ends_when_another_begins_is_not_beside_it() -> None:
    assert overload.most_at_once([]) == 0
    assert overload.most_at_once([(0, 1), (1, 2)]) == 1
    assert overload.most_at_once([(0, 1), (0.5, 2), (0.9, 1)]) == 3


def test_a_quantile_of_nothing_is_no_good_one() -> None:
    assert overload.quantile([], 0.99) == math.inf
    assert overload.quantile([3.0, 1.0, 2.0], 0.5) == 2.0


def good(facts: list[check.Fact]) -> list[bool]:
    return [one.good for one in facts]


def test_the_load_is_checked() -> None:
    served, refused = answers(0, 10, 78), answers(0, 10, 160, overload.REFUSED, 0.5)
    assert good(check.evaluate_load([*served, *refused], 10, 80)) == [True, True]
    assert good(check.evaluate_load([*served[::2], *refused], 10, 80)) == [False, True]
    assert good(check.evaluate_load(served, 10, 80)) == [True, False]
    silent = answers(5, 6, 5, "timeout", 1.0)
    facts = check.evaluate_load([*served, *refused, *silent], 10, 80)
    assert good(facts) == [True, False]
    assert "5 timeout" in facts[1].text


def test_a_stall_is_checked() -> None:
    before, after = answers(0, 2, 60), answers(13.5, 18, 60)
    told = answers(2, 12, 60, overload.REFUSED, 1.1)

    def found(*parts: list[Answer]) -> list[bool]:
        return good(check.evaluate_stall([x for one in parts for x in one], 2, 12))

    assert found(before, told, after) == [True, True, True]
    late = answers(2, 12, 60, overload.REFUSED, 1.6)
    assert found(before, late, after) == [True, False, True]
    assert found(before, after) == [False, False, True]
    assert found(before, told, answers(5, 6, 5, "timeout"), after) == [
        False,
        True,
        True,
    ]
    assert found(before, told) == [True, True, False]
    assert found(before, told, after, answers(14, 15, 1, took=1.2))[2] is False


def test_limits_are_checked() -> None:
    fast = answers(0, 6, 50)
    spans: dict[str, list[check.Span | None]] = {
        "slow": [(0.0, 1.0), (0.5, 1.5), (1.0, 2.0)],
        "slower": [(0.0, 1.0), (1.0, 2.0)],
    }
    assert good(check.evaluate_limits(fast, spans)) == [True, True, True]
    slow = answers(0, 6, 50, took=0.3)
    assert good(check.evaluate_limits(slow, spans)) == [False, True, True]
    failed = answers(0, 6, 50, "status 503")
    assert good(check.evaluate_limits(failed, spans)) == [False, True, True]
    spans["slow"].append((0.6, 1.2))
    spans["slower"].append(None)
    facts = check.evaluate_limits(fast, spans)
    assert good(facts) == [True, False, False]
    assert [line.split()[1] for line in check.lines("limits", facts)] == [
        "OK",
        "FAILED",
        "FAILED",
    ]


def test_the_generator_traces_how_each_request_has_ended() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        generator = Generator(port, [0.0, 0.01], False, 0.05, "/fast")
        generator.run()
        with listener.accept()[0] as connection:
            head = connection.recv(100)
    assert head.startswith(b"GET /fast HTTP/1.1\r\n")
    assert [how for _, _, how in sorted(generator.trace)] == ["timeout", "timeout"]
    assert generator.errors == {"timeout": 2}


def test_the_settings_of_each_server_are_told() -> None:
    options = parse(SUITES, ["overload"])[1]["overload"]
    text = suite.OVERLOAD.method(options)
    for name in suite.CONTENDERS:
        assert f"{name} `" in text or name == "gunicorn-sync-defaults"
    cases = suite.OVERLOAD.cases(options)
    assert all(len(names) == len(suite.CONTENDERS) for names in cases.values())
