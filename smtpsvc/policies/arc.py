"""
Verify the chain of seals that forwarders and lists put on messages (ARC, RFC 8617), and say in Authentication-Results:
what came of it.

Nothing is refused for its chain. Of the sealers that are listed, as arc:lists.example,forwarder.example, dmarc believes
what they have seen: if the chain is good, and sealers from the last one back are all listed, a dmarc=pass that one of
them has found before the message was changed counts for the message. So arc stands before dmarc.

Of a chain most= seals are looked at [default: 10]; a longer one fails. Messages larger than size= [default: 10M] are
not looked at. id= is our name in the field [default: that of --hostname]. Who has logged in, clients of unix sockets,
of this machine and of private networks, and of submission and LMTP listeners are not looked at. Needs pip install
'smtpsvc[mailauth]'.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import takewhile
from typing import Any, Final

from smtpsvc.extras import need
from smtpsvc.grammar.addresses import parse_domain
from smtpsvc.interfaces import Outcome
from smtpsvc.policies.arguments import Arguments
from smtpsvc.policies.authentication import Finding, concerns, found, read_id, record, tell
from smtpsvc.policies.chain import Policy
from smtpsvc.policies.dkim import LARGEST, Run, threads
from smtpsvc.policies.held import HeldMessage
from smtpsvc.policies.signatures import Chain, fetch_keys, library, read_signature, verify_arc
from smtpsvc.resolver import Resolver, resolver_for
from smtpsvc.values import Envelope

MOST: Final = 10


class ARC(Policy):
    """
    Verifies chains of seals.

    :param id: our name in ``Authentication-Results:``.
    :param run: runs a function in a thread.
    :param trusted: domains of sealers that are believed.
    :param most: seals that are looked at.
    :param largest: message that is looked at, in bytes; it is read into memory.
    :raises ValueError: with a sentence, if a library is not installed or a domain is none.
    """

    name = "arc"

    def __init__(
        self,
        resolver: Resolver,
        *,
        id: str,
        run: Run,
        trusted: Iterable[str] = (),
        most: int = MOST,
        largest: int = LARGEST,
    ) -> None:
        library()
        need("authres", "mailauth", "ARC")
        self._resolver = resolver
        self._id = id
        self._run = run
        self._trusted = frozenset(map(parse_domain, trusted))
        self._most = most
        self._largest = largest

    def examine(self, envelope: Envelope, held: HeldMessage) -> Outcome:
        """Look at a stranger's message."""
        tell(envelope, held, self._id)
        return self._look(envelope, held) if concerns(envelope) else None

    async def _look(self, envelope: Envelope, held: HeldMessage) -> None:
        if found(envelope).of("arc"):
            return
        chain = await self._verify(held)
        sealed = tuple(takewhile(self._trusted.__contains__, chain.sealers))
        envelope.results.put(Vouched(tuple(map(passes_of, chain.claims[: len(sealed)]))))
        envelope.results.put(chain)
        # For the domain of the last seal there is no property that is registered.
        reason = f"sealed by {', '.join(chain.sealers)}" if chain.sealers else chain.reason
        record(envelope, Finding("arc", chain.result, reason="" if chain.result == "none" else reason))

    async def _verify(self, held: HeldMessage) -> Chain:
        header = held.header_as_it_came()
        seals = header.find_all("ARC-Seal")
        fields = [*seals, *header.find_all("ARC-Message-Signature")]
        if not fields and header.find("ARC-Authentication-Results") is None:
            return Chain("none")
        if len(seals) > self._most or len(fields) > 2 * self._most:
            return Chain("fail", reason="the chain is too long")
        if held.size > self._largest:
            return Chain("fail", reason="the message is too large")
        signatures = [read_signature(each) for each in fields]
        problem = next((each.problem for each in signatures if each.problem), "")
        if problem:
            return Chain("fail", reason=problem)
        keys = await fetch_keys(self._resolver, signatures)
        problem = next((each.problem for each in keys.values() if each.problem), "")
        if problem:
            return Chain("fail", reason=problem)
        chain: Chain = await self._run(verify_arc, held.open_as_it_came(), keys)
        return chain


class Vouched(frozenset[str]):
    """In ``envelope.results``: the domains of From: for which a sealer that is believed has found dmarc=pass."""

    __slots__ = ()

    def __new__(cls, domains: Iterable[Iterable[str]] = ()) -> Vouched:
        """Put the findings of several sealers together."""
        return super().__new__(cls, (domain for each in domains for domain in each))


def passes_of(claim: str) -> frozenset[str]:
    """
    Read for which domains a field says dmarc=pass.

    :param claim: the value of an ARC-Authentication-Results, without the number; empty if it makes no sense.
    """
    authres = need("authres", "mailauth", "ARC")
    try:
        results = authres.AuthenticationResultsHeader.parse_value(claim.strip()).results
        passed = [each for each in results if each.method == "dmarc" and each.result == "pass"]
        properties = [property for each in passed for property in each.properties]
        return frozenset(str(each.value).lower() for each in properties if (each.type, each.name) == ("header", "from"))
    except Exception:
        # Whatever a stranger's octets lead to.
        return frozenset()


def make(arguments: Arguments, reactor: Any) -> ARC:
    """
    Make the policy of ``--policy arc``.

    :raises ValueError: with a sentence.
    """
    return ARC(
        resolver_for(reactor),
        id=read_id(arguments),
        run=threads(reactor),
        trusted=arguments.values(),
        most=arguments.count("most", MOST),
        largest=arguments.size("size", LARGEST),
    )
