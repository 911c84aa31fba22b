"""
The DNS for tests: a zone of names, a server for it on 127.0.0.1, and a resolver that has it without a socket.

No test asks for a name outside.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import threading
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.names import dns

from smtpsvc.nameservers import ServerProblem
from smtpsvc.resolver import Resolver

#: Codes of answers by the word in a zone.
_CODES = {"SERVFAIL": dns.ESERVER, "REFUSED": dns.EREFUSED, "NXDOMAIN": dns.ENAME}


class Question(NamedTuple):
    """What a server was asked; *by* is ``udp``, ``tcp``, or ``fake``."""

    name: str
    kind: str
    by: str


class Zone:
    """
    Names and what they have: ``{"x.example": ["MX 10 mx.x.example", "60 TXT v=spf1 -all", "CNAME y.example"]}``.

    A number in front is the time to live, otherwise 300. Records are A, AAAA, MX, PTR, TXT and CNAME; ``SERVFAIL`` or
    ``REFUSED`` is answered with that error, ``SILENT`` not at all, ``SLOW 3 A 192.0.2.1`` after 3 s, where a
    fake's clock counts them. ``SERVFAIL TXT`` and ``SILENT MX`` hold for one kind. A TXT record is cut into strings
    at each ``|`` and after 255 octets. A name is there if it or one below it is in the zone. :func:`reverse` gives the
    name below which those of an address are.

    :param names: may be changed later.
    """

    def __init__(self, names: Mapping[str, Sequence[str]] | None = None) -> None:
        self.names: dict[str, Sequence[str]] = dict(names or {})
        self.questions: list[Question] = []

    def answer(self, request: dns.Message, by: str) -> tuple[dns.Message | None, float]:
        """Give the answer to a question, None for none, and the seconds it takes."""
        query = request.queries[0]
        name, kind = query.name.name.decode("ascii").lower(), dns.QUERY_TYPES.get(query.type, str(query.type))
        self.questions.append(Question(name, kind, by))
        message = dns.Message(request.id, answer=1, recAv=1, recDes=request.recDes, maxSize=0)
        message.queries = [query]
        delay = 0.0
        for _ in range(20):
            found = self.names.get(name)
            if found is None:
                known = any(each.endswith(f".{name}") for each in self.names)
                message.rCode = dns.OK if known else dns.ENAME
                break
            alias = ""
            for text in found:
                words = text.split(" ")
                if words[0] == "SLOW":
                    delay, words = float(words[1]), words[2:]
                if words[0] in (*_CODES, "SILENT"):
                    if words[1:] in ([], [kind]):
                        message.rCode = _CODES.get(words[0], dns.OK)
                        return (None if words[0] == "SILENT" else message), delay
                    continue
                ttl = int(words.pop(0)) if words[0].isdigit() else 300
                if words[0] in (kind, "CNAME"):
                    message.answers.append(record(name, words[0], " ".join(words[1:]), ttl))
                    alias = words[1] if words[0] == "CNAME" else ""
            if not alias:
                break
            name = alias
        if not any(each.type == query.type for each in message.answers):
            soa = dns.Record_SOA(b"ns.example", b"root.example", 1, 60, 60, 60, 60, ttl=60)
            message.authority.append(dns.RRHeader(b"example", dns.SOA, ttl=60, payload=soa))
        return message, delay

    def asked(self, kind: str = "") -> list[str]:
        """Give the names that were asked for, with records of one kind."""
        return [each.name for each in self.questions if kind in ("", each.kind)]


def record(name: str, kind: str, text: str, ttl: int) -> dns.RRHeader:
    """Make a record of its text."""
    payload: Any
    if kind == "A":
        payload = dns.Record_A(text, ttl)
    elif kind == "AAAA":
        payload = dns.Record_AAAA(text, ttl)
    elif kind == "MX":
        preference, host = text.split(" ")
        payload = dns.Record_MX(int(preference), host.rstrip(".").encode(), ttl)
    elif kind == "TXT":
        payload = dns.Record_TXT(*_strings(text), ttl=ttl)
    else:
        payload = {"PTR": dns.Record_PTR, "CNAME": dns.Record_CNAME}[kind](text.rstrip(".").encode(), ttl)
    return dns.RRHeader(name.encode(), payload.TYPE, ttl=ttl, payload=payload)


def _strings(text: str) -> list[bytes]:
    """Cut a text into strings at each bar, and so that each is of 255 octets at most."""
    strings = [each.encode() for each in text.split("|")]
    return [each[place : place + 255] for each in strings for place in range(0, len(each) or 1, 255)]


def reverse(address: str) -> str:
    """Give the name below which the names of an address are."""
    return ipaddress.ip_address(address).reverse_pointer


class FakeServers:
    """Answers out of a zone, at once or after the zone's delay on a clock."""

    def __init__(self, zone: Zone, clock: Clock) -> None:
        self.zone = zone
        self.clock = clock
        #: Questions that are open, and the most that were.
        self.open = self.most = 0

    async def ask(self, name: bytes, kind: int) -> dns.Message:
        """As :meth:`smtpsvc.nameservers.NameServers.ask`, but what is silent is silent for ever."""
        request = dns.Message(1, recDes=1)
        request.queries = [dns.Query(name, kind)]
        message, delay = self.zone.answer(request, "fake")
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            if message is None:
                await Deferred()
            if delay:
                waiting: Deferred[None] = Deferred(lambda _: timer.cancel())
                timer = self.clock.callLater(delay, waiting.callback, None)
                await waiting
        finally:
            self.open -= 1
        assert message is not None
        if message.rCode not in (dns.OK, dns.ENAME):
            raise ServerProblem(f"the answer was error {message.rCode}")
        # As it would come by wire.
        read = dns.Message()
        read.fromStr(message.toStr())
        return read


def fake_resolver(zone: Zone | Mapping[str, Sequence[str]], clock: Clock | None = None, **options: Any) -> Resolver:
    """
    Make a resolver that has a zone.

    :param clock: of delays, deadlines and its memory; without one time stands still.
    :param options: of :class:`~smtpsvc.resolver.Resolver`.
    """
    clock = clock or Clock()
    zone = zone if isinstance(zone, Zone) else Zone(zone)
    return Resolver(FakeServers(zone, clock), clock=clock, **options)


class NameServer:
    """
    A server for a zone on one port of this machine, by UDP and TCP, in threads of its own.

    So it answers programs and other processes too, and the reactor of a test while that waits. Answers of more than
    512 octets are cut short by UDP; delays are not kept. Ended by :meth:`close`::

        server = NameServer({"x.example": ["A 192.0.2.1"]})
        self.addCleanup(server.close)
        resolver = Resolver(NameServers([server.address], reactor=reactor), clock=reactor)
    """

    def __init__(self, zone: Zone | Mapping[str, Sequence[str]], host: str = "127.0.0.1") -> None:
        self.zone = zone if isinstance(zone, Zone) else Zone(zone)
        self._datagrams, self._stream = _one_port(host)
        self.port: int = self._datagrams.getsockname()[1]
        #: For :class:`~smtpsvc.nameservers.NameServers`.
        self.address = (host, self.port)
        #: For ``--dns-server``.
        self.option = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        self._closed = False
        self._connection: socket.socket | None = None
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._by_datagram, self._by_stream)]
        for thread in self._threads:
            thread.start()

    def _reply(self, data: bytes, by: str) -> bytes | None:
        request = dns.Message()
        request.fromStr(data)
        message, _ = self.zone.answer(request, by)
        if message is None:
            return None
        octets: bytes = message.toStr()
        if by == "udp" and len(octets) > 512:
            message.answers, message.authority, message.trunc = [], [], 1
            octets = message.toStr()
        return octets

    def _by_datagram(self) -> None:
        while True:
            data, client = self._datagrams.recvfrom(65536)
            if self._closed:
                return
            with contextlib.suppress(EOFError, ValueError, IndexError):
                reply = self._reply(data, "udp")
                if reply is not None:
                    self._datagrams.sendto(reply, client)

    def _by_stream(self) -> None:
        while True:
            connection, _ = self._stream.accept()
            with connection, contextlib.suppress(OSError, EOFError, ValueError):
                self._connection = connection
                if self._closed:
                    return
                connection.settimeout(5)
                while length := connection.recv(2, socket.MSG_WAITALL):
                    data = connection.recv(int.from_bytes(length, "big"), socket.MSG_WAITALL)
                    reply = self._reply(data, "tcp")
                    if reply is None:
                        break
                    connection.sendall(len(reply).to_bytes(2, "big") + reply)

    def close(self) -> None:
        """End it."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(OSError), socket.socket(self._datagrams.family, socket.SOCK_DGRAM) as waker:
            waker.sendto(b"", self.address)
        with contextlib.suppress(OSError):
            socket.create_connection(self.address, 5).close()
        with contextlib.suppress(OSError):
            if self._connection is not None:
                self._connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        self._datagrams.close()
        self._stream.close()

    def __enter__(self) -> NameServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _one_port(host: str) -> tuple[socket.socket, socket.socket]:
    """Open one port for both."""
    while True:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        datagrams = socket.socket(family, socket.SOCK_DGRAM)
        datagrams.bind((host, 0))
        stream = socket.socket(family)
        try:
            stream.bind(datagrams.getsockname())
        except OSError:
            datagrams.close()
            stream.close()
            continue
        stream.listen(20)
        return datagrams, stream
