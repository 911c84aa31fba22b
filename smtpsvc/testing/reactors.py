"""
A reactor of one's own: not the one of the process, for a thread.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, Any

from twisted.internet import tcp, unix
from twisted.internet._newtls import _BypassTLS
from twisted.internet.abstract import FileDescriptor
from twisted.internet.interfaces import ISSLTransport
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface import directlyProvides

if TYPE_CHECKING or not hasattr(select, "epoll"):
    from twisted.internet.selectreactor import SelectReactor as _Reactor
else:
    from twisted.internet.epollreactor import EPollReactor as _Reactor

__all__ = ["PrivateReactor"]


class _Timed:
    """A connection whose TLS is timed by its own reactor; Twisted takes that of the process."""

    def startTLS(self: Any, ctx: Any, normal: bool = True) -> None:
        """Begin TLS behind what has been written, as ``twisted.internet._newtls`` does."""
        producer, streaming = self.producer, self.streamingProducer
        if producer is not None:
            self.unregisterProducer()
        factory = TLSMemoryBIOFactory(ctx, self._tlsClientDefault == normal, None, self.reactor)  # type: ignore[arg-type]
        layer: Any = factory.protocol(factory, self.protocol, False)
        self.protocol = layer
        self.getHandle = layer.getHandle
        self.getPeerCertificate = layer.getPeerCertificate
        directlyProvides(self, ISSLTransport)
        self.TLS = True
        layer.makeConnection(_BypassTLS(FileDescriptor, self))
        if producer is not None:
            self.registerProducer(producer, streaming)


class _TCPServer(_Timed, tcp.Server):
    pass


class _TCPClient(_Timed, tcp.Client):
    pass


class _TCPConnector(tcp.Connector):
    def _makeTransport(self) -> _TCPClient:
        return _TCPClient(  # type: ignore[no-untyped-call]
            self.host, self.port, self.bindAddress, self, self.reactor
        )


class _TCPPort(tcp.Port):
    transport = _TCPServer


class _UNIXServer(_Timed, unix.Server):
    pass


class _UNIXPort(unix.Port):
    transport = _UNIXServer


class PrivateReactor(_Reactor):
    """
    A reactor that is nobody else's: any number may be made, and each runs once, in a thread of its own.

    ``from twisted.internet import reactor`` neither finds it nor is made by it, and it takes no signals. It
    serves TCP and unix sockets, time and threads; processes are not for it.
    """

    # Else this thread would be taken for that of the process's reactor.
    _registerAsIOThread = False

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        """Listen on TCP."""
        opened: Any = _TCPPort(port, factory, backlog, interface, self)
        opened.startListening()
        return opened

    def connectTCP(self, host: str, port: int, factory: Any, timeout: float = 30, bindAddress: Any = None) -> Any:
        """Connect by TCP."""
        connector: Any = _TCPConnector(host, port, factory, timeout, bindAddress, self)
        connector.connect()
        return connector

    def listenUNIX(
        self, address: Any, factory: Any, backlog: int = 50, mode: int = 0o666, wantPID: bool = False
    ) -> Any:
        """Listen on a unix socket."""
        opened: Any = _UNIXPort(address, factory, backlog, mode, self, wantPID)
        opened.startListening()
        return opened

    def close(self) -> None:
        """Give back its descriptors, when it has stopped."""
        for reader in tuple(self._internalReaders):
            self.removeReader(reader)  # type: ignore[no-untyped-call]
            reader.connectionLost(None)
        self._internalReaders.clear()
        poller = getattr(self, "_poller", None)
        if poller is not None:
            poller.close()
