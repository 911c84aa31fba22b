"""
Refuse clients whose name in EHLO or HELO cannot be theirs: 550 5.7.1, at MAIL.

Refused are names that are neither a domain nor an address literal, names without a dot, an IP address without
brackets, localhost in any domain, an address literal that is not the client's address, and our own names, if they are
given (own=mx.example.org, several times). Mail programs of users have such names by rights: who has logged in, clients
of submission and LMTP listeners, clients on this machine and of unix sockets are not looked at.

The name is looked at when mail comes, so that a client may log in first. With lenient=yes names without a dot are
taken.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final

from smtpsvc.grammar.addresses import is_address_literal, parse_domain
from smtpsvc.grammar.replies import Reply
from smtpsvc.interfaces import Outcome
from smtpsvc.policies.arguments import Arguments
from smtpsvc.policies.chain import Policy
from smtpsvc.policies.clients import address_of
from smtpsvc.settings import Role
from smtpsvc.values import Envelope

NO_NAME: Final = Reply(550, "The name that you gave with EHLO is neither a domain nor an address in brackets", "5.7.1")
NOT_QUALIFIED: Final = Reply(550, "The name that you gave with EHLO is no full name of a host", "5.7.1")
NOT_YOUR_ADDRESS: Final = Reply(550, "The address that you gave with EHLO is not yours", "5.7.1")
OUR_NAME: Final = Reply(550, "The name that you gave with EHLO is ours", "5.7.1")


class HeloName(Policy):
    """
    Refuses clients whose name cannot be theirs.

    :param own: our own names.
    :param lenient: take names without a dot.
    :raises ValueError: with a sentence, if a name of *own* is no domain.
    """

    name = "helo"

    def __init__(self, own: Iterable[str] = (), *, lenient: bool = False) -> None:
        try:
            self._own = frozenset(map(parse_domain, own))
        except ValueError as error:
            raise ValueError(f"own: {error}") from None
        self._lenient = lenient
        # A client gives one name and sends many messages.
        self._judged = lru_cache(maxsize=1024)(self._judge)

    def mail(self, envelope: Envelope) -> Outcome:
        """Look at the name of a stranger."""
        peer = envelope.peer
        if peer.account is not None or envelope.role is not Role.SMTP:
            return None
        return self._judged(peer.helo, peer.host)

    def _judge(self, name: str, host: str) -> Reply | None:
        """Say what is wrong with a client's name, or give None."""
        address = address_of(host)
        if address is None or address.is_loopback:
            return None
        if name.startswith("["):
            if not is_address_literal(name):
                return NO_NAME
            inside = name[1:-1]
            inside = inside[5:] if inside[:5].lower() == "ipv6:" else inside
            return None if address_of(inside) == address else NOT_YOUR_ADDRESS
        try:
            domain = parse_domain(name.removesuffix("."))
        except ValueError:
            return NO_NAME
        if domain in self._own:
            return OUR_NAME
        last = domain.rpartition(".")[2]
        if last.isdigit():
            # An address without brackets: no top-level domain is a number (RFC 3696 §2).
            return NO_NAME
        if domain.startswith("localhost.") or last == "localhost" or ("." not in domain and not self._lenient):
            return NOT_QUALIFIED
        return None


def make(arguments: Arguments, reactor: Any) -> HeloName:
    """
    Make the policy of ``--policy helo``.

    :raises ValueError: with a sentence.
    """
    lenient = arguments.yes("lenient")
    return HeloName(arguments.texts("own"), lenient=lenient)
