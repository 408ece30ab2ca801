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
from soak.server import DEFECTS

if t.TYPE_CHECKING:
    from suites.suite import Option
    from suites.suite import Suite

CACHE = HERE.parent / ".cache"
PEERS = CACHE / "benchmark-peers"
RESULTS = CACHE / "bench"
SMOKE_RESULTS = RESULTS / "smoke"
DOCS = HERE.parent / "docs" / "benchmarks" / "results"
ALL = "all"
RENDER = "render"
ANATOMY = "anatomy"
SOAK = "soak"
SOAKED = DOCS / "soak.inc"

ANATOMY_SECONDS = 5
"""Of each case."""

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
        :data:`ANATOMY` and :data:`SOAK`, which are no suites, their own.
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
    _add_seconds(anatomy, str(ANATOMY_SECONDS))
    _add_smoke(anatomy)
    _add_out(anatomy)
    _add_soak(commands.add_parser(SOAK, help="load and faults, all accounted for"))
    parsers = {
        name: commands.add_parser(name, help=text) for name, text in about.items()
    }

    for name, one in parsers.items():
        _add_common(one)

        if name in suites:
            _add_options(one, suites[name].options)
            # Also for --help.
            one.set_defaults(**suites[name].defaults)

    options = parser.parse_args(words)
    command = str(options.suite)

    if command == ANATOMY:
        options.out = options.out or _out(options.smoke)
        return command, {ANATOMY: options}

    options.command = f"python benchmarks {shlex.join(words)}"

    if command == SOAK and options.out is None and _is_whole(options):
        options.out = SOAKED

    if command == SOAK:
        return command, {SOAK: options}

    chosen = [command] if command in suites else list(suites)
    return command, {
        name: _parsed(parsers[name], suites[name], words, options.smoke)
        for name in chosen
    }


def _parsed(
    parser: argparse.ArgumentParser, suite: Suite, words: Sequence[str], smoke: bool
) -> argparse.Namespace:
    """A suite's options, also if the command is about all."""
    if smoke:
        parser.set_defaults(**{**SMOKE, **suite.smoke})

    # The first word that isn't an option is the command.
    options = parser.parse_args(words[1:])
    options.suite = suite.name
    options.command = f"python benchmarks {shlex.join(words)}"
    options.cache = SMOKE_RESULTS if smoke else RESULTS
    options.out = options.out or _out(smoke)
    return options


def _out(smoke: bool) -> Path:
    return SMOKE_RESULTS / "rendered" if smoke else DOCS


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


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help=f"for tables and plots (default: {DOCS.relative_to(HERE.parent)})",
    )


def _is_whole(options: argparse.Namespace) -> bool:
    """Whether it is a soak for the manual."""
    return options.faults and not options.defects and not options.cycles


def _add_soak(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    default = " (default: %(default)s)"
    add("--minutes", type=float, default=10.0, metavar="M", help="how long" + default)
    add("--cycles", type=positive, metavar="N", help="so many, however long they take")
    add("--seed", type=int, default=1, help="of what is random" + default)
    add("--no-faults", dest="faults", action="store_false", help="only load, for once")
    add(
        "--defects",
        type=choices(DEFECTS),
        default=(),
        metavar="D,D",
        help=f"what the app is to do wrong: {', '.join(DEFECTS)}",
    )
    where = SOAKED.relative_to(HERE.parent)
    about = f"for the tables (default: {where}, if nothing is left out)"
    add("--out", type=Path, metavar="FILE", help=about)


def _add_common(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    default = " (default: %(default)s)"
    add("--rounds", type=positive, default="3", metavar="N", help="how many" + default)
    _add_seconds(parser, "3")
    add("--resume", action="store_true", help="continue an interrupted run")
    _add_smoke(parser)
    _add_out(parser)
    add(
        "--peers-env",
        type=Path,
        default=PEERS,
        metavar="DIR",
        help="the other servers' environment, made if missing",
    )
