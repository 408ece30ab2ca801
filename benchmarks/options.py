"""The command line: its options, and how they are parsed."""

from __future__ import annotations

import argparse
import shlex
import sys
import typing as t
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path

from servers import HERE

if t.TYPE_CHECKING:
    from suites.suite import Option
    from suites.suite import Suite

CACHE = HERE.parent / ".cache"
PEERS = CACHE / "benchmark-peers"
RESULTS = CACHE / "bench"
DOCS = HERE.parent / "docs" / "benchmarks" / "results"
ALL = "all"
RENDER = "render"
ANATOMY = "anatomy"

SMOKE = {"rounds": 1, "seconds": 0.3}


def positive(text: str) -> int:
    number = int(text)

    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")

    return number


def seconds(text: str) -> float:
    number = float(text)

    if not 0 < number < 86_400:
        raise argparse.ArgumentTypeError("must be more than 0, and less than a day")

    return number


def _parts(text: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]

    if not all(parts):
        raise argparse.ArgumentTypeError("must be like A,B,C with nothing empty")

    return list(dict.fromkeys(parts))


def counts(text: str) -> list[int]:
    return [positive(part) for part in _parts(text)]


client_counts = counts


def whole_numbers(text: str) -> list[int]:
    """Counts, of which one may be 0."""
    numbers = [int(part) for part in _parts(text)]

    if min(numbers) < 0:
        raise argparse.ArgumentTypeError("must be 0 or more")

    return numbers


def fractions(text: str) -> list[float]:
    numbers = [float(part) for part in _parts(text)]

    if not all(0 < number <= 1 for number in numbers):
        raise argparse.ArgumentTypeError("must be more than 0, and at most 1")

    return numbers


def multiples(text: str) -> list[float]:
    """Of a capacity."""
    numbers = [float(part) for part in _parts(text)]

    if not all(0 < number <= 100 for number in numbers):
        raise argparse.ArgumentTypeError("must be more than 0, and at most 100")

    return numbers


def choices(known: Iterable[str]) -> Callable[[str], list[str]]:
    """Some of these names, with commas between them."""

    def names(text: str) -> list[str]:
        chosen = _parts(text)

        for name in chosen:
            if name not in known:
                raise argparse.ArgumentTypeError(
                    f"unknown {name!r}; choose from {', '.join(known)}"
                )

        return chosen

    return names


def parse(
    suites: Mapping[str, Suite], words: Sequence[str] | None = None
) -> tuple[str, dict[str, argparse.Namespace]]:
    """The command line.

    :return: The command, and the options of each suite that it is about; of
        :data:`ANATOMY`, which is no suite, its own.
    """
    words = sys.argv[1:] if words is None else words
    parser = argparse.ArgumentParser(
        prog="python benchmarks",
        description="Compare flask prefork-run with other servers.",
        epilog="`make bench` installs what is needed, and runs `all`.",
    )
    commands = parser.add_subparsers(dest="suite", metavar="COMMAND", required=True)
    about = {ALL: "every suite, as it is", RENDER: "write tables and plots anew"}
    about |= {name: suite.title for name, suite in suites.items()}
    anatomy = commands.add_parser(ANATOMY, help="where a request's microseconds go")
    _add_seconds(anatomy, "5")
    _add_smoke(anatomy)
    parsers = {
        name: commands.add_parser(name, help=text) for name, text in about.items()
    }

    for name, one in parsers.items():
        _add_common(one)
        _add_options(one, suites[name].options if name in suites else ())

    options = parser.parse_args(words)
    command = str(options.suite)

    if command == ANATOMY:
        return command, {ANATOMY: options}

    chosen = [command] if command in suites else list(suites)
    return command, {
        name: _parsed(parsers[name], suites[name], words, options.smoke)
        for name in chosen
    }


def _parsed(
    parser: argparse.ArgumentParser, suite: Suite, words: Sequence[str], smoke: bool
) -> argparse.Namespace:
    """A suite's options, also if the command is about all."""
    parser.set_defaults(**suite.defaults)

    if smoke:
        parser.set_defaults(**{**SMOKE, **suite.smoke})

    # The first word that isn't an option is the command.
    options = parser.parse_args(words[1:])
    options.suite = suite.name
    options.command = f"python benchmarks {shlex.join(words)}"
    options.cache = RESULTS / "smoke" if smoke else RESULTS

    if options.out is None:
        options.out = options.cache / "rendered" if smoke else DOCS

    return options


def _add_options(parser: argparse.ArgumentParser, options: Iterable[Option]) -> None:
    for option in options:
        parser.add_argument(
            option.flag,
            type=option.kind,
            default=option.default,
            metavar=option.metavar,
            help=f"{option.help} (default: %(default)s)",
        )


def _add_seconds(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--seconds",
        type=seconds,
        default=default,
        metavar="S",
        help="of one measurement (default: %(default)s)",
    )


def _add_smoke(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--smoke",
        action="store_true",
        help="very short runs, to check that all works; the docs don't change",
    )


def _add_common(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    default = " (default: %(default)s)"
    add("--rounds", type=positive, default="3", metavar="N", help="how many" + default)
    _add_seconds(parser, "3")
    add("--resume", action="store_true", help="continue an interrupted run")
    _add_smoke(parser)
    add(
        "--out",
        type=Path,
        metavar="DIR",
        help=f"for tables and plots (default: {DOCS.relative_to(HERE.parent)})",
    )
    add(
        "--peers-env",
        type=Path,
        default=PEERS,
        metavar="DIR",
        help="the other servers' environment, made if missing",
    )
