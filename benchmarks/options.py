"""The options of compare.py."""

from __future__ import annotations

import argparse
from pathlib import Path

from servers import HERE
from servers import SERVERS

PEERS = HERE.parent / ".cache" / "benchmark-peers"

REFERENCE = "gunicorn-sync"

TITLES = {"bare": "Bare WSGI app", "flask": "Flask app"}


def positive(text: str) -> int:
    number = int(text)

    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")

    return number


def client_counts(text: str) -> list[int]:
    return [positive(part) for part in text.split(",")]


def server_names(text: str) -> list[str]:
    names = text.split(",")

    for name in names:
        if name not in SERVERS:
            known = ", ".join(SERVERS)
            raise argparse.ArgumentTypeError(f"unknown server {name!r}; one of {known}")

    return names


def parse(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Compare flask prefork-run with other WSGI servers, using wrk."
    )
    add = parser.add_argument
    add(
        "--rounds",
        type=positive,
        default=3,
        metavar="N",
        help="how many (default: %(default)s)",
    )
    add(
        "--seconds",
        type=positive,
        default=5,
        metavar="S",
        help="of one measurement (default: %(default)s)",
    )
    add(
        "--clients",
        type=client_counts,
        default="16,64",
        metavar="A,B,...",
        help="connections at the same time, one after the other (default: %(default)s)",
    )
    add(
        "--workers",
        type=positive,
        default=2,
        help="processes of each server (default: %(default)s)",
    )
    add(
        "--servers",
        type=server_names,
        default=",".join(SERVERS),
        metavar="A,B,...",
        help="which to compare (default: %(default)s)",
    )
    add(
        "--reference",
        choices=SERVERS,
        metavar="SERVER",
        help=f"what ratios are taken to: {REFERENCE} if it is compared, or the first",
    )
    add(
        "--app",
        choices=TITLES,
        default="flask",
        help="what is served (default: %(default)s)",
    )
    add("--keep-alive", action="store_true", help="many requests on a connection")
    add(
        "--wrk-threads",
        type=positive,
        default=1,
        metavar="N",
        help="for the load (default: %(default)s)",
    )
    add(
        "--peers-env",
        type=Path,
        default=PEERS,
        metavar="DIR",
        help="the other servers' environment, made if missing (default: %(default)s)",
    )
    add("--json", type=Path, metavar="FILE", help="write all figures there")
    options = parser.parse_args(words)

    if options.reference is None:
        known = REFERENCE in options.servers
        options.reference = REFERENCE if known else options.servers[0]
    elif options.reference not in options.servers:
        parser.error(f"the reference {options.reference} is not among the servers")

    if min(options.clients) < options.wrk_threads:
        parser.error("wrk needs at least one client for each of its threads")

    return options
