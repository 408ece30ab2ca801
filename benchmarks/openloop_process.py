"""The open-loop generator as a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import typing as t

from load import LoadError
from servers import HERE


def open_loop(
    port: int,
    rate: float,
    seconds: float,
    seed: int,
    timeout: float = 10.0,
    *,
    path: str = "/",
    trace: bool = False,
) -> dict[str, t.Any]:
    """Load a server by requests whose moments are fixed ahead.

    :param port: Of the loopback interface.
    :param rate: Requests a second.
    :param seconds: For so long they are sent.
    :param timeout: Seconds until a request is given up.
    :param path: What is asked for.
    :param trace: Report each request.
    :return: What openloop.py reports.
    :raises LoadError: It fails.
    """
    command = [sys.executable, str(HERE / "openloop.py"), "--port", str(port)]
    command += ["--rate", str(rate), "--seconds", str(seconds), "--path", path]
    command += ["--timeout", str(timeout), "--seed", str(seed)]
    command += ["--trace"] if trace else []
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        # The terminal's Ctrl-C is for the benchmark.
        start_new_session=True,
    )

    if result.returncode:
        raise LoadError(f"openloop.py failed: {result.stderr[-200:]!a}")

    return dict(json.loads(result.stdout))
