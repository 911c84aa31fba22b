"""
A TCP transport for many short exchanges: Twisted's own, with fewer turns of the reactor.

Twisted's transport sends a reply a turn after it was written, by way of the poller: write,
epoll_ctl, epoll_wait, send, epoll_ctl. For a protocol of short replies that costs more than the
protocol. Here a reply is sent when what came in the same turn was read, a connection is closed with
its last reply, and all connections are in one private epoll that is a single reader of the
reactor. Nothing of the reactor is replaced, and anything else may run under it.

The rules that keep this safe:

- Readiness to read and to write are both watched in the private epoll, never in the reactor. A
  connection that wants neither is not in it at all: with an empty mask an RST would spin.
- An event goes to the object that registered for it and to no other: descriptors are used again.
- What is written while data is being delivered leaves in one send when that has returned, and so
  have the other deliveries of the turn. So the order of octets is that of the calls, also across
  STARTTLS; and a client with many connections is woken once, not for each reply.
- ``connectionLost`` is called when a read or write event has been dealt with: never from inside
  ``write``, ``loseConnection`` or ``dataReceived``.
"""

from __future__ import annotations

import select
import socket
from typing import Any, Final

from twisted.internet import address, tcp
from twisted.internet.defer import Deferred, execute
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from twisted.python import log
from zope.interface import implementer

from smtpsvc.connection import DirectServer
from smtpsvc.nest import Nest

__all__ = ["AVAILABLE", "BACKLOG", "DirectPort", "DirectServer", "DirectServerEndpoint", "listen"]

#: Whether this system has what is needed.
AVAILABLE: Final = hasattr(select, "epoll") and hasattr(socket, "MSG_MORE")

#: Connections that may wait to be accepted; the kernel's own limit may be lower.
BACKLOG: Final = 1024

_NUMERIC: Final = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV


class DirectPort(tcp.Port):
    """
    A port whose connections are :class:`DirectServer`.

    Its own socket is read by the reactor, as any port's.
    """

    transport = DirectServer
    _nest: Nest | None = None

    @classmethod
    def _fromListeningDescriptor(cls, reactor: Any, fd: int, addressFamily: Any, factory: Any) -> DirectPort:
        """
        Make a port of a listening socket that was opened elsewhere.

        :param fd: is duplicated, and made non-blocking: else one who loses the race to accept would hang.
        """
        port: DirectPort = super()._fromListeningDescriptor(  # type: ignore[no-untyped-call]
            reactor, fd, addressFamily, factory
        )
        assert port._preexistingSocket is not None
        port._preexistingSocket.setblocking(False)
        if addressFamily == socket.AF_INET6:
            port.addressFamily = addressFamily
            port._addressType = address.IPv6Address
        return port

    def startListening(self) -> None:
        """
        Listen.

        :raises CannotListenError: if the address cannot be bound.
        """
        Nest.renew(self.reactor)
        nest = Nest.enter(self.reactor, self)
        try:
            super().startListening()
        except BaseException:
            nest.leave(self)
            raise
        self._nest = nest
        # Linux hands it on to what is accepted. A reply must never wait for the acknowledgement of another.
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def doRead(self) -> None:
        """Accept connections."""
        accepted = 0
        made: list[DirectServer] = []
        try:
            while accepted < self.numberAccepts:
                sock, client = self.socket.accept()
                accepted += 1
                try:
                    self._serve(sock, client, made)
                except BaseException:
                    log.err()
            self.numberAccepts += 20
        except BlockingIOError:
            # As many the next time, so that the last call is seldom in vain.
            self.numberAccepts = max(1, accepted)
        except OSError:
            # No descriptor is left, or the client is gone: the base knows what to do.
            super().doRead()  # type: ignore[no-untyped-call]
        for connection in made:
            connection.send_due()

    def _serve(self, sock: socket.socket, client: Any, made: list[DirectServer]) -> None:
        if len(client) == 4 and client[3]:
            # With its scope, as the base gives it.
            client = (socket.getnameinfo(client, _NUMERIC)[0], *client[1:])
        factory: Any = self.factory
        protocol = factory.buildProtocol(self._addressType("TCP", *client))
        if protocol is None:
            sock.close()
            return
        number = self.sessionno
        self.sessionno = number + 1
        connection = self.transport(sock, protocol, client, self, number, self.reactor)
        made.append(connection)
        connection.made(protocol)

    def connectionLost(self, reason: Any) -> None:
        """The port is closed."""
        super().connectionLost(reason)  # type: ignore[no-untyped-call]
        if self._nest is not None:
            self._nest.leave(self)
            self._nest = None


@implementer(IStreamServerEndpoint)
class DirectServerEndpoint:
    """
    Listens on TCP with a :class:`DirectPort`.

    :param reactor: any that watches descriptors: epoll, poll, select or asyncio.
    :param port: 0 takes a free one.
    :param interface: an IPv4 or IPv6 address; "" is all of IPv4.
    """

    def __init__(self, reactor: Any, port: int, backlog: int = BACKLOG, interface: str = "") -> None:
        self._reactor = reactor
        self._port = port
        self._backlog = backlog
        self._interface = interface

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """
        Open the port.

        :returns: a Deferred of it, which fails with ``CannotListenError``.
        """
        return execute(listen, self._reactor, self._port, protocolFactory, self._backlog, self._interface)


def listen(
    reactor: Any, port: int, factory: IProtocolFactory, backlog: int = BACKLOG, interface: str = ""
) -> DirectPort:
    """
    Listen on TCP, as ``reactor.listenTCP`` does.

    :raises CannotListenError: if the address cannot be bound.
    """
    opened = DirectPort(port, factory, backlog, interface, reactor)
    opened.startListening()
    return opened
