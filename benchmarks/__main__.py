"""Compare this project with other servers: ``python benchmarks COMMAND``.

``make bench`` runs ``all``, in an environment of its own. Tables go to the standard
output, in Markdown, and to ``docs/benchmarks/results``; progress goes to the standard
error. Ctrl-C stops all servers. The results up to then are kept and shown, and
``--resume`` continues from there.
``anatomy`` and ``soak`` are about this server alone. ``all`` ends with ``anatomy``.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Mapping

import anatomy
from load import LoadError
from options import ALL
from options import ANATOMY
from options import ANATOMY_SECONDS
from options import parse
from options import RENDER
from options import SOAK
from pages import markdown
from pages import write
from pages import write_anatomy
from process import StartError
from progress import duration
from results import ResumeError
from results import Store
from runner import expected
from runner import run
from soak import run as soak
from suites import SUITES
from suites.suite import Options

INTERRUPTED = 130
"""The status of a command that Ctrl-C has ended."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    command, chosen = parse(SUITES)
    # Whoever ends us so, or closes the terminal, wants the servers ended as well.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)

    try:
        if command == ANATOMY:
            return _anatomy(chosen[ANATOMY])

        if command == SOAK:
            return _soak(chosen[SOAK])

        if command == RENDER:
            return _render(chosen)

        return _measure(command, chosen)
    except KeyboardInterrupt:
        return INTERRUPTED


def _render(chosen: Mapping[str, Options]) -> int:
    """Write what is there. A suite that wasn't measured is no failure."""
    shown = [
        _show(name, options, Store(options.cache / f"{name}.jsonl"))
        for name, options in chosen.items()
    ]
    return 0 if any(shown) else 1


def _measure(command: str, chosen: Mapping[str, Options]) -> int:
    """Run suites, each shown when it is done. A failure doesn't keep the next from it.

    :raises KeyboardInterrupt: What was measured until then is shown.
    """
    costs = {name: expected(SUITES[name], one) for name, one in chosen.items()}
    parts = ", ".join(f"{name} {duration(cost)}" for name, cost in costs.items())
    say(f"A whole run should take {duration(sum(costs.values()))}: {parts}")
    status = 0

    for name, options in chosen.items():
        store = Store(options.cache / f"{name}.jsonl")
        del costs[name]

        try:
            run(SUITES[name], options, store, say, sum(costs.values()))
        except KeyboardInterrupt:
            say("interrupted: this is what was measured until then")
            _show(name, options, store)
            raise
        except (LoadError, ResumeError) as error:
            say(f"{name}: {error}")
            status = 1
            continue

        if not _show(name, options, store):
            status = 1

    if command == ALL:
        return _anatomy(next(iter(chosen.values()))) or status

    return status


def _anatomy(options: Options) -> int:
    """Print it, and write it for the docs."""
    alone = options.suite == ANATOMY
    seconds = options.seconds if alone else ANATOMY_SECONDS
    found = []

    try:
        for line in anatomy.lines(1 if options.smoke else seconds, options.smoke):
            print(line, flush=True)
            found.append(line)
    except (LoadError, StartError) as error:
        say(f"{ANATOMY}: {error}")
        return 1

    say(write_anatomy(found, options.out))
    return 0


def _soak(options: Options) -> int:
    try:
        return soak.main(options)
    except (OSError, subprocess.CalledProcessError) as error:
        # TimeoutError and ChildProcessError too: a server that doesn't start.
        say(f"{SOAK}: {error}")
        return 1


def _show(name: str, options: Options, store: Store) -> bool:
    """Print and write what is there.

    :return: Whether anything is.
    """
    suite = SUITES[name]

    try:
        results = store.load()
    except ResumeError as error:
        say(f"{name}: {error}")
        return False

    if not suite.tables(results):
        say(f"{name}: nothing was measured")
        return False

    print(f"\n# {suite.title}\n\n{markdown(suite, results)}\n")

    for line in write(suite, results, options.out):
        say(line)

    return True


if __name__ == "__main__":
    sys.exit(main())
