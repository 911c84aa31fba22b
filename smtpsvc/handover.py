"""
Listening sockets that one process opens and others accept on.

Endpoints are none the wiser: where one is made, a stand-in takes the reactor's place. In the parent
it opens ports and accepts nothing; in a child it gives for each port the socket that the parent has
opened for the same words.
"""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeAlias, cast

from twisted.internet import tcp, unix
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.endpoints import AdoptedStreamServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IDelayedCall, IListeningPort, IProtocolFactory

from smtpsvc.direct import DIRECT, listening_reactor
from smtpsvc.server.tally import Tally
from smtpsvc.transport import BACKLOG, DirectPort

#: What an endpoint asks the reactor for: ``("tcp", port, interface)``, ``("unix", path)`` or ``("fd", number)``.
Key: TypeAlias = tuple[str | int, ...]

_TCP: Final = "tcp"
_UNIX: Final = "unix"
_FD: Final = "fd"

#: Connections that are accepted in one turn.
_BURST: Final = 16
#: Seconds that others have to come first, and what is accepted when they have not come.
_TURN: Final = 0.002
_AFTER: Final = 4


class _StandIn:
    """
    A reactor to those that listen; all else is the reactor's own.

    :param reactor: is behind it.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenTCP(self, port: int, factory: IProtocolFactory, backlog: int = BACKLOG, interface: str = "") -> Any:
        """
        Listen on TCP.

        :raises CannotListenError: if that cannot be.
        """
        raise NotImplementedError

    def listenSSL(
        self, port: int, factory: IProtocolFactory, contextFactory: Any, backlog: int = BACKLOG, interface: str = ""
    ) -> Any:
        """
        Listen on TCP with a TLS of the endpoint's own.

        :raises CannotListenError: if that cannot be.
        """
        from twisted.protocols.tls import TLSMemoryBIOFactory

        secured = TLSMemoryBIOFactory(contextFactory, False, factory)
        return self.listenTCP(port, secured, backlog, interface)


class _Fair:
    """
    A port that leaves connections to processes that have fewer.

    All that wait are woken for each connection, and one alone could take a burst before the others are there.
    """

    #: The connections of all processes, if they are counted.
    tally: Tally | None = None
    _waiting: IDelayedCall | None = None
    _waited = False

    def doRead(self: Any) -> None:
        """Accept connections, as long as that is fair; nobody is waited for twice."""
        tally, base = self.tally, cast("Any", super())
        for count in range(_AFTER if self._waited else _BURST):
            if tally is not None and not self._waited and tally.ahead:
                if not count:
                    self.stopReading()
                    self._waiting = self.reactor.callLater(_TURN, self._again)
                return
            self.numberAccepts = 1
            base.doRead()
            if self.numberAccepts <= 1 or not self.connected:
                break
        self._waited = False

    def _again(self: Any) -> None:
        self._waiting = None
        self._waited = True
        self.startReading()

    def connectionLost(self: Any, reason: Any) -> None:
        """The port is closed."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.cancel()
        cast("Any", super()).connectionLost(reason)


class _SharedDirect(_Fair, DirectPort):
    """A port of ours that other processes accept on too."""


class _SharedTCP(_Fair, tcp.Port):
    """A port of Twisted's that other processes accept on too."""


class _HeldTCP(tcp.Port):
    """A TCP port that is open, and accepts nothing."""

    # shutdown(2) would end it for all processes at once, and each would log that as an error.
    _shouldShutdown = False

    def startReading(self) -> None:
        """Leave connections to the others."""


class _HeldUNIX(unix.Port):
    """A unix socket that is open, and accepts nothing; its path goes with it."""

    _shouldShutdown = False

    def startReading(self) -> None:
        """Leave connections to the others."""


class _SharedUNIX(_Fair, unix.Port):
    """A unix socket that another process has opened: neither its path nor its mode is ours."""

    _shouldShutdown = False

    def startListening(self: Any) -> None:
        """Accept what comes."""
        self.factory.doStart()
        self.socket, self._preexistingSocket = self._preexistingSocket, None
        self.socket.setblocking(False)
        self.fileno = self.socket.fileno
        self.connected = True
        self.numberAccepts = 100
        self.startReading()

    def connectionLost(self, reason: Any) -> None:
        """The port is closed, and the socket stays."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.cancel()
        tcp.Port.connectionLost(self, reason)


class _HeldSharedUNIX(_SharedUNIX):
    """A unix socket that whoever has started us has opened, and that accepts nothing."""

    def startReading(self) -> None:
        """Leave connections to the others."""


class HeldPorts(_StandIn):
    """
    In the parent: opens ports, and accepts no connection.

    ``serverFromString(HeldPorts(reactor), "tcp:25").listen(factory)`` gives a port that can be closed and asked
    where it listens; the factory hears of no client.

    :param reactor: closes them.
    """

    #: In a process that was forked: what was handed over. Endpoints that were made in the parent accept on it.
    handed: HandedPorts | None = None

    def __init__(self, reactor: Any) -> None:
        super().__init__(reactor)
        #: How TCP is served in the end: as ``--transport`` says.
        self.transport = DIRECT
        self._open: list[tuple[Key, Any]] = []

    def close(self) -> Deferred[None]:
        """
        Close all ports; the reactor does not do so at its end, as it does with ports of its own.

        :returns: fires when they are closed.
        """
        closing = [maybeDeferred(port.stopListening) for _, port in self._open if port.connected]
        return gatherResults(closing).addCallback(lambda _: None)

    def forget(self) -> None:
        """In a process that was forked: close the sockets, and leave all else to the parent."""
        for _, port in self._open:
            port.socket.close()
        self._open.clear()

    def sockets(self) -> list[tuple[Key, int]]:
        """Give what was asked for and the descriptor, of each port that is open."""
        self._open = [(key, port) for key, port in self._open if port.connected]
        return [(key, port.fileno()) for key, port in self._open]

    def listenTCP(self, port: int, factory: IProtocolFactory, backlog: int = BACKLOG, interface: str = "") -> Any:
        """
        Open a TCP port.

        :raises CannotListenError: if the address cannot be bound.
        """
        if self.handed is not None:
            return self.handed.listenTCP(port, factory, backlog, interface)
        held = _HeldTCP(port, factory, backlog, interface, self._reactor)
        return self._start((_TCP, port, interface), held)

    def listenUNIX(
        self, address: Any, factory: IProtocolFactory, backlog: int = BACKLOG, mode: int = 0o666, wantPID: int = 0
    ) -> Any:
        """
        Open a unix socket.

        :raises CannotListenError: if it cannot be made.
        """
        if self.handed is not None:
            return self.handed.listenUNIX(address, factory, backlog, mode, wantPID)
        held = _HeldUNIX(address, factory, backlog, mode, self._reactor, wantPID)
        return self._start((_UNIX, os.fsdecode(address)), held)

    def adoptStreamPort(self, fileDescriptor: int, addressFamily: Any, factory: IProtocolFactory) -> Any:
        """Hold a listening socket that was opened elsewhere, as by systemd."""
        if self.handed is not None:
            return self.handed.adoptStreamPort(fileDescriptor, addressFamily, factory)
        if addressFamily == socket.AF_UNIX:
            held: Any = _HeldSharedUNIX._fromListeningDescriptor(  # type: ignore[no-untyped-call]
                self._reactor, fileDescriptor, factory
            )
        else:
            held = _HeldTCP._fromListeningDescriptor(  # type: ignore[no-untyped-call]
                self._reactor, fileDescriptor, addressFamily, factory
            )
        return self._start((_FD, fileDescriptor), held)

    def _start(self, key: Key, port: Any) -> Any:
        port.startListening()
        self._open.append((key, port))
        return port


def use_again(endpoint: Any) -> None:
    """
    In a process that was forked: let an endpoint for a socket that was given to the parent be used once more.

    :param endpoint: any; also one that has such a one inside.
    """
    while not isinstance(endpoint, AdoptedStreamServerEndpoint):
        endpoint = getattr(endpoint, "endpoint", None)
        if endpoint is None:
            return
    again: Any = endpoint
    again._used = False
    # It closes the descriptor, whose number may be another's by now; the socket is known by the number.
    again._close = again._setNonBlocking = lambda descriptor: None


class HandedPorts(_StandIn):
    """
    In a child: accepts on the sockets that the parent has opened.

    Each port has a duplicate of its socket, so one that is closed may be opened again.

    :param reactor: watches them.
    :param sockets: what was asked for in the parent, and the descriptor.
    """

    def __init__(self, reactor: Any, sockets: Iterable[tuple[Sequence[str | int], int]]) -> None:
        super().__init__(reactor)
        #: How TCP is served: as ``--transport`` says.
        self.transport = DIRECT
        #: Lets each process have its part of the connections.
        self.tally: Tally | None = None
        self._sockets: dict[Key, deque[socket.socket]] = {}
        for key, descriptor in sockets:
            self._sockets.setdefault(tuple(key), deque()).append(socket.socket(fileno=descriptor))

    def close(self) -> None:
        """Close the sockets; the ports that are open have their own."""
        for sockets in self._sockets.values():
            for each in sockets:
                each.close()
        self._sockets.clear()

    def listenTCP(self, port: int, factory: IProtocolFactory, backlog: int = BACKLOG, interface: str = "") -> Any:
        """
        Accept on a TCP port of the parent's.

        :raises CannotListenError: if the parent has opened none for these words.
        """
        key = (_TCP, port, interface)
        return self._adopt_tcp(self._find(key, interface, port), factory)

    def listenUNIX(
        self, address: Any, factory: IProtocolFactory, backlog: int = BACKLOG, mode: int = 0o666, wantPID: int = 0
    ) -> Any:
        """
        Accept on a unix socket of the parent's.

        :raises CannotListenError: if the parent has opened none for these words.
        """
        return self._adopt_unix(self._find((_UNIX, os.fsdecode(address)), None, address), factory)

    def adoptStreamPort(self, fileDescriptor: int, addressFamily: Any, factory: IProtocolFactory) -> Any:
        """
        Accept on a socket that the parent was given.

        :raises CannotListenError: if the parent was given none of this number.
        """
        found = self._find((_FD, fileDescriptor), None, fileDescriptor)
        adopt = self._adopt_unix if addressFamily == socket.AF_UNIX else self._adopt_tcp
        return adopt(found, factory)

    def _find(self, key: Key, interface: str | None, port: Any) -> socket.socket:
        sockets = self._sockets.get(key)
        if not sockets:
            # To an endpoint that tries 127.0.0.1 and ::1 it is an address that the host has not.
            raise CannotListenError(interface, port, OSError(errno.EADDRNOTAVAIL, "the parent has opened no such port"))
        # Of two for the same words, each has its turn.
        sockets.rotate(-1)
        return sockets[-1]

    def _adopt_tcp(self, found: socket.socket, factory: IProtocolFactory) -> IListeningPort:
        direct = listening_reactor(self._reactor, self.transport) is not self._reactor
        found.setblocking(False)
        kind: Any = _SharedDirect if direct else _SharedTCP
        port: Any = kind._fromListeningDescriptor(
            self._reactor, found.fileno(), found.family, factory
        )
        port.tally = self.tally
        port.startListening()
        return port  # type: ignore[no-any-return]

    def _adopt_unix(self, found: socket.socket, factory: IProtocolFactory) -> IListeningPort:
        port: Any = _SharedUNIX._fromListeningDescriptor(  # type: ignore[no-untyped-call]
            self._reactor, found.fileno(), factory
        )
        port.tally = self.tally
        port.startListening()
        return port  # type: ignore[no-any-return]
