"""A PostgreSQL server of the tests' own, where PostgreSQL is installed."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import typing as t
from collections.abc import Iterator
from pathlib import Path

#: Debian's packages have these programs in a directory for each version.
_PLACES = Path("/usr/lib/postgresql")


def find(program: str) -> str | None:
    """The path of one of PostgreSQL's programs, if it is installed."""
    newest_first = sorted(_PLACES.glob("*/bin"), reverse=True)
    folders = [os.environ.get("PATH", os.defpath), *map(str, newest_first)]
    return shutil.which(program, path=os.pathsep.join(folders))


@contextlib.contextmanager
def postgresql(driver: str = "+pg8000") -> Iterator[str]:
    """A server on a free port, with an empty database. It trusts everybody.

    :param driver: Of SQLAlchemy's; nothing for libpq's URLs.
    :return: The database's URL.
    """
    initdb, pg_ctl = find("initdb"), find("pg_ctl")
    assert initdb is not None and pg_ctl is not None
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    # It doesn't run as root, and what pytest makes is for its user alone.
    who: dict[str, t.Any] = {"user": "postgres"} if os.getuid() == 0 else {}
    with contextlib.ExitStack() as stack:
        directory = Path(
            subprocess.check_output(["mktemp", "-d"], text=True, **who).strip()
        )
        stack.callback(shutil.rmtree, directory)
        run = {"cwd": directory, "stdout": subprocess.DEVNULL, "check": True, **who}
        cluster = str(directory / "cluster")
        subprocess.run(
            [initdb, "-D", cluster, "-A", "trust", "-U", "postgres", "-N"], **run
        )
        options = f"-c listen_addresses=127.0.0.1 -p {port} -k {directory}"
        control = [pg_ctl, "-D", cluster, "-w", "-l", str(directory / "log")]
        subprocess.run([*control, "-o", options, "start"], **run)
        stack.callback(subprocess.run, [*control, "-m", "immediate", "stop"], **run)
        yield f"postgresql{driver}://postgres@127.0.0.1:{port}/postgres"
