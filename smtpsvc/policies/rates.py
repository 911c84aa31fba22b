"""
Take so many messages, recipients, bytes or connections in a time; refuse more with 450 4.7.1.

The value is the rate, such as 60/1m or 10M/1h: a bucket that holds so many and fills up evenly in that time.
by= says for whom it counts: client for each client's network [the default], account for each that has logged in,
sender for each address of MAIL, or recipient for each mailbox, without its +tag. of= says what: messages [the
default], recipients, bytes, or connections, of clients only, where more are answered 421 4.7.1 before the greeting.
burst= is what the bucket holds, if that is not the rate's number.

A client's network is its IPv4 address, or 64 bits of IPv6; ipv4= and ipv6= give other lengths. Clients of unix sockets
are not counted by client, strangers not by account, and the null sender not by sender. A message counts when it is
begun (MAIL), and for a mailbox at RCPT; bytes count as they come, and what a client declares (SIZE) is refused at once
if the bucket has less. The last keep= buckets are remembered [default: 100000], in the memory of one process: with
--workers each counts for itself.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

from twisted.internet.interfaces import IReactorTime

from smtpsvc.grammar.addresses import Address
from smtpsvc.grammar.replies import Reply
from smtpsvc.interfaces import Outcome
from smtpsvc.message.mailboxes import unquoted
from smtpsvc.policies.arguments import Arguments, parse_duration
from smtpsvc.policies.buckets import Buckets
from smtpsvc.policies.chain import Policy
from smtpsvc.policies.clients import network_of
from smtpsvc.settings import parse_size
from smtpsvc.values import Envelope, Peer, Recipient

KEYS: Final = ("client", "account", "sender", "recipient")
UNITS: Final = ("messages", "recipients", "bytes", "connections")

TOO_FAST: Final = Reply(450, "Too much mail in a short time, try again later", "4.7.1")
TOO_MANY: Final = Reply(421, "Too many connections in a short time, try again later", "4.7.1")


class Rate(Policy):
    """
    Takes so much in a time.

    :param count: tokens in each *seconds*.
    :param by: ``client``, ``account``, ``sender`` or ``recipient``.
    :param of: ``messages``, ``recipients``, ``bytes`` or ``connections``.
    :param burst: what a bucket holds; *count* if None.
    :param ipv4: bits of a client's network.
    :param ipv6: bits of a client's network.
    :param keep: buckets at most.
    :raises ValueError: with a sentence, if a value makes no sense.
    """

    name = "rate"

    def __init__(
        self,
        count: float,
        seconds: float,
        *,
        clock: IReactorTime,
        by: str = "client",
        of: str = "messages",
        burst: float | None = None,
        ipv4: int = 32,
        ipv6: int = 64,
        keep: int = 100_000,
    ) -> None:
        burst = count if burst is None else burst
        if count <= 0 or seconds <= 0 or burst < 1:
            raise ValueError("the rate would take no mail; write such as 60/1m")
        if not (0 <= ipv4 <= 32 and 0 <= ipv6 <= 128):
            raise ValueError("a network has 0 to 32 bits of IPv4, and 0 to 128 of IPv6")
        if keep < 1:
            raise ValueError("keep: at least one bucket must be kept")
        if of == "connections" and by != "client":
            raise ValueError("connections are counted by client only")
        self._buckets = Buckets(count / seconds, burst, keep=keep, clock=clock)
        self._in_bytes = of == "bytes"
        self._client = client = lru_cache(maxsize=4096)(lambda host: network_of(host, ipv4, ipv6))
        self._key: Callable[[Envelope], str] = {
            "client": lambda envelope: client(envelope.peer.host),
            "account": _account,
            "sender": _sender,
            "recipient": _nobody,
        }[by]
        wanted = {
            "connections": {"connect"},
            "messages": {"rcpt" if by == "recipient" else "mail"},
            "recipients": {"rcpt"},
            "bytes": {"rcpt" if by == "recipient" else "mail", "content"},
        }[of]
        for stage in ("connect", "mail", "rcpt", "content"):
            if stage not in wanted:
                # What does not count is not asked.
                setattr(self, stage, getattr(super(), stage))
        self._by_mailbox = by == "recipient"

    def connect(self, peer: Peer) -> Outcome:
        """Count a connection."""
        key = self._client(peer.host)
        return TOO_MANY if key and not self._buckets.take(key, 1, 1) else None

    def mail(self, envelope: Envelope) -> Outcome:
        """Count a message; or look whether its bytes may come."""
        key = self._key(envelope)
        return None if not key or self._taken(key, envelope) else TOO_FAST

    def rcpt(self, envelope: Envelope, recipient: Recipient) -> Outcome:
        """Count a recipient, or a message for a mailbox; or look whether its bytes may come."""
        key = _mailbox(recipient) if self._by_mailbox else self._key(envelope)
        return None if not key or self._taken(key, envelope) else TOO_FAST

    def content(self, envelope: Envelope, content: bytes) -> Outcome:
        """Count bytes; a message that has begun may run into debt, which keeps the next one waiting."""
        keys = {_mailbox(each) for each in envelope.recipients} if self._by_mailbox else {self._key(envelope)}
        for key in keys:
            if key:
                self._buckets.take(key, len(content), float("-inf"))
        return None

    def _taken(self, key: str, envelope: Envelope) -> bool:
        if not self._in_bytes:
            return self._buckets.take(key, 1, 1)
        return self._buckets.take(key, 0, max(1, min(envelope.size or 0, self._buckets.burst)))


def _account(envelope: Envelope) -> str:
    account = envelope.peer.account
    return account.name.lower() if account is not None else ""


def _sender(envelope: Envelope) -> str:
    sender = envelope.sender
    return _folded(sender.local, sender.domain) if sender.local else ""


@lru_cache(maxsize=4096)
def _folded(local: str, domain: str) -> str:
    return f"{unquoted(local).lower()}@{Address(local, domain).ascii_domain}"


def _nobody(envelope: Envelope) -> str:
    return ""


def _mailbox(recipient: Recipient) -> str:
    address = recipient.address
    local = unquoted(address.local).lower()
    return f"{local[:1]}{local[1:].partition('+')[0]}@{address.ascii_domain}"


def make(arguments: Arguments, reactor: Any) -> Rate:
    """
    Make the policy of ``--policy rate:``.

    :raises ValueError: with a sentence.
    """
    number, slash, period = arguments.value("a rate such as 60/1m").partition("/")
    if not slash:
        raise ValueError(f"{number!r} has no time; write such as 60/1m")
    count = parse_size(number)
    period = period if period[:1].isdigit() else f"1{period}"
    return Rate(
        count,
        parse_duration(period),
        clock=reactor,
        by=arguments.choice("by", KEYS, "client"),
        of=arguments.choice("of", UNITS, "messages"),
        burst=arguments.size("burst", count),
        ipv4=arguments.count("ipv4", 32),
        ipv6=arguments.count("ipv6", 64),
        keep=arguments.count("keep", 100_000),
    )
