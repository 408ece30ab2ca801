"""Compare this project with other servers: ``python benchmarks COMMAND``.

``make bench`` runs ``all``, in an environment of its own. Tables go to the standard
output, in Markdown, and to ``docs/benchmarks/results``; progress goes to the standard
error. Ctrl-C stops all servers. The results up to then are kept and shown, and
``--resume`` continues from there.
``anatomy`` is about this server alone, and only prints.
"""

from __future__ import annotations

import signal
import sys

import anatomy
from load import LoadError
from options import ANATOMY
from options import parse
from options import RENDER
from pages import markdown
from pages import write
from process import StartError
from results import ResumeError
from results import Store
from runner import run
from suites import SUITES
from suites.suite import Options


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    command, chosen = parse(SUITES)
    # Whoever ends us with TERM wants the servers ended as well.
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    if command == ANATOMY:
        return _anatomy(chosen[ANATOMY])

    for name, options in chosen.items():
        store = Store(options.cache / f"{name}.jsonl")
        interrupted = False

        try:
            if command != RENDER:
                run(SUITES[name], options, store, say)
        except KeyboardInterrupt:
            say("interrupted: this is what was measured until then")
            interrupted = True
        except (LoadError, ResumeError) as error:
            say(f"{name}: {error}")
            return 1

        if not _show(name, options, store):
            return 130 if interrupted else 1

        if interrupted:
            return 130

    return 0


def _anatomy(options: Options) -> int:
    seconds = 1 if options.smoke else options.seconds

    try:
        for line in anatomy.lines(seconds, options.smoke):
            print(line, flush=True)
    except KeyboardInterrupt:
        return 130
    except (LoadError, StartError) as error:
        say(f"{ANATOMY}: {error}")
        return 1

    return 0


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
