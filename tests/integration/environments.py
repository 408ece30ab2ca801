"""Environments of their own for apps whose dependencies the suite needn't have."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


def installed(
    name: str, *requirements: str, python: str = sys.executable
) -> Environment:
    """An environment with an app, or a skipped test.

    See :class:`Environment` for the parameters.
    """
    environment = Environment(name, *requirements, python=python)
    try:
        environment.prepare()
    except CannotInstall as e:
        pytest.skip(f"{name} can't be installed: {e}")
    return environment


def _own_needs() -> list[str]:
    """Of the project itself, which is installed as a link: what a change would need."""
    parser = ConfigParser()
    parser.read(ROOT / "setup.cfg")
    points = parser["options.entry_points"].values()
    return [parser["options"]["install_requires"], *points]


def version_of(python: str) -> str | None:
    """An interpreter's version, such as 3.10; ``None`` if it is none that runs."""
    code = "import sys; print('{}.{}'.format(*sys.version_info))"
    try:
        process = subprocess.run([python, "-c", code], capture_output=True, text=True)
    except OSError:
        return None
    return process.stdout.strip() if process.returncode == 0 else None


class CannotInstall(Exception):
    """What pip said last."""


class Environment:
    """A virtual environment below ``.cache`` that outlives the tests.

    :param name: Its directory's.
    :param requirements: What is installed in it beside the project itself.
    :param python: Whose environment it is.
    """

    def __init__(
        self, name: str, *requirements: str, python: str = sys.executable
    ) -> None:
        version = version_of(python)
        assert version is not None
        self._directory = ROOT / ".cache" / "apps" / f"{name}-{version}"
        self._requirements = requirements
        self._python = python
        self._is_ours = python == sys.executable

    def program(self, name: str) -> str:
        """The path of a program in it."""
        return str(self._directory / "bin" / name)

    def prepare(self) -> None:
        """Make it, unless it is there as it should be.

        :raises CannotInstall: Without a package index, most likely.
        """
        wanted = repr((*self._requirements, *_own_needs()))
        stamp = self._directory / "stamp"
        self._directory.parent.mkdir(parents=True, exist_ok=True)
        # Another run of the suite may want the same.
        lock_path = self._directory.with_name(f"{self._directory.name}.lock")
        with lock_path.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if stamp.exists() and stamp.read_text() == wanted:
                return
            # From nothing: half of an installation is worse than none.
            line = [self._python, "-m", "venv", "--clear", self._directory]
            if self._is_ours:
                line.append("--without-pip")
            subprocess.run(line, check=True)
            self._install()
            stamp.write_text(wanted)

    def _install(self) -> None:
        pip = [self.program("python"), "-m", "pip"]
        if self._is_ours:
            # To install another pip takes longer than most of the apps. But ours may
            # not run on every version.
            pip = [sys.executable, "-m", "pip", "--python", self.program("python")]
        # What is imported is compiled then.
        line = [*pip, "install", "--quiet", "--no-compile"]
        process = subprocess.run(
            [*line, *self._requirements, "--editable", str(ROOT)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if process.returncode:
            errors = [e for e in process.stderr.splitlines() if e.startswith("ERROR")]
            raise CannotInstall((errors or [f"exit status {process.returncode}"])[-1])
