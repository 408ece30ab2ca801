"""The packages, built of a copy of the source tree without a network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: What a source tree collects, and what no package is made of.
_LITTER = shutil.ignore_patterns(
    ".*",
    "__pycache__",
    "*.py[co]",
    "*.egg-info",
    "build",
    "dist",
    "htmlcov",
    "results",
    "_build",
)


def _ignore(directory: str, names: list[str]) -> set[str]:
    ignored = _LITTER(directory, names)
    # The figures of the manual are called like those that benchmarks leave.
    if Path(directory) == ROOT / "docs" / "benchmarks":
        return ignored - {"results"}
    return ignored - {".ci"} if Path(directory) == ROOT else ignored


def copy_tree(target: Path) -> Path:
    """Copy the source tree as a clone has it.

    :param target: Where it will be; it doesn't exist yet.
    """
    return shutil.copytree(ROOT, target, ignore=_ignore)


def build(kind: str, source: Path, target: Path) -> Path:
    """Build a package by the hooks of PEP 517, in an interpreter of its own.

    :param kind: ``sdist`` or ``wheel``.
    :param source: The source tree. The build leaves things in it.
    :param target: Where the package will be alone; it doesn't exist yet.
    :return: The package's file.
    """
    target.mkdir()
    code = f"from setuptools.build_meta import build_{kind} as f; f({str(target)!r})"
    # Warnings of the build are its user's business.
    env = {k: v for k, v in os.environ.items() if k != "PYTHONWARNINGS"}
    process = subprocess.run(
        [sys.executable, "-c", code],
        cwd=source,
        env=env,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    (path,) = target.iterdir()
    return path
