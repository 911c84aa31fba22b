"""
Questions to the DNS, for policies and clients: :class:`Resolver`.

Answers are kept as long as their owner allows, within bounds; a question that is open already is not asked again; so
many are open at once, and each has a deadline. :func:`resolver_for` gives the one of a reactor, which all share.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol
from weakref import WeakKeyDictionary

from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore, TimeoutError, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.names import dns
from twisted.python.failure import Failure

from smtpsvc.grammar.addresses import parse_domain
from smtpsvc.nameservers import NameServers, ServerProblem

#: Names that point to names, one behind the other.
MOST_ALIASES: Final = 8
#: Seconds for which the lack of an answer is remembered (RFC 9520 §3.2).
FAILURE_TTL: Final = 5.0
#: Seconds at most for which it is remembered that there is nothing (RFC 2308 §5).
NEGATIVE_TTL: Final = 900.0


class NoSuchName(LookupError):
    """There is no such name (NXDOMAIN), and so nothing below it; or it cannot be one."""


class LookupFailed(Exception):
    """It is not known: no server has answered in time, or has failed. Later it may be."""


@dataclass(frozen=True, slots=True, order=True)
class MailExchanger:
    """
    An MX record.

    :param host: in lower case, without a dot at the end; "" for the null MX (RFC 7505): no mail is taken.
    """

    preference: int
    host: str


class Source(Protocol):
    """Who answers questions: :class:`~smtpsvc.nameservers.NameServers`, or a zone in a test."""

    def ask(self, name: bytes, kind: int) -> Coroutine[Any, Any, dns.Message]:
        """Ask one question; see :meth:`smtpsvc.nameservers.NameServers.ask`."""


def host_name(name: dns.Name) -> str:
    """
    Give a name that an answer has, in lower case.

    :raises ValueError: if it cannot be that of a host: other people write what stands there.
    """
    text: str = name.name.decode("latin-1").lower().rstrip(".")
    if text and not all(label and _HOST.issuperset(label) and len(label) <= 63 for label in text.split(".")):
        raise ValueError("no name of a host")
    return text


def _not_empty(name: str) -> str:
    if not name:
        raise ValueError("no name")
    return name


_HOST = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")

#: For each kind of record: its number, and what is made of one.
KINDS: Final[Mapping[str, tuple[int, Callable[[Any], Any]]]] = {
    "A": (dns.A, lambda record: record.dottedQuad()),
    "AAAA": (dns.AAAA, lambda record: str(ipaddress.IPv6Address(record.address))),
    "MX": (dns.MX, lambda record: MailExchanger(record.preference, host_name(record.name))),
    "PTR": (dns.PTR, lambda record: _not_empty(host_name(record.name))),
    "TXT": (dns.TXT, lambda record: b"".join(record.data)),
}


@dataclass(frozen=True, slots=True)
class _Answer:
    """What is remembered: records, or which error."""

    records: tuple[Any, ...] = ()
    ttl: float = FAILURE_TTL
    error: type[Exception] | None = None
    why: str = ""

    def given(self) -> tuple[Any, ...]:
        if self.error is not None:
            raise self.error(self.why)
        return self.records

    @property
    def size(self) -> int:
        """Octets of memory, roughly."""
        return 400 + sum(80 + len(each) if isinstance(each, bytes | str) else 300 for each in self.records)


class _Flight:
    """A question that is open, and who waits for the answer."""

    def __init__(self, pending: Deferred[_Answer]) -> None:
        self._pending = pending
        self._waiting: list[Deferred[_Answer]] = []

    def join(self) -> Deferred[_Answer]:
        """Wait for the answer; when nobody does any more, the question is dropped."""
        waiting: Deferred[_Answer] = Deferred(self._leave)
        self._waiting.append(waiting)
        if len(self._waiting) == 1:
            self._pending.addBoth(self._came)
        return waiting

    def _leave(self, waiting: Deferred[_Answer]) -> None:
        if waiting in self._waiting:
            self._waiting.remove(waiting)
            if not self._waiting:
                self._pending.cancel()

    def _came(self, answer: _Answer | Failure) -> None:
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            # One may have been cancelled by what another has done with the answer.
            if not each.called:
                each.callback(answer)


class Resolver:
    """
    Asks the DNS.

    Each method is a coroutine that raises :exc:`NoSuchName` or :exc:`LookupFailed`, within its deadline. A name may
    have U-labels. Cancelling one gives the question up, if nobody else waits for it.

    :param source: who answers.
    :param clock: of deadlines, and of how long answers are kept.
    :param timeout: seconds for each question, with what it waits for its turn and for all servers.
    :param at_once: questions that are open at once.
    :param waiting: questions that may wait for their turn; more fail at once.
    :param memory: bytes of answers that are kept, roughly; the least used are forgotten.
    :param shortest: seconds for which an answer is kept at least.
    :param longest: seconds for which an answer is kept at most.
    """

    def __init__(
        self,
        source: Source,
        *,
        clock: IReactorTime,
        timeout: float = 10.0,
        at_once: int = 100,
        waiting: int = 2000,
        memory: int = 8 << 20,
        shortest: float = 5.0,
        longest: float = 86400.0,
    ) -> None:
        self._source = source
        self._clock = clock
        self._timeout = timeout
        self._slots = DeferredSemaphore(at_once)
        self._most = at_once + waiting
        self._memory = memory
        self._shortest = shortest
        self._longest = longest
        self._kept: OrderedDict[tuple[str, str], tuple[float, _Answer]] = OrderedDict()
        self._size = 0
        self._flights: dict[tuple[str, str], _Flight] = {}

    async def lookup(self, name: str, kind: str) -> tuple[Any, ...]:
        """
        Give the records of a name, of one kind; aliases (CNAME) are followed.

        :param kind: ``A`` or ``AAAA``, which give text; ``MX``, :class:`MailExchanger`; ``PTR``, names of hosts;
            ``TXT``, bytes, the strings of a record in one.
        :returns: empty if the name exists and has none. Records that make no sense are left out.
        :raises NoSuchName: if there is no such name.
        :raises LookupFailed: if it is not known.
        :raises ValueError: if *kind* is another.
        """
        if kind not in KINDS:
            raise ValueError(f"there is no reading {kind!r} records; there are {', '.join(KINDS)}")
        key = (encode_name(name), kind)
        kept = self._kept.get(key)
        if kept is not None:
            if self._clock.seconds() < kept[0]:
                self._kept.move_to_end(key)
                return kept[1].given()
            self._drop(key)
        flight = self._flights.get(key)
        if flight is None:
            if len(self._flights) >= self._most:
                raise LookupFailed("too many questions are open")
            flight = self._start(key)
        return (await flight.join()).given()

    async def addresses(self, name: str) -> tuple[str, ...]:
        """
        Give the addresses of a host, those of IPv6 first.

        :returns: empty if it has none. If those of one version are not known, the others are given.
        """
        both = [Deferred.fromCoroutine(self._tried(name, kind)) for kind in ("AAAA", "A")]
        found = await gatherResults(both)
        addresses = tuple(each for records in found if isinstance(records, tuple) for each in records)
        if not addresses:
            for records in found:
                if isinstance(records, Exception):
                    raise records
        return addresses

    async def _tried(self, name: str, kind: str) -> tuple[Any, ...] | Exception:
        try:
            return await self.lookup(name, kind)
        except (NoSuchName, LookupFailed) as error:
            return error

    async def exchangers(self, domain: str) -> tuple[MailExchanger, ...]:
        """
        Give the hosts that take mail of a domain, in the order of preference.

        :returns: empty if it has none, where the domain itself is the host (RFC 5321 §5.1); one with the host ``""``
            if it takes no mail (RFC 7505).
        """
        return tuple(sorted(await self.lookup(domain, "MX")))

    async def texts(self, name: str) -> tuple[bytes, ...]:
        """Give the TXT records of a name, the strings of each in one."""
        return await self.lookup(name, "TXT")

    async def names(self, address: str) -> tuple[str, ...]:
        """
        Give the names of an address, which are claims of whoever has the address.

        :raises ValueError: if it is none.
        """
        return await self.lookup(ipaddress.ip_address(address).reverse_pointer, "PTR")

    def _start(self, key: tuple[str, str]) -> _Flight:
        pending = Deferred.fromCoroutine(self._fetch(*key)).addTimeout(self._timeout, self._clock)
        pending.addErrback(_failed)
        flight = self._flights[key] = _Flight(pending)
        # It may have landed at once.
        pending.addBoth(self._landed, key)
        return flight

    def _landed(self, answer: _Answer | Failure, key: tuple[str, str]) -> _Answer | Failure:
        self._flights.pop(key, None)
        if isinstance(answer, _Answer):
            self._keep(key, answer)
        return answer

    def _keep(self, key: tuple[str, str], answer: _Answer) -> None:
        self._kept[key] = (self._clock.seconds() + answer.ttl, answer)
        self._size += answer.size
        while self._size > self._memory:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: tuple[str, str]) -> None:
        self._size -= self._kept.pop(key)[1].size

    async def _fetch(self, name: str, kind: str) -> _Answer:
        number, read = KINDS[kind]
        owner, ttl = name.encode("ascii"), self._longest
        for _ in range(MOST_ALIASES):
            message = await self._ask(owner, number)
            steps, owner, found, ttl = _follow(message.answers, owner, number, ttl)
            if message.rCode == dns.ENAME:
                return _Answer(ttl=_negative_ttl(message, ttl), error=NoSuchName, why="there is no such name")
            if found:
                return _Answer(tuple(_read(found, read)), max(ttl, self._shortest))
            if not steps:
                return _Answer(ttl=_negative_ttl(message, ttl))
        return _Answer(error=LookupFailed, why="too many names point to each other")

    async def _ask(self, name: bytes, kind: int) -> dns.Message:
        await self._slots.acquire()
        try:
            return await self._source.ask(name, kind)
        finally:
            self._slots.release()


def _failed(failure: Failure) -> _Answer | Failure:
    """Make an answer of what went wrong; that nobody wants one is left as it is."""
    if failure.check(CancelledError):
        return failure
    if failure.check(TimeoutError):
        return _Answer(error=LookupFailed, why="there was no answer in time")
    failure.trap(ServerProblem)
    return _Answer(error=LookupFailed, why=failure.getErrorMessage())


def _follow(answers: Iterable[Any], owner: bytes, kind: int, ttl: float) -> tuple[int, bytes, list[Any], float]:
    """
    Follow the aliases of an answer.

    :returns: how many there are, the name at their end, its records, and the least time to live.
    """
    answers = list(answers)
    aliases = {each.name.name.lower(): each for each in answers if each.type == dns.CNAME}
    steps = 0
    while steps < MOST_ALIASES:
        alias = aliases.pop(owner, None)
        if alias is None:
            break
        steps += 1
        owner = alias.payload.name.name.lower()
        ttl = min(ttl, alias.ttl)
    found = [each for each in answers if each.type == kind and each.name.name.lower() == owner]
    return steps, owner, found, min([ttl, *(each.ttl for each in found)])


def _read(found: Iterable[Any], read: Callable[[Any], Any]) -> Iterable[Any]:
    for each in found:
        try:
            yield read(each.payload)
        except (ValueError, AttributeError):
            # Its owner has written what cannot be.
            continue


def _negative_ttl(message: Any, ttl: float) -> float:
    """Say how long it is remembered that there is nothing (RFC 2308 §5)."""
    for each in message.authority:
        if each.type == dns.SOA:
            return float(max(FAILURE_TTL, min(ttl, each.ttl, each.payload.minimum, NEGATIVE_TTL)))
    return FAILURE_TTL


def encode_name(name: str) -> str:
    """
    Give a name as it is asked for: in lower case, with A-labels, without a dot at the end.

    :raises NoSuchName: if it cannot be one.
    """
    labels = []
    for label in name.removesuffix(".").split("."):
        if not label.isascii():
            try:
                label = parse_domain(label)
            except ValueError as error:
                raise NoSuchName(str(error)) from None
        if not 1 <= len(label) <= 63 or not label.isprintable() or " " in label:
            raise NoSuchName("that cannot be a name")
        labels.append(label.lower())
    encoded = ".".join(labels)
    if len(encoded) > 253:
        raise NoSuchName("the name is too long")
    return encoded


_resolvers: WeakKeyDictionary[Any, Resolver] = WeakKeyDictionary()


def resolver_for(reactor: Any) -> Resolver:
    """Give the resolver of a reactor, which all that run there share; it asks the servers of the system."""
    found = _resolvers.get(reactor)
    return use_servers((), reactor) if found is None else found


def use_servers(servers: Iterable[tuple[str, int]], reactor: Any) -> Resolver:
    """
    Have the resolver of a reactor ask other servers; whoever has asked for it before keeps the old one.

    :param servers: address and port of each; none for those of the system.
    """
    made = _resolvers[reactor] = Resolver(NameServers(servers, reactor=reactor), clock=reactor)
    return made
