"""``--pid``: the pid file, and its lock.

The file is locked for as long as the server lives, so that what a killed server
has left is told from a living one's without a look at its number: pids are
reused. The lock is of the kind of ``fcntl(2)``, which belongs to the process and
not to the descriptor. So no forked child keeps it, and for the same reason no
other code of this process may open the file: closing it would give the lock up.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile

#: What is longer is no pid file, and is somebody's who would miss it.
_MAX_SIZE = 64
#: Everybody may read it, as is the custom for pid files.
_MODE = 0o644


class PidFileError(Exception):
    """A pid file that can't be written, in one sentence for the user."""


class PidFile:
    """The server's pid file.

    :param path: Where; it keeps its meaning when the directory is changed.
    """

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        self._fd = -1
        self._owner = 0
        self._beside: list[str] = []

    def create(self) -> None:
        """Write the file, with this process' pid and a line's end.

        It appears with its content. Of several servers that start at once, one
        gets it. A file without a living owner is replaced.

        :raises PidFileError: If it belongs to a living server, or can't be written.
        """
        try:
            self._create()
        except OSError as e:
            raise PidFileError(
                f"Can't write the pid file {self.path}: {e.strerror or e}."
            ) from None

    def write_beside(self, suffix: str, text: str | None) -> None:
        """Write a file that lives as long as the pid file, which must be ours.

        :param suffix: Its name is the pid file's with this.
        :param text: What is in it; ``None`` to remove what a killed server has left.
        :raises PidFileError: If it can't be written.
        """
        path = self.path + suffix
        try:
            if text is None:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
                return
            folder, name = os.path.split(path)
            fd, draft = tempfile.mkstemp(prefix=f".{name}.", dir=folder)
            try:
                os.fchmod(fd, _MODE)
                os.write(fd, text.encode())
                os.rename(draft, path)
            except BaseException:
                os.unlink(draft)
                raise
            finally:
                os.close(fd)
        except OSError as e:
            raise PidFileError(f"Can't write {path}: {e.strerror or e}.") from None
        self._beside.append(path)

    def _create(self) -> None:
        folder, name = os.path.split(self.path)
        fd, draft = tempfile.mkstemp(prefix=f".{name}.", dir=folder)
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.fchmod(fd, _MODE)
            os.write(fd, b"%d\n" % os.getpid())
            while not self._put(draft):
                pass
        except BaseException:
            os.close(fd)
            os.unlink(draft)
            raise
        self._fd = fd
        self._owner = os.getpid()

    def _put(self, draft: str) -> bool:
        """Give the draft its name.

        :return: ``False`` if another server was quicker in between; it has the
            name now, or has given it back.
        """
        try:
            os.link(draft, self.path)
        except FileExistsError:
            return self._replace(draft)
        os.unlink(draft)
        return True

    def _replace(self, draft: str) -> bool:
        """Put the draft in a stale file's place."""
        try:
            # Neither following a link that somebody has put there, nor
            # waiting for a pipe's other end.
            old = os.open(self.path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return False
        try:
            self._refuse_others(old)
            try:
                fcntl.lockf(old, fcntl.LOCK_EX | fcntl.LOCK_NB)
                locked = True
            except (BlockingIOError, PermissionError):
                locked = False
            # While we waited for nothing but the processor, somebody may have
            # put another file in its place, or removed it.
            if not self._is_named(old):
                return False
            if not locked:
                raise PidFileError(self._in_use(old))
            # Who holds a file's lock is the only one to replace it.
            os.rename(draft, self.path)
            return True
        finally:
            os.close(old)

    def _refuse_others(self, fd: int) -> None:
        """A path by mistake must not cost its user a file."""
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode) or about.st_size > _MAX_SIZE:
            raise PidFileError(
                f"Can't write the pid file {self.path}: something that is no pid file"
                " is there."
            )

    def _in_use(self, fd: int) -> str:
        number = os.pread(fd, _MAX_SIZE, 0).strip()
        who = f" (pid {int(number)})" if number.isdigit() else ""
        return (
            f"The pid file {self.path} belongs to another server{who}. Either stop"
            " that server, or start this one with a different pid file."
        )

    def _is_named(self, fd: int) -> bool:
        """Whether the open file is still the one that has the name."""
        try:
            named = os.lstat(self.path)
        except FileNotFoundError:
            return False
        return os.path.samestat(named, os.fstat(fd))

    def remove(self) -> None:
        """Remove the file, if it is there, still ours, and this process made it.

        One that can't be removed isn't locked any more, hence stale.
        """
        if self._fd < 0:
            return
        if self._owner == os.getpid():
            try:
                if self._is_named(self._fd):
                    for path in (*self._beside, self.path):
                        os.unlink(path)
            except OSError:
                pass
        # Last: it gives the lock up.
        os.close(self._fd)
        self._fd = -1
