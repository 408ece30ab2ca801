"""The pytest plugin, in the test-suite of somebody's app."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
import typing as t
from pathlib import Path

import pytest

from .gate import DEADLINE
from .server import environment
from .server import wait_for

pytestmark = pytest.mark.measured

SHOP = """
    import os
    from flask import Flask

    app = Flask(__name__)

    @app.get("/")
    def index():
        app.logger.warning("somebody looks")
        return os.environ.get("GREETING", "hello")

    @app.get("/pid")
    def pid():
        return str(os.getpid())
"""
CONFTEST = """
    import pytest

    pytest_plugins = ["flask_prefork.testing"]

    @pytest.fixture(scope="session")
    def prefork_app():
        return "shop"
"""
IMPORTS = """
    import urllib.request

    def get(url):
        with urllib.request.urlopen(url) as response:
            return response.read().decode()
"""


class Project:
    """A project of its own.

    :param folder: Where it is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.write("shop.py", SHOP)
        self.write("conftest.py", CONFTEST)
        # It is the root, whatever lies above.
        self.write("pytest.ini", "[pytest]")

    def write(self, name: str, *texts: str) -> None:
        (self.folder / name).write_text("\n".join(map(textwrap.dedent, texts)))

    def test(self, text: str, *args: str) -> tuple[dict[str, int], str]:
        """Run its suite.

        :return: How many tests passed, failed and so on, and all that was said.
        """
        self.write("test_shop.py", IMPORTS, text)
        line = [sys.executable, "-m", "pytest", "-p", "no:randomly", *args]
        done = subprocess.run(
            line,
            cwd=self.folder,
            env=environment(),
            capture_output=True,
            text=True,
            # It starts servers, and waits for each up to the deadline.
            timeout=4 * DEADLINE,
        )
        last = done.stdout.strip().splitlines()[-1]
        counts = {word: int(n) for n, word in re.findall(r"(\d+) ([a-z]+)", last)}
        return counts, done.stdout + done.stderr


@pytest.fixture
def project(tmp_path: Path) -> t.Iterator[Project]:
    yield Project(tmp_path)


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_server_is_ready_for_the_first_test_and_gone_after_the_last(
    project: Project,
) -> None:
    counts, said = project.test(
        """
        import os

        def test_url(prefork_server):
            assert get(prefork_server.url) == "hello"
            assert prefork_server.url.startswith("http://127.0.0.1:")

        def test_it_is_the_same_one(prefork_server):
            worker = get(f"{prefork_server.url}/pid")
            assert int(worker) != os.getpid()
            status = prefork_server.status()
            assert status.pid == prefork_server.pid
            print("pids:", status.pid, worker)
        """,
        "-rP",
    )
    assert counts == {"passed": 2}, said
    found = re.search(r"pids: (\d+) (\d+)", said)
    assert found is not None
    for pid in found.groups():
        wait_for(lambda pid=pid: is_gone(int(pid)))


def test_log_is_shown_with_a_failed_test_only(project: Project) -> None:
    counts, said = project.test(
        """
        def test_good(prefork_server):
            assert get(prefork_server.url) == "hello"

        def test_bad(prefork_server):
            get(prefork_server.url + "/pid")
            assert False
        """
    )
    assert counts == {"passed": 1, "failed": 1}, said
    _, section = said.split("Log of <Server", 1)
    assert "GET /pid" in section
    # That was another test's.
    assert "somebody looks" not in said


def test_options_and_variables_are_the_suites(project: Project) -> None:
    project.write(
        "conftest.py",
        CONFTEST,
        """
        @pytest.fixture(scope="session")
        def prefork_options():
            return ["--min-idle", "3", "--max-workers", "5"]

        @pytest.fixture(scope="session")
        def prefork_variables():
            return {"GREETING": "good day"}
        """,
    )
    counts, said = project.test(
        """
        def test_options(prefork_server):
            assert get(prefork_server.url) == "good day"
            status = prefork_server.status()
            assert (status.min_idle, status.max_workers) == (3, 5)
        """
    )
    assert counts == {"passed": 1}, said


def test_more_servers_reload_and_stop(project: Project) -> None:
    counts, said = project.test(
        """
        import pathlib
        import pytest

        def test_two(prefork_start, prefork_server):
            other = prefork_start("shop:app", variables={"GREETING": "other"})
            assert get(other.url) == "other"
            assert get(prefork_server.url) == "hello"
            assert other.stop() == 0
            assert get(prefork_server.url) == "hello"

        def test_reload(prefork_server):
            source = pathlib.Path("shop.py")
            source.write_text(source.read_text().replace('"hello"', '"hi"'))
            prefork_server.reload()
            assert get(prefork_server.url) == "hi"
            source.write_text("1 / 0")
            with pytest.raises(RuntimeError, match="ZeroDivisionError"):
                prefork_server.reload()
            assert get(prefork_server.url) == "hi"
        """
    )
    assert counts == {"passed": 2}, said


def test_app_that_can_not_be_loaded_is_an_error_that_says_why(
    project: Project,
) -> None:
    project.write("shop.py", "1 / 0")
    counts, said = project.test("def test(prefork_server): pass")
    assert counts == {"error": 1}, said
    assert "it ended with status" in said
    assert "ZeroDivisionError" in said


def test_app_has_to_be_named(project: Project) -> None:
    project.write("conftest.py", 'pytest_plugins = ["flask_prefork.testing"]')
    counts, said = project.test("def test(prefork_server): pass")
    assert counts == {"error": 1}, said
    assert "define a session fixture prefork_app" in said


def test_plugin_may_be_named_in_pytests_options(project: Project) -> None:
    """As a suite does whose conftest.py isn't in its root."""
    project.write("conftest.py", CONFTEST.replace("pytest_plugins", "unused"))
    project.write("pytest.ini", "[pytest]\naddopts = -p flask_prefork.testing")
    counts, said = project.test(
        """
        def test_url(prefork_server):
            assert get(prefork_server.url) == "hello"
        """
    )
    assert counts == {"passed": 1}, said


def test_without_xprocess_the_extra_is_named() -> None:
    code = "import sys; sys.modules['xprocess'] = None; import flask_prefork.testing"
    done = subprocess.run(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, text=True
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: ")
    assert "pip install 'flask_prefork[testing]'" in last


def test_starter_serves_xprocess_itself(project: Project) -> None:
    counts, said = project.test(
        """
        from flask_prefork.testing import PreforkStarter

        def test(xprocess):
            class Starter(PreforkStarter):
                app = "shop"
                options = ["--no-access-log"]

            pid, log = xprocess.ensure("shop", Starter)
            assert "Running on" in open(log).read()
            assert xprocess.getinfo("shop").terminate() == 1
        """
    )
    assert counts == {"passed": 1}, said
