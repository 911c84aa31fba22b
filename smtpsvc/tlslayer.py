"""
TLS on a :class:`~smtpsvc.transport.DirectServer`: Twisted's own, with memory that is bounded and fewer packets.

Twisted's layer decrypts all that was read, however long the protocol has been paused by then, in pieces of a
record. Here no record is decrypted while the protocol is paused, several are delivered as one, and what is
written leaves in the turn in which it was written: the session tickets in one packet with the greeting.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Final

from OpenSSL import SSL
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall, ISSLTransport
from twisted.internet.main import CONNECTION_LOST
from twisted.internet.protocol import Protocol, connectionDone
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python import log
from twisted.python.failure import Failure
from zope.interface import directlyProvides

#: What is read of a client at once: twice as much after each read that was full, half as much when a pause has left
#: some of it. To read the most is 1.2 times as fast as to read 64 KiB.
READ_LEAST: Final = 16 * 1024
READ_MOST: Final = 512 * 1024
#: What is read before a pause stays in memory. Of all connections together it is so much, beyond the least of each.
READ_ALL: Final = 16 * 1024 * 1024
#: What OpenSSL is given at once, of small reads and of large ones. Its buffer never shrinks again.
_SLICE: Final = 16 * 1024
_LARGE_SLICE: Final = 64 * 1024
_LARGE: Final = 256 * 1024
#: Records, which have 16 KiB at most (RFC 8446 §5.1), are put together up to so much content, or to what is read at
#: once if that is less.
_PIECE: Final = 64 * 1024
_RECORD: Final = 16 * 1024
_SENT: Final = 64 * 1024


class TLSLayer(TLSMemoryBIOProtocol):
    """
    Stands between a DirectServer and its protocol.

    :param creator: as for ``startTLS``.
    :param client: speak TLS as a client does.
    :param below: the connection.
    """

    #: How many connections have TLS now.
    open: ClassVar[int] = 0
    #: True while the protocol wants no data.
    paused = False
    _tlsConnection: Any = None

    def __init__(self, creator: Any, client: bool, below: Securable) -> None:
        factory = TLSMemoryBIOFactory(creator, client, None, below.reactor)  # type: ignore[arg-type]
        super().__init__(factory, below.protocol, False)  # type: ignore[no-untyped-call]
        self._below = below
        # What was read, and how far OpenSSL has it.
        self._wire = b""
        self._place = 0
        # How much of it OpenSSL has, and may not have decrypted.
        self._given = 0
        self._taking = False
        # What is written while data is delivered, or None.
        self._written: list[bytes] | None = None
        self._call: IDelayedCall | None = None
        # Tells the protocol how much waits here, if it wants to know.
        self._count: Any = getattr(below.protocol, "count_unread", None)
        self._counted = 0

    def begin(self, transport: Any, client: bool) -> None:
        """
        Begin on a connection that has been made.

        :param transport: takes the records.
        :param client: we speak first.
        """
        # What connectionLost undoes comes before the creator, which may raise.
        TLSLayer.open += 1
        self.factory.registerProtocol(self)
        # As the base does, without the interfaces that nobody asks for here: that takes 0.1 ms.
        self._tlsConnection = self.factory._creatorCallable(self)
        self._appSendBuffer: list[bytes] = []
        Protocol.makeConnection(self, transport)
        if client:
            self._checkHandshakeStatus()  # type: ignore[no-untyped-call]

    # Reading.

    def dataReceived(self, data: bytes) -> None:
        """Take what was read."""
        below = self._below
        size = len(data)
        self._wire = self._wire[self._place :] + data if self._left else data
        self._place = 0
        self._take()
        wanted = below._read_size
        if self._left:
            wanted = size // 2
        elif size >= wanted and not self.paused:
            wanted = size * 2
        below._read_size = max(READ_LEAST, min(wanted, READ_MOST, READ_ALL // TLSLayer.open))

    @property
    def _left(self) -> int:
        """How much has been read and not been delivered, in bytes as they came."""
        return len(self._wire) - self._place + self._given

    def resume(self) -> bool:
        """
        The protocol wants data again.

        :returns: True if more can be read; False if something is left here, which goes first, and soon.
        """
        self.paused = False
        if self._taking or not self._left:
            return True
        if self._call is None:
            self._call = self._below.reactor.callLater(0, self._go_on)
        return False

    def _go_on(self) -> None:
        """Deliver what was left, then read on."""
        self._call = None
        self._below.deliver_left(self._take)
        if not self.paused and not self._left and self.connected:
            self._below.startReading()

    def _take(self) -> None:
        """Decrypt and deliver until the protocol pauses, or nothing is left."""
        self._taking = True
        try:
            while not (self.paused or self._lostTLSConnection or self._aborted):
                if self._handshakeDone:
                    if self._appSendBuffer:
                        self._unbufferPendingWrites()  # type: ignore[no-untyped-call]
                    if not self._take_piece():
                        break
                elif self._give():
                    self._checkHandshakeStatus()  # type: ignore[no-untyped-call]
                else:
                    break
        finally:
            self._taking = False
        if self._lostTLSConnection or self._aborted:
            self._forget()
        elif self._place and self._place == len(self._wire):
            self._wire, self._place = b"", 0
        self._flushSendBIO()
        if self._count is not None and self._left != self._counted:
            left = self._left
            self._count(left - self._counted)
            self._counted = left

    def _give(self) -> bool:
        """Give OpenSSL the next of what was read; False if there is no more."""
        wire, place = self._wire, self._place
        if place == len(wire):
            self._given = 0
            return False
        most = _LARGE_SLICE if len(wire) >= _LARGE else _SLICE
        part = wire if len(wire) <= most else memoryview(wire)[place : place + most]
        self._tlsConnection.bio_write(part)
        self._given = len(part)
        self._place = place + len(part)
        return True

    def _take_piece(self) -> bool:
        """
        Decrypt some records, and deliver them as one.

        :returns: False if there were none.
        """
        recv = self._tlsConnection.recv
        pieces = []
        size = 0
        end: Exception | None = None
        enough = min(_PIECE, self._below._read_size)
        while size < enough:
            try:
                piece = recv(_RECORD)
            except SSL.WantReadError:
                if self._give():
                    continue
                break
            except SSL.Error as error:
                end = error
                break
            pieces.append(piece)
            size += len(piece)
        if pieces and not self.disconnecting:
            self._deliver(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if end is None:
            return bool(pieces)
        if isinstance(end, SSL.ZeroReturnError):
            # The client has said farewell.
            self._shutdownTLS()  # type: ignore[no-untyped-call]
            self._tlsShutdownFinished(None)  # type: ignore[no-untyped-call]
        else:
            self._tlsShutdownFinished(Failure(end))  # type: ignore[no-untyped-call]
        return False

    def _deliver(self, data: bytes) -> None:
        self._written = []
        try:
            self.wrappedProtocol.dataReceived(data)
        except BaseException:
            # It gets nothing more, and the connection is lost for this reason.
            self.paused = True
            self._forget()
            raise
        finally:
            self._flush()

    def _flushReceiveBIO(self) -> None:
        """The connection is gone in its handshake: let OpenSSL say how it ended."""
        self._take_piece()

    def _forget(self) -> None:
        self._wire, self._place, self._given = b"", 0, 0

    # Writing.

    def write(self, data: bytes) -> None:
        """Send *data*: with what else is written while data is delivered, or now."""
        if self._written is not None and not self.disconnecting:
            self._written.append(data)
        else:
            super().write(data)  # type: ignore[no-untyped-call]

    def writeSequence(self, iovec: Any) -> None:
        """Send several pieces as one."""
        self.write(b"".join(iovec))

    def _flush(self) -> None:
        written, self._written = self._written, None
        if written:
            super().write(written[0] if len(written) == 1 else b"".join(written))  # type: ignore[no-untyped-call]

    def _flushSendBIO(self) -> None:
        """Send the records that there are."""
        try:
            while True:
                records = self._tlsConnection.bio_read(_SENT)
                self.transport.write(records)  # type: ignore[union-attr]
                if len(records) < _SENT:
                    break
        except SSL.WantReadError:
            pass

    # Ends.

    def loseConnection(self) -> None:
        """Send what was written, and TLS's farewell; then close, with the client's."""
        self._flush()
        super().loseConnection()  # type: ignore[no-untyped-call]
        if self.paused and self.resume():
            # Nothing is delivered any more, but the client's farewell is waited for.
            self._below.startReading()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone."""
        TLSLayer.open -= 1
        call, self._call = self._call, None
        if call is not None:
            call.cancel()
        if self._tlsConnection is None:
            # There was never any.
            self._lostTLSConnection = True
        if self._handshakeDone and not self._lostTLSConnection:
            # All that came was decrypted, and no farewell was in it: OpenSSL would say so in 40 µs.
            self._lostTLSConnection = True
            if reason.check(ConnectionDone):
                reason = Failure(CONNECTION_LOST)
        super().connectionLost(reason)  # type: ignore[no-untyped-call]
        self._forget()


class _Below:
    """
    The connection below TLS.

    :param below: whose own methods would go through TLS.
    :param bypass: a class with those that do not.
    """

    def __init__(self, below: Securable, bypass: type) -> None:
        self._below = below
        self._bypass = bypass

    def write(self, data: bytes) -> None:
        """Send records."""
        self._bypass.write(self._below, data)  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._bypass, name, None)
        return getattr(self._below, name) if method is None else method.__get__(self._below)


class Securable:
    """The part of a :class:`~smtpsvc.transport.DirectServer` that TLS can be started on."""

    #: Its methods, called with the connection, do not go through TLS.
    _bypass: type
    _read_size: int
    _tlsClientDefault: bool
    TLS: bool

    if TYPE_CHECKING:
        reactor: Any
        protocol: Any
        producer: Any
        streamingProducer: bool
        connected: Any
        disconnecting: Any
        disconnected: Any
        delivering: bool

        def startReading(self) -> None: ...

        def stopReading(self) -> None: ...

        def registerProducer(self, producer: Any, streaming: bool) -> None: ...

        def unregisterProducer(self) -> None: ...

        def _sendWritten(self) -> Any: ...

        def _disconnect(self, why: Exception, reading: bool) -> None: ...

    def startTLS(self, ctx: Any, normal: bool = True) -> None:
        """
        Begin TLS behind what has been written.

        :param ctx: an ``IOpenSSLServerConnectionCreator``, or whatever Twisted takes in its place.
        :param normal: if False, we are the client of TLS.
        """
        client = self._tlsClientDefault == normal
        # A producer is paused through TLS from now on.
        producer, streaming = self.producer, self.streamingProducer
        if producer is not None:
            self.unregisterProducer()
        self.protocol = layer = TLSLayer(ctx, client, self)
        self.getHandle = layer.getHandle
        self.getPeerCertificate = layer.getPeerCertificate
        directlyProvides(self, ISSLTransport)
        self.TLS = True
        self._read_size = READ_LEAST
        layer.begin(_Below(self, self._bypass), client)
        if producer is not None:
            self.registerProducer(producer, streaming)

    def pauseProducing(self) -> None:
        """Deliver no data."""
        if self.TLS:
            self.protocol.paused = True
        self.stopReading()

    def resumeProducing(self) -> None:
        """Deliver data again."""
        if self.connected and not self.disconnecting and (not self.TLS or self.protocol.resume()):
            self.startReading()

    def deliver_left(self, deliver: Callable[[], None]) -> None:
        """
        Let TLS deliver what it had read before a pause, as if it were read now.

        :param deliver: does so.
        """
        if self.disconnected:
            return
        why: Any = None
        self.delivering = True
        try:
            deliver()
        except BaseException as error:
            log.err()
            why = error
        finally:
            self.delivering = False
        why = why or self._sendWritten()
        if why:
            self._disconnect(why, False)
