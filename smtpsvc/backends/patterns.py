"""
What routes are chosen by: patterns for recipients, accounts and listeners.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from smtpsvc.grammar.addresses import Address, SyntaxProblem, is_address_literal, parse_domain
from smtpsvc.message.mailboxes import Canonical, read_mailbox, unquoted
from smtpsvc.settings import Role
from smtpsvc.values import Peer

__all__ = ["Patterns"]

#: Says whether a client is meant; gets it, the listener's role or None, and the address it has connected to or None.
_Condition: TypeAlias = "Callable[[Peer, Role | None, Any], bool]"

_PLACE = re.compile(r"(?:\[([^\]]+)\]|([0-9]+\.[0-9.]+))?(?::?([0-9]{1,5}))?")

_canonical = Canonical()


class Patterns:
    """
    A list of patterns, of which the first that fits counts.

    - ``example.com``: recipients in that domain, and in no other; also ``[192.0.2.1]``;
    - ``.example.com``: recipients in its subdomains, and not in itself;
    - ``user@example.com``: that mailbox, in upper or lower case, with or without a ``+tag``; a pattern with a tag means
      that one only;
    - ``user@*``: that mailbox in every domain; with ``postmaster@*`` the bare ``<postmaster>`` too;
    - ``*@example.com``: the same as ``example.com``;
    - ``account:NAME``: mail of who has logged in by that name; ``account:*`` of anybody who has;
    - ``role:smtp``, ``role:submission``, ``role:lmtp``: mail that came in there;
    - ``listener:25``, ``listener:192.0.2.1``, ``listener:[2001:db8::1]:25``, ``listener:/run/lmtp``: mail of clients
      that have connected there;
    - ``*``: all.

    However many there are, a recipient costs a few lookups.

    :raises ValueError: with a sentence for the person who typed it, if one is no pattern.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self._domains: dict[str, int] = {}
        self._parents: dict[str, int] = {}
        self._mailboxes: dict[tuple[str, str], int] = {}
        self._conditions: list[tuple[int, _Condition]] = []
        for number, pattern in enumerate(patterns):
            self._add(number, pattern)

    def choose(self, address: Address | None, peer: Peer, role: Role | None, host: Any) -> int | None:
        """
        Find the first pattern that fits.

        :param address: the recipient, or None if there is none.
        :param role: of the listener; None if that is not known.
        :param host: where the client has connected to, as a transport's ``getHost`` gives it, or None.
        :returns: its number, from 0 on, or None.
        """
        found = [] if address is None else self._fitting(address)
        first = min(found, default=None)
        for number, fits in self._conditions:
            if first is not None and number > first:
                break
            if fits(peer, role, host):
                return number
        return first

    def _fitting(self, address: Address) -> list[int]:
        domain = address.domain.lower() if address.is_literal else address.ascii_domain
        found = [self._domains[domain]] if domain in self._domains else []
        if self._parents and not address.is_literal:
            parent = domain
            while parent:
                _, _, parent = parent.partition(".")
                if parent in self._parents:
                    found.append(self._parents[parent])
        if self._mailboxes:
            locals = {unquoted(address.local).lower(), unquoted(_canonical(address).local)}
            keys = [(local, place) for local in locals for place in (domain, "*")]
            found += [self._mailboxes[key] for key in keys if key in self._mailboxes]
        return found

    def _add(self, number: int, pattern: str) -> None:
        word, colon, rest = pattern.partition(":")
        if colon and word in _CONDITIONS:
            self._conditions.append((number, _CONDITIONS[word](rest)))
        elif pattern == "*":
            self._conditions.append((number, lambda peer, role, host: True))
        elif "@" in pattern:
            local, _, domain = pattern.rpartition("@")
            if local == "*":
                self._domains.setdefault(_domain(domain), number)
                return
            domain = "*" if domain == "*" else _domain(domain)
            try:
                read = read_mailbox(unquoted(local), "example.com")
            except SyntaxProblem as problem:
                raise ValueError(f"{pattern!r} is no mailbox: {problem}") from None
            self._mailboxes.setdefault((unquoted(read.local).lower(), domain), number)
        elif pattern.startswith("."):
            self._parents.setdefault(_domain(pattern[1:]), number)
        else:
            self._domains.setdefault(_domain(pattern), number)


def _domain(text: str) -> str:
    if is_address_literal(text):
        return text.lower()
    try:
        return parse_domain(text)
    except SyntaxProblem as problem:
        raise ValueError(
            f"{text!r} is no domain ({problem}); a pattern is a domain, user@domain, account:NAME, role:NAME, "
            "listener:PLACE or *"
        ) from None


def _account(name: str) -> _Condition:
    if not name:
        raise ValueError("account: needs a name, or * for all")
    if name == "*":
        return lambda peer, role, host: peer.account is not None and bool(peer.account.name)
    return lambda peer, role, host: peer.account is not None and peer.account.name == name


def _role(name: str) -> _Condition:
    try:
        wanted = Role(name.lower())
    except ValueError:
        raise ValueError(f"{name!r} is no role; there are {', '.join(each.value for each in Role)}") from None
    return lambda peer, role, host: role is wanted


def _listener(place: str) -> _Condition:
    if place.startswith("/"):
        return lambda peer, role, host: _path(host) == place
    match = _PLACE.fullmatch(place)
    if match is None or not place:
        raise ValueError(f"{place!r} is no listener; write a port, an address, ADDRESS:PORT or the path of a socket")
    port = int(match[3]) if match[3] else None
    address = match[1] or match[2]
    if address is None:
        return lambda peer, role, host: getattr(host, "port", None) == port
    try:
        wanted = ipaddress.ip_address(address)
    except ValueError:
        raise ValueError(f"{address!r} is no IP address; an IPv6 address stands in brackets") from None
    return lambda peer, role, host: _ip(host) == wanted and port in (None, getattr(host, "port", None))


def _path(host: Any) -> str:
    name = getattr(host, "name", None) or ""
    return name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else str(name)


def _ip(host: Any) -> object:
    try:
        address = ipaddress.ip_address(getattr(host, "host", ""))
    except ValueError:
        return None
    # An IPv4 client of a socket for both.
    return getattr(address, "ipv4_mapped", None) or address


_CONDITIONS: dict[str, Callable[[str], _Condition]] = {"account": _account, "role": _role, "listener": _listener}
