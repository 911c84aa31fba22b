"""
Listening behind a proxy: the header of the PROXY protocol comes before everything else.

Until the header is whole nothing is sent and no hook is asked. Then the transport is handed over to
the protocol of the factory behind, with what the header says in its peer, and nothing of this module
stands between them any more.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IHalfCloseableProtocol,
    IHandshakeListener,
    IListeningPort,
    ILoggingContext,
    IProtocolFactory,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from smtpsvc.grammar.addresses import SyntaxProblem
from smtpsvc.grammar.proxyheader import ProxyHeader, ProxyHeaderReader, SocketAddress
from smtpsvc.server.factory import SMTPFactory
from smtpsvc.settings import Settings
from smtpsvc.values import Peer, TLSInfo

log = Logger(namespace="smtpsvc")


@implementer(IStreamServerEndpoint)
class ProxiedEndpoint:
    """
    An endpoint whose clients are proxies that send a PROXY header.

    :param endpoint: where; without TLS, since the header comes before the handshake. TLS of our own
        goes around this endpoint.
    """

    def __init__(self, endpoint: IStreamServerEndpoint) -> None:
        self.endpoint = endpoint

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """
        Listen.

        :param protocolFactory: an :class:`~smtpsvc.SMTPFactory`, or a factory around one.
        :returns: a Deferred of the port.
        :raises ValueError: with a sentence, if no proxy is trusted.
        """
        listening: Deferred[IListeningPort] = self.endpoint.listen(ProxiedFactory(protocolFactory))
        return listening


@implementer(ILoggingContext)
class ProxiedFactory(Factory):
    """
    Reads a PROXY header for another factory, which then makes a protocol for the client that it names.

    A connection that is not from one of ``settings.trusted_proxies`` is closed at once, and one whose
    header is malformed or does not come within ``settings.limits.proxy_timeout`` too; each with one line
    in the log.

    :param factory: an :class:`~smtpsvc.SMTPFactory`, or one around it that names it
        ``wrappedFactory``, as Twisted's do; its protocols name theirs ``wrappedProtocol``.
    :raises ValueError: with a sentence, if no proxy is trusted.
    """

    noisy = False

    def __init__(self, factory: Any) -> None:
        core = _innermost(factory, "wrappedFactory")
        if not isinstance(core, SMTPFactory):
            raise TypeError(f"{core!r} is no SMTPFactory: its protocols cannot be told who the client is")
        self.factory = factory
        #: Has the settings, and watches the deadline.
        self.core: SMTPFactory = core
        check_trust("haproxy:", core.settings)

    def doStart(self) -> None:
        """Start the factory behind."""
        super().doStart()  # type: ignore[no-untyped-call]
        self.factory.doStart()

    def doStop(self) -> None:
        """Stop the factory behind."""
        self.factory.doStop()
        super().doStop()  # type: ignore[no-untyped-call]

    def logPrefix(self) -> str:
        """Name the service in what Twisted logs of its ports."""
        return "smtpsvc"

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """
        Make a reader for a proxy's header.

        :returns: None for an address that is not trusted; the connection is closed then.
        """
        if not self.core.settings.trusts(addr):
            log.warn("{address} was closed: it is none of --trusted-proxies", address=_shown(addr))
            return None
        refusal = self.core.admission.refusal(HeaderProtocol.client, addr)
        if refusal is not None:
            return self.core.refused(addr, refusal)
        return HeaderProtocol(self, addr)


@implementer(IHalfCloseableProtocol, IHandshakeListener)
class HeaderProtocol(Protocol):
    """
    Waits for the header, then gives its transport away.

    A transport that calls its ``protocol`` or ``wrappedProtocol`` then calls the other one; for any
    other, calls are passed on.

    :param factory: has the factory behind.
    :param address: the proxy's.
    """

    #: It counts for nobody: the proxy is trusted.
    client: str | None = None

    def __init__(self, factory: ProxiedFactory, address: IAddress | None) -> None:
        self.factory: ProxiedFactory = factory
        self.address = address
        #: The protocol that the transport was given to, or None.
        self.successor: Any = None
        self._reader = ProxyHeaderReader()
        self._since = 0.0
        self._secured = False
        self._ended = False

    # From the transport.

    def connectionMade(self) -> None:
        """A proxy is there: wait for its header."""
        core = self.factory.core
        core.connected(self)
        self._since = core.sweep.now

    def dataReceived(self, data: bytes) -> None:
        """Take a part of the header, and what follows it."""
        if self.successor is not None:
            self.successor.dataReceived(data)
            return
        if self._ended:
            return
        try:
            header, rest = self._reader.feed(data)
        except SyntaxProblem as problem:
            self._refuse(str(problem))
            return
        if header is not None:
            self._hand_over(header, rest)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone; health checks without a header end so."""
        self._ended = True
        if self.successor is not None:
            self.successor.connectionLost(reason)
        else:
            self.factory.core.disconnected(self)

    def readConnectionLost(self) -> None:
        """The other side has shut down its side: without a whole header there is nothing to do for it."""
        if IHalfCloseableProtocol.providedBy(self.successor):
            self.successor.readConnectionLost()
        else:
            self._close()

    def writeConnectionLost(self) -> None:
        """The other side will take nothing any more."""
        if IHalfCloseableProtocol.providedBy(self.successor):
            self.successor.writeConnectionLost()
        else:
            self._close()

    def handshakeCompleted(self) -> None:
        """TLS around the header is ready; the successor hears of it."""
        self._secured = True
        if IHandshakeListener.providedBy(self.successor):
            self.successor.handshakeCompleted()

    # The hand-over.

    def _hand_over(self, header: ProxyHeader, rest: bytes) -> None:
        core = self.factory.core
        self._ended = True
        transport: Any = self.transport
        address = self.address if header.source is None else _address(header.source)
        # Its place is for its successor.
        core.admission.leave(self.client)
        try:
            successor = self.factory.factory.buildProtocol(address)
        finally:
            core.admission.enter(self.client)
        if successor is None:
            self._close()
            return
        peer = getattr(getattr(_innermost(successor, "wrappedProtocol"), "conversation", None), "peer", None)
        if peer is not None:
            introduce(peer, header, self.address)
        self.successor = successor
        for name in ("protocol", "wrappedProtocol"):
            if getattr(transport, name, None) is self:
                setattr(transport, name, successor)
        if header.source is not None:
            _rename(transport, address, _address(header.destination or header.source))
        successor.makeConnection(transport)
        # Not before: the last of the factory's connections ends its sweep.
        core.disconnected(self)
        if self._secured and IHandshakeListener.providedBy(successor):
            successor.handshakeCompleted()
        if rest:
            # TLS that comes first has put itself in front of the successor.
            (transport.protocol if core.implicit_tls else successor).dataReceived(rest)

    # For the factory behind, as one of its connections.

    def check_deadline(self, now: float) -> None:
        """Close if the header does not come."""
        timeout = self.factory.core.settings.limits.proxy_timeout
        if now - self._since > timeout and not self._ended:
            watch = self.factory.core.watch.limited
            if watch is not None:
                watch(Peer(self.address, self.factory.core.new_id()), "proxy-timeout")
            self._refuse(f"no whole PROXY header came within {timeout:g} s")

    def shut_down(self) -> None:
        """The service ends: close, and say nothing."""
        self._close()

    def wind_down(self) -> None:
        """The service ends: close, and say nothing."""
        self._close()

    def cut_off(self) -> None:
        """The service ends now: close, and say nothing."""
        self._close()

    @property
    def over(self) -> bool:
        """True once it was closed from our side."""
        return self._ended

    def abort(self) -> None:
        """Drop the connection at once."""
        self._ended = True
        transport: Any = self.transport
        if transport is not None:
            transport.abortConnection()

    def _refuse(self, problem: str) -> None:
        log.warn("{address} was closed: {problem}", address=_shown(self.address), problem=problem)
        self.abort()

    def _close(self) -> None:
        self._ended = True
        if self.transport is not None:
            self.transport.loseConnection()


def introduce(peer: Peer, header: ProxyHeader, proxy: IAddress | None) -> None:
    """
    Fill in what a header says of a client; its address is there already.

    :param proxy: where the header came from.
    """
    peer.proxy_header = header
    if header.local:
        return
    peer.proxied_by = proxy
    if header.destination is not None:
        peer.destination = _address(header.destination)
    tls = header.tls
    if tls is not None:
        peer.tls = TLSInfo(
            version=tls.version,
            cipher=tls.cipher,
            sni=header.authority,
            alpn=header.alpn,
            common_name=tls.common_name,
            verified=tls.verified,
            proxied=True,
        )


def check_trust(listener: str, settings: Settings, *, unix: bool | None = None) -> None:
    """
    Check that a listener with the ``haproxy:`` prefix has somebody to listen to.

    :param listener: names it in sentences.
    :param unix: whether it is a unix socket; None if that is not known.
    :raises ValueError: with a sentence that says what to give.
    """
    trusted = settings.trusted_proxies
    if not trusted:
        example = "unix" if unix else "192.0.2.10"
        raise ValueError(
            f"{listener}: no proxy is trusted, so nobody could connect; say which, such as --trusted-proxies {example}"
        )
    if unix and "unix" not in trusted:
        raise ValueError(
            f"{listener}: nobody is trusted on a unix socket; add the word unix, such as --trusted-proxies unix"
        )
    if unix is False and set(trusted) == {"unix"}:
        raise ValueError(
            f"{listener}: only unix sockets are trusted; add the proxy's address, such as --trusted-proxies 192.0.2.10"
        )


def _innermost(thing: Any, name: str) -> Any:
    """Go from a factory or protocol to the one within, as long as there is one."""
    while getattr(thing, name, None) is not None:
        thing = getattr(thing, name)
    return thing


def _address(address: SocketAddress) -> IPv4Address | IPv6Address:
    kind = IPv4Address if address.ip.version == 4 else IPv6Address
    return kind("TCP", str(address.ip), address.port)


def _rename(transport: Any, peer: IAddress | None, host: IAddress) -> None:
    """Let a transport tell the addresses that the client sees. On the object itself: a wrapper would slow each call."""
    try:
        transport.getPeer = lambda: peer
        transport.getHost = lambda: host
    except AttributeError:
        # It has slots. The protocol's peer has the addresses all the same.
        pass


def _shown(address: object) -> str:
    host, port = getattr(address, "host", None), getattr(address, "port", None)
    if host is None:
        return "a client of a unix socket"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
