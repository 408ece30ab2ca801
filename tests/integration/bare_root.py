"""A container without a container's daemon: a program of ``unshare``.

``python bare_root.py FOLDER UID LINE``, as the first process of a PID and of a mount
namespace, makes a root directory in ``FOLDER/root``, which is empty, and becomes the
command ``LINE`` in it, in ``/srv``. That shows ``FOLDER/srv``, which has an environment
of Python. Beside that there are the interpreter's and the system's libraries, but no
shell and no compiler. Nothing can be written but ``/tmp``, which
is empty. There is no ``/etc`` and no ``/dev/shm``, and no environment. The user has no
name, no home and no other groups.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

HERE = Path("/srv")
#: The environment that the command has.
ENVIRON = {"PYTHONUNBUFFERED": "1"}
#: What each container's runtime has in ``/dev``.
DEVICES = ("full", "null", "random", "urandom", "zero")


def interpreter() -> list[Path]:
    """What an environment's interpreter needs of the system: files and folders."""
    # Of the interpreter itself, not of a virtual environment.
    paths = sysconfig.get_paths(vars={"platbase": sys.base_exec_prefix})
    libraries = [*Path("/").glob("lib*"), *Path("/usr").glob("lib*")]
    shared = sysconfig.get_config_var("LDLIBRARY") or ""
    folder = sysconfig.get_config_var("LIBDIR") or ""
    found = [Path(paths["stdlib"]), Path(paths["platstdlib"]), *libraries]
    if ".so" in shared and (Path(folder) / shared).exists():
        found += Path(folder).glob("libpython*")
    # A folder comes before what is in it, which is shown with it.
    return sorted(dict.fromkeys(found), key=lambda path: len(path.parts))


def mount(*words: str) -> None:
    """Call the program of that name.

    :raises CalledProcessError: It can't; standard error says why.
    """
    subprocess.run(["mount", *words], check=True)


def bind(source: Path, target: Path) -> None:
    """Show a file or a folder in a second place, where it can't be written to."""
    if source.is_symlink():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source.readlink())
        return
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    mount("--bind", str(source), str(target))
    mount("-o", "remount,bind,ro", str(target))


def make(root: Path, folder: Path, sources: Iterable[Path]) -> None:
    """Make the root directory.

    :param root: Where; an empty directory.
    :param folder: What is in :data:`HERE`.
    :param sources: What is shown where it is.
    """
    mount("-t", "tmpfs", "-o", "mode=755", "none", str(root))
    for source in sources:
        target = root / source.relative_to("/")
        if not target.exists():
            bind(source, target)
    bind(folder, root / HERE.relative_to("/"))
    for name in DEVICES:
        device = root / "dev" / name
        device.parent.mkdir(exist_ok=True)
        device.touch()
        mount("--bind", f"/dev/{name}", str(device))
    for name, kind in (("proc", "proc"), ("tmp", "tmpfs")):
        (root / name).mkdir()
        mount("-t", kind, "none", str(root / name))
    (root / "tmp").chmod(0o1777)
    mount("-o", "remount,ro", str(root))


def main(folder: str, uid: str, *line: str) -> None:
    root = Path(folder) / "root"
    make(root, Path(folder) / "srv", interpreter())
    os.chroot(root)
    os.chdir(HERE)
    os.setgroups([])
    os.setresgid(int(uid), int(uid), int(uid))
    os.setresuid(int(uid), int(uid), int(uid))
    os.execve(line[0], line, ENVIRON)


if __name__ == "__main__":
    main(*sys.argv[1:])
