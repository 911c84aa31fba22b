"""
Refuse clients that lists in the DNS advise against: 554 5.7.1, with what the list says (RFC 5782).

The values are the lists: a zone, = and the codes that count, * and a weight, such as
zen.example.net=127.0.0.[2;4..11]*3. Codes are addresses; an octet may be in brackets, with ranges and semicolons; all
codes count if none are given. The weight is 1 if it is not given, and below 0 for a list of those who are well known.
A client whose weights come to threshold= or more [default: 1] is refused.

by= says what is looked up: client, its address [the default], sender, the domain of the sender, or helo, the name in
EHLO. at=connect refuses a client in place of the greeting; at=mail [the default] lets it log in first. Who has logged
in, and clients of this machine, of private networks and of LMTP listeners are not looked up. With hide=yes the client
does not hear the zone, which may have a secret key in it, nor what the list says.

A list without an answer counts for nothing; with on-failure=451 mail that it could have decided is answered 451 4.4.3.
Codes outside 127.0.0.0/8, and 127.255.255.0/24, in which lists say that they do not serve us, are no listings and
logged. What is found is in the results of the envelope, or of the client with at=connect.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import Logger

from smtpsvc.grammar.replies import Reply
from smtpsvc.grammar.shown import shown
from smtpsvc.interfaces import Outcome
from smtpsvc.policies.arguments import Arguments, parse_choice
from smtpsvc.policies.chain import Policy
from smtpsvc.policies.clients import address_of
from smtpsvc.policies.dnslists import DNSList, parse_list, parse_weight
from smtpsvc.policies.unknown import is_stranger, read_verdict
from smtpsvc.resolver import LookupFailed, NoSuchName, Resolver, resolver_for
from smtpsvc.settings import Role
from smtpsvc.values import Envelope, Peer, Results

KEYS: Final = ("client", "sender", "helo")
STAGES: Final = ("connect", "mail")
#: Characters of a refusal, with what the list says.
MOST_TEXT: Final = 300

log = Logger()


@dataclass(frozen=True, slots=True)
class Listing:
    """That a list has something; *codes* are its answers, *key* is what was looked up."""

    zone: str
    key: str
    codes: tuple[str, ...]
    weight: int


@dataclass(frozen=True, slots=True)
class Listings:
    """In the results of an envelope, or of a client: what lists have, and the zones of those without an answer."""

    found: tuple[Listing, ...] = ()
    unknown: tuple[str, ...] = ()

    @property
    def score(self) -> int:
        """The sum of the weights."""
        return sum(each.weight for each in self.found)


class DNSBL(Policy):
    """
    Refuses clients that lists in the DNS advise against.

    :param lists: at least one.
    :param threshold: the weights that are refused.
    :param by: ``client``, ``sender`` or ``helo``.
    :param at: ``connect`` or ``mail``.
    :param hide: do not tell the client which list, nor what that says.
    :param on_failure: the answer if a list has none that could have decided; None to take the mail.
    :raises ValueError: with a sentence, if a value makes no sense.
    """

    name = "dnsbl"

    def __init__(
        self,
        lists: Iterable[DNSList],
        *,
        resolver: Resolver,
        threshold: int = 1,
        by: str = "client",
        at: str = "mail",
        hide: bool = False,
        on_failure: Reply | None = None,
    ) -> None:
        self._lists = tuple(lists)
        if not any(each.weight > 0 for each in self._lists):
            raise ValueError("no list is given that could refuse anybody; write its zone")
        self._threshold = threshold
        self._resolver = resolver
        self._by = parse_choice(by, KEYS)
        self._hide = hide
        self._on_failure = on_failure
        # Zones that do not serve us, which is logged once.
        self._strange: set[str] = set()
        if parse_choice(at, STAGES) == "connect":
            if by != "client":
                raise ValueError(f"at=connect comes before the client has said its {by}")
            self.mail = super().mail  # type: ignore[method-assign]
        else:
            self.connect = super().connect  # type: ignore[method-assign]

    def connect(self, peer: Peer) -> Outcome:
        """Look a client up before it is greeted."""
        return self._look(reversed_address(peer.host), peer.results) if is_stranger(peer) else None

    def mail(self, envelope: Envelope) -> Outcome:
        """Look a client, or what it has said, up."""
        peer = envelope.peer
        if envelope.role is Role.LMTP or not is_stranger(peer):
            return None
        if self._by == "client":
            return self._look(reversed_address(peer.host), envelope.results)
        sender = envelope.sender
        name = peer.helo if self._by == "helo" else "" if sender.is_literal else sender.ascii_domain
        # An address in the place of a name would be answered as an error by lists of names.
        if "." not in name or name.startswith("[") or address_of(name) is not None:
            return None
        return self._look(name, envelope.results)

    async def _look(self, key: str, results: Results) -> Reply | None:
        asked = [Deferred.fromCoroutine(self._ask(each, key)) for each in self._lists]
        answers = list(zip(self._lists, await gatherResults(asked), strict=True))
        found = tuple(Listing(each.zone, key, codes, each.weight) for each, codes in answers if codes)
        unknown = [each for each, codes in answers if codes is None]
        before = results.get(Listings) or Listings()
        results.put(Listings(before.found + found, before.unknown + tuple(each.zone for each in unknown)))
        least = most = sum(each.weight for each in found)
        if self._on_failure is not None:
            least += sum(min(each.weight, 0) for each in unknown)
            most += sum(max(each.weight, 0) for each in unknown)
        if found and least >= self._threshold:
            return await self._refusal(key, max(found, key=lambda each: each.weight))
        return self._on_failure if most >= self._threshold else None

    async def _ask(self, asked: DNSList, key: str) -> tuple[str, ...] | None:
        """Give the codes of a list that count; None if it has no answer."""
        try:
            codes = await self._resolver.lookup(f"{key}.{asked.zone}", "A")
        except NoSuchName:
            return ()
        except LookupFailed:
            return None
        strange = [each for each in codes if not each.startswith("127.") or each.startswith("127.255.255.")]
        if strange:
            if asked.zone not in self._strange:
                log.warn("the list {zone} does not serve us: its answer is {code}", zone=asked.zone, code=strange[0])
            self._strange.add(asked.zone)
            return None
        self._strange.discard(asked.zone)
        return tuple(each for each in codes if asked.counts(each))

    async def _refusal(self, key: str, listing: Listing) -> Reply:
        what = {"client": "Your address", "sender": "The domain of the sender", "helo": "Your name"}[self._by]
        if self._hide:
            return Reply(554, f"{what} is listed", "5.7.1")
        try:
            said = await self._resolver.texts(f"{key}.{listing.zone}")
        except (NoSuchName, LookupFailed):
            said = ()
        text = ": ".join([f"{what} is listed by {listing.zone}", *map(shown, said)])
        return Reply(554, text[:MOST_TEXT], "5.7.1")


def reversed_address(host: str) -> str:
    """Write an address as lists have it: its octets, or the nibbles of IPv6, backwards (RFC 5782 §2.1 and §2.4)."""
    address = address_of(host)
    assert address is not None, "a stranger has an address"
    return address.reverse_pointer.rpartition(".")[0].rpartition(".")[0]


def make(arguments: Arguments, reactor: Any) -> DNSBL:
    """
    Make the policy of ``--policy dnsbl:``.

    :raises ValueError: with a sentence.
    """
    hide = arguments.yes("hide")
    return DNSBL(
        [parse_list(each) for each in arguments.values()],
        resolver=resolver_for(reactor),
        threshold=arguments.read("threshold", parse_weight, 1),
        by=arguments.choice("by", KEYS, "client"),
        at=arguments.choice("at", STAGES, "mail"),
        hide=hide,
        on_failure=read_verdict(arguments, "accept"),
    )
