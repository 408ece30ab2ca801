"""Settings from the command line, the environment and the app's configuration."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest

from .conftest import Fail
from .conftest import Serve


def _config(**values: t.Any) -> dict[str, str]:
    return {"CONFIG": json.dumps({f"PREFORK_{k}": v for k, v in values.items()})}


@pytest.mark.parametrize(
    ("args", "env", "named"),
    [
        (("--min-idle", "0"), {}, "--min-idle"),
        (("--min-idle", "many"), {}, "--min-idle"),
        (("--min-idle", "5", "--max-workers", "4"), {}, "--max-workers"),
        (("--min-idle", "5", "--max-idle", "4"), {}, "--max-idle"),
        ((), {"FLASK_PREFORK_RUN_MIN_IDLE": "x"}, "--min-idle"),
        ((), {"FLASK_PREFORK_RUN_MIN_IDEL": "3"}, "'FLASK_PREFORK_RUN_MIN_IDLE'?"),
        ((), {"WEB_CONCURRENCY": "-3"}, "--max-workers"),
        (("--min-idle", "5"), {"WEB_CONCURRENCY": "4"}, "--min-idle"),
        ((), _config(MIN_IDLE=0), "PREFORK_MIN_IDLE"),
        ((), _config(DISPATCH="random"), "PREFORK_DISPATCH"),
        ((), _config(MIN_IDLE=5, MAX_IDLE=4), "PREFORK_MAX_IDLE"),
        (("--min-idle", "5"), _config(MAX_WORKERS=4), "PREFORK_MAX_WORKERS"),
        ((), _config(REQUEST_HANDLER="no.such:Handler"), "no.such:Handler"),
    ],
)
def test_impossible_settings(
    fail: Fail,
    taken_port: int,
    args: tuple[str, ...],
    env: dict[str, str],
    named: str,
) -> None:
    # Binding first would fail in its own way.
    status, output = fail("configured", "--port", str(taken_port), *args, env=env)
    assert status == 2
    (error,) = (line for line in output.splitlines() if line.startswith("Error:"))
    _, _, explanation = output.partition("Error:")
    assert named in explanation, error
    assert "in use" not in output
    assert "Traceback" not in output


OWN = {"FLASK_PREFORK_RUN_MAX_WORKERS": "6"}
SHARED = {"WEB_CONCURRENCY": "7"}
CONFIG = _config(MAX_WORKERS=8)


@pytest.mark.parametrize(
    ("args", "env", "expected"),
    [
        (("--max-workers", "5"), {**OWN, **SHARED, **CONFIG}, 5),
        ((), {**OWN, **SHARED, **CONFIG}, 6),
        ((), {**SHARED, **CONFIG}, 7),
        ((), CONFIG, 8),
        ((), {}, 40),
    ],
)
def test_which_source_wins(
    serve: Serve, args: tuple[str, ...], env: dict[str, str], expected: int
) -> None:
    server = serve("configured", *args, env=env)
    line = server.wait_for_log(r"Generation 1 serves: (\d+) to (\d+) workers")
    assert line.groups() == ("2", str(expected))


@pytest.mark.parametrize(
    ("args", "own", "shared"),
    [
        (("--port", "taken"), "0", "0"),
        ((), "taken", "0"),
        ((), None, "taken"),
    ],
)
def test_which_port_wins(
    fail: Fail,
    taken_port: int,
    args: tuple[str, ...],
    own: str | None,
    shared: str,
) -> None:
    ports = {"taken": str(taken_port)}
    env = {"FLASK_RUN_PORT": ports.get(shared, shared)}
    if own is not None:
        env["FLASK_PREFORK_RUN_PORT"] = ports.get(own, own)
    status, output = fail("configured", *(ports.get(a, a) for a in args), env=env)
    assert status == 1
    assert f"Port {taken_port} is in use" in output


def test_the_host_of_flask_run_is_read(fail: Fail, tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.touch()
    status, output = fail("configured", env={"FLASK_RUN_HOST": f"unix://{path}"})
    assert status == 1
    assert f"Can't listen on {path}" in output
