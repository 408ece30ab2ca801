"""Who is who in ps: titles and names of all processes of a real server."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from pathlib import Path

import pytest

from .conftest import Serve
from .gate import Gate
from .server import group
from .server import Server
from .server import wait_for
from .test_tls import files

__all__ = ["files"]

pytestmark = [
    pytest.mark.measured,
    pytest.mark.skipif(sys.platform != "linux", reason="by /proc"),
]

WAYS = [
    pytest.param(
        True,
        id="setproctitle",
        marks=pytest.mark.skipif(
            importlib.util.find_spec("setproctitle") is None,
            reason="needs setproctitle",
        ),
    ),
    pytest.param(False, id="without"),
]
#: More than the kernel takes for a client that doesn't read.
LONG = 50_000_000


@pytest.fixture
def env(has_titles: bool, tmp_path: Path) -> dict[str, str]:
    """Variables of a server that finds setproctitle, or doesn't."""
    if has_titles:
        return {}
    folder = tmp_path / "without"
    folder.mkdir()
    (folder / "setproctitle.py").write_text("raise ImportError('not here')\n")
    path = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(path)}


def shown(server: Server) -> dict[str, list[str]]:
    """The command lines of its processes that live, by their names."""
    found: dict[str, list[str]] = {}
    for process in group(server.pid):
        path = Path(f"/proc/{process.pid}")
        try:
            name = (path / "comm").read_text().rstrip("\n")
            line = (path / "cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ")
        except OSError:
            continue
        if line:
            found.setdefault(name, []).append(line.decode())
    return found


def wait_for_names(server: Server, names: set[str]) -> dict[str, list[str]]:
    wait_for(lambda: set(shown(server)) == names)
    return shown(server)


def assert_titles(found: dict[str, list[str]], titles: dict[str, str]) -> None:
    """Each name has its title, if there are titles."""
    assert {name: set(lines) for name, lines in found.items()} == {
        name: {f"flask_prefork: {title}"} for name, title in titles.items()
    }


@pytest.mark.parametrize("has_titles", WAYS)
def test_who_is_who(
    serve: Serve, env: dict[str, str], has_titles: bool, gate: Gate
) -> None:
    """From the start, after a reload, and while an old generation still serves."""
    args = ["--min-idle", "2", "--max-workers", "2", "--admin", "0"]
    server = serve("delivering", *args, env=env)
    names = {"flask-dispatch", "flask-zygote.g1", "flask-w0.g1", "flask-w1.g1"}
    found = wait_for_names(server, {*names, "flask-observer"})
    command = found["flask-dispatch"]
    if has_titles:
        titles = {
            "flask-dispatch": "dispatcher [delivering] generation 1",
            "flask-zygote.g1": "zygote [delivering] generation 1",
            "flask-w0.g1": "worker 0 [delivering] generation 1",
            "flask-w1.g1": "worker 1 [delivering] generation 1",
            "flask-observer": "observer [delivering]",
        }
        assert_titles(found, titles)
        # Who looks for variables finds them.
        for one in group(server.pid):
            if one.name() != "flask-observer":
                assert one.environ()["PATH"] == os.environ["PATH"]
    else:
        # The command as it was started; what is started anew begins with its title.
        assert "prefork-run" in command[0]
        assert found["flask-w0.g1"] == found["flask-zygote.g1"] == command
        (observer,) = found["flask-observer"]
        assert "-c 'flask_prefork: observer [delivering]'; " in observer
    # A client that doesn't read.
    slow = server.send(f"/deliver/{LONG}")
    wait_for(lambda: "flask-sender" in shown(server))
    (line,) = shown(server)["flask-sender"]
    assert "flask_prefork: sender [delivering]" in line
    assert line.startswith("flask_prefork") == has_titles
    slow.sock.close()
    request = server.send(gate.path)
    held = gate.wait_for_one()
    server.signal(signal.SIGHUP)
    server.wait_for_log(r"^Generation 2 serves")
    old = f"flask-w{held.slot}.g1"
    new = {"flask-zygote.g2", "flask-w0.g2", "flask-w1.g2"}
    wait_for(lambda: {old, *new} <= set(shown(server)))
    found = shown(server)
    if has_titles:
        assert found["flask-dispatch"] == [
            "flask_prefork: dispatcher [delivering] generation 2"
        ]
        assert found[old] == [
            f"flask_prefork: worker {held.slot} [delivering] generation 1"
        ]
        assert found["flask-w1.g2"] == [
            "flask_prefork: worker 1 [delivering] generation 2"
        ]
    else:
        assert found["flask-dispatch"] == command
        assert "prefork-run" in found["flask-zygote.g2"][0]
    held.release()
    assert request.answer().status == 200
    # A reload finds the command line that it was started with, and its variables.
    server.signal(signal.SIGHUP)
    server.wait_for_log(r"^Generation 3 serves")
    assert server.get().json["generation"] == 3
    server.signal(signal.SIGTERM)
    assert server.wait() == 0


@pytest.mark.parametrize("has_titles", WAYS)
def test_tls_proxies(
    serve: Serve, env: dict[str, str], has_titles: bool, files: list[str]
) -> None:
    args = ["--min-idle", "1", "--max-workers", "1", "--tls-processes", "2", *files]
    server = serve("held", *args, env=env)
    wanted = {"flask-tlsproxy", "flask-tlsproxy0", "flask-tlsproxy1"}
    wait_for(lambda: wanted <= set(shown(server)))
    found = shown(server)
    for name, which in (("", ""), ("0", " 0"), ("1", " 1")):
        (line,) = found[f"flask-tlsproxy{name}"]
        if has_titles:
            assert line == f"flask_prefork: TLS proxy{which} [held]"
        else:
            assert "-c 'flask_prefork: TLS proxy [held]'; " in line


@pytest.mark.parametrize("has_titles", WAYS)
def test_promoted_and_reloader(
    serve: Serve, env: dict[str, str], has_titles: bool
) -> None:
    """A worker that becomes the zygote is one; and who watches files says so."""
    pool = ["--min-idle", "1", "--max-workers", "1"]
    server = serve("held", *pool, "--refork-after", "1", env=env)
    assert server.get().status == 200
    server.wait_for_log(r"^Generation 2 serves")
    wait_for(lambda: {"flask-zygote.g2", "flask-w0.g2"} <= set(shown(server)))
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    server = serve("held", *pool, "--reload", env=env)
    wait_for(lambda: "flask-reload.g1" in shown(server))
    (line,) = shown(server)["flask-reload.g1"]
    assert has_titles == (line == "flask_prefork: reloader [held] generation 1")
