"""How many workers, idle workers and machines? Makes the tables of docs/capacity.rst.

There is a sub-command for each of the three questions::

    python benchmarks/capacity.py workers --rate 200 --service 50
    python benchmarks/capacity.py spares --rate 200 --service 50 --start 30
    python benchmarks/capacity.py machines --workers 40 --shared 60 --private 25

Times are in milliseconds, memory is in MB. The model is Erlang's: independent clients
(Poisson arrivals) and exponential service times. ``--simulate`` adds the results of the
simulation, and ``--sigma`` sets other service times for it.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from collections.abc import Sequence

from simulation import traffic
from simulation.engine import Machine
from simulation.engine import World
from simulation.ours import Limits
from simulation.ours import Prefork
from simulation.report import milliseconds
from simulation.report import table
from simulation.results import summed

BUSIEST = 0.98
"""No table has a row above this utilisation: the wait has no bound near 1."""

RISKS = (10, 1, 0.1)
"""Percent, for each of which spares are counted."""

REQUESTS = 100_000
"""How many are simulated for a row."""


def erlang_c(load: float, workers: int) -> float:
    """The part of all requests that waits.

    :param load: busy workers on average, rate times service time; below ``workers``.
    """
    blocked = 1.0
    for count in range(1, workers + 1):
        blocked = load * blocked / (count + load * blocked)
    return workers * blocked / (workers - load * (1 - blocked))


def mean_wait(load: float, workers: int, service: float) -> float:
    """Seconds that a request waits on average."""
    return erlang_c(load, workers) * service / (workers - load)


def wait_quantile(load: float, workers: int, service: float, part: float) -> float:
    """Seconds within which this part of all requests begins to be served."""
    waits = erlang_c(load, workers)
    if waits <= 1 - part:
        return 0.0
    return math.log(waits / (1 - part)) * service / (workers - load)


def newcomers(load: float, service: float, start: float) -> float:
    """How many arrive while a worker starts, and are still served when it has.

    Those that were served before end meanwhile, too, so more spares than that are
    hardly ever needed.

    :param start: seconds from the fork until the worker accepts.
    """
    return load * -math.expm1(-start / service)


def spares(mean: float, risk: float) -> int:
    """The least number that a Poisson variable exceeds with no more than this risk."""
    number, below = 0, math.exp(-mean)
    while 1 - below > risk:
        number += 1
        below += math.exp(number * math.log(mean) - mean - math.lgamma(number + 1))
    return number


def machines(
    workers: int, shared: float, private: float, memory: float
) -> tuple[int, int]:
    """How many workers fit into a machine, and how many machines they need.

    :param shared: MB that all workers share with the zygote.
    :param private: MB of each worker's own.
    :param memory: MB of one machine that they may have.
    """
    fit = max(int((memory - shared) // private), 0)
    return fit, math.ceil(workers / fit) if fit else 0


# What is printed


def candidates(load: float) -> Iterator[int]:
    """Numbers of workers from nearly too few to plenty."""
    least = math.floor(load / BUSIEST) + 1
    seen = set()
    for extra in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0):
        count = max(least, math.ceil(load + extra * math.sqrt(load)))
        if count not in seen:
            seen.add(count)
            yield count


def simulated(rate: float, service: traffic.Service, workers: int) -> tuple[str, str]:
    """The mean and the 99th percentile of what so many fixed workers let wait."""
    requests = traffic.make(traffic.poisson(rate, REQUESTS / rate), service, seed=1)
    limits = Limits(1, workers, min_workers=workers)
    instant = Machine(0.0, 0.0)
    account = World(requests, instant, lambda world: Prefork(world, limits)).run()
    result = summed("fixed", "", 1, account)
    return milliseconds(result.mean), milliseconds(result.p99)


def show_workers(options: argparse.Namespace) -> str:
    service = options.service / 1000
    load = options.rate * service
    if options.sigma is None:
        drawn = traffic.exponential(service)
    else:
        drawn = traffic.lognormal(service, options.sigma)
    head = ["workers", "busy", "wait at all", "mean", "p95", "p99"]
    rows = []
    for count in candidates(load):
        row = [
            str(count),
            f"{load / count:.0%}",
            f"{erlang_c(load, count):.1%}",
            milliseconds(mean_wait(load, count, service)),
            milliseconds(wait_quantile(load, count, service, 0.95)),
            milliseconds(wait_quantile(load, count, service, 0.99)),
        ]
        if options.simulate:
            row += simulated(options.rate, drawn, count)
        rows.append(row)
    if options.simulate:
        head += ["mean, simulated", "p99, simulated"]
    return f"{load:g} workers are busy on average.\n\n" + table(head, rows)


def show_spares(options: argparse.Namespace) -> str:
    service = options.service / 1000
    load = options.rate * service
    mean = newcomers(load, service, options.start / 1000)
    rows = [
        (f"{risk:g} of 100", str(max(spares(mean, risk / 100) + options.burst, 1)))
        for risk in RISKS
    ]
    text = f"{mean:.1f} requests come on average while a worker starts, and stay.\n\n"
    return text + table(("more of them", "min-idle"), rows)


def show_machines(options: argparse.Namespace) -> str:
    fit, count = machines(
        options.workers, options.shared, options.private, options.memory
    )
    if not fit:
        raise SystemExit(
            f"No worker fits: {options.shared:g} MB are shared and each needs"
            f" {options.private:g} MB more, but there are {options.memory:g} MB."
        )
    each = math.ceil(options.workers / count)
    needed = options.shared + each * options.private
    return (
        f"{fit} workers fit into {options.memory:g} MB: {count} machine(s) with"
        f" {each} each, which take {needed:,.0f} MB.\n"
    )


def positive(text: str) -> float:
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError("must be more than 0")
    return number


def count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(required=True, metavar="QUESTION")
    rate = {"type": positive, "required": True, "help": "requests a second"}

    one = commands.add_parser("workers", help="how long requests wait")
    one.add_argument("--rate", **rate)
    one.add_argument("--service", type=positive, required=True, help="mean, in ms")
    one.add_argument("--simulate", action="store_true", help="simulate it as well")
    one.add_argument(
        "--sigma", type=float, help="simulate lognormal service times with this sigma"
    )
    one.set_defaults(show=show_workers)

    one = commands.add_parser("spares", help="min-idle while workers start")
    one.add_argument("--rate", **rate)
    one.add_argument("--service", type=positive, required=True, help="mean, in ms")
    one.add_argument("--burst", type=count, default=0, help="requests at once")
    one.add_argument(
        "--start", type=positive, required=True, help="until a new worker serves, in ms"
    )
    one.set_defaults(show=show_spares)

    one = commands.add_parser("machines", help="what fits into the memory")
    one.add_argument("--workers", type=count, required=True)
    one.add_argument("--shared", type=positive, required=True, help="MB, all together")
    one.add_argument("--private", type=positive, required=True, help="MB, each worker")
    one.add_argument(
        "--memory", type=positive, default=2048, help="MB a machine (%(default)s)"
    )
    one.set_defaults(show=show_machines)
    options = parser.parse_args(words)
    if options.show is show_workers and options.sigma is not None:
        if not options.simulate:
            parser.error("--sigma is for --simulate: Erlang's times are exponential")
        if not 0 <= options.sigma < math.inf:
            parser.error("--sigma must be 0 (all take the same time) or more")
    return options


def main(words: Sequence[str] | None = None) -> int:
    options = parse(words)
    print(options.show(options), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
