"""Whether a path is root's alone, so that root can use it without being led elsewhere.

Who can write to a directory can put a link in a file's place at any time, and choose by
that what root opens, changes or gives away (CVE-2016-1247 is that, for a log of
nginx's).
"""

from __future__ import annotations

import os
import stat

#: Links in a path that are followed, as by the kernel (``path_resolution(7)``).
_LINKS = 40
#: Who may write, besides the owner.
_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def is_roots(path: str) -> bool:
    """Whether nobody but root can decide which file a path leads to.

    Each directory on the way is root's, and only root can write to it; so are links,
    wherever they lead. Whose the file itself is doesn't matter, nor whether it exists.

    :param path: Absolute.
    :raises OSError: A directory on the way doesn't exist, or can't be looked at.
    """
    links = 0
    folder = "/"
    parts = path.split("/")[::-1]
    while parts:
        part = parts.pop()
        if part in ("", "."):
            continue
        if part == "..":
            # Links were followed, so it is what the kernel goes to.
            folder = os.path.dirname(folder)
            continue
        here = os.path.join(folder, part)
        is_last = not any(parts)
        if not _is_closed(folder, here, is_last):
            return False
        try:
            about = os.lstat(here)
        except FileNotFoundError:
            if not is_last:
                raise
            return True
        if not stat.S_ISLNK(about.st_mode):
            folder = here
            continue
        links += 1
        if about.st_uid != 0 or links > _LINKS:
            return False
        target = os.readlink(here)
        if not os.path.exists(os.path.join(folder, target)):
            # To nothing yet; or a descriptor's, of which this is no path (proc(5)).
            return os.path.exists(here)
        parts += target.split("/")[::-1]
        if target.startswith("/"):
            folder = "/"
    return True


def _is_closed(folder: str, here: str, is_last: bool) -> bool:
    """Whether only root decides what is at a place.

    :param folder: The place's directory.
    :param is_last: Whether it is the file's, which somebody else may have made.
    """
    about = os.stat(folder)
    if about.st_uid != 0:
        return False
    if not about.st_mode & _OTHERS:
        return True
    # As in /tmp, where others can't replace what is root's (S_ISVTX in inode(7)).
    is_sticky = about.st_mode & stat.S_ISVTX
    return bool(is_sticky) and not is_last and os.lstat(here).st_uid == 0
