"""Where the records of a TLS stream end: whether a connection was cut within one. Pure.

Only lengths are looked at (RFC 8446, 5.1), which are the same in all versions.
"""

from __future__ import annotations

#: Bytes of a record's header: type, version, length.
_HEADER = 5


class RecordBoundary:
    """Follows a stream of records.

    :ivar is_within: Whether a record has begun and is not whole.
    """

    __slots__ = ("_header", "_left", "is_within")

    def __init__(self) -> None:
        #: Bytes of the present record that are still to come.
        self._left = 0
        #: What is there of a header that isn't whole.
        self._header = b""
        self.is_within = False

    def feed(self, data: memoryview) -> None:
        """Take in what comes next."""
        at, end = self._left, len(data)
        if self._header:
            at = _HEADER - len(self._header)
            header = self._header + bytes(data[:at])
            if len(header) < _HEADER:
                self._header = header
                self.is_within = True
                return
            self._header = b""
            at += header[3] << 8 | header[4]
        while at + _HEADER <= end:
            at += _HEADER + (data[at + 3] << 8 | data[at + 4])
        if at < end:
            self._header = bytes(data[at:])
            self._left = 0
        else:
            self._left = at - end
        self.is_within = bool(self._left or self._header)
