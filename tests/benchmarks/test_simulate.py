"""The simulation of scaling policies.

Nothing here starts a process or looks at a clock; all random numbers have a seed.
"""

from __future__ import annotations

import itertools
import re
import sys
import typing as t
from pathlib import Path

import pytest

from flask_prefork.dispatcher.policy import Policy
from flask_prefork.dispatcher.pool import Pool

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import simulate
import simulate_check
from simulation import peers
from simulation import report
from simulation import traffic
from simulation.cases import Case
from simulation.cases import cases
from simulation.cases import OURS
from simulation.cases import SERVERS
from simulation.engine import Account
from simulation.engine import Machine
from simulation.engine import Server
from simulation.engine import World
from simulation.ours import Limits
from simulation.ours import Prefork
from simulation.ours import RUN_LENGTH
from simulation.results import quantile
from simulation.results import Result
from simulation.results import run
from simulation.results import summed
from simulation.results import verdicts

#: A process starts at once, and its first request takes no longer.
INSTANT = Machine(0.0, 0.0)
LIMITS = Limits(min_idle=2, max_workers=20)


def replay(
    make: t.Callable[[World, Limits], Server],
    arrivals: t.Sequence[float],
    service: float,
    limits: Limits = LIMITS,
    machine: Machine = INSTANT,
    tail: float = 0.0,
) -> Account:
    """Requests at these times that all take as long."""
    requests = traffic.Traffic(list(arrivals), [service] * len(arrivals))
    return World(requests, machine, lambda world: make(world, limits), tail).run()


def mixed(seed: int = 1) -> traffic.Traffic:
    """More than 20 workers can serve at once, and quiet times."""
    arrivals = traffic.bursts(20, 2, 60, 20)
    return traffic.make(arrivals, traffic.lognormal(0.1, 1.0), seed)


# What holds for every server


@pytest.mark.parametrize("name", SERVERS)
def test_every_request_is_served_once_by_a_process_that_has_time(name: str) -> None:
    requests = mixed()
    limits = Limits(3, 20, min_workers=20) if name == "fixed" else LIMITS
    machine = Machine(fork=0.002, boot=0.01)
    world = World(requests, machine, lambda w: SERVERS[name](w, limits), 30.0)
    account = world.run()
    assert not world.queue
    assert min(account.waits) >= 0
    served: dict[int, list[tuple[float, float]]] = {}
    rows = zip(*requests, account.waits, account.workers, strict=True)
    for arrival, service, wait, number in rows:
        assert 0 <= number < limits.max_workers
        begin = arrival + wait
        served.setdefault(number, []).append((begin, begin + service))
    for times in served.values():
        for (_, end), (begin, _) in itertools.pairwise(sorted(times)):
            assert begin >= end - 1e-9


@pytest.mark.parametrize("name", SERVERS)
def test_the_account_adds_up(name: str) -> None:
    requests = mixed()
    limits = Limits(3, 20, min_workers=20) if name == "fixed" else LIMITS
    account = World(
        requests, Machine(0.002, 0.01), lambda w: SERVERS[name](w, limits), 30.0
    ).run()
    assert account.busy == pytest.approx(sum(requests.services))
    assert account.alive >= account.busy + account.starting - 1e-6
    assert account.peak == max(count for _, count in account.sizes) <= 20
    assert account.spawned - account.retired == account.sizes[-1][1]
    # The area below the number of processes over time.
    ends = [*(when for when, _ in account.sizes[1:]), account.seconds]
    area = sum(
        count * (end - begin)
        for (begin, count), end in zip(account.sizes, ends, strict=True)
    )
    assert account.alive == pytest.approx(area)


@pytest.mark.parametrize("name", SERVERS)
def test_a_connection_never_waits_beside_an_idle_process(name: str) -> None:
    account = replay(SERVERS[name], [1.0, 1.0, 3.0, 3.0], 0.5)
    assert account.waits == [0.0] * 4


def test_all_servers_get_the_same_requests_and_a_seed_gives_the_same() -> None:
    assert mixed() == mixed()
    assert mixed(1) != mixed(2)
    # Another service time leaves the arrivals alone.
    one = traffic.make(traffic.poisson(50, 10), traffic.constant(1), 7)
    other = traffic.make(traffic.poisson(50, 10), traffic.exponential(2), 7)
    assert one.arrivals == other.arrivals


def test_the_first_request_of_a_process_takes_longer() -> None:
    account = replay(Prefork, [1.0, 2.0], 0.5, machine=Machine(0, 0, warm_up=0.2))
    assert account.waits == pytest.approx([0.2, 0.0])
    assert account.busy == pytest.approx(1.2)


def test_forks_are_made_one_after_the_other() -> None:
    account = replay(Prefork, [0.0, 0.0], 1.0, machine=Machine(0.1, 0.5))
    assert account.waits == pytest.approx([0.6, 0.7])


# Ours


def test_it_is_our_own_policy_and_pool_that_decide() -> None:
    made: list[Prefork] = []

    def make(world: World, limits: Limits) -> Prefork:
        made.append(Prefork(world, limits))
        return made[-1]

    replay(make, [0.0] * 5, 0.5)
    assert type(made[0].policy) is Policy
    assert type(made[0].pool) is Pool
    assert SERVERS[OURS] is Prefork


def test_what_the_policy_says_is_done() -> None:
    class Stubborn(Policy):
        def grow(self, now: float, **facts: t.Any) -> int:
            return 0

    def make(world: World, limits: Limits) -> Prefork:
        return Prefork(world, limits, policy=Stubborn)

    assert replay(make, [0.0] * 50, 0.5).peak == LIMITS.min_idle
    assert replay(Prefork, [0.0] * 50, 0.5).peak > LIMITS.min_idle


def test_the_lowest_numbered_idle_worker_serves() -> None:
    account = replay(Prefork, [float(moment) for moment in range(1, 50)], 0.5)
    assert set(account.workers) == {0}


def test_a_standing_order_ends_after_its_run() -> None:
    told: list[int] = []

    class Listening(Prefork):
        def _idle(self, process: t.Any) -> None:
            told.append(process.number)
            super()._idle(process)

    requests = 2 * RUN_LENGTH
    replay(Listening, [0.0] * requests, 0.1, Limits(1, 1))
    # Once when it started, and after each run.
    assert len(told) == 3


def test_surplus_retires_after_the_idle_timeout() -> None:
    account = replay(Prefork, [0.0] * 20, 0.5, tail=30.0)
    assert account.peak > 4
    assert account.sizes[-1][1] == LIMITS.most_idle


# The others


def sizes_at(account: Account, moments: t.Iterable[float]) -> list[int]:
    return [
        next(count for when, count in reversed(account.sizes) if when <= moment)
        for moment in moments
    ]


def test_apache_doubles_once_a_second() -> None:
    limits = Limits(5, 100)
    account = replay(peers.Apache, [0.5] * 90, 60.0, limits)
    assert sizes_at(account, (0.6, 1, 2, 3, 4, 5)) == [5, 6, 8, 12, 20, 36]


def test_apache_ends_one_a_second() -> None:
    account = replay(peers.Apache, [0.5] * 30, 3.2, Limits(5, 100), tail=9.0)
    highest = account.peak
    assert sizes_at(account, (5.5, 6.5, 7.5)) == [highest, highest - 1, highest - 2]


def test_php_fpm_starts_no_more_than_is_missing() -> None:
    account = replay(peers.PhpFpm, [0.5] * 90, 60.0, Limits(3, 100))
    assert sizes_at(account, (0.6, 1, 2, 3, 4, 5)) == [3, 4, 6, 9, 12, 15]


def test_spamassassin_grows_only_when_a_child_has_finished() -> None:
    (idle,) = sizes_at(replay(peers.SpamAssassin, [1.0], 5.0), (0.9,))
    # They all accept; one more client waits for the first of them.
    account = replay(peers.SpamAssassin, [1.0] * (idle + 1), 5.0)
    assert account.waits == [0.0] * idle + [5.0]
    assert sizes_at(account, (5.9,)) == [idle]


def test_net_server_starts_all_missing_spares_at_once() -> None:
    account = replay(peers.NetServer, [1.0] * 10, 5.0, Limits(4, 50))
    assert max(account.waits) == 0.0
    assert sizes_at(account, (0.9, 1.1)) == [4, 14]


def test_net_server_ends_all_surplus_spares_at_once() -> None:
    account = replay(peers.NetServer, [1.0] * 10, 5.0, Limits(4, 50), tail=60.0)
    assert account.sizes[-1][1] == 4
    assert len({when for when, _ in account.sizes if when > 6}) == 2


def test_uwsgi_spare2_ends_one_after_a_while() -> None:
    account = replay(peers.UwsgiSpare2, [0.5] * 4, 3.2, Limits(2, 50), tail=60.0)
    assert sizes_at(account, (0.6, 1)) == [2, 4]
    ends = [when for when, _ in account.sizes if when > 5]
    steps = {round(b - a) for a, b in itertools.pairwise(ends)}
    assert steps == {peers.UwsgiSpare2.IDLE + 1}


def test_uwsgi_busyness_looks_at_the_time_that_was_busy() -> None:
    busy = [0.1 * number for number in range(200)]
    account = replay(peers.UwsgiBusyness, busy, 0.19, Limits(2, 50), tail=120.0)
    # 95 % of two workers, then less than half of four.
    assert sizes_at(account, (2.9, 3.1, 19.0)) == [2, 4, 4]
    assert account.sizes[-1][1] == 2
    assert account.sizes[-1][0] > 20 + peers.UwsgiBusyness.CYCLES


# What is shown


def result(server: str, mean: float, cost: float, min_idle: int = 2) -> Result:
    account = replay(Prefork, [0.0], 1.0)
    one = summed("case", server, min_idle, account)
    return one._replace(mean=mean, worker_seconds=cost)


def test_better_in_one_and_worse_in_none_is_beaten() -> None:
    assert result("a", 0.1, 10).beats(result("b", 0.2, 10))
    assert result("a", 0.1, 9).beats(result("b", 0.1, 10))
    assert not result("a", 0.1, 10).beats(result("b", 0.1, 10))
    assert not result("a", 0.1, 11).beats(result("b", 0.2, 10))


def test_curves_are_compared_by_their_settings() -> None:
    ours = [result(OURS, 0.1, 10), result(OURS, 0.01, 30)]
    theirs = [result("x", 0.2, 20, 4), result("x", 0.05, 20, 8)]
    (verdict,) = verdicts([*ours, *theirs])
    assert verdict.beaten == 1
    assert [one.min_idle for one in verdict.unbeaten] == [8]
    assert verdict.ours_beaten == 0


def test_quantile_is_a_value_that_there_was() -> None:
    assert quantile([1.0], 0.99) == 1.0
    assert quantile([1.0, 2.0, 3.0, 4.0], 0.5) == 2.0
    assert quantile([1.0, 2.0, 3.0, 4.0], 1.0) == 4.0


def test_waits_before_the_pool_has_settled_dont_count() -> None:
    account = replay(peers.Fixed, [0.0, 0.0, 5.0], 1.0, Limits(1, 1))
    assert account.waits == [0.0, 1.0, 0.0]
    assert summed("case", "fixed", 1, account, skipped=2).longest == 0.0


def test_a_case_is_a_section_with_aligned_tables() -> None:
    case = Case(
        "small", "About it.", traffic.poisson(20, 5), traffic.constant(0.05),
        min_idle=(1, 2),
    )  # fmt: skip
    said: list[Result] = []
    found = run(case, [OURS, "Apache prefork"], 1, said.append)
    assert said == found
    text = report.section(case, found)
    assert text.startswith("Small\n-----\n")
    blocks = re.findall(r"(?m)^(=[= ]+)\n.*\n\1\n(?:[^=\n].*\n)+\1$", text)
    assert len(blocks) == 3


def test_names_are_taken_by_their_beginnings() -> None:
    known = [case.name for case in cases()]
    assert simulate.names("burst,day", known) == ["bursts", "bursts, heavy", "day"]


def test_an_unknown_name_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        simulate.parse(["--cases", "nonsense"])
    assert "nothing begins with 'nonsense'; there are steady" in capsys.readouterr().err


def test_a_quick_run_prints_every_chosen_case(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert simulate.main(["--quick", "--cases", "day", "--servers", "flask,fixed"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("Day\n---\n")
    assert "events a second" in said


# The real server beside it


def test_the_check_sees_waits_and_sizes_that_differ() -> None:
    requests = simulate_check.requests(1)
    account = simulate_check.simulate(requests)
    moments = [simulate_check.LOOK * number for number in range(200)]
    sizes = [(at, simulate_check.size_at(account.sizes, at)) for at in moments]

    def differs(load: simulate_check.Load) -> set[str]:
        rows = simulate_check.compared(account, load)
        return {name for name, left, right, most in rows if abs(left - right) > most}

    same = simulate_check.Load(account.waits, 0.0, {}, sizes)
    assert differs(same) == set()
    slow = same._replace(waits=[wait + 0.1 for wait in account.waits])
    assert "wait, mean (ms)" in differs(slow)
    large = same._replace(sizes=[(at, 2 * count) for at, count in sizes])
    assert differs(large) == {"workers, mean", "workers, most"}
    assert "11" in simulate_check.over_time(account, same)


def test_the_check_is_of_a_load_that_waits() -> None:
    account = simulate_check.simulate(simulate_check.requests(1))
    assert max(account.waits) > 5 * simulate_check.FIXED
    assert account.peak < simulate_check.LIMITS.max_workers
