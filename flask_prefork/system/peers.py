"""Lists of peers: ``--forwarded-allow-ips`` and ``--proxy-allow-from``. Pure.

``settings/table.py`` checks what the user said with :func:`parse`; servers ask the list
about the peer of each connection, and about addresses that a peer has named.
"""

from __future__ import annotations

import ipaddress
import typing as t

#: The address of a peer without one: the other end of a unix socket.
LOCAL = "<local>"
_FORMS = "give addresses, networks such as 10.0.0.0/8, unix: or *, with commas between"

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Peers:
    """Who is believed.

    :param networks: Addresses are networks of one.
    :param local: Whether peers on unix sockets are.
    :param everybody: Whether every peer is.
    """

    def __init__(
        self, networks: t.Iterable[_Network], local: bool, everybody: bool
    ) -> None:
        self._networks = tuple(networks)
        self._local = local
        self._everybody = everybody
        # Addresses that were asked about; bounded, because clients choose theirs.
        self._known: dict[str, bool] = {}

    def without_local(self) -> Peers:
        """The same without the peers on unix sockets."""
        return Peers(self._networks, False, self._everybody)

    def lists(self, peer: str) -> bool:
        """Whether a connection's peer is listed.

        :param peer: Its address, or :data:`LOCAL`.
        """
        return (self._everybody and peer != LOCAL) or self.names(peer)

    def names(self, address: str) -> bool:
        """Whether an address, or :data:`LOCAL`, is listed by itself and not because
        everybody is."""
        known = self._known.get(address)
        if known is None:
            known = self._find(address)
            if len(self._known) < 1024:
                self._known[address] = known
        return known

    def _find(self, address: str) -> bool:
        if address == LOCAL:
            return self._local
        try:
            found = ipaddress.ip_address(address)
        except ValueError:
            return False
        if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped:
            # What an IPv6 socket makes of an IPv4 peer.
            found = found.ipv4_mapped
        return any(found in network for network in self._networks)


def parse(text: str) -> Peers:
    """Take a list apart.

    :raises ValueError: For what is in no list, with what would be.
    """
    networks: list[_Network] = []
    local = everybody = False
    for part in text.split(","):
        item = part.strip()
        if item == "*":
            everybody = True
        elif item == "unix:":
            local = True
        else:
            networks.append(_network(item))
    return Peers(networks, local, everybody)


def _network(item: str) -> _Network:
    if "%" not in item:
        try:
            return ipaddress.ip_network(item)
        except ValueError:
            pass
        try:
            whole = ipaddress.ip_network(item, strict=False)
        except ValueError:
            pass
        else:
            raise ValueError(
                f"{item!r} is an address in a network; give the network {whole},"
                f" or the address {item.partition('/')[0]}"
            )
    raise ValueError(f"{item!r} is no address and no network; {_FORMS}")
