"""
Wires over real sockets: the same tests, over our transport or over Twisted's.

With ``SMTPSVC_WIRE=direct`` or ``=stock`` in the environment every
:class:`~smtpsvc.testing.Wire` is a TCP connection on loopback, whose server's side a private
reactor drives until nothing is under way any more: a test reads as it does in memory.
"""

from __future__ import annotations

import fcntl
import functools
import select
import socket
import struct
import termios
from typing import Any

from twisted.internet import tcp
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IAddress
from twisted.python.failure import Failure

from smtpsvc import testing, tlstesting
from smtpsvc.testing.reactors import PrivateReactor
from smtpsvc.testing.wire import Wire
from smtpsvc.transport import DirectServer

#: Turns of the reactor without anything that happens, after which nothing is expected to.
_QUIET = 2

#: Turns of the reactor that all may take.
_MOST = 100_000

_HOST = IPv4Address("TCP", "198.51.100.1", 25)


@functools.cache
def reactor() -> Any:
    """The reactor of all wires of this process."""
    return PrivateReactor()


class _Recorded:
    """What tests read of a transport in memory, on one that is real."""

    def begin(self: Any, peer: IAddress) -> None:
        """Take the addresses that a test wants, and note what is written."""
        self._peer = peer
        self.writes: list[bytes] = []
        self.received = b""
        self.outcome: Failure | None = None

    def getPeer(self: Any) -> IAddress:
        return self._peer

    def getHost(self: Any) -> IAddress:
        return _HOST

    def write(self: Any, data: bytes) -> None:
        self.writes.append(data)
        super().write(data)  # type: ignore[misc]

    def connectionLost(self: Any, reason: Failure) -> None:
        if hasattr(self, "socket"):
            self.outcome = reason
        super().connectionLost(reason)  # type: ignore[misc]

    def value(self: Any) -> bytes:
        """Everything that has come to the client."""
        received: bytes = self.received
        return received

    @property
    def producerState(self: Any) -> str:
        """As StringTransport has it."""
        return "producing" if self.reading_wanted() else "paused"


class _Direct(_Recorded, DirectServer):  # type: ignore[misc]
    def reading_wanted(self) -> bool:
        return bool(self._mask & select.EPOLLIN)


class _Stock(_Recorded, tcp.Server):  # type: ignore[misc]
    def reading_wanted(self) -> bool:
        return self in self.reactor.getReaders()


class SocketWire(Wire):
    """A wire whose octets go through the kernel."""

    server: type[Any] = _Direct

    def __init__(self, factory: Any, address: IAddress | None = None) -> None:
        address = address or IPv4Address("TCP", "192.0.2.1", 50000)
        self.factory = factory
        with socket.create_server(("127.0.0.1", 0)) as port:
            self.client = socket.create_connection(port.getsockname())
            accepted, client_address = port.accept()
        for one in (self.client, accepted):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.client.setblocking(False)
        self._takes, self._ended = True, False
        self._sent = 0
        self._unsent: list[bytes] = []
        self._seen = self._seen_writes = 0
        self.protocol = factory.buildProtocol(address)
        server: Any = self.server(accepted, self.protocol, client_address, None, 0, reactor())
        server.begin(address)
        self.transport = server
        self.protocol.makeConnection(server)
        self._settle()

    @property
    def lost(self) -> bool:
        """True when the server has been told that the connection is gone."""
        return self.transport.outcome is not None

    @lost.setter
    def lost(self, lost: bool) -> None:
        # A test that is done with it.
        self.client.close()

    def receive(self, data: bytes) -> Wire:
        """Send *data*."""
        self._unsent.append(data)
        self._settle()
        return self

    def shut_down_sending(self) -> Wire:
        """End the client's side."""
        self._settle()
        if self.client.fileno() >= 0:
            self.client.shutdown(socket.SHUT_WR)
            self._sent += 1
            self._settle()
        return self

    def stop_taking(self) -> Wire:
        """Read no more."""
        self._takes = False
        return self

    def take(self) -> Wire:
        """Read all, and go on reading."""
        self._takes = True
        self._settle()
        return self

    def hang_up(self, reason: Exception | None = None) -> Wire:
        """Be gone: with a farewell of TCP if that is the reason, else with an RST."""
        if not self.lost and self.client.fileno() >= 0:
            if not isinstance(reason, ConnectionDone):
                self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.client.close()
            # One that is paused would not see it.
            self._settle()
            if not self.lost:
                self.transport.connectionLost(Failure(reason or ConnectionLost()))
        return self

    def _settle(self) -> None:
        quiet = 0
        for _ in range(_MOST):
            if quiet == _QUIET:
                return
            before = self._state()
            self._push()
            self._pull()
            reactor().iterate(0)
            self._take_turns()
            quiet = quiet + 1 if self._state() == before and not self._under_way() else 0
        raise AssertionError(f"no end to what happens: {self._state()}")

    def _state(self) -> tuple[Any, ...]:
        server = self.transport
        pending = sum(map(len, self._unsent))
        return (len(server.received), len(server.writes), self.closed, self.lost, pending, server.producerState)

    def _under_way(self) -> bool:
        """Whether octets are on their way to the other side's kernel, or an end is."""
        server = self.transport
        if not hasattr(server, "socket"):
            return self._takes and not self._ended and self.client.fileno() >= 0
        if self.client.fileno() < 0:
            return False
        if self._unsent and server.reading_wanted():
            return True
        sent = sum(map(len, server.writes))
        coming = server.reading_wanted() and (_arrived(server.socket) < self._sent or _unread(server.socket))
        return bool(coming) or (self._takes and _arrived(self.client) < sent)

    def _push(self) -> None:
        while self._unsent and self.client.fileno() >= 0:
            data = self._unsent[0]
            try:
                sent = self.client.send(data) if data else 0
            except BlockingIOError:
                return
            except OSError:
                self._unsent.clear()
                return
            self._sent += sent
            if sent == len(data):
                self._unsent.pop(0)
            else:
                self._unsent[0] = data[sent:]

    def _pull(self) -> None:
        while self._takes and not self._ended and self.client.fileno() >= 0:
            try:
                data = self.client.recv(1 << 16)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._ended = True
                self.client.close()
                return
            self.transport.received += data

    @property
    def output(self) -> bytes:
        """What has come."""
        self._settle()
        received: bytes = self.transport.received
        return received[self._seen :]

    def forget(self) -> Wire:
        """Let replies and counts start afresh."""
        self._settle()
        self._seen, self._seen_writes = len(self.transport.received), len(self.transport.writes)
        return self

    @property
    def closed(self) -> bool:
        """True if the server has closed."""
        return self._ended or bool(self.transport.disconnecting or self.transport.disconnected)


class StockWire(SocketWire):
    """The same over Twisted's transport."""

    server = _Stock


def _arrived(one: socket.socket) -> int:
    """Count the octets that have come to a socket since it was opened, read or not, and the end as one."""
    count: int = struct.unpack_from("Q", one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256), 128)[0]
    return count


def _unread(one: socket.socket) -> int:
    """Count the octets that have come and were not read."""
    count: int = struct.unpack("i", fcntl.ioctl(one.fileno(), termios.FIONREAD, b"\0" * 4))[0]
    return count


def install(name: str) -> None:
    """Let all tests have wires of a kind, ``direct`` or ``stock``; but not those of TLS in memory."""
    assert tlstesting.TLSWire
    kind = {"direct": SocketWire, "stock": StockWire}[name]
    testing.Wire = testing.wire.Wire = kind  # type: ignore[misc,assignment]

