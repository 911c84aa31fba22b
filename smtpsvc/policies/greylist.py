"""
Let mail of strangers wait once: 450 4.7.1 at RCPT. Servers come again, much spam does not.

A stranger is a client's network, a sender and a recipient that have not been seen together. After delay= [default: 5m]
such mail is taken, if it comes within window= [default: 2d]; for lifetime= [default: 35d] since the last time the three
are known. A network that has come again after= times [default: 5] is known with any sender and recipient; 0 is never.
A network is 24 bits of IPv4 and 64 of IPv6; ipv4= and ipv6= give other lengths. Of a sender the case, what follows a +
and its numbers do not count, since lists give each message a sender of its own.

The value is the file of an SQLite database [default: greylist.sqlite], which outlives restarts and is shared by all
processes of --workers; it has digests and no addresses. The last keep= strangers are remembered [default: 100000]. If
the file cannot be used, that is logged once, and mail is taken; with on-failure=451 it is answered 451 4.3.0.

Who has logged in, clients of unix sockets, on this machine and of LMTP listeners do not wait.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from math import ceil
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from smtpsvc.current import current_reactor
from smtpsvc.grammar import replies
from smtpsvc.grammar.addresses import Address
from smtpsvc.grammar.replies import Reply
from smtpsvc.interfaces import Outcome
from smtpsvc.message.mailboxes import unquoted
from smtpsvc.policies.arguments import Arguments
from smtpsvc.policies.chain import Policy
from smtpsvc.policies.clients import address_of, network_of
from smtpsvc.policies.seen import Rules, Seen, StoreProblem, Verdict
from smtpsvc.policies.thread import TooMany
from smtpsvc.policies.unknown import VERDICTS
from smtpsvc.settings import Role
from smtpsvc.values import Envelope, Recipient

DEFAULT: Final = "greylist.sqlite"

_NUMBERS = re.compile(r"[0-9]+")

log = Logger()


@dataclass(frozen=True, slots=True)
class Greylisted:
    """In ``envelope.results``: how long the mail has waited, in seconds; the longest of its recipients."""

    waited: float


class Greylist(Policy):
    """
    Lets mail of strangers wait once.

    :param path: of the database; it is opened when it is needed, in a thread.
    :param rules: when mail is taken.
    :param ipv4: bits of a client's network.
    :param ipv6: bits of a client's network.
    :param on_failure: the answer if the database cannot be used; None to take the mail.
    :param now: the time, in seconds that go on while the process does not run.
    :param reactor: gets what the thread gives; None for the running one.
    :raises ValueError: with a sentence, if a value makes no sense.
    """

    name = "greylist"

    def __init__(
        self,
        path: str = DEFAULT,
        rules: Rules = Rules(),  # noqa: B008 (it cannot be changed)
        *,
        ipv4: int = 24,
        ipv6: int = 64,
        on_failure: Reply | None = None,
        now: Callable[[], float] = time.time,
        reactor: Any = None,
    ) -> None:
        if not (0 <= ipv4 <= 32 and 0 <= ipv6 <= 128):
            raise ValueError("a network has 0 to 32 bits of IPv4, and 0 to 128 of IPv6")
        self._bits = ipv4, ipv6
        self._on_failure = on_failure
        self._reactor = reactor
        self._seen = Seen(path, rules, now=now)
        self._failing = False

    def close(self) -> Deferred[None]:
        """Close the database; it is opened again if it is needed, and need not be closed when the process ends."""
        return self._seen.close(self._reactor or current_reactor())

    def rcpt(self, envelope: Envelope, recipient: Recipient) -> Outcome:
        """Let a stranger wait."""
        peer = envelope.peer
        address = address_of(peer.host)
        if address is None or address.is_loopback or peer.account is not None or envelope.role is Role.LMTP:
            return None
        network = network_of(peer.host, *self._bits)
        three = f"{network} {_plain(envelope.sender)} {_folded(recipient.address)}"
        return self._look(envelope, digest(network), digest(three))

    async def _look(self, envelope: Envelope, network: bytes, three: bytes) -> Reply | None:
        try:
            verdict = await self._seen.look(network, three, self._reactor or current_reactor())
        except (StoreProblem, TooMany) as problem:
            if not self._failing:
                log.error(
                    "greylist: {problem}; until it can be used again, mail is {what}",
                    problem=problem,
                    what="refused for now" if self._on_failure else "taken",
                )
            self._failing = True
            return self._on_failure
        if self._failing:
            log.info("greylist: {path} can be used again", path=self._seen.path)
            self._failing = False
        if verdict.wait > 0:
            return Reply(450, f"We do not know you yet, try again in {in_words(verdict.wait)}", "4.7.1")
        self._note(envelope, verdict)
        return None

    def _note(self, envelope: Envelope, verdict: Verdict) -> None:
        before = envelope.results.get(Greylisted)
        envelope.results.put(Greylisted(max(verdict.waited, 0.0 if before is None else before.waited)))


def digest(text: str) -> bytes:
    """Give what is kept of a network, or of three: nobody can read the addresses out of it by looking."""
    return blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).digest()


def in_words(seconds: float) -> str:
    """Say for how long, rounded up."""
    return f"{ceil(seconds / 60)} minutes" if seconds > 90 else f"{ceil(seconds)} seconds"


def _folded(address: Address) -> str:
    return f"{unquoted(address.local).lower()}@{address.ascii_domain}"


def _plain(address: Address) -> str:
    """Give what counts of a sender."""
    local = unquoted(address.local).lower()
    return f"{_NUMBERS.sub('#', local[:1] + local[1:].partition('+')[0])}@{address.ascii_domain}"


def make(arguments: Arguments, reactor: Any) -> Greylist:
    """
    Make the policy of ``--policy greylist``.

    :raises ValueError: with a sentence.
    """
    rules = Rules()
    return Greylist(
        arguments.value("a file", DEFAULT),
        Rules(
            delay=arguments.seconds("delay", rules.delay),
            window=arguments.seconds("window", rules.window),
            lifetime=arguments.seconds("lifetime", rules.lifetime),
            after=arguments.count("after", rules.after),
            keep=arguments.count("keep", rules.keep),
        ),
        ipv4=arguments.count("ipv4", 24),
        ipv6=arguments.count("ipv6", 64),
        on_failure=replies.LOCAL_ERROR if arguments.choice("on-failure", VERDICTS, "accept") == "451" else None,
        reactor=reactor,
    )
