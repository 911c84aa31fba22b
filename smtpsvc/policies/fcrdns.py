"""
Refuse clients whose address has no name that leads back to it: 550 5.7.25, at MAIL.

A name of an address is a claim of whoever has the address; if the name has that address, its owner agrees. Hosts that
send mail by rights have such a name mostly; those of home users and hijacked ones often do not. require= says what is
needed: confirmed for such a name [the default], name for any name, nothing to find out only. What is found is in
peer.results (iprev of RFC 8601 section 2.7.3) in any case, for later policies and the backend.

Of the names of an address the first 10 are looked at. If the DNS has no answer, mail is answered 451 4.4.3, or taken
with on-failure=accept. Who has logged in, clients of unix sockets, of this machine and of private networks, and of
submission and LMTP listeners are not looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from twisted.internet.defer import Deferred, gatherResults

from smtpsvc.grammar.replies import Reply
from smtpsvc.interfaces import Outcome
from smtpsvc.policies.arguments import Arguments, parse_choice
from smtpsvc.policies.chain import Policy
from smtpsvc.policies.clients import address_of
from smtpsvc.policies.unknown import NO_ANSWER, is_stranger, read_verdict
from smtpsvc.resolver import LookupFailed, NoSuchName, Resolver, resolver_for
from smtpsvc.settings import Role
from smtpsvc.values import Envelope, Peer

#: Names of one address that are looked at (RFC 7208 §4.6.4 has the same for ptr).
MOST_NAMES: Final = 10
NEEDS: Final = ("confirmed", "name", "nothing")

# RFC 7372 §3.3.
NO_NAME: Final = Reply(550, "Your address has no name in the DNS", "5.7.25")
NOT_CONFIRMED: Final = Reply(550, "The name of your address does not lead back to it", "5.7.25")


@dataclass(frozen=True, slots=True)
class ReverseName:
    """
    In ``peer.results``: what came of the method iprev (RFC 8601 §2.7.3 and §3).

    :param result: ``pass``, ``fail``, ``temperror``, or ``permerror`` if the address has no name.
    :param address: which was looked at.
    :param name: that was confirmed; "" if none was.
    :param claimed: all names of the address that were looked at.
    """

    result: str
    address: str
    name: str = ""
    claimed: tuple[str, ...] = ()


async def reverse_name(resolver: Resolver, address: str) -> ReverseName:
    """
    Look for a name of an address that leads back to it.

    :raises ValueError: if it is no address.
    """
    try:
        names = (await resolver.names(address))[:MOST_NAMES]
    except NoSuchName:
        names = ()
    except LookupFailed:
        return ReverseName("temperror", address)
    if not names:
        return ReverseName("permerror", address)
    kind = "AAAA" if ":" in address else "A"
    results = await gatherResults([Deferred.fromCoroutine(_leads_to(resolver, name, kind, address)) for name in names])
    for name, result in zip(names, results, strict=True):
        if result:
            return ReverseName("pass", address, name, names)
    return ReverseName("temperror" if None in results else "fail", address, claimed=names)


async def _leads_to(resolver: Resolver, name: str, kind: str, address: str) -> bool | None:
    """Tell whether a name has an address; None if that is not known."""
    try:
        return address in await resolver.lookup(name, kind)
    except NoSuchName:
        return False
    except LookupFailed:
        return None


class ForwardConfirmed(Policy):
    """
    Refuses clients whose address has no name that leads back to it.

    :param require: ``confirmed``, ``name`` or ``nothing``.
    :param on_failure: the answer if the DNS has none; None to take the mail.
    :raises ValueError: with a sentence, if *require* is another.
    """

    name = "fcrdns"

    def __init__(self, resolver: Resolver, *, require: str = "confirmed", on_failure: Reply | None = NO_ANSWER) -> None:
        self._resolver = resolver
        self._require = parse_choice(require, NEEDS)
        self._refusals = {"permerror": NO_NAME, "fail": NOT_CONFIRMED, "temperror": on_failure}

    def mail(self, envelope: Envelope) -> Outcome:
        """Look at the address of a stranger, once in a session."""
        peer = envelope.peer
        if envelope.role is not Role.SMTP or not is_stranger(peer):
            return None
        found = peer.results.get(ReverseName)
        return self._find(peer) if found is None or found.result == "temperror" else self._judge(found)

    async def _find(self, peer: Peer) -> Reply | None:
        found = await reverse_name(self._resolver, str(address_of(peer.host)))
        peer.results.put(found)
        # A trusted proxy may have named it already.
        peer.name = peer.name or found.name
        return self._judge(found)

    def _judge(self, found: ReverseName) -> Reply | None:
        if self._require == "nothing" or (self._require == "name" and found.claimed):
            return None
        return self._refusals.get(found.result)


def make(arguments: Arguments, reactor: Any) -> ForwardConfirmed:
    """
    Make the policy of ``--policy fcrdns``.

    :raises ValueError: with a sentence.
    """
    return ForwardConfirmed(
        resolver_for(reactor),
        require=arguments.choice("require", NEEDS, "confirmed"),
        on_failure=read_verdict(arguments, "451"),
    )
