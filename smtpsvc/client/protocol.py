"""
What carries a dialogue: octets to and from a transport, TLS, and a look at the clock.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.internet import tcp
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall, IHandshakeListener, IPushProducer, IReactorTime, ITLSTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from smtpsvc.client.connection import Connection
from smtpsvc.client.dialogue import Dialogue
from smtpsvc.client.errors import ClientError, Stage, TLSFailed
from smtpsvc.client.opening import open_dialogue
from smtpsvc.client.options import Options
from smtpsvc.client.security import binding, creator, tls_info
from smtpsvc.values import TLSInfo

#: Seconds between two looks at the clock are at most so many: that late may a timeout be noticed.
_LONGEST: Final = 15.0

#: Octets up to which a write is sent at once.
_SMALL: Final = 64 * 1024


@implementer(IHandshakeListener, IPushProducer)
class ClientProtocol(Protocol):
    """
    One connection.

    :param host: what was connected to, for the server's certificate; "" if that has no name.
    :ivar opened: a Deferred of the :class:`~smtpsvc.client.connection.Connection`, once it is ready for mail.
    """

    def __init__(self, options: Options, clock: IReactorTime, host: str = "") -> None:
        self._options = options
        self._clock = clock
        self._call: IDelayedCall | None = None
        self._closed: list[Deferred[ClientError]] | None = []
        self._secure = False
        # True while the transport has a socket of its own, and no TLS on it.
        self._plain = False
        # What was written for the read that is going on; None while there is none.
        self._gathered: list[bytes] | None = None
        self._size = 0
        times = options.timeouts
        self._period = min(_LONGEST, min(times.of(stage) for stage in Stage) / 4)
        self.dialogue = Dialogue(self, clock, times)
        self.connection = Connection(self, self.dialogue, options, host)
        self.opened: Deferred[Connection] = Deferred(self._cancelled)

    # Twisted calls these.

    def connectionMade(self) -> None:
        """Begin the dialogue."""
        transport: Any = self.transport
        set_no_delay = getattr(transport, "setTcpNoDelay", None)
        if set_no_delay is not None:
            # The end of a message must not wait for the acknowledgement of its beginning.
            set_no_delay(True)
        transport.registerProducer(self, True)
        self._plain = type(transport) is tcp.Client
        opening = Deferred.fromCoroutine(open_dialogue(self.connection))
        opening.addCallbacks(self._ready, self._failed)

    def dataReceived(self, data: bytes) -> None:
        """Take octets from the server; what is written for them leaves in one write."""
        gathered: list[bytes] = []
        self._gathered = gathered
        self._size = 0
        try:
            self.dialogue.received(data)
        finally:
            self._gathered = None
            if gathered:
                self._send(gathered[0] if len(gathered) == 1 else b"".join(gathered))

    def handshakeCompleted(self) -> None:
        """TLS is there."""
        transport: Any = self.transport
        if transport.disconnecting:
            # The certificate was no good; the reason follows.
            return
        self._secure = True
        self._secured(tls_info(transport.getHandle()))

    def _secured(self, tls: TLSInfo) -> None:
        self.connection.tls = tls
        self.dialogue.secured()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone."""
        self._plain = False
        why = "the server closed the connection" if reason.check(ConnectionDone) else "the connection was lost"
        self.dialogue.lost(reason.value or ConnectionDone(), why)
        if self._call is not None:
            self._call.cancel()
            self._call = None
        waiting, self._closed = self._closed, None
        error = self.dialogue.error
        for each in waiting or ():
            each.callback(error)  # type: ignore[arg-type]

    def pauseProducing(self) -> None:
        """The transport takes no more for now."""
        self.dialogue.pause()

    def resumeProducing(self) -> None:
        """The transport takes more."""
        self.dialogue.resume()

    def stopProducing(self) -> None:
        """The transport takes no more for good; it tells :meth:`connectionLost` soon."""

    # The dialogue calls these.

    def write(self, data: bytes) -> None:
        """
        Send octets: with the rest that is written for what is being read, or now.

        :param data: much of it passes at once, so that the transport can say when it is too much.
        """
        gathered = self._gathered
        if gathered is None:
            self._send(data)
            return
        gathered.append(data)
        self._size += len(data)
        if self._size > _SMALL:
            self._flush()

    def _flush(self) -> None:
        gathered = self._gathered
        if gathered:
            data = b"".join(gathered)
            gathered.clear()
            self._size = 0
            self._send(data)

    def _send(self, data: bytes) -> None:
        """
        Send few octets at once, where nothing waits to be sent.

        Twisted's transport sends in the next turn of the reactor, by way of the poller; of a small message
        that is a quarter of the work. Many are left to it: they must not hold up the other connections.
        """
        transport: Any = self.transport
        if self._plain and len(data) <= _SMALL and not transport.dataBuffer and not transport._tempDataBuffer:
            try:
                sent = transport.socket.send(data)
            except OSError:
                # Full, or gone, which the transport will see.
                sent = 0
            if sent == len(data):
                return
            data = data[sent:]
        transport.write(data)

    def start_tls(self) -> None:
        """Begin TLS; a handshake that fails loses the connection."""
        self._flush()
        transport: Any = self.transport
        if not ITLSTransport.providedBy(transport):
            self.dialogue.fail(TLSFailed("TLS cannot begin on this kind of connection", Stage.TLS))
            return
        try:
            begin = creator(self._options, self.connection.host)
        except Exception as error:
            failure = TLSFailed(f"TLS cannot begin: {error}", Stage.TLS)
            failure.__cause__ = error
            self.dialogue.fail(failure)
            return
        self._plain = False
        transport.startTLS(begin)

    def close(self) -> None:
        """Close when all is sent."""
        self._flush()
        transport: Any = self.transport
        # TLS would wait for it to go.
        self._plain = False
        transport.unregisterProducer()
        transport.loseConnection()

    def abort(self) -> None:
        """Close at once."""
        transport: Any = self.transport
        self._plain = False
        abort = getattr(transport, "abortConnection", None)
        if abort is not None:
            abort()
        else:
            self.close()

    def watch(self) -> None:
        """Look at the clock now and then, as long as something is due."""
        if self._call is None:
            self._call = self._clock.callLater(self._period, self._look)

    def _look(self) -> None:
        self._call = None
        self.dialogue.tick()
        if self.dialogue.deadline is not None:
            self.watch()

    # The connection asks these.

    def when_closed(self) -> Deferred[ClientError]:
        """Give a Deferred that fires when the connection is closed."""
        done: Deferred[ClientError] = Deferred()
        if self._closed is None:
            done.callback(self.dialogue.error)  # type: ignore[arg-type]
        else:
            self._closed.append(done)
        return done

    def binding(self) -> tuple[str, bytes] | None:
        """What binds a login to the TLS."""
        return binding(self.transport.getHandle()) if self._secure else None  # type: ignore[union-attr]

    # How the opening ends.

    def _ready(self, _: object) -> None:
        if not self.opened.called:
            self.opened.callback(self.connection)

    def _failed(self, failure: Failure) -> None:
        if self.dialogue.error is None:
            error = failure.value
            self.dialogue.fail(error if isinstance(error, ClientError) else ClientError(str(error), Stage.HELLO))
        if not self.opened.called:
            self.opened.errback(failure)

    def _cancelled(self, opened: Deferred[Connection]) -> None:
        # First, so that nobody takes it for a fault of the server.
        opened.errback(CancelledError())
        self.dialogue.fail(ClientError("the opening was cancelled", self.dialogue.stage))
