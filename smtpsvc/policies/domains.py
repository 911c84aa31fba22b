"""
Take recipients in the listed domains, and the bare postmaster; refuse others with 550 5.7.1.

Domains are compared without regard to case, a U-label and its A-label are the same, and a subdomain is
another domain. Whoever is logged in may write to any domain. The same as --domain.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from smtpsvc.grammar import replies
from smtpsvc.grammar.addresses import Address, SyntaxProblem, is_address_literal, parse_domain
from smtpsvc.interfaces import Outcome
from smtpsvc.policies.arguments import Arguments
from smtpsvc.policies.chain import Policy
from smtpsvc.settings import Role
from smtpsvc.values import Envelope, Recipient

__all__ = ["Domains"]


class Domains(Policy):
    """
    Take recipients in the listed domains; refuse others with 550 5.7.1.

    Domains are compared by their A-labels without regard to case (RFC 5890 §2.3.2.4), so a U-label
    form and its A-label form are the same. A subdomain is another domain. An address literal is
    compared by its address and must be listed like a domain. ``<postmaster>`` without a domain is
    always taken (RFC 5321 §4.5.1).

    :param domains: at least one domain or address literal, brackets included.
    :raises ValueError: with a sentence for the person who typed it, if one is neither, or there is none.
    :raises TypeError: if *domains* is one str, whose letters would be taken for domains.
    """

    name = "domains"

    def __init__(self, domains: Iterable[str]) -> None:
        if isinstance(domains, str):
            raise TypeError(f"domains must be a list of str: [{domains!r}]")
        #: As they were given.
        self.domains = tuple(domains)
        self._listed = frozenset(map(_read, self.domains))
        if not self._listed:
            raise ValueError("no domain is listed, so no mail would be taken")
        self._takes = lru_cache(maxsize=1024)(self._look)

    def rcpt(self, envelope: Envelope, recipient: Recipient) -> Outcome:
        """Take a recipient whose domain is listed, and the bare postmaster; of who is logged in, any."""
        if envelope.peer.account is not None and envelope.role is not Role.LMTP:
            # Submission (RFC 6409): our own users write to all the world.
            return None
        address = recipient.address
        domain = address.domain
        taken = self._takes(domain) if domain else address.local.lower() == "postmaster"
        return None if taken else replies.RELAYING_DENIED

    def _look(self, domain: str) -> bool:
        address = Address("", domain)
        return (_literal(domain) if address.is_literal else address.ascii_domain) in self._listed

    def __repr__(self) -> str:
        return f"Domains({sorted(self._listed)!r})"


def make(arguments: Arguments, reactor: Any) -> Domains:
    """
    Make the policy of ``--policy domains:``.

    :raises ValueError: with a sentence.
    """
    return Domains(arguments.values())


def _read(text: str) -> str:
    """Give the form in which a listed domain or literal is compared."""
    if text.startswith("["):
        if not is_address_literal(text):
            raise ValueError(f"{text!r} is no address literal: it must be like [192.0.2.1] or [IPv6:2001:db8::1]")
        return _literal(text)
    try:
        return parse_domain(text)
    except SyntaxProblem as problem:
        raise ValueError(f"{text!r} is no domain: {problem}") from None


def _literal(text: str) -> str:
    """Write an address literal in one way of the many that IPv6 and letter case allow."""
    inside = text[1:-1].lower()
    if inside.startswith("ipv6:"):
        return f"[IPv6:{ipaddress.IPv6Address(inside.removeprefix('ipv6:'))}]"
    return f"[{inside}]"
