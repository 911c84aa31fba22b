"""
Where mail of a domain goes: its mail exchangers, in the order in which they are to be tried (RFC 5321 §5.1).
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from itertools import groupby
from typing import Final, NamedTuple, TypeAlias

from smtpsvc.grammar.replies import Reply
from smtpsvc.resolver import LookupFailed, MailExchanger, NoSuchName, Resolver

Network: TypeAlias = "ipaddress.IPv4Network | ipaddress.IPv6Network"

#: Where no mail exchanger of somebody else is: this machine, nobody, and everybody. Whoever owns a domain writes its
#: MX records, and whoever names a recipient can write an address literal: both could have us talk to services that
#: trust this machine.
IGNORED: Final = ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3", "::/128", "::1/128", "ff00::/8")

#: Hosts of one domain whose addresses are asked for; a name server that is silent takes its time for each.
MOST_HOSTS: Final = 30

NO_SUCH_DOMAIN: Final = Reply(550, "There is no such domain", "5.1.2")
DOMAIN_UNKNOWN: Final = Reply(451, "The mail exchangers of the domain could not be looked up", "4.4.3")
NO_MAIL: Final = Reply(556, "The domain takes no mail", "5.1.10")
NO_HOST: Final = Reply(550, "The domain has no mail exchanger with an address", "5.4.4")
HOST_UNKNOWN: Final = Reply(451, "The addresses of the domain's mail exchangers could not be looked up", "4.4.3")
LOOP: Final = Reply(554, "The mail would come back to this host", "5.4.6")


class NoRoute(Exception):
    """
    There is no server for a domain.

    :ivar reply: says why; 4yz if there may be one later.
    """

    def __init__(self, reply: Reply) -> None:
        super().__init__(str(reply))
        self.reply = reply


class Place(NamedTuple):
    """A server: its name, and one of its addresses."""

    host: str
    address: str


class Exchangers:
    """
    Finds the servers of domains.

    :param own: names and addresses of this host. If it is one of the exchangers, then mail goes to better ones only.
    :param ignored: networks in which no exchanger is believed to be.
    :param shuffle: brings exchangers of the same preference into another order, in place.
    """

    def __init__(
        self,
        resolver: Resolver,
        *,
        own: Collection[str] = (),
        ignored: Iterable[str] = IGNORED,
        shuffle: object = random.shuffle,
    ) -> None:
        self._resolver = resolver
        self._own = frozenset(name.lower().rstrip(".") for name in own)
        self._ignored = tuple(ipaddress.ip_network(each) for each in ignored)
        self._shuffle = shuffle

    async def places(self, domain: str) -> AsyncIterator[Place]:
        """
        Give the servers of a domain, the first to try first; the addresses of each are asked for when its turn comes.

        :param domain: a name, or an address literal like ``[192.0.2.1]``.
        :raises NoRoute: if there is none; at the end, if there was one.
        """
        if domain.startswith("["):
            place = _literal(domain)
            if place.address in self._own:
                raise NoRoute(LOOP)
            if self._is_ignored(place.address):
                raise NoRoute(NO_HOST)
            yield place
            return
        hosts = await self._hosts(domain.lower().rstrip("."))
        found = unknown = looping = False
        for host in hosts[:MOST_HOSTS]:
            try:
                addresses: Sequence[str] = await self._resolver.addresses(host)
            except NoSuchName:
                continue
            except LookupFailed:
                unknown = True
                continue
            if self._own.intersection(addresses):
                looping = True
                break
            for address in addresses:
                if not self._is_ignored(address):
                    found = True
                    yield Place(host, address)
        if not found:
            raise NoRoute(HOST_UNKNOWN if unknown else LOOP if looping else NO_HOST)

    async def _hosts(self, domain: str) -> list[str]:
        """Give the names, best first, those of equal preference in random order."""
        try:
            records = await self._resolver.exchangers(domain)
        except NoSuchName:
            raise NoRoute(NO_SUCH_DOMAIN) from None
        except LookupFailed:
            raise NoRoute(DOMAIN_UNKNOWN) from None
        if len(records) == 1 and not records[0].host:
            # RFC 7505 §3.
            raise NoRoute(NO_MAIL)
        # RFC 5321 §5.1: without an MX record the domain is its own exchanger.
        records = tuple(each for each in records if each.host) or (() if records else (MailExchanger(0, domain),))
        if not records:
            raise NoRoute(NO_HOST)
        mine = [each.preference for each in records if each.host in self._own]
        if mine:
            # RFC 5321 §5.1: what is not better than us would send it back.
            records = tuple(each for each in records if each.preference < min(mine))
            if not records:
                raise NoRoute(LOOP)
        hosts: dict[str, None] = {}
        for _, group in groupby(records, key=lambda each: each.preference):
            names = [each.host for each in group]
            self._shuffle(names)  # type: ignore[operator]
            hosts.update(dict.fromkeys(names))
        return list(hosts)

    def _is_ignored(self, address: str) -> bool:
        found = ipaddress.ip_address(address)
        if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
            found = found.ipv4_mapped
        return any(found in network for network in self._ignored)


def _literal(domain: str) -> Place:
    text = domain[1:-1].removeprefix("IPv6:")
    try:
        return Place(domain, str(ipaddress.ip_address(text)))
    except ValueError:
        raise NoRoute(NO_SUCH_DOMAIN) from None
