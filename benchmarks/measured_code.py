"""Which state of this project's code is measured."""

from __future__ import annotations

import subprocess
import typing as t

from servers import HERE

PACKAGE = "flask_prefork"
CHANGED = ", with changes that aren't committed"


class Code(t.NamedTuple):
    """A state of the package's source."""

    commit: str
    """For who reads it; empty if the source isn't in a git repository."""

    tree: str
    """The package's content. It stays the same if a commit changes other files only,
    such as the results of the suite before."""


def _git(*words: str) -> str:
    """What git prints; nothing if it fails or isn't there."""
    try:
        result = subprocess.run(
            ["git", *words], cwd=HERE.parent, capture_output=True, text=True
        )
    except OSError:
        return ""

    return result.stdout.strip() if result.returncode == 0 else ""


def code() -> Code:
    """What is in the working tree now."""
    commit = _git("rev-parse", "--short=10", "HEAD")
    changed = CHANGED if _git("status", "--porcelain", "--", PACKAGE) else ""
    tree = _git("rev-parse", "--short=10", f"HEAD:{PACKAGE}")
    return Code(commit and commit + changed, tree and tree + changed)
