"""``wsgi.file_wrapper`` (PEP 3333), which the response looks into."""

from __future__ import annotations

import typing as t


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
