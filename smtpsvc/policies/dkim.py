"""
Verify the signatures of messages (DKIM, RFC 6376), and say in Authentication-Results: what came of it.

Nothing is refused for its signatures alone, since good mail may have none; dmarc tells what they mean. With
require=any a message needs one that is good, of whatever domain: 550 5.7.20, or 451 4.4.3 if the DNS has no answer
(on-failure=accept takes it). Of a message most= signatures are looked at [default: 8]; messages larger than size=
[default: 10M] are not. A signature counts only if it covers From: and the whole body.

id= is our name in the field [default: that of --hostname]. Who has logged in, clients of unix sockets, of this machine
and of private networks, and of submission and LMTP listeners are not looked at. Needs pip install 'smtpsvc[mailauth]'.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final
from weakref import WeakKeyDictionary

from twisted.internet.defer import Deferred

from smtpsvc.crew import Crew
from smtpsvc.grammar.replies import Reply
from smtpsvc.interfaces import Outcome
from smtpsvc.policies.arguments import Arguments
from smtpsvc.policies.authentication import Finding, concerns, found, read_id, record, tell
from smtpsvc.policies.chain import Policy
from smtpsvc.policies.held import HeldMessage
from smtpsvc.policies.signatures import fetch_keys, library, read_signature, verify_dkim
from smtpsvc.policies.unknown import NO_ANSWER, read_verdict
from smtpsvc.resolver import Resolver, resolver_for
from smtpsvc.settings import MIB
from smtpsvc.values import Envelope

MOST: Final = 8
LARGEST: Final = 10 * MIB
NO_SIGNATURE: Final = Reply(550, "The message has no DKIM signature that is good", "5.7.20")
BUSY: Final = Reply(451, "Too many messages at once, try again later", "4.3.2")

#: Runs a function in a thread, and gives a Deferred of what it gives.
Run = Callable[..., Deferred[Any]]


def threads(reactor: Any) -> Run:
    """Give the threads for signatures that all policies of a reactor share."""
    crew = _crews.get(reactor)
    if crew is None:
        crew = _crews[reactor] = Crew(2, 32, busy=BUSY, name="signatures", reactor=reactor)
    return crew.run


_crews: WeakKeyDictionary[Any, Crew] = WeakKeyDictionary()


class DKIM(Policy):
    """
    Verifies signatures.

    :param id: our name in ``Authentication-Results:``.
    :param run: runs a function in a thread.
    :param require: refuse messages without a good signature.
    :param on_failure: the answer to those if the DNS has none; None to take the mail.
    :param most: signatures that are looked at.
    :param largest: message that is looked at, in bytes; it is read into memory.
    :raises ValueError: with a sentence, if the library is not installed.
    """

    name = "dkim"

    def __init__(
        self,
        resolver: Resolver,
        *,
        id: str,
        run: Run,
        require: bool = False,
        on_failure: Reply | None = NO_ANSWER,
        most: int = MOST,
        largest: int = LARGEST,
    ) -> None:
        library()
        self._resolver = resolver
        self._id = id
        self._run = run
        self._require = require
        self._on_failure = on_failure
        self._most = most
        self._largest = largest

    def examine(self, envelope: Envelope, held: HeldMessage) -> Outcome:
        """Look at a stranger's message."""
        tell(envelope, held, self._id)
        return self._judge(envelope, held) if concerns(envelope) else None

    async def _judge(self, envelope: Envelope, held: HeldMessage) -> Reply | None:
        results = {each.result for each in await self.check(envelope, held)}
        if not self._require or "pass" in results:
            return None
        return self._on_failure if "temperror" in results else NO_SIGNATURE

    async def check(self, envelope: Envelope, held: HeldMessage) -> tuple[Finding, ...]:
        """Find out, and record, unless that was done already."""
        known = found(envelope).of("dkim")
        if known:
            return known
        fields = held.header_as_it_came().find_all("DKIM-Signature")[: self._most]
        signatures = [read_signature(each) for each in fields]
        if not signatures:
            findings = [Finding("dkim", "none")]
        elif held.size > self._largest:
            reason = "the message is too large"
            findings = [Finding("dkim", "neutral", each.properties, reason) for each in signatures]
        else:
            keys = await fetch_keys(self._resolver, signatures)
            findings = await self._run(verify_dkim, held.open_as_it_came(), signatures, keys)
        record(envelope, *findings)
        return tuple(findings)


def make(arguments: Arguments, reactor: Any) -> DKIM:
    """
    Make the policy of ``--policy dkim``.

    :raises ValueError: with a sentence.
    """
    return DKIM(
        resolver_for(reactor),
        id=read_id(arguments),
        run=threads(reactor),
        require=arguments.choice("require", ("any", "nothing"), "nothing") == "any",
        on_failure=read_verdict(arguments, "451"),
        most=arguments.count("most", MOST),
        largest=arguments.size("size", LARGEST),
    )
