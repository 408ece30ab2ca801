"""Replay the same requests through our scaling policy and models of others.

``python benchmarks/simulate.py --quick`` takes seconds, without ``--quick`` minutes.
No process is forked and no clock is read: the same seed gives the same figures. The
code of the simulation is in the folder ``simulation``; ``--check`` is in
``simulate_check.py``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from simulation import report
from simulation.cases import Case
from simulation.cases import cases
from simulation.cases import SERVERS
from simulation.results import replay
from simulation.results import Result
from simulation.results import run

QUICK = 0.1
"""The part of the time that cases last with ``--quick``."""

PAGE = "simulation.rst"

HEAD = """\
The policies compared
=====================

Several servers have rules for the size of their pool. A simulation compares these rules
with the same requests. For our server it uses the classes that the dispatcher runs,
``Policy`` and ``Pool``. For the other servers it uses models of their documentation and
source. In each case all servers have the same requests and the same limits.

A request's *waiting time* is everything beyond its own service time: the time in the
queue, and the additional time of a process's first request. *worker-s* is the time of
all workers from their fork to their exit, and *workers* is their mean number. The
simulation is simpler than a real server: processes don't slow each other down, a fork
costs time but no memory, and messages between processes take no time. ``python
benchmarks/simulate.py --check`` compares the simulation with the real server.

Each policy can be tuned: with more idle workers, requests wait less and workers cost
more. So each policy runs with several values of min-idle. A setting is *beaten* if a
setting of the other server has no longer mean waiting time and no more worker-seconds,
and is better in one of the two. Forks don't count for this, but they are in the tables:
a server that ends workers at once has few workers, and forks for every other request.

``python benchmarks/simulate.py --write docs`` makes this page and its diagrams, in an
environment that has matplotlib.

.. image:: plots/waiting.svg
    :alt: Waiting time against workers, a panel for each case, a curve for each policy.

.. image:: plots/crowd.svg
    :alt: The number of workers over time when a crowd comes.
"""


def names(text: str, known: Sequence[str]) -> list[str]:
    """The names that begin with one of these words, at least one for each."""
    chosen = []
    for word in text.split(","):
        found = [name for name in known if name.lower().startswith(word.lower())]
        if not found:
            raise argparse.ArgumentTypeError(
                f"nothing begins with {word!r}; there are {', '.join(known)}"
            )
        chosen += found
    return list(dict.fromkeys(chosen))


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    known = [case.name for case in cases()]
    add("--quick", action="store_true", help="a tenth of the time, no large cases")
    add(
        "--cases",
        type=lambda text: names(text, known),
        metavar="A,B,...",
        help=f"which (default: all): {', '.join(known)}",
    )
    add(
        "--servers",
        type=lambda text: names(text, list(SERVERS)),
        default=list(SERVERS),
        metavar="A,B,...",
        help=f"which (default: all): {', '.join(SERVERS)}",
    )
    add("--seed", type=int, default=1, help="of all requests (default: %(default)s)")
    add("--json", type=Path, metavar="FILE", help="write all figures there")
    add("--write", type=Path, metavar="DIR", help=f"write {PAGE} and plots/ there")
    add("--check", action="store_true", help="compare with the real server instead")
    return parser.parse_args(words)


def chosen(options: argparse.Namespace) -> list[Case]:
    scale = QUICK if options.quick else 1.0
    wanted = options.cases or [
        case.name for case in cases() if not options.quick or case.max_workers < 1000
    ]
    return [case for case in cases(scale) if case.name in wanted]


def say(result: Result) -> None:
    """Show the progress, where somebody looks."""
    if sys.stderr.isatty():
        text = f"{result.case}, {result.server}, min-idle {result.min_idle}"
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def write(
    folder: Path, options: argparse.Namespace, results: Sequence[Result], page: str
) -> None:
    """Write the page and its pictures."""
    try:
        from simulation import plots
    except ImportError as error:
        raise SystemExit(
            f"--write draws with matplotlib, and there is none ({error}):"
            " pip install matplotlib"
        ) from None
    scale = QUICK if options.quick else 1.0
    # Half a minute of quiet is enough to see, and then the crowd comes.
    crowd = next(case for case in cases(scale) if case.name == "crowd")
    requests = crowd.draw(options.seed)
    runs = {
        server: replay(crowd, server, crowd.shown, requests).sizes
        for server in options.servers
        if server != "fixed"
    }
    until = requests.arrivals[-1]
    plots.draw(chosen(options), results, runs, until, folder / "plots")
    (folder / PAGE).write_text(f"{HEAD}\n\n{page}", encoding="utf-8")


def main(words: Sequence[str] | None = None) -> int:
    options = parse(words)
    if options.check:
        # It starts processes, and needs what the other benchmarks need.
        import simulate_check

        return simulate_check.main(options.seed)
    results: list[Result] = []
    sections = []
    for case in chosen(options):
        found = run(case, options.servers, options.seed, say)
        results += found
        sections.append(report.section(case, found))
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr)
        print(f"{sections[-1]}\n", flush=True)
    print(report.speed(results))
    if options.json:
        figures = [one._asdict() for one in results]
        options.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    if options.write:
        page = "\n\n".join([*sections, report.speed(results) + "\n"])
        write(options.write, options, results, page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
