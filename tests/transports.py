"""
What tests of transports share: a server's side that does as it is told, and clients on plain sockets.

A behaviour is a mixin of tests; it is run over our transport and over Twisted's by :class:`Direct`
and :class:`Stock`, so that any difference is a failing test.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from smtpsvc import transport
from smtpsvc.nest import Nest

reactor: Any = _reactor

#: More than all buffers between two sockets of a machine.
MUCH = b"".join(b"%08d" % number for number in range(2 << 20))

#: Seconds to wait for what a loaded machine may do late; nothing is asserted of the time it takes.
PATIENCE = 30.0

LOOPBACK = "127.0.0.1"


def turn() -> Deferred[None]:
    """Let the reactor turn once."""
    return deferLater(reactor, 0)


async def turns(count: int) -> None:
    """Let the reactor turn some times, so that what could happen has happened."""
    for _ in range(count):
        await turn()


async def until(claim: Callable[[], Any], what: str) -> None:
    """
    Let the reactor turn until *claim* gives something true.

    :raises AssertionError: with *what* if it does not in time.
    """
    end = reactor.seconds() + PATIENCE
    while not claim():
        if reactor.seconds() > end:
            raise AssertionError(f"{what}: not within {PATIENCE:.0f} s")
        await turn()


def nests() -> list[Nest]:
    """Give the nests that the reactor reads."""
    return [reader for reader in reactor.getReaders() if isinstance(reader, Nest)]


class Served(Protocol):
    """
    A connection as its server sees it: does what a test tells it, and notes what happens.

    :param script: what to do, by event: ``made``, ``data``, ``lost``, ``read_lost``, ``write_lost``,
        each called with the connection.
    :ivar received: all data.
    :ivar events: the names of all other events.
    :ivar reasons: what connectionLost was called with; once, if all is well.
    :ivar inside: the calls, in or out, that had not returned when it was called; none, if all is well.
    """

    transport: Any

    def __init__(self, script: dict[str, Callable[[Any], object]]) -> None:
        self.script = script
        self.received = b""
        self.reads = 0
        self.events: list[str] = []
        self.reasons: list[Failure] = []
        self.inside: list[str] = []
        self._going_on: list[str] = []

    @contextmanager
    def _calling(self, name: str) -> Iterator[None]:
        self._going_on.append(name)
        try:
            yield
        finally:
            self._going_on.pop()

    def _happened(self, event: str) -> None:
        self.events.append(event)
        with self._calling(event):
            self.script.get(event, lambda connection: None)(self)

    def do(self, method: str, *arguments: Any) -> Any:
        """Call a method of the transport."""
        with self._calling(method):
            return getattr(self.transport, method)(*arguments)

    def write(self, data: bytes) -> None:
        """Send *data*."""
        self.do("write", data)

    def close(self) -> None:
        """Close when all is sent."""
        self.do("loseConnection")

    @property
    def lost(self) -> bool:
        """True when connectionLost has been called."""
        return bool(self.reasons)

    def connectionMade(self) -> None:
        """Follow the script, as all events do."""
        self._happened("made")

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self.reads += 1
        with self._calling("data"):
            self.script.get("data", lambda connection: None)(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.reasons.append(reason)
        self.inside += self._going_on
        self._happened("lost")


@implementer(IHalfCloseableProtocol)
class HalfServed(Served):
    """One that is told when either half of its connection ends."""

    def readConnectionLost(self) -> None:
        self._happened("read_lost")

    def writeConnectionLost(self) -> None:
        self._happened("write_lost")


class Client:
    """
    A client that does nothing of its own accord.

    :param address: of the server.
    :param room: bytes of its receive buffer; 0 for what the system gives.
    """

    def __init__(self, address: Any, room: int = 0) -> None:
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        self.socket = socket.socket(family)
        if room:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.connect((address.host, address.port))
        self.socket.setblocking(False)

    def say(self, data: bytes) -> None:
        """Send a few bytes."""
        assert self.socket.send(data) == len(data)

    async def send(self, data: bytes) -> None:
        """Send any number of bytes."""
        view = memoryview(data)
        while view:
            try:
                view = view[self.socket.send(view) :]
            except BlockingIOError:
                await turn()

    async def some(self, most: int) -> bytes:
        """Take what comes next, *most* bytes at most; none is the end."""
        end = reactor.seconds() + PATIENCE
        while reactor.seconds() < end:
            try:
                return self.socket.recv(most)
            except BlockingIOError:
                await turn()
        raise AssertionError("nothing came, nor the end")

    async def receive(self, size: int, at_once: int = 1 << 20) -> bytes:
        """Take exactly *size* bytes, *at_once* in a turn at most."""
        pieces: list[bytes] = []
        while size:
            piece = await self.some(min(size, at_once))
            if not piece:
                raise AssertionError(f"the end came {size} bytes early, after {b''.join(pieces)[-40:]!r}")
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    async def rest(self) -> bytes:
        """
        Take all up to the end.

        :raises ConnectionResetError: if there is none.
        """
        pieces = []
        while piece := await self.some(1 << 20):
            pieces.append(piece)
        return b"".join(pieces)

    def end(self) -> None:
        """Shut down its side."""
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Be gone, with an RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def close(self) -> None:
        """Close."""
        self.socket.close()

    def segments(self) -> int:
        """Count the TCP segments that have come."""
        info = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        count: int = struct.unpack_from("I", info, 140)[0]
        return count


def answer(served: Served) -> None:
    """Give a client an answer."""
    served.write(b"you")


def counted(test: Any, reader: Any) -> list[int]:
    """Count how often a reader is told to read, from now on."""
    calls = [0]
    read = reader.doRead

    def count() -> Any:
        calls[0] += 1
        return read()

    test.patch(reader, "doRead", count)
    return calls


class TransportTestCase(TestCase):
    """
    For tests with real connections. When a test ends, each of them has been lost once, and from inside no other call.
    """

    def listen(self, factory: Any, **options: Any) -> Any:
        """Open a port; ``interface`` is 127.0.0.1 if it is not given."""
        raise NotImplementedError

    def setUp(self) -> None:
        self.served: list[Served] = []
        self.clients: list[Client] = []
        self.ports: list[Any] = []

    async def tearDown(self) -> None:
        for client in self.clients:
            client.close()
        for port in self.ports:
            await maybeDeferred(port.stopListening)
        await turns(5)
        for served in self.served:
            if not served.lost:
                # One that is paused has not seen its client go.
                served.transport.abortConnection()
        await until(lambda: all(served.lost for served in self.served), "all connections are lost")
        await turn()
        for served in self.served:
            self.assertEqual((len(served.reasons), served.inside), (1, []), served.events)
        self.assertEqual(nests(), [])

    def open(
        self, half: bool = False, listen: Callable[..., Any] | None = None, **script: Callable[[Any], object]
    ) -> Any:
        """Open a port whose connections follow *script*."""

        class Making(Factory):
            noisy = False

            def buildProtocol(_, address: Any) -> Served:
                made = (HalfServed if half else Served)(script)
                self.served.append(made)
                return made

        port = (listen or self.listen)(Making())
        self.ports.append(port)
        return port

    def dial(self, port: Any, room: int = 0) -> Client:
        """Connect to a port; the server has not been told yet."""
        client = Client(port.getHost(), room)
        self.clients.append(client)
        return client

    async def meet(self, port: Any, room: int = 0) -> tuple[Any, Client]:
        """Connect to a port; give both sides."""
        known = len(self.served)
        client = self.dial(port, room)
        await until(lambda: len(self.served) > known and self.served[-1].events, "the client is accepted")
        return self.served[-1], client

    async def connect(self, half: bool = False, room: int = 0, **script: Callable[[Any], object]) -> tuple[Any, Client]:
        """Open a port with *script*, connect to it, and give both sides."""
        return await self.meet(self.open(half, **script), room)

    async def lost(self, served: Served) -> Any:
        """Wait for a connection to be lost, and give why: an exception."""
        await until(lambda: served.lost, "the connection is lost")
        return served.reasons[0].value

    async def assertReset(self, waiting: Coroutine[Any, Any, bytes]) -> None:
        """Find that what a client waits for ends with an RST."""
        try:
            await waiting
        except ConnectionResetError:
            return
        self.fail("an orderly end")


class Direct:
    """Runs a behaviour over our transport."""

    def listen(self, factory: Any, **options: Any) -> Any:
        """Open a port."""
        options.setdefault("interface", LOOPBACK)
        return transport.listen(reactor, options.pop("port", 0), factory, **options)


class Stock:
    """Runs a behaviour over Twisted's."""

    def listen(self, factory: Any, **options: Any) -> Any:
        """Open a port."""
        options.setdefault("interface", LOOPBACK)
        return reactor.listenTCP(options.pop("port", 0), factory, **options)
