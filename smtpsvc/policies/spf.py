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

from collections.abc import Iterable
from functools import cache
from typing import Any, Final

from twisted.internet.defer import Deferred, TimeoutError, gatherResults
from twisted.internet.interfaces import IReactorTime

from smtpsvc.extras import need
from smtpsvc.grammar.addresses import is_domain
from smtpsvc.grammar.replies import Reply
from smtpsvc.interfaces import Outcome
from smtpsvc.policies.arguments import Arguments
from smtpsvc.policies.authentication import Finding, concerns, found, read_id, record, tell
from smtpsvc.policies.chain import Policy
from smtpsvc.policies.clients import address_of
from smtpsvc.policies.held import HeldMessage
from smtpsvc.policies.unknown import VERDICTS
from smtpsvc.resolver import LookupFailed, MailExchanger, NoSuchName, Resolver, resolver_for
from smtpsvc.values import Envelope

#: Octets of one record, and of all that one check reads; RFC 7208 §3.4 wants 450 for one.
LONGEST_RECORD: Final = 4096
LONGEST_IN_ALL: Final = 10240
#: Rounds of questions; a record may have 10 that need some (RFC 7208 §4.6.4).
MOST_ROUNDS: Final = 40
#: Hosts of one mx, and names of one ptr, that count (RFC 7208 §4.6.4).
MOST_HOSTS: Final = 10

NO_ANSWER: Final = Reply(451, "The SPF record of the sender's domain cannot be had for now, try again later", "4.7.24")
NO_SENSE: Final = Reply(550, "The SPF record of the sender's domain makes no sense", "5.7.24")

#: What is known of the DNS in one check: records, or why there are none.
_Known = dict[tuple[str, str], "tuple[Any, ...] | Exception"]


async def check_spf(resolver: Resolver, host: str, sender: str, helo: str) -> tuple[str, str]:
    """
    Evaluate SPF. The record is read again after each round of questions, so nothing waits in a thread.

    :param host: the client's address.
    :param sender: in ASCII as far as its domain goes; "" for that of *helo* alone.
    :returns: the result, as ``pass``, and what is to say about it, which may have strangers' words.
    """
    known: _Known = {}
    for _ in range(MOST_ROUNDS):
        query = _query(host, sender, helo, known)
        try:
            result, _, why = query.check()
        except Exception as error:
            # Of the library, for what it has not expected; the record is a stranger's.
            result, why = "permerror", f"the record cannot be read: {type(error).__name__}"
        if not query.needed:
            return result, "" if result in ("pass", "none") else str(why)
        await _fetch(resolver, query.needed, known)
    return "permerror", "the record asks too much"


async def _fetch(resolver: Resolver, needed: Iterable[tuple[str, str]], known: _Known) -> None:
    """Ask what is needed, and what will be: the addresses of what mx and ptr have given."""
    questions = list(needed)
    while questions:
        answers = await gatherResults([Deferred.fromCoroutine(_answer(resolver, *each)) for each in questions])
        known.update(zip(questions, answers, strict=True))
        more: list[tuple[str, str]] = []
        for (_, kind), answer in zip(questions, answers, strict=True):
            if isinstance(answer, tuple) and kind in ("MX", "PTR"):
                names = [each.host if isinstance(each, MailExchanger) else each for each in sorted(answer)]
                more += [(name, "A/AAAA") for name in names[:MOST_HOSTS] if name]
        questions = [each for each in more if each not in known]


async def _answer(resolver: Resolver, name: str, kind: str) -> tuple[Any, ...] | Exception:
    try:
        if kind == "A/AAAA":
            return await resolver.addresses(name)
        return await resolver.lookup(name, kind)
    except (NoSuchName, LookupFailed) as error:
        return error


class _Replayed:
    """The part of ``spf.query`` that asks the DNS; it has answers that are known, and notes questions that are not."""

    known: _Known
    needed: list[tuple[str, str]]
    void_lookups: int

    def dns(self, name: str, qtype: str, cnames: object = None, ignore_void: bool = False) -> list[Any]:
        """Give records as the library has them."""
        spf = _library()
        name = str(name).lower().removesuffix(".")
        if not name or not all(0 < len(label) < 64 for label in name.split(".")):
            return []
        answer = self.known.get((name, qtype))
        hosts = self.known.get((name, "A/AAAA")) if answer is None and qtype in ("A", "AAAA") else None
        if isinstance(hosts, tuple):
            answer = tuple(each for each in hosts if (":" in each) == (qtype == "AAAA"))
        if answer is None:
            if (name, qtype) not in self.needed:
                self.needed.append((name, qtype))
            raise spf.TempError("not asked yet")
        if isinstance(answer, LookupFailed):
            raise spf.TempError("the DNS has no answer")
        if isinstance(answer, Exception) or not answer:
            self.void_lookups += not ignore_void
            if self.void_lookups > spf.MAX_VOID_LOOKUPS:
                raise spf.PermError(f"Void lookup limit of {spf.MAX_VOID_LOOKUPS} exceeded")
            return []
        if qtype == "MX":
            return [(each.preference, each.host) for each in answer]
        if qtype == "TXT":
            self._measure(spf)
            return [(each,) for each in answer]
        return list(answer)

    def _measure(self, spf: Any) -> None:
        """Read no more than is good for us: a long record takes long, in each round."""
        sizes = [
            len(each)
            for (_, kind), answer in self.known.items()
            if kind == "TXT" and isinstance(answer, tuple)
            for each in answer
            if each[:6].lower() == b"v=spf1"
        ]
        if sum(sizes) > LONGEST_IN_ALL or max(sizes, default=0) > LONGEST_RECORD:
            raise spf.PermError("the record is too long")


@cache
def _library() -> Any:
    return need("spf", "mailauth", "SPF")


@cache
def _query_class() -> Any:
    return type("Query", (_Replayed, _library().query), {})


def _query(host: str, sender: str, helo: str, known: _Known) -> Any:
    query = _query_class()(host, sender, helo)
    query.known = known
    query.needed = []
    return query


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
        _library()
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
