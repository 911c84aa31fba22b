"""
Do as the domain in From: asks with mail that does not prove to be its own (DMARC, RFC 7489): 550 5.7.26 for p=reject.

Mail is the domain's own if it has a good DKIM signature, or an SPF pass, of a domain that belongs with that in From:.
Both are looked at here, unless spf and dkim have done so before: spf:record-only and dkim in front are not needed.
p=quarantine marks the message (Quarantine, in envelope.results), and so does p=reject with reject=quarantine; with
record-only nothing is done. A message whose From: names no one domain is refused with 550 5.7.26 too. If it cannot be
known for now what the domain asks, or whether a signature is good, 451 4.4.3 says so (on-failure=accept takes it). Mail
that lists and forwarders have changed can be believed: see arc.

size= is the largest message of which signatures are looked at [default: 10M]; a larger one is marked at most. id= is
our name in Authentication-Results: [default: that of --hostname]. Who has logged in, clients of unix sockets, of this
machine and of private networks, and of submission and LMTP listeners are not looked at. Needs pip install
'smtpsvc[mailauth]'.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from smtpsvc.extras import need
from smtpsvc.grammar.replies import Reply
from smtpsvc.interfaces import Outcome
from smtpsvc.policies.arc import Vouched
from smtpsvc.policies.arguments import Arguments
from smtpsvc.policies.authentication import Finding, concerns, found, read_id, record, tell
from smtpsvc.policies.author import author_domain
from smtpsvc.policies.chain import Policy
from smtpsvc.policies.dkim import DKIM, LARGEST, threads
from smtpsvc.policies.held import HeldMessage
from smtpsvc.policies.organizations import Organizations
from smtpsvc.policies.spf import SPF
from smtpsvc.policies.unknown import NO_ANSWER, read_verdict
from smtpsvc.resolver import LookupFailed, NoSuchName, Resolver, resolver_for
from smtpsvc.values import Envelope

#: Octets of a record.
LONGEST_RECORD: Final = 4096

NOT_ITS_OWN: Final = Reply(550, "The domain in From: asks to refuse mail that does not prove to be its own", "5.7.26")
NO_AUTHOR: Final = Reply(550, "From: must be there once, and name one domain", "5.7.26")


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a domain asks."""

    finding: Finding
    #: ``reject``, ``quarantine`` or ``none``.
    disposition: str = "none"


class DMARC(Policy):
    """
    Does as the domain in From: asks.

    :param spf: looks at senders that nobody has looked at before.
    :param dkim: looks at signatures that nobody has looked at before.
    :param id: our name in ``Authentication-Results:``.
    :param enforce: refuse and mark; otherwise what is found is recorded only.
    :param refuse: refuse for ``p=reject``; otherwise mark.
    :param on_failure: the answer if the DNS has none; None to take the mail.
    :raises ValueError: with a sentence, if a library is not installed.
    """

    name = "dmarc"

    def __init__(
        self,
        resolver: Resolver,
        *,
        spf: SPF,
        dkim: DKIM,
        id: str,
        enforce: bool = True,
        refuse: bool = True,
        on_failure: Reply | None = NO_ANSWER,
    ) -> None:
        self._library = need("dmarc", "mailauth", "DMARC")
        self._organizations = Organizations()
        self._resolver = resolver
        self._spf = spf
        self._dkim = dkim
        self._id = id
        self._enforce = enforce
        self._refuse = refuse
        self._on_failure = on_failure

    def examine(self, envelope: Envelope, held: HeldMessage) -> Outcome:
        """Look at a stranger's message."""
        tell(envelope, held, self._id)
        return self._judge(envelope, held) if concerns(envelope) else None

    async def _judge(self, envelope: Envelope, held: HeldMessage) -> Reply | None:
        await self._spf.check(envelope)
        await self._dkim.check(envelope, held)
        try:
            domain = author_domain(held.header_as_it_came())
        except ValueError as error:
            record(envelope, Finding("dmarc", "permerror", reason=f"From: {error}"))
            return NO_AUTHOR if self._enforce else None
        asked = await self._evaluate(envelope, domain)
        vouched = envelope.results.get(Vouched)
        if asked.disposition != "none" and vouched is not None and domain in vouched:
            why = "a sealer that is believed has seen it pass"
            record(envelope, Finding("dmarc", "fail", asked.finding.properties, why))
            return None
        record(envelope, asked.finding)
        if not self._enforce:
            return None
        if asked.finding.result == "temperror":
            return self._on_failure
        too_large = any(each.result == "neutral" for each in found(envelope).of("dkim"))
        if asked.disposition == "reject" and self._refuse and not too_large:
            return NOT_ITS_OWN
        if asked.disposition != "none":
            held.quarantine(f"DMARC: {domain} asks to {asked.disposition} mail that does not prove to be its own")
        return None

    async def _evaluate(self, envelope: Envelope, domain: str) -> _Asked:
        properties = (("header.from", domain),)
        organization = self._organizations.get_public_suffix(domain)
        try:
            record = await self._record(domain)
            above = record is None and organization != domain
            if above:
                record = await self._record(organization)
        except LookupFailed:
            return _Asked(Finding("dmarc", "temperror", properties, "the record cannot be had for now"))
        if record is None:
            return _Asked(Finding("dmarc", "none", properties))
        dmarc = self._library
        judge = dmarc.DMARC(self._organizations)
        try:
            policy = judge.parse_record(record, domain, organization if above else None, strict=False)
        except Exception:
            # Of the library, for what it has not expected; the record is a stranger's.
            return _Asked(Finding("dmarc", "permerror", properties, "the record makes no sense"))
        if policy.pct == 0:
            # What the older form of a test was (RFC 7489 §6.3).
            policy.t = dmarc.DMARCTesting.Y
        proofs = [each for each in self._proofs(envelope) if self._organizations.has(each[1], organization)]
        spf = next((dmarc.SPFAuthResult(name, dmarc.SPFResult(r)) for m, name, r in proofs if m == "spf"), None)
        dkim = [dmarc.DKIMAuthResult(name, dmarc.DKIMResult(result)) for m, name, result in proofs if m == "dkim"]
        results = dmarc.AuthResults(spf=spf, dkim=dkim)
        result = judge.get_result(policy, auth_results=results, allow_policy_test_mode=True)
        if result.result is dmarc.DMARCResult.PASS:
            return _Asked(Finding("dmarc", "pass", properties))
        disposition = str(result.disposition.value or "none")
        if disposition != "none" and any(each[2] == "temperror" for each in proofs):
            return _Asked(Finding("dmarc", "temperror", properties, "what proves it cannot be had for now"))
        return _Asked(Finding("dmarc", "fail", properties, f"the domain asks for {disposition}"), disposition)

    async def _record(self, domain: str) -> str | None:
        try:
            texts = await self._resolver.texts(f"_dmarc.{domain}")
        except NoSuchName:
            return None
        records = [each for each in texts if each.startswith(b"v=DMARC1")]
        # Of two, none counts (RFC 7489 §6.6.3).
        if len(records) != 1 or len(records[0]) > LONGEST_RECORD:
            return None
        return records[0].decode("ascii", "replace")

    def _proofs(self, envelope: Envelope) -> Iterable[tuple[str, str, str]]:
        """Give the method, domain and result of whatever may prove whose the message is."""
        for each in found(envelope).of("spf"):
            # The name of EHLO proves something for the empty sender only (RFC 7489 §4.1).
            if each.of("smtp.mailfrom"):
                yield "spf", envelope.sender.ascii_domain, each.result
            elif envelope.sender.is_null:
                yield "spf", each.of("smtp.helo").lower(), each.result
        for each in found(envelope).of("dkim"):
            yield "dkim", each.of("header.d").lower(), each.result


def make(arguments: Arguments, reactor: Any) -> DMARC:
    """
    Make the policy of ``--policy dmarc``.

    :raises ValueError: with a sentence.
    """
    resolver, id = resolver_for(reactor), read_id(arguments)
    return DMARC(
        resolver,
        spf=SPF(resolver, id=id, clock=reactor),
        dkim=DKIM(resolver, id=id, run=threads(reactor), largest=arguments.size("size", LARGEST)),
        id=id,
        enforce=not arguments.yes("record-only"),
        refuse=arguments.choice("reject", ("550", "quarantine"), "550") == "550",
        on_failure=read_verdict(arguments, "451"),
    )
