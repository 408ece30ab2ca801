"""Programs that tests use, and that no Python package brings."""

from __future__ import annotations

import os
import shutil

#: Debian's packages, by the program that tests look for.
PACKAGES = {
    "chromedriver": "chromium-driver",
    "chromium": "chromium",
    "curl": "curl",
    "haproxy": "haproxy",
    "nginx": "nginx",
    "openssl": "openssl",
    "promtool": "prometheus",
    "strace": "strace",
    "systemd-analyze": "systemd",
    "unshare": "util-linux",
    "wrk": "wrk",
}
#: Other names of the same.
_NAMES = {"chromium": ("chromium-browser", "google-chrome")}
#: Where Debian has servers, which isn't in every user's path.
_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def find(program: str) -> str | None:
    """The path of a program of :data:`PACKAGES`, if it is installed."""
    names = (program, *_NAMES.get(program, ()))
    found = (shutil.which(name, path=_PATH) for name in names)
    return next(filter(None, found), None)


def lack(program: str) -> str:
    """Why tests are skipped that need a program."""
    return f"{program} isn't installed (apt install {PACKAGES[program]})"


def lacking() -> list[str]:
    """The same for each program that isn't there."""
    return [lack(program) for program in PACKAGES if find(program) is None]


if __name__ == "__main__":
    print(", ".join(PACKAGES))
    for line in lacking():
        print(f"missing: {line}")
