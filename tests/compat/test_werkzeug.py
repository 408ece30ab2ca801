"""Werkzeug's own tests of its development server, against ours.

They are taken from the source distribution of the version that is installed.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parent.parent.parent
SUBSTITUTE = Path(__file__).parent / "substitute"
VERSION = importlib.metadata.version("werkzeug")
#: Where the sources are kept between runs.
CACHE = ROOT / ".cache" / f"werkzeug-{VERSION}"
#: How long all of the tests may take, in seconds, before one of them must hang.
DEADLINE = 240

#: The tests that want what we don't do, and why not.
REFUSED = {
    "test_server[unix socket]": (
        "Its client sends the socket's path as Host, which is no host (RFC 9110, 7.2)."
    ),
    "test_untrusted_host": (
        "Sends a fragment, which is no part of a target (RFC 9112, 3.2)."
    ),
    "test_double_slash_path": (
        "Wants a path's leading slashes made one. They are for the app to judge: it is"
        " another path (RFC 3986, 6.2)."
    ),
    "test_chunked_request[True]": (
        "Sends a Content-Length that is no number, beside Transfer-Encoding: that is"
        " how requests are smuggled (RFC 9112, 6.3)."
    ),
    "test_multiple_headers_concatenated": (
        "Wants blanks after a field's value kept, which are none of it (RFC 9112, 5.1)."
    ),
    "test_multiline_header_folding": (
        "Sends a folded field line, which a server may refuse (RFC 9112, 5.2)."
    ),
    "test_streaming_close_response[]": (
        "Wants an answer in HTTP/1.0, as from a server without threads."
    ),
    "test_streaming_close_response[crash]": (
        "Wants a truncated response to look like a whole one, as in HTTP/1.0."
    ),
}


@pytest.fixture(scope="session")
def sources() -> Path:
    """Werkzeug's tests, from the package index or as kept from an earlier run."""
    if not CACHE.exists():
        CACHE.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE.parent) as name:
            directory = Path(name)
            _download(directory)
            _unpack(next(directory.glob("*.tar.gz")), directory / "tests")
            # In one step, for others may run the same at the same time.
            try:
                (directory / "tests").rename(CACHE)
            except OSError:
                assert CACHE.exists()
    return CACHE


def _download(directory: Path) -> None:
    options = ["--no-deps", "--no-binary", "werkzeug", "--dest", str(directory)]
    got = subprocess.run(
        [sys.executable, "-m", "pip", "download", *options, f"werkzeug=={VERSION}"],
        capture_output=True,
        text=True,
    )
    if got.returncode:
        last = (got.stderr.strip().splitlines() or ["no reason given"])[-1]
        pytest.skip(f"Can't get the source distribution of werkzeug: {last}")


def _unpack(archive: Path, directory: Path) -> None:
    """Take the tests out of a source distribution."""
    with tarfile.open(archive) as tar:
        for member in tar:
            parts = Path(member.name).parts
            file = tar.extractfile(member)
            if file is None or parts[1:2] != ("tests",) or ".." in parts:
                continue
            path = directory.joinpath(*parts[2:])
            path.parent.mkdir(parents=True, exist_ok=True)
            with file, path.open("wb") as out:
                shutil.copyfileobj(file, out)


def _run(sources: Path, report: Path) -> str:
    """Run the tests that start a server.

    :param report: Where to write which of them passed, as JUnit's XML.
    :return: What pytest printed.
    """
    line = [sys.executable, "-m", "pytest", "-p", "plugin", "-p", "no:cacheprovider"]
    line += ["-c", os.devnull, "--rootdir", str(sources), "-o", "markers=dev_server"]
    line += ["-m", "dev_server", "--junitxml", str(report), "test_serving.py"]
    environ = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    environ |= {"PYTHONPATH": str(SUBSTITUTE), "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen(
        line,
        cwd=sources,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=DEADLINE)
        except BaseException:
            # With the server that the test has started.
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return output


def _outcomes(report: Path) -> dict[str, set[str]]:
    """The names of the tests by how they ended."""
    outcomes: dict[str, set[str]] = {"passed": set(), "failed": set(), "skipped": set()}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        ends = {child.tag for child in case}
        if ends & {"failure", "error"}:
            outcome = "failed"
        else:
            outcome = "skipped" if "skipped" in ends else "passed"
        outcomes[outcome].add(case.attrib["name"])
    return outcomes


def test_werkzeugs_own_tests(sources: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    print(_run(sources, report))
    outcomes = _outcomes(report)
    assert outcomes["failed"] == set(REFUSED)
    # That of the reloader that isn't installed.
    assert outcomes["skipped"] <= {"test_reloader_sys_path[watchdog]"}
    assert len(outcomes["passed"]) >= 12
