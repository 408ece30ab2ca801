"""``--cert`` and ``--key``: which certificates there are, before anybody reads them.

Only the TLS proxy reads certificates and keys (``tlsproxy/contexts.py``). All other
processes know their names.
"""

from __future__ import annotations

import os
import typing as t
from collections.abc import Sequence

#: A certificate that is made at the start, for trying things out.
ADHOC = "adhoc"


class Certificate(t.NamedTuple):
    """A certificate.

    :param name: The path of a file with it and its chain; or :data:`ADHOC`; or the
        import name of an :class:`ssl.SSLContext`, or of a function that returns one.
    :param key: The path of the file with its private key; empty for the other two.
    """

    name: str
    key: str = ""

    @property
    def is_file(self) -> bool:
        """Whether it is in a file."""
        return bool(self.key)


def pair(names: Sequence[str], keys: Sequence[str]) -> tuple[Certificate, ...]:
    """Put certificates and keys together, the first with the first.

    :param names: As ``--cert`` gave them.
    :param keys: As ``--key`` did.
    :raises ValueError: They don't fit together; with what is wrong.
    """
    if not names:
        if keys:
            raise ValueError('"--cert" must also be specified.')
        return ()
    files = [name for name in names if os.path.exists(name)]
    others = [name for name in names if not os.path.exists(name)]
    if others and len(names) > 1:
        raise ValueError(
            f"{others[0]!r} can't be used beside another certificate;"
            " several certificates are given as files."
        )
    if others and keys:
        what = '"adhoc"' if others[0] == ADHOC else "an SSL context"
        raise ValueError(f'When "--cert" is {what}, "--key" is not used.')
    if others:
        return (Certificate(others[0]),)
    if len(keys) != len(files):
        raise ValueError(
            "Give a --key for each --cert, in the same order"
            f" (certificates: {len(files)}, keys: {len(keys)})."
        )
    return tuple(map(Certificate, names, keys))
