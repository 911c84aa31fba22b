"""
Which clients: networks to look an address up in.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from smtpsvc.settings import Network
from smtpsvc.values import Peer

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

#: What may stand among networks: clients of unix sockets, and who has logged in.
WORDS: Final = frozenset({"unix", "auth"})


@lru_cache(maxsize=4096)
def address_of(host: str) -> _Address | None:
    """
    Read a client's address; one of IPv4 that is mapped into IPv6 counts as IPv4.

    :param host: as in ``peer.host``.
    :returns: None if it is none, as that of a unix socket.
    """
    try:
        found = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return (found.version == 6 and found.ipv4_mapped) or found


@lru_cache(maxsize=4096)
def network_of(host: str, ipv4: int = 32, ipv6: int = 64) -> str:
    """
    Give the network of a client as a key; whoever has an IPv6 address has a network of 64 bits mostly.

    :param ipv4: bits of it.
    :param ipv6: bits of it.
    :returns: "" for what has no address, as a unix socket.
    """
    address = address_of(host)
    if address is None:
        return ""
    bits = ipv4 if address.version == 4 else ipv6
    return str(ipaddress.ip_network((address, bits), strict=False))


def parse_network(text: str) -> Network:
    """
    Read an address or a network.

    :raises ValueError: with a sentence.
    """
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        pass
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is no address or network; write such as 192.0.2.1 or 2001:db8::/32") from None
    raise ValueError(f"{text!r} has bits beyond its length; write {network}") from None


class Clients:
    """
    A set of clients; to look one up costs a step for each length of network in it, however many there are.

    :param items: addresses, networks, and the words ``unix`` for clients of unix sockets and ``auth`` for who
        has logged in.
    :raises ValueError: with a sentence, if one is none of these.
    """

    __slots__ = ("_inside", "_networks", "_words")

    def __init__(self, items: Iterable[str]) -> None:
        self._words: set[str] = set()
        # Clients come back, and are asked about at each of their commands.
        self._inside = lru_cache(maxsize=4096)(self._look)
        # By version and count of the bits that are not the network's: the network's bits.
        self._networks: dict[tuple[int, int], set[int]] = {}
        for item in items:
            if item.lower() in WORDS:
                self._words.add(item.lower())
                continue
            network = parse_network(item)
            shift = network.max_prefixlen - network.prefixlen
            found = self._networks.setdefault((network.version, shift), set())
            found.add(int(network.network_address) >> shift)

    def __bool__(self) -> bool:
        return bool(self._words or self._networks)

    def has(self, peer: Peer) -> bool:
        """Tell whether a client is one of them."""
        if self._words and (
            ("auth" in self._words and peer.account is not None) or ("unix" in self._words and not peer.host)
        ):
            return True
        return bool(self._networks) and self._inside(peer.host)

    def _look(self, host: str) -> bool:
        address = address_of(host)
        if address is None:
            return False
        version, number = address.version, int(address)
        return any(number >> shift in found for (family, shift), found in self._networks.items() if family == version)
