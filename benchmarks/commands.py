"""How the servers are started, for who reads the results.

The lines come from the functions that start them, so they can't differ from what was
measured.
"""

from __future__ import annotations

import shlex
import tempfile
import typing as t
from collections.abc import Iterable
from pathlib import Path

from certificate import Certificate
from servers import HERE
from servers import SERVERS
from servers import Setup

if t.TYPE_CHECKING:
    from suites.suite import Contender

PORT = 8000
ENVIRONMENT = Path("/ENV")
CERTIFICATE = Certificate(*map(Path, ("cert.pem", "key.pem", "both.pem")))


def commands(contenders: Iterable[Contender], workers: int) -> dict[str, list[str]]:
    """Each contender's commands, with names instead of this machine's paths.

    :param workers: Of those that don't say how many they have.
    :return: By the contender's name: one command, or two if it has another one for
        connections that are kept alive. What files it is given follows.
    """
    return {one.name: _commands(one, workers) for one in contenders}


def _commands(contender: Contender, workers: int) -> list[str]:
    # A connection that is closed comes first.
    every = [_command(contender, workers, keep) for keep in (False, True)]
    return list(dict.fromkeys(every))


def _command(contender: Contender, workers: int, keep_alive: bool) -> str:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        setup = Setup(
            python=ENVIRONMENT / "bin" / "python",
            port=PORT,
            workers=contender.workers or workers,
            most=contender.most,
            app="APP",
            keep_alive=keep_alive,
            folder=Path(folder),
            options=contender.options,
            certificate=CERTIFICATE if contender.tls else None,
        )
        first, *words = SERVERS[contender.server].command(setup)
        line = shlex.join([Path(first).name, *words])
        files = sorted(path for path in Path(folder).iterdir() if path.is_file())

        for path in files:
            text = "; ".join(path.read_text().splitlines())
            line += f" ({path.name}: {text})"

        # The longer ones first.
        names = {
            f"{ENVIRONMENT}/bin/": "",
            str(ENVIRONMENT): "ENV",
            folder: "FOLDER",
            f"{HERE}/": "",
            str(HERE): ".",
        }

        for place, name in names.items():
            line = line.replace(place, name)

    return line
