"""
Asking name servers: datagrams first, TCP for what is too long for one, and the next server where one has no answer.

:mod:`smtpsvc.resolver` is what policies and clients ask.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import AlreadyCalled, AlreadyCancelled, CannotListenError, ConnectError
from twisted.internet.protocol import Factory
from twisted.names import dns
from twisted.python.failure import Failure

#: Where the system says which servers it asks (resolv.conf(5)).
SYSTEM: Final = "/etc/resolv.conf"
#: Seconds after which the file is read again.
_REREAD = 60.0
#: Seconds that a server has for its answer, in each round through all of them.
ROUNDS: Final = (2.0, 4.0)


class ServerProblem(Exception):
    """No server has answered, or none with an answer."""


#: What may go wrong with one server.
PROBLEMS: Final = (ServerProblem, dns.DNSQueryTimeoutError, ConnectError, CannotListenError, OSError)


class NameServers:
    """
    Name servers that are asked in order, beginning with the one that has answered last.

    :param servers: address and port of each; none for those of the system.
    :param reactor: what datagrams, connections and waits need.
    :param system: the file that names the system's servers; without it, or without a server in it, the one on this
        machine is asked.
    :param rounds: seconds that each server has, in each round through all of them.
    """

    def __init__(
        self,
        servers: Iterable[tuple[str, int]] = (),
        *,
        reactor: Any,
        system: str = SYSTEM,
        rounds: Sequence[float] = ROUNDS,
    ) -> None:
        self.servers = tuple(servers)
        self._reactor = reactor
        self._system = "" if self.servers else system
        self._rounds = rounds
        self._first = 0
        self._read = float("-inf")

    async def ask(self, name: bytes, kind: int) -> dns.Message:
        """
        Ask one question.

        :param name: without a dot at the end.
        :param kind: of record, as ``dns.MX``.
        :returns: an answer with the code ``dns.OK`` or ``dns.ENAME``.
        :raises ServerProblem: with why there is none.
        """
        self._look()
        query = dns.Query(name, kind)
        problem = "no server has answered"
        for seconds in self._rounds:
            silent = False
            first = self._first
            for step in range(len(self.servers)):
                place = (first + step) % len(self.servers)
                try:
                    message = await self._exchange(self.servers[place], query, seconds)
                except PROBLEMS:
                    # It is not there, it is silent, or what it says is no answer.
                    silent = True
                    continue
                if message.rCode in (dns.OK, dns.ENAME):
                    self._first = place
                    return message
                problem = f"the answer was error {message.rCode}"
            if not silent:
                break
        raise ServerProblem(problem)

    def _look(self) -> None:
        """Read which servers the system has, unless that was done lately."""
        now = self._reactor.seconds()
        if self._system and now - self._read > _REREAD:
            self._read = now
            found = read_system(self._system)
            if found != self.servers:
                self.servers, self._first = found, 0

    async def _exchange(self, server: tuple[str, int], query: dns.Query, seconds: float) -> dns.Message:
        message = await self._by_datagram(server, query, seconds)
        return await self._by_stream(server, query, seconds) if message.trunc else message

    async def _by_datagram(self, server: tuple[str, int], query: dns.Query, seconds: float) -> dns.Message:
        protocol = _Datagrams(_CONTROLLER, self._reactor)  # type: ignore[no-untyped-call]
        port = self._reactor.listenUDP(0, protocol, interface="::" if ":" in server[0] else "0.0.0.0")
        try:
            # Then the kernel drops what comes from elsewhere, and tells of a port that nobody has open.
            protocol.transport.connect(*server)
            return checked(await protocol.query(server, [query], seconds), query)
        finally:
            _forget(protocol)
            port.stopListening()

    async def _by_stream(self, server: tuple[str, int], query: dns.Query, seconds: float) -> dns.Message:
        kind = TCP6ClientEndpoint if ":" in server[0] else TCP4ClientEndpoint
        endpoint: Any = kind(self._reactor, *server, timeout=seconds)
        factory = Factory.forProtocol(partial(dns.DNSProtocol, _CONTROLLER, self._reactor))
        factory.noisy = False
        protocol = await endpoint.connect(factory)
        try:
            return checked(await protocol.query([query], seconds), query)
        finally:
            _forget(protocol)
            protocol.transport.abortConnection()


class _Controller:
    """Hears from protocols what nobody waits for."""

    def connectionMade(self, protocol: object) -> None:
        """Nothing waits for it."""

    def connectionLost(self, protocol: dns.DNSProtocol) -> None:
        """Let the question fail that was not answered."""
        for answer in _forget(protocol):
            answer.errback(Failure(ServerProblem("the connection was lost")))

    def messageReceived(self, message: dns.Message, protocol: object, address: object = None) -> None:
        """Drop what is no answer to a question of ours."""


_CONTROLLER = _Controller()


class _Datagrams(dns.DNSDatagramProtocol):
    """Asks one question."""

    noisy = False

    def connectionRefused(self) -> None:
        """The server's port is not open."""
        for answer in _forget(self):
            answer.errback(Failure(ServerProblem("there is no server")))

    def stopProtocol(self) -> None:
        """The same, where the poller takes the kernel's word for the end of our port."""
        self.connectionRefused()
        super().stopProtocol()


def _forget(protocol: Any) -> list[Deferred[dns.Message]]:
    """Wait for no answer any more, and give what waited."""
    waiting = list((protocol.liveMessages or {}).values())
    protocol.liveMessages = {}
    for _, timer in waiting:
        with contextlib.suppress(AlreadyCalled, AlreadyCancelled):
            timer.cancel()
    return [answer for answer, _ in waiting]


def checked(message: dns.Message, query: dns.Query) -> dns.Message:
    """
    Give an answer, if it is one to this question.

    :raises ServerProblem: if it is not.
    """
    asked = [(each.name.name.lower(), each.type) for each in message.queries]
    if not message.answer or asked != [(query.name.name.lower(), query.type)]:
        raise ServerProblem("the answer is to another question")
    return message


def read_system(path: str = SYSTEM) -> tuple[tuple[str, int], ...]:
    """Read the servers of ``resolv.conf``; without one, the one on this machine."""
    found = []
    with contextlib.suppress(OSError), open(path, "rb") as file:
        for line in file.read(65536).splitlines():
            words = line.split()
            if len(words) >= 2 and words[0] == b"nameserver":
                with contextlib.suppress(ValueError):
                    found.append((str(ipaddress.ip_address(words[1].decode("ascii"))), dns.PORT))
    return tuple(found) or (("127.0.0.1", dns.PORT),)


def parse_server(text: str) -> tuple[str, int]:
    """
    Read the address of a name server: ``192.0.2.53``, ``192.0.2.53:5353``, ``2001:db8::53`` or ``[2001:db8::53]:5353``.

    :raises ValueError: with a sentence.
    """
    host, port = text, str(dns.PORT)
    if text.startswith("[") and "]" in text:
        host, _, behind = text[1:].partition("]")
        port = behind[1:] if behind.startswith(":") else port if not behind else ""
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise ValueError(f"{text!r} is no address; write such as 192.0.2.53 or [2001:db8::53]:5353") from None
    if not (port.isascii() and port.isdigit() and 1 <= int(port[:6]) <= 65535):
        raise ValueError(f"{text!r} has no port that can be; ports go from 1 to 65535")
    return str(address), int(port)
