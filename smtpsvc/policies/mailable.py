"""
Refuse senders to whom nobody could reply: 550, at MAIL.

The sender's domain must have a mail exchanger or an address (RFC 5321 section 5.1): otherwise 550 5.1.8, and 550 5.7.27
if it says that it takes no mail (null MX, RFC 7505). With strict=yes one of its first 5 mail exchangers must have an
address that all the world can reach: 550 5.1.8. What is found is in the results of the envelope.

The null sender is always taken; address literals, who has logged in and clients of LMTP are not looked at. With
recipients=yes the domains of recipients are looked at too, for who has logged in: 556 5.1.10 for one that takes no
mail, 550 5.1.2 for one that has no host, so that users hear of mistakes at once.

If the DNS has no answer, mail is answered 451 4.4.3, or taken with on-failure=accept.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Any, Final

from smtpsvc.grammar.addresses import Address
from smtpsvc.grammar.replies import Reply
from smtpsvc.interfaces import Outcome
from smtpsvc.policies.arguments import Arguments
from smtpsvc.policies.chain import Policy
from smtpsvc.policies.unknown import NO_ANSWER, read_verdict
from smtpsvc.resolver import LookupFailed, NoSuchName, Resolver, resolver_for
from smtpsvc.settings import Role
from smtpsvc.values import Envelope, Recipient

#: Mail exchangers of a domain that are looked at.
MOST_HOSTS: Final = 5

# RFC 3463 §3.2 and RFC 7505 §4.
NO_REPLY: Final = Reply(550, "The domain of the sender has no host that takes mail", "5.1.8")
NULL_SENDER: Final = Reply(550, "The domain of the sender takes no mail", "5.7.27")
NO_DOMAIN: Final = Reply(550, "The domain of the recipient has no host that takes mail", "5.1.2")
NULL_RECIPIENT: Final = Reply(556, "The domain of the recipient takes no mail", "5.1.10")


@dataclass(frozen=True, slots=True)
class Mailable:
    """
    In ``envelope.results``: whether somebody could reply to the sender.

    :param result: ``mx``, ``address``, ``null`` for a domain that takes no mail, ``none`` for one that has no host, or
        ``unknown`` if the DNS had no answer.
    """

    domain: str
    result: str


async def mailable(resolver: Resolver, domain: str, *, strict: bool = False) -> Mailable:
    """
    Find out whether a domain takes mail.

    :param strict: its mail exchangers must have an address that can be reached.
    """
    try:
        hosts = [each.host for each in await resolver.exchangers(domain)]
        if hosts and not any(hosts):
            return Mailable(domain, "null")
        names = [host for host in hosts if host][:MOST_HOSTS]
        if names and not strict:
            return Mailable(domain, "mx")
        # Without a mail exchanger the domain itself is the host (RFC 5321 §5.1).
        result = await _reached(resolver, names or [domain], strict)
    except NoSuchName:
        return Mailable(domain, "none")
    except LookupFailed:
        return Mailable(domain, "unknown")
    return Mailable(domain, ("mx" if names else "address") if result else "none")


async def _reached(resolver: Resolver, names: list[str], strict: bool) -> bool:
    """Tell whether one of some hosts has an address."""
    failed: LookupFailed | None = None
    for name in names:
        try:
            addresses = await resolver.addresses(name)
        except NoSuchName:
            continue
        except LookupFailed as error:
            failed = error
            continue
        if any(not strict or _is_reachable(each) for each in addresses):
            return True
    if failed is not None:
        raise failed
    return False


def _is_reachable(text: str) -> bool:
    address = ipaddress.ip_address(text)
    return not (address.is_loopback or address.is_unspecified or address.is_multicast or address.is_link_local)


class SenderMX(Policy):
    """
    Refuses senders to whom nobody could reply.

    :param strict: a mail exchanger must have an address that can be reached.
    :param recipients: look at the domains of recipients too, for who has logged in.
    :param on_failure: the answer if the DNS has none; None to take the mail.
    """

    name = "sender-mx"

    def __init__(
        self,
        resolver: Resolver,
        *,
        strict: bool = False,
        recipients: bool = False,
        on_failure: Reply | None = NO_ANSWER,
    ) -> None:
        self._resolver = resolver
        self._strict = strict
        self._sender = {"null": NULL_SENDER, "none": NO_REPLY, "unknown": on_failure}
        self._recipient = {"null": NULL_RECIPIENT, "none": NO_DOMAIN, "unknown": on_failure}
        if not recipients:
            # What need not be looked at is not asked.
            self.rcpt = super().rcpt  # type: ignore[method-assign]

    def mail(self, envelope: Envelope) -> Outcome:
        """Look at the sender's domain."""
        domain = _domain(envelope.sender)
        if not domain or envelope.peer.account is not None or envelope.role is Role.LMTP:
            return None
        return self._look(envelope, domain)

    async def _look(self, envelope: Envelope, domain: str) -> Reply | None:
        found = await mailable(self._resolver, domain, strict=self._strict)
        envelope.results.put(found)
        return self._sender.get(found.result)

    def rcpt(self, envelope: Envelope, recipient: Recipient) -> Outcome:
        """Look at a recipient's domain, for a user of ours."""
        domain = _domain(recipient.address)
        return self._look_at_recipient(domain) if domain and envelope.peer.account is not None else None

    async def _look_at_recipient(self, domain: str) -> Reply | None:
        return self._recipient.get((await mailable(self._resolver, domain, strict=self._strict)).result)


def _domain(address: Address) -> str:
    """Give the domain that can be looked up, or ""."""
    return "" if address.is_literal else address.ascii_domain


def make(arguments: Arguments, reactor: Any) -> SenderMX:
    """
    Make the policy of ``--policy sender-mx``.

    :raises ValueError: with a sentence.
    """
    return SenderMX(
        resolver_for(reactor),
        strict=arguments.yes("strict"),
        recipients=arguments.yes("recipients"),
        on_failure=read_verdict(arguments, "451"),
    )
