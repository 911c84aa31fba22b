"""
Ask the sender's domain whether the client may send its mail (SPF, RFC 7208): 550 5.7.23 if not, at MAIL.

Looked at are the name of EHLO or HELO, if it is a domain, and the sender; for the empty sender the name stands alone.
With helo=no the name is looked at for the empty sender only. fail is refused with 550 5.7.23, a record that makes no
sense with 550 5.7.24 (permerror=accept takes such mail), and if the DNS has no answer, 451 4.7.24 says so
(on-failure=accept takes it). softfail, neutral and none are never refused. With record-only nothing is: that
is the way to go with dmarc, which knows of signatures too, since mail that is forwarded fails here.

What was found stands in the message's Authentication-Results:, where id= is our name [default: that of --hostname].
One check takes timeout= at most [default: 20s]. Who has logged in, clients of unix sockets, of this machine and of
private networks, and of submission and LMTP listeners are not looked at. Needs pip install 'smtpsvc[mailauth]'.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime

from smtpsvc.grammar.addresses import is_domain
from smtpsvc.grammar.replies import Reply
from smtpsvc.interfaces import Outcome
from smtpsvc.policies.arguments import Arguments
from smtpsvc.policies.authentication import Finding, concerns, found, read_id, record, tell
from smtpsvc.policies.chain import Policy
from smtpsvc.policies.clients import address_of
from smtpsvc.policies.held import HeldMessage
from smtpsvc.policies.senderpolicy import check_spf, library
from smtpsvc.policies.unknown import VERDICTS
from smtpsvc.resolver import Resolver, resolver_for
from smtpsvc.values import Envelope

NO_ANSWER: Final = Reply(451, "The SPF record of the sender's domain cannot be had for now, try again later", "4.7.24")
NO_SENSE: Final = Reply(550, "The SPF record of the sender's domain makes no sense", "5.7.24")


class SPF(Policy):
    """
    Asks senders' domains whether clients may send their mail.

    :param id: our name in ``Authentication-Results:``.
    :param clock: of the deadline.
    :param enforce: refuse; otherwise what is found is recorded only.
    :param helo: look at the name of EHLO too where there is a sender.
    :param on_failure: the answer if the DNS has none; None to take the mail.
    :param on_error: the answer to a record that makes no sense; None to take the mail.
    :param timeout: seconds for one check (RFC 7208 §4.6.4).
    :raises ValueError: with a sentence, if the library is not installed.
    """

    name = "spf"

    def __init__(
        self,
        resolver: Resolver,
        *,
        id: str,
        clock: IReactorTime,
        enforce: bool = True,
        helo: bool = True,
        on_failure: Reply | None = NO_ANSWER,
        on_error: Reply | None = NO_SENSE,
        timeout: float = 20.0,
    ) -> None:
        library()
        self._resolver = resolver
        self._id = id
        self._clock = clock
        self._enforce = enforce
        self._helo = helo
        self._on_failure = on_failure
        self._on_error = on_error
        self._timeout = timeout

    def mail(self, envelope: Envelope) -> Outcome:
        """Look at a stranger's name and sender."""
        return self._judge(envelope) if concerns(envelope) else None

    async def _judge(self, envelope: Envelope) -> Reply | None:
        findings = await self.check(envelope)
        return next((reply for each in findings if (reply := self._verdict(envelope, each)) is not None), None)

    async def check(self, envelope: Envelope) -> tuple[Finding, ...]:
        """
        Find out, and record, unless that was done already.

        :returns: what was found of the name, if that was looked at, and then of the sender, if there is one.
        """
        known = found(envelope).of("spf")
        if known:
            return known
        peer, sender = envelope.peer, envelope.sender
        named = is_domain(peer.helo) and "." in peer.helo
        findings = []
        if named and (self._helo or sender.is_null):
            result, why = await self._evaluate(peer.host, "", peer.helo)
            findings.append(Finding("spf", result, (("smtp.helo", peer.helo),), why))
        if sender.domain and not sender.is_literal:
            address = f"{sender.local}@{sender.ascii_domain}"
            result, why = await self._evaluate(peer.host, address, peer.helo)
            findings.append(Finding("spf", result, (("smtp.mailfrom", str(sender)),), why))
        if not findings:
            property = ("smtp.mailfrom", str(sender)) if not sender.is_null else ("smtp.helo", peer.helo)
            findings.append(Finding("spf", "none", (property,)))
        record(envelope, *findings)
        return tuple(findings)

    async def _evaluate(self, host: str, sender: str, helo: str) -> tuple[str, str]:
        pending = Deferred.fromCoroutine(check_spf(self._resolver, str(address_of(host)), sender, helo))
        try:
            return await pending.addTimeout(self._timeout, self._clock)
        except TimeoutError:
            return "temperror", "there was no answer in time"

    def _verdict(self, envelope: Envelope, finding: Finding) -> Reply | None:
        helo = finding.of("smtp.helo")
        if not self._enforce or (helo and finding.result != "fail" and not envelope.sender.is_null):
            return None
        if finding.result == "fail":
            domain = helo or envelope.sender.domain
            return Reply(550, f"{domain} does not let {envelope.peer.host} send its mail (SPF)", "5.7.23")
        return {"temperror": self._on_failure, "permerror": self._on_error}.get(finding.result)

    def examine(self, envelope: Envelope, held: HeldMessage) -> Outcome:
        """Have the header tell."""
        tell(envelope, held, self._id)
        return None


def make(arguments: Arguments, reactor: Any) -> SPF:
    """
    Make the policy of ``--policy spf``.

    :raises ValueError: with a sentence.
    """
    return SPF(
        resolver_for(reactor),
        id=read_id(arguments),
        clock=reactor,
        enforce=not arguments.yes("record-only"),
        helo=arguments.choice("helo", ("yes", "no"), "yes") == "yes",
        on_failure=NO_ANSWER if arguments.choice("on-failure", VERDICTS, "451") == "451" else None,
        on_error=NO_SENSE if arguments.choice("permerror", ("550", "accept"), "550") == "550" else None,
        timeout=arguments.seconds("timeout", 20.0),
    )
