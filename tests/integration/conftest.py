"""Fixtures that start the real command, and hold its requests."""

from __future__ import annotations

import contextlib
import socket
import sys
import typing as t
from collections.abc import Generator
from collections.abc import Iterator
from pathlib import Path

import pytest
from xprocess import XProcess

from .gate import Gate
from .server import BANNER
from .server import command
from .server import finish
from .server import Finished
from .server import running
from .server import Server

#: An app that can't be installed for Python 3.10 together with Flask 3.
collect_ignore = ["test_real_apps_ihatemoney.py"] if sys.version_info < (3, 11) else []
SERVERS = pytest.StashKey[list[Server]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the servers' logs with a failed test."""
    report = yield
    if report.failed and report.when == "call":
        for server in item.stash.get(SERVERS, []):
            report.sections.append((f"Log of {server}", server.log()))
    return report


class Run(t.Protocol):
    """Starts a server by a whole command line.

    :param line: The command line.
    :param directory: Where it runs, an empty directory by default.
    :param env: More environment variables.
    :param pass_fds: Descriptors that it inherits.
    :param begun: See :func:`running`.
    """

    def __call__(
        self,
        line: list[str],
        *,
        directory: Path | None = None,
        env: dict[str, str] | None = None,
        pass_fds: tuple[int, ...] = (),
        begun: str | None = BANNER,
    ) -> Server: ...


class Serve(t.Protocol):
    """Starts ``flask --app APP prefork-run`` on a free port, or where ``host`` says.

    :param app: A module in ``tests/apps``.
    :param args: More arguments.
    :param host: What ``--host`` gets, if anything.
    :param env: More environment variables.
    :param pass_fds: Descriptors that it inherits.
    :param begun: See :func:`running`.
    """

    def __call__(
        self,
        app: str,
        *args: str,
        host: str | None = None,
        env: dict[str, str] | None = None,
        pass_fds: tuple[int, ...] = (),
        begun: str | None = BANNER,
    ) -> Server: ...


class Fail(t.Protocol):
    """Runs ``flask --app APP prefork-run``, expecting that it ends by itself."""

    def __call__(
        self,
        app: str,
        *args: str,
        env: dict[str, str] | None = None,
        pass_fds: tuple[int, ...] = (),
    ) -> Finished: ...


@pytest.fixture
def run(
    xprocess: XProcess, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Run]:
    """Starts servers that end with the test."""
    with contextlib.ExitStack() as stack:

        def start(
            line: list[str],
            *,
            directory: Path | None = None,
            env: dict[str, str] | None = None,
            pass_fds: tuple[int, ...] = (),
            begun: str | None = BANNER,
        ) -> Server:
            name = request.node.name
            where = directory or tmp_path
            server = stack.enter_context(
                running(xprocess, name, line, where, env, pass_fds, begun)
            )
            request.node.stash.setdefault(SERVERS, []).append(server)
            return server

        yield start


@pytest.fixture
def serve(run: Run) -> Serve:
    """Starts servers of apps that end with the test."""

    def start(
        app: str,
        *args: str,
        host: str | None = None,
        env: dict[str, str] | None = None,
        pass_fds: tuple[int, ...] = (),
        begun: str | None = BANNER,
    ) -> Server:
        where = ("--port", "0") if host is None else ("--host", host, "--port", "0")
        line = command(app, *where, "--no-access-log", *args)
        return run(line, env=env, pass_fds=pass_fds, begun=begun)

    return start


class Shared(t.Protocol):
    """Starts a server, or gives the one of an earlier test of the module.

    For tests that leave it as they found it, and ask for nothing that an earlier one
    may have left in its log or its counters.

    :param app: A module in ``tests/apps``.
    :param args: More arguments. For each app and arguments there is one server.
    """

    def __call__(self, app: str, *args: str) -> Server: ...


@pytest.fixture(scope="module")
def shared_servers(
    xprocess: XProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shared]:
    """Starts servers that end with the module."""
    servers: dict[tuple[str, ...], Server] = {}
    with contextlib.ExitStack() as stack:

        def start(app: str, *args: str) -> Server:
            known = (app, *args)
            if known not in servers:
                line = command(app, "--port", "0", "--no-access-log", *args)
                where = tmp_path_factory.mktemp("shared")
                servers[known] = stack.enter_context(
                    running(xprocess, where.name, line, where)
                )
            return servers[known]

        yield start


@pytest.fixture
def shared(shared_servers: Shared, request: pytest.FixtureRequest) -> Iterator[Shared]:
    """Gives the module's servers to a test, and closes the test's connections."""
    used: list[Server] = []

    def start(app: str, *args: str) -> Server:
        server = shared_servers(app, *args)
        used.append(server)
        request.node.stash.setdefault(SERVERS, []).append(server)
        return server

    yield start
    for server in used:
        server.close()
        assert server.popen.poll() is None, "it has ended"


@pytest.fixture
def fail(tmp_path: Path) -> Fail:
    """Runs commands that end by themselves."""

    def run(
        app: str,
        *args: str,
        env: dict[str, str] | None = None,
        pass_fds: tuple[int, ...] = (),
    ) -> Finished:
        return finish(command(app, *args), tmp_path, env, pass_fds)

    return run


@pytest.fixture
def gate(serve: Serve) -> Iterator[Gate]:
    """Holds requests. It lets them go before the servers end."""
    gate = Gate()
    yield gate
    gate.close()


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A TCP port of 127.0.0.1 on which another program listens: this one."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock.getsockname()[1]
