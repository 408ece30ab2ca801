"""The virtual environment in which the other servers are installed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import typing as t
import venv
from importlib.metadata import version
from pathlib import Path

SAME = ("Flask", "Werkzeug")
"""Distributions that the peers must have in the version that we have."""

QUESTION = """
import json, sys
from importlib.metadata import distributions
print(json.dumps({d.name: d.version for d in distributions()}))
"""


class Peers:
    """An environment of its own, since a peer may need what we must not have.

    :param folder: where it is, or is to be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.python = self.folder / "bin" / "python"
        self._versions: dict[str, str] = {}
        """By canonical names."""

    def version(self, package: str) -> str | None:
        """Which version of a distribution is installed; ``None`` if none is.

        :param package: Its name, written in any way.
        """
        return self._versions.get(_canonical(package))

    def prepare(
        self, packages: t.Iterable[str], say: t.Callable[[str], None]
    ) -> dict[str, str]:
        """Make the environment if it isn't there, and install what is missing.

        :param packages: names of distributions.
        :param say: called with a line about what is done.
        :return: what couldn't be installed, and why.
        """
        if not self.python.exists():
            say(f"making the environment {self.folder}")
            venv.create(self.folder, with_pip=True)

        self._ask()
        failed = {}
        wanted = {name: version(name) for name in SAME}

        if any(self.version(name) != wanted[name] for name in SAME):
            error = self._install(*(f"{name}=={wanted[name]}" for name in SAME))

            if error:
                return dict.fromkeys(packages, f"no Flask for it: {error}")

        for package in packages:
            if self.version(package) is None:
                say(f"installing {package}")
                error = self._install(package)

                if error:
                    failed[package] = error

        self._ask()
        return failed

    def _ask(self) -> None:
        result = subprocess.run(
            [self.python, "-c", QUESTION], capture_output=True, text=True, check=True
        )
        found = json.loads(result.stdout)
        self._versions = {_canonical(name): version for name, version in found.items()}

    def _install(self, *requirements: str) -> str | None:
        """Install these; return None, or the last line of pip's complaint."""
        result = subprocess.run(
            [self.python, "-m", "pip", "install", "--quiet", *requirements],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )

        if result.returncode == 0:
            return None

        lines = [
            line
            for line in result.stderr.splitlines()
            if "error" in line.lower() and not line.startswith(" ")
        ]
        return ascii((lines or ["pip failed"])[-1][:200])


def _canonical(name: str) -> str:
    """The form in which names of distributions are compared (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def own_versions() -> dict[str, str]:
    """Versions of what our own servers are made of."""
    names = ("flask_prefork", "Flask", "Werkzeug", "httptools")
    return {"Python": sys.version.split()[0], **{name: version(name) for name in names}}


def program_version(program: str) -> str | None:
    """What a program says with ``-v``; ``None`` if it isn't there, or says none."""
    try:
        result = subprocess.run([program, "-v"], capture_output=True, text=True)
    except OSError:
        return None

    found = re.search(r"\d+(\.\d+)+", result.stdout + result.stderr)
    return found[0] if found else None
