"""
A client in memory, and time that passes when the test says so.
"""

from __future__ import annotations

from base64 import b64encode
from contextlib import suppress
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IAddress
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from smtpsvc.grammar.replies import Reply
from smtpsvc.server.factory import SMTPFactory
from smtpsvc.server.secured import begin_secured
from smtpsvc.settings import Role, Settings
from smtpsvc.values import TLSInfo

__all__ = ["Wire", "WireTransport", "clocked_factory", "parse_replies"]


class WireTransport(StringTransport):
    """
    A transport in memory that counts its writes, and delivers nothing while it is paused.

    :ivar writes: the pieces written, one for each call.
    """

    #: Unread replies past this pause the producer, as Twisted's transports do.
    BUFFER_SIZE = 64 * 1024

    def __init__(self, peer: IAddress, host: IAddress | None = None) -> None:
        super().__init__(hostAddress=host, peerAddress=peer)  # type: ignore[no-untyped-call]
        self.writes: list[bytes] = []
        self.protocol: Any = None
        self._unread: list[bytes | None] = []
        self._delivering = False
        # Bytes that the client has not read; None while it reads.
        self._unsent: int | None = None
        self._pressed = False

    def write(self, data: bytes) -> None:
        """Take what the server sends."""
        self.writes.append(data)
        super().write(data)  # type: ignore[no-untyped-call]
        if self._unsent is not None:
            self._unsent += len(data)
            if self._unsent > self.BUFFER_SIZE and not self._pressed and self.producer is not None:
                self._pressed = True
                self.producer.pauseProducing()

    def value(self) -> bytes:
        """Everything that was written."""
        return b"".join(self.writes)

    def deliver(self, data: bytes | None) -> None:
        """Give *data* to the protocol, now or when it reads again; None is the end of the client's side."""
        self._unread.append(data)
        self._deliver()

    def resumeProducing(self) -> None:
        """Read again."""
        super().resumeProducing()  # type: ignore[no-untyped-call]
        self._deliver()

    def _deliver(self) -> None:
        if self._delivering:
            return
        self._delivering = True
        try:
            while self._unread and self.producerState == "producing" and not self.disconnecting:
                data = self._unread.pop(0)
                if data is None:
                    self.protocol.readConnectionLost()
                else:
                    self.protocol.dataReceived(data)
        finally:
            self._delivering = False

    def stop_taking(self) -> None:
        """The client no longer reads replies."""
        self._unsent = 0

    def take(self) -> None:
        """The client has read all replies, and goes on reading."""
        self._unsent, pressed, self._pressed = None, self._pressed, False
        if pressed and self.producer is not None:
            self.producer.resumeProducing()


class Wire:
    """
    A client of *factory*, in memory, that connects at once.

    Whatever the server sends is in :attr:`output`; its replies are parsed in :attr:`replies`.

    :param factory: an :class:`~smtpsvc.SMTPFactory`, or anything that builds a protocol.
    :param address: where the client comes from.
    """

    #: Makes the transport of two addresses.
    make_transport: type[WireTransport] = WireTransport

    def __init__(self, factory: Any, address: IAddress | None = None) -> None:
        address = address or IPv4Address("TCP", "192.0.2.1", 50000)
        self.factory = factory
        self.transport = self.make_transport(address, IPv4Address("TCP", "198.51.100.1", 25))
        self.protocol = self.transport.protocol = factory.buildProtocol(address)
        self.lost = False
        self._seen = self._seen_writes = 0
        self.protocol.makeConnection(self.transport)

    # What the client does.

    def receive(self, data: bytes) -> Wire:
        """Let the server read *data* as one packet: at once, or when it reads again."""
        self.transport.deliver(data)
        self._settle()
        return self

    def say(self, *lines: str | bytes) -> Wire:
        """Send lines, one packet each; CRLF is added, and str is sent as UTF-8."""
        for line in lines:
            self.receive((line.encode() if isinstance(line, str) else line) + b"\r\n")
        return self

    def greeted(self, name: str = "client.example") -> Wire:
        """Say EHLO, or LHLO to an LMTP listener; replies and counts start afresh after it."""
        return self.say(f"{'LHLO' if getattr(self.factory, 'role', None) is Role.LMTP else 'EHLO'} {name}").forget()

    def forget(self) -> Wire:
        """Let replies and counts start afresh."""
        self._seen = len(self.transport.value())
        self._seen_writes = len(self.transport.writes)
        return self

    def stop_taking(self) -> Wire:
        """Read no more replies: past 64 KiB of them the server is told."""
        self.transport.stop_taking()
        return self

    def take(self) -> Wire:
        """Read all replies, and go on reading."""
        self.transport.take()
        self._settle()
        return self

    def shut_down_sending(self) -> Wire:
        """End the client's side of the connection; it still takes replies."""
        self.transport.deliver(None)
        self._settle()
        return self

    def send(self, sender: str, *recipients: str, content: str | bytes = b"") -> list[Reply]:
        """
        Send a whole message by MAIL, RCPT and DATA; the dialogue must have begun (see :meth:`greeted`).

        :param sender: an address; "" for ``<>``.
        :param content: its lines may end in LF or CRLF; dots are doubled as they must be. str is sent as UTF-8.
        :returns: the replies, from that to MAIL on; without one to the content if no 354 came.
        """
        before = len(self.replies)
        self.say(f"MAIL FROM:<{sender}>", *(f"RCPT TO:<{recipient}>" for recipient in recipients), "DATA")
        if not self.closed and self.replies[before:] and self.last_reply.code == 354:
            lines = (content.encode() if isinstance(content, str) else content).splitlines()
            stuffed = [b"." + line if line.startswith(b".") else line for line in lines]
            self.receive(b"".join(line + b"\r\n" for line in [*stuffed, b"."]))
        return self.replies[before:]

    def log_in(self, name: str, password: str) -> Wire:
        """
        Log in by AUTH PLAIN (RFC 4616); :attr:`last_reply` says whether that went well.

        The server must offer it: on a line without TLS only with ``allow_insecure_auth``, or behind
        :meth:`pretend_tls`.
        """
        return self.say(f"AUTH PLAIN {b64encode(f'{chr(0)}{name}{chr(0)}{password}'.encode()).decode()}")

    def pretend_tls(self, tls: TLSInfo | None = None) -> Wire:
        """
        Let the server take the connection for one with TLS, without a handshake.

        Everything follows as after STARTTLS: the dialogue begins anew, so EHLO comes next, and an
        :class:`~smtpsvc.interfaces.ISecured` session is asked.

        :param tls: what the TLS is; any TLS 1.3 if None.
        """
        conversation = self.protocol.conversation
        begin_secured(conversation, tls or TLSInfo("TLSv1.3", "TLS_AES_256_GCM_SHA384"))
        conversation.channel.wake()
        self._settle()
        return self

    def hang_up(self, reason: Exception | None = None) -> Wire:
        """Lose the connection."""
        if not self.lost:
            self.lost = True
            self.protocol.connectionLost(Failure(reason or ConnectionLost()))
        return self

    def _settle(self) -> None:
        self._take_turns()
        # As a real transport does: a connection that was closed is lost soon after.
        if not self.lost and self.closed:
            self.hang_up(ConnectionDone())

    def _take_turns(self) -> None:
        while getattr(self.factory, "turns", None):
            self.factory.go_on()

    # What the client sees.

    @property
    def output(self) -> bytes:
        """What the server has sent, since :meth:`forget`."""
        self._take_turns()
        return self.transport.value()[self._seen :]

    @property
    def replies(self) -> list[Reply]:
        """The server's replies, since :meth:`forget`; an enhanced code is parsed off."""
        return parse_replies(self.output)

    @property
    def codes(self) -> list[int]:
        """The codes of :attr:`replies`."""
        return [reply.code for reply in self.replies]

    @property
    def last_reply(self) -> Reply:
        """The last of :attr:`replies`."""
        return self.replies[-1]

    @property
    def write_count(self) -> int:
        """How often the server wrote, since :meth:`forget`."""
        return len(self.transport.writes) - self._seen_writes

    @property
    def closed(self) -> bool:
        """True if the server has closed the connection."""
        return bool(self.transport.disconnecting or self.transport.disconnected)

    @property
    def reading(self) -> bool:
        """True if the server reads what the client sends."""
        return self.transport.producerState == "producing"


def parse_replies(output: bytes) -> list[Reply]:
    """
    Parse a server's output.

    :raises ValueError: if it is no sequence of well-formed reply lines of at most 512 octets (RFC 5321 §4.2).
    """
    found: list[Reply] = []
    texts: list[str] = []
    before = b""
    *lines, rest = output.split(b"\r\n")
    for line in lines:
        code, mark, text = line[:3], line[3:4], line[4:].decode("ascii")
        well_formed = code.isdigit() and mark in (b" ", b"-") and text.isprintable() and len(line) <= 510
        if not well_formed or (texts and code != before):
            raise ValueError(f"{line!r} is no reply line, or none of this reply")
        before = code
        texts.append(text)
        if mark == b" ":
            found.append(_parsed(int(code), texts))
            texts = []
    if rest or texts:
        raise ValueError(f"the last reply has no end: {output[-80:]!r}")
    return found


def _parsed(code: int, texts: list[str]) -> Reply:
    enhanced, space, _ = texts[0].partition(" ")
    if space:
        with suppress(ValueError):
            Reply(code, "", enhanced)
            return Reply(code, "\n".join(text.removeprefix(enhanced).removeprefix(" ") for text in texts), enhanced)
    return Reply(code, "\n".join(texts))


def clocked_factory(backend: Any, settings: Settings | None = None, **options: Any) -> tuple[SMTPFactory, Clock]:
    """
    Make a factory whose time is a Clock's.

    :returns: both; ``clock.advance(seconds)`` lets deadlines pass.
    """
    clock = Clock()
    return SMTPFactory(backend, settings, clock=clock, wall_clock=clock.seconds, **options), clock
