"""``wsgi.file_wrapper`` (PEP 3333), which the response looks into."""

from __future__ import annotations

import io
import os
import stat
import tempfile
import typing as t

#: What reads a file's bytes as they are.
_BUFFERED = (io.BufferedReader, io.BufferedRandom)


class FileWrapper:
    """``wsgi.file_wrapper``: a file as a response, sent by the kernel if it can.

    :param file: With a ``read(size)``.
    :param block_size: Bytes to read at once, where the kernel can't.
    """

    def __init__(self, file: t.Any, block_size: int = 65536) -> None:
        self.file = file
        self.block_size = block_size
        if hasattr(file, "close"):
            self.close = file.close

    def __iter__(self) -> t.Iterator[bytes]:
        while data := self.file.read(self.block_size):
            yield data


def place(file: t.Any) -> tuple[int, int, int] | None:
    """Where the rest of a file is for the kernel.

    Not asked by ``fileno()`` alone: that of a :class:`gzip.GzipFile` is the
    compressed file's, and whose class is derived from these may read otherwise too.

    :return: Its descriptor, the offset and how many bytes there are; ``None`` if it
        is to be read.
    """
    if isinstance(file, tempfile._TemporaryFileWrapper):
        file = file.file
    try:
        if type(file.raw if type(file) in _BUFFERED else file) is not io.FileIO:
            return None
        fd = file.fileno()
        info = os.fstat(fd)
        # Of a buffered file the descriptor's own offset is further on.
        offset = file.tell()
    except (OSError, ValueError):
        return None
    size = info.st_size - offset
    # Those in /proc have no size.
    return (fd, offset, size) if stat.S_ISREG(info.st_mode) and size > 0 else None
