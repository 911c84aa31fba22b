"""
For tests of mail code: a client in memory and a backend that follows a script.

No sockets and no sleeping: a :class:`Wire` carries octets to a factory and its replies back, and
time passes when the test says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IAddress
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import alsoProvides, implementer

from smtpsvc.grammar.addresses import Address
from smtpsvc.grammar.replies import Reply
from smtpsvc.interfaces import IConnection, ISession
from smtpsvc.server.factory import SMTPFactory
from smtpsvc.session import Backend, Delivery, Session
from smtpsvc.settings import Role, Settings
from smtpsvc.values import Envelope, Peer, Recipient

__all__ = ["Message", "ScriptedBackend", "ScriptedSession", "Wire", "WireTransport", "clocked_factory", "parse_replies"]


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


class Message:
    """
    A message that a :class:`ScriptedBackend` took, or a part of one.

    :ivar content: what was written so far.
    :ivar finished: True once ``finish`` was called.
    :ivar aborted: the reason, if ``abort`` was called.
    """

    def __init__(self, envelope: Envelope) -> None:
        self.envelope = envelope
        self.sender: Address = envelope.sender
        self.recipients: list[Address] = [recipient.address for recipient in envelope.recipients]
        self.content = b""
        self.finished = False
        self.aborted: Failure | None = None


class ScriptedBackend(Backend):
    """
    A backend that answers as it is told and remembers what it was asked.

    :param answers: by the hook's name (``open_session``, ``helo``, ``mail``, ``rcpt``, ``data``, ``write``,
        ``finish``, ``abort``, ``reset``, ``close``): an outcome, an exception to raise, or a function of the hook's
        arguments. Hooks without one consent. A list is used up, one answer a call; what comes after it consents.
    :param provides: optional interfaces that its sessions provide too, such as
        :class:`~smtpsvc.interfaces.IVerifier`; their methods are answered by the script as well.
    """

    def __init__(self, answers: Mapping[str, Any] | None = None, *, provides: Iterable[Any] = (), **more: Any) -> None:
        self.answers: dict[str, Any] = {**(answers or {}), **more}
        self.provides = tuple(provides)
        #: The hooks that were called, in order: the name and its arguments.
        self.calls: list[tuple[Any, ...]] = []
        #: The messages that were begun.
        self.messages: list[Message] = []
        self.sessions: list[ScriptedSession] = []

    @property
    def hooks(self) -> list[str]:
        """The names of :attr:`calls`."""
        return [call[0] for call in self.calls]

    def called(self, name: str) -> list[tuple[Any, ...]]:
        """The arguments of each call of one hook."""
        return [call[1:] for call in self.calls if call[0] == name]

    def answer(self, name: str, *args: Any, usual: Callable[[], Any] = lambda: None) -> Any:
        """Remember a call, and give what the script says or *usual*."""
        self.calls.append((name, *args))
        answer = self.answers.get(name)
        if isinstance(answer, list):
            answer = answer.pop(0) if answer else None
        if callable(answer) and not isinstance(answer, type):
            answer = answer(*args)
        if isinstance(answer, BaseException) or (isinstance(answer, type) and issubclass(answer, BaseException)):
            raise answer
        return usual() if answer is None else answer

    def open_session(self, peer: Peer, connection: IConnection) -> Any:
        """Open a session that follows the script."""
        return self.answer("open_session", peer, connection, usual=lambda: self.new_session(peer, connection))

    def new_session(self, peer: Peer, connection: IConnection) -> ScriptedSession:
        """Make a session that follows the script; for scripts that give one late."""
        session = ScriptedSession(self, peer, connection)
        for interface in self.provides:
            alsoProvides(session, interface)
            for name in interface.names():
                setattr(session, name, partial(self.answer, name))
        self.sessions.append(session)
        return session

    def new_delivery(self, envelope: Envelope) -> ScriptedDelivery:
        """Make a delivery that follows the script, and remember its message; for scripts that give one late."""
        message = Message(envelope)
        self.messages.append(message)
        return ScriptedDelivery(self, message)


@implementer(ISession)
class ScriptedSession(Session):
    """A session of a :class:`ScriptedBackend`."""

    def __init__(self, backend: ScriptedBackend, peer: Peer, connection: IConnection) -> None:
        self.backend = backend
        self.peer = peer
        self.connection = connection

    def helo(self, name: str) -> Any:
        """Follow the script."""
        return self.backend.answer("helo", name)

    def mail(self, envelope: Envelope) -> Any:
        """Follow the script."""
        return self.backend.answer("mail", envelope)

    def rcpt(self, envelope: Envelope, recipient: Recipient) -> Any:
        """Follow the script."""
        return self.backend.answer("rcpt", envelope, recipient)

    def data(self, envelope: Envelope) -> Any:
        """Follow the script; usually take the message and remember it."""
        return self.backend.answer("data", envelope, usual=lambda: self.backend.new_delivery(envelope))

    def reset(self, envelope: Envelope | None, upgraded: bool) -> Any:
        """Follow the script."""
        return self.backend.answer("reset", envelope, upgraded)

    def close(self, reason: Failure) -> Any:
        """Follow the script."""
        return self.backend.answer("close", reason)


class ScriptedDelivery(Delivery):
    """A delivery of a :class:`ScriptedBackend`: keeps the content in its :class:`Message`."""

    def __init__(self, backend: ScriptedBackend, message: Message) -> None:
        self.backend = backend
        self.message = message

    def write(self, content: bytes) -> Any:
        """Keep the piece, and follow the script."""
        self.message.content += content
        return self.backend.answer("write", content)

    def finish(self) -> Any:
        """Remember it, and follow the script."""
        self.message.finished = True
        return self.backend.answer("finish")

    def abort(self, reason: Failure) -> Any:
        """Remember it, and follow the script."""
        self.message.aborted = reason
        return self.backend.answer("abort", reason)
