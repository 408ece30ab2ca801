"""moto, unchanged: a server that stands in for AWS, here its S3, used by boto3.

What it needs is in ``docs/real-apps.rst``.
"""

from __future__ import annotations

import json
import signal
import subprocess
import typing as t

import pytest

from .conftest import Run
from .environments import Environment
from .environments import installed
from .gate import DEADLINE
from .server import APPS
from .server import Server

pytestmark = pytest.mark.slow
APP = "moto.server:create_backend_app('s3')"
ITS_OWN = ["--request-handler", "moto.server:MotoRequestHandler"]


@pytest.fixture(scope="module")
def moto() -> Environment:
    return installed("moto", "moto[s3]>=5", "flask-cors", "boto3")


@pytest.mark.parametrize("args", [[], ITS_OWN], ids=["ours", "its own"])
def test_buckets_and_objects(moto: Environment, run: Run, args: list[str]) -> None:
    line = [moto.program("flask"), "--app", APP, "prefork-run", "--port", "0"]
    # What it holds is in its process.
    server = run([*line, "--max-workers", "1", *args])
    seen = s3(moto, server)
    assert seen["listed"] == {
        "a poem, ä.txt": 4,
        "large": 6 << 20,
        "parts": 10 << 20,
    }
    assert seen["poem"] == "text"
    assert seen["metadata"]["author"] == "nobody"
    # Moto's handler lets such names through, which others take for forged.
    assert ("with_underscore" in seen["metadata"]) is bool(args)
    assert seen["border"] == [1, 2]
    assert seen["deleted"] == "404"
    # A reload empties it, so the bucket can be made anew.
    assert "parts" in server.get("/shelf").body.decode()
    server.signal(signal.SIGHUP)
    server.wait_for_log(r"^Generation 2 serves\.$")
    assert server.get("/shelf").status == 404
    assert s3(moto, server) == seen


def s3(environment: Environment, server: Server) -> dict[str, t.Any]:
    """What a client sees of it."""
    process = subprocess.run(
        [environment.program("python"), str(APPS / "s3_client.py"), server.url],
        capture_output=True,
        text=True,
        timeout=3 * DEADLINE,
    )
    assert process.returncode == 0, process.stderr
    seen: dict[str, t.Any] = json.loads(process.stdout)
    return seen
