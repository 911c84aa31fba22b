"""
The protocol: bytes to lines and content, replies to bytes. It knows no verb.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from twisted.internet.interfaces import IHalfCloseableProtocol, IHandshakeListener, IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from smtpsvc.grammar import replies
from smtpsvc.grammar.commands import BARE
from smtpsvc.server.channel import (
    BY_READ_AHEAD,
    BY_TRANSPORT,
    BY_TURN,
    CLOSED,
    CONTENT,
    GONE,
    LINES,
    PARTING,
    PROMPT,
    SECURING,
    TURN,
    WAITING,
)
from smtpsvc.server.conversation import Conversation
from smtpsvc.server.deadlines import Timed
from smtpsvc.server.oddlines import OddLines
from smtpsvc.server.pausing import Pausing
from smtpsvc.server.secured import Securing, handshake_problem
from smtpsvc.settings import KIB
from smtpsvc.values import Peer

if TYPE_CHECKING:
    from smtpsvc.server.factory import SMTPFactory
    from smtpsvc.server.tables import Command

#: What is kept of a client for the next read is counted if it is more than a line or two.
_LITTLE: Final = 4 * KIB

#: A piece of content this long counts as progress; so does a whole line.
_PROGRESS: Final = 512


@implementer(IHalfCloseableProtocol, IHandshakeListener, IPushProducer)
class SMTPProtocol(Pausing, Securing, Timed, OddLines, Protocol):
    """
    One connection.

    No LineReceiver, which copies the rest of its buffer for each pipelined line (0.60 against
    0.18 µs a line in a read of 64 KiB). Registered as its transport's streaming producer: a client
    that does not read its replies is not read either.

    :param factory: has the settings.
    :param peer: who is there.
    """

    #: For whom the connection counts, or None.
    client: str | None = None
    factory: SMTPFactory
    # An ITCPTransport, a TLS one or a test's: an IPushProducer and IConsumer in any case.
    transport: Any

    def __init__(self, factory: SMTPFactory, peer: Peer) -> None:
        self.factory = factory
        #: Encoded replies, sent together when the read is done.
        self.out: list[bytes] = []
        self.conversation = Conversation(self, factory, peer)
        #: When the client last got on, by the sweep's clock.
        self.since = 0.0
        #: Why the client is not read, as bits of ``channel.BY_*``; 0 if it is.
        self.paused = 0
        #: Bytes of content so far.
        self.octets = 0
        # As many at the last progress.
        self._progress = 0
        # What of the client is counted in the budget, and of that what was left by the last read.
        self._counted = 0
        self._kept = 0
        # What has been read and not been taken.
        self._buffer = b""
        # Pieces that have come while nothing could be read, and their bytes together.
        self._gathered: list[bytes] = []
        self._gathered_size = 0
        self._skipping = False
        # True when the client has shut down its side.
        self._ended = False
        # True when we have closed the connection.
        self._losing = False

    # From the transport.

    def connectionMade(self) -> None:
        """The client is there."""
        factory = self.factory
        factory.connected(self)
        self.since = factory.sweep.now
        self.transport.registerProducer(self, True)
        self.open()
        if self.conversation.mode is LINES and not factory.turning:
            # Greeted, and that is all.
            self._send()
        else:
            self.wake()

    def dataReceived(self, data: bytes) -> None:
        """Take what has been read: now, or when its turn has come."""
        conversation = self.conversation
        mode = conversation.mode
        if mode is LINES:
            command = conversation.tables.commands.get(data)
            if command is not None and not (self.paused or self._buffer or self._gathered) and self._take(command):
                return
        if mode is CLOSED:
            return
        if mode is WAITING or self.paused or self.factory.reading is not None:
            self._gathered.append(data)
            self._gathered_size += len(data)
            self.count_unread(len(data))
            if mode is not WAITING and not self.paused:
                self.factory.read(self)
            elif self._gathered_size > self.factory.settings.limits.read_ahead or self.factory.budget.full:
                # Pausing late saves two calls of the poller for each hook that waits a moment.
                self.hold(BY_READ_AHEAD)
            return
        self._buffer = self._buffer + data if self._buffer else data
        self.factory.read(self)

    def _take(self, command: Command) -> bool:
        """
        Take a read that is one known line, as nearly all of a client are that waits for each reply.

        As :meth:`SMTPFactory.read` and :meth:`read` do, which take twice as long.

        :returns: False if more than that is to be done.
        """
        factory = self.factory
        conversation = self.conversation
        if factory.turning or self._skipping or self._ended:
            return False
        factory.turning = True
        factory.reading = self
        taken = True
        try:
            try:
                taken = conversation.obey(command)
                self.since = factory.sweep.now
                mode = conversation.mode
                if mode is LINES or mode is CONTENT:
                    out = self.out
                    if out:
                        data = b"".join(out)
                        out.clear()
                        self.transport.write(data)
                else:
                    if mode is PARTING:
                        conversation.part()
                    self._settle(b"", 0, False)
            except Exception:
                factory.broken(self)
            factory.reading = None
            while factory.ready:
                factory.ready.popleft()()
        finally:
            factory.turning = False
        return taken

    def readConnectionLost(self) -> None:
        """The client has shut down its side: what it is owed still goes out."""
        self._ended = True
        self.wake()

    def writeConnectionLost(self) -> None:
        """The client will take no reply any more."""
        self._lose_connection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone."""
        self.out.clear()
        self._gathered.clear()
        self._gathered_size = 0
        self._buffer = b""
        self._losing = True
        if self._counted:
            self.count_unread(-self._counted)
            self._kept = 0
        if self.paused:
            self.paused &= ~BY_TRANSPORT
            self.factory.budget.leave(self)
        self.tls = None
        if self.conversation.mode is SECURING:
            self.handshake_failed(handshake_problem(reason))
        self.conversation.lost(reason)
        # Behind the session's close(): with its last connection the service may stop the backend.
        self.factory.disconnected(self)
        self.conversation.channel = GONE

    # For the conversation.

    def wake(self) -> None:
        """Something has changed: send what is in :attr:`out`, and read on if that may be."""
        self.factory.read(self)

    # Reading.

    def read(self) -> None:
        """
        Take what there is, as far as the conversation takes it; called by the factory only.

        All replies of a read leave in one write.
        """
        conversation = self.conversation
        mode = conversation.mode
        if mode is WAITING:
            self._settle(self._buffer, 0, False)
            return
        buffer = self.take_unread() if self._gathered else self._buffer
        held = self.paused & BY_READ_AHEAD
        if held:
            self.paused &= ~BY_READ_AHEAD
        start = 0
        size = len(buffer)
        # Where the first content of this read began; -1 for none.
        content = -1
        out = self.out
        while start < size and not self.paused:
            mode = conversation.mode
            if mode is LINES and not self._skipping:
                taken = conversation.lines_received(buffer, start)
                if taken == start:
                    end = buffer.find(b"\r\n", start)
                    if end < 0:
                        break
                    taken = self._line(buffer, start, end)
                start = taken
                if len(out) >= TURN and not self.paused:
                    self.hold(BY_TURN)
                    self.factory.go_on_later(self)
            elif mode is CONTENT:
                if content < 0:
                    content = start
                start = self._content(buffer, start)
            elif mode is LINES or mode is PROMPT:
                end = buffer.find(b"\r\n", start)
                if end < 0:
                    break
                start = self._odd_line(buffer, start, end)
            else:
                break
        if conversation.mode is PARTING:
            # Nothing more is read, so it does not matter that reading is paused.
            conversation.part()
        if start and content:
            # A command was taken whole. Of content each piece says for itself whether it is progress.
            self.since = self.factory.sweep.now
        mode = conversation.mode
        if start == size and (mode is LINES or mode is CONTENT) and not (held or self._kept or self._ended):
            # So it is nearly always: everything was taken, and there is something to say.
            self._buffer = b""
            if out:
                self._send()
            return
        self._settle(buffer, start, bool(held))

    def _line(self, buffer: bytes, start: int, end: int) -> int:
        """
        Take a whole line that is not known.

        :returns: the offset behind its CRLF.
        """
        line = buffer[start:end]
        if len(line) > self.factory.settings.limits.line_length - 2 or line.translate(None, BARE) != line:
            return self._odd_line(buffer, start, end)
        self.conversation.line_received(line)
        return end + 2

    def _settle(self, buffer: bytes, start: int, held: bool) -> None:
        """
        Keep what was not taken, send what is to be sent.

        :param held: the transport was paused since enough had been read ahead.
        """
        conversation = self.conversation
        rest = buffer[start:] if start else buffer
        if rest and not self.paused and conversation.mode <= PROMPT:
            rest = self._partial_line(rest)
        mode = conversation.mode
        if mode is CLOSED:
            rest = b""
            self.take_unread()
        self._buffer = rest
        if rest or self._kept:
            kept = len(rest) if len(rest) > _LITTLE else 0
            if kept != self._kept:
                self.count_unread(kept - self._kept)
                self._kept = kept
        if self.out:
            self._send()
        if mode is SECURING:
            self.begin_tls()
        if held:
            if mode is WAITING and len(rest) > self.factory.settings.limits.read_ahead:
                self.paused |= BY_READ_AHEAD
            elif not self.paused and not self._ended and mode is not CLOSED and self.transport is not None:
                self.transport.resumeProducing()
        if mode is CLOSED or (self._ended and mode is not WAITING and not self.paused and not self._gathered):
            # Either side has ended, and everything that the client sent has been answered.
            self._lose_connection()

    def _content(self, buffer: bytes, start: int) -> int:
        """Give content to the conversation, and see whether the client gets on."""
        receiver = self.conversation.receiver
        assert receiver is not None
        end = receiver.feed(buffer, start)
        octets = self.octets = self.octets + end - start
        if octets - self._progress >= _PROGRESS or buffer.find(b"\n", start, end) >= 0:
            self._progress = octets
            self.since = self.factory.sweep.now
        return end

    def _send(self) -> None:
        out = self.out
        data = b"".join(out)
        out.clear()
        if self.transport is not None:
            self.transport.write(data)

    # Ends.

    def shut_down(self) -> None:
        """Tell the client that the service ends, and close."""
        self.conversation.close(replies.SHUTTING_DOWN)

    def wind_down(self) -> None:
        """Tell the client that the service ends, and close, when no transaction is open any more."""
        self.conversation.wind_down()

    def cut_off(self) -> None:
        """Tell the client that the service ends now, and close."""
        self.conversation.cut_off(replies.SHUTTING_DOWN)

    @property
    def over(self) -> bool:
        """True once it was closed from our side: at most its last octets are to be sent."""
        return self.conversation.mode is CLOSED

    def abort(self) -> None:
        """Drop the connection at once."""
        if self.transport is not None:
            self.transport.abortConnection()

    def _lose_connection(self) -> None:
        transport = self.transport
        if transport is None or self._losing:
            return
        self._losing = True
        # TLS waits for the producer before it closes.
        transport.unregisterProducer()
        transport.loseConnection()
