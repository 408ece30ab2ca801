"""What a connection is handed back with when its worker is done and it isn't over.

``PreforkServer.serve`` returns a :class:`~..system.parked_state.Parked`, or one of
these where files go with the connection. The worker sends them to the dispatcher.
"""

from __future__ import annotations

import typing as t

from ..system.parked_state import Parked
from ..system.spool import Spool


class Collecting(t.NamedTuple):
    """A request's body is being collected.

    :param parked: How the connection waits for more of it.
    :param spool: What there is of it, see ``collecting.py``.
    """

    parked: Parked
    spool: Spool


class Delivery(t.NamedTuple):
    """The rest of a response that the client is slow to take.

    :param rate: Bytes per second that the client must take, 0 for any.
    :param spool: What is to be sent first, if anything.
    :param sent: Bytes of that which were sent already.
    :param file: A descriptor of the app's file, owned from now on, or -1.
    :param offset: What is to be sent of that: from where,
    :param length: and how many bytes.
    :param seconds: For how long the connection waits afterwards,
    :param parked: and how; its deadline isn't known yet.
    """

    rate: float
    spool: Spool | None
    sent: int
    file: int
    offset: int
    length: int
    seconds: float
    parked: Parked


def with_tag(
    found: Parked | Collecting | Delivery, tag: bytes
) -> Parked | Collecting | Delivery:
    """The same, with what is to be kept of a connection with it."""
    if isinstance(found, Parked):
        return found._replace(tag=tag)
    return found._replace(parked=found.parked._replace(tag=tag))
