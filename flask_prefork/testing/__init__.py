"""A pytest plugin: the real server in an app's own tests.

It runs in the process of the tests, and talks to the server as any client does. The
package imports ``observe``, ``settings`` and ``system``. It must not look inside of the
server's processes.

Name it in a ``conftest.py``, and define the app to be served::

    pytest_plugins = ["flask_prefork.testing"]

    @pytest.fixture(scope="session")
    def prefork_app():
        return "shop:create_app()"

Then a test that takes :func:`prefork_server` gets a server. It runs in separate
processes, on a free port, until the session ends::

    def test_home(prefork_server):
        assert requests.get(f"{prefork_server.url}/").status_code == 200

The extra ``testing`` installs pytest-xprocess, which this needs.
"""

from __future__ import annotations

import contextlib
import os
import typing as t
from collections.abc import Generator
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence

import pytest

try:
    from xprocess import XProcess
except ImportError:
    raise ImportError(
        "flask_prefork.testing needs pytest-xprocess:"
        " pip install 'flask_prefork[testing]'"
    ) from None

from ..observe.client import AskError
from .server import Server
from .server import serving
from .starter import PreforkStarter

__all__ = ["AskError", "PreforkStarter", "Server", "Start", "serving"]

_SERVERS = pytest.StashKey[dict[Server, int]]()
"""The servers that run, and how much of their logs is older than the test."""


class Start(t.Protocol):
    """Starts a server that ends with the session.

    :param app: As ``flask --app`` takes it.
    :param options: More options of ``prefork-run``.
    :param variables: More environment variables.
    :param directory: Where it runs; pytest's root by default.
    """

    def __call__(
        self,
        app: str,
        *options: str,
        variables: Mapping[str, str] | None = None,
        directory: str | os.PathLike[str] | None = None,
    ) -> Server: ...


@pytest.fixture(scope="session")
def prefork_app() -> str:
    """The app as ``flask --app`` takes it: to be overridden."""
    raise pytest.UsageError(
        "No app is named: define a session fixture prefork_app that returns what"
        ' flask --app takes, such as "shop:create_app()".'
    )


@pytest.fixture(scope="session")
def prefork_options() -> Sequence[str]:
    """Options for :func:`prefork_server`: to be overridden."""
    return ()


@pytest.fixture(scope="session")
def prefork_variables() -> Mapping[str, str]:
    """Environment variables for :func:`prefork_server`: to be overridden."""
    return {}


@pytest.fixture(scope="session")
def prefork_start(
    xprocess: XProcess, request: pytest.FixtureRequest
) -> Iterator[Start]:
    """Starts servers, :class:`Start`."""
    with contextlib.ExitStack() as stack:

        def start(
            app: str,
            *options: str,
            variables: Mapping[str, str] | None = None,
            directory: str | os.PathLike[str] | None = None,
        ) -> Server:
            class Starter(PreforkStarter):
                pass

            Starter.app = app
            Starter.options = options
            Starter.variables = variables or {}
            Starter.directory = directory
            server: Server = stack.enter_context(serving(xprocess, app, Starter))
            servers = request.config.stash.setdefault(_SERVERS, {})
            servers[server] = 0
            stack.callback(servers.pop, server)
            return server

        yield start


@pytest.fixture(scope="session")
def prefork_server(
    prefork_start: Start,
    prefork_app: str,
    prefork_options: Sequence[str],
    prefork_variables: Mapping[str, str],
) -> Server:
    """The app's server, for the whole session."""
    return prefork_start(prefork_app, *prefork_options, variables=prefork_variables)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Note how long the servers' logs are before the test."""
    servers = item.config.stash.get(_SERVERS, {})
    for server in servers:
        servers[server] = len(server.log())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show with a failed test what servers have logged since its start."""
    report = yield
    if report.failed:
        for server, seen in item.config.stash.get(_SERVERS, {}).items():
            if logged := server.log()[seen:]:
                report.sections.append((f"Log of {server}", logged))
    return report
