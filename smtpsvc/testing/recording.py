"""
A backend that keeps messages for a test to look at.
"""

from __future__ import annotations

import email
import email.policy
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Any

from twisted.internet.defer import Deferred

from smtpsvc.interfaces import IConnection
from smtpsvc.session import Backend, Delivery, Session
from smtpsvc.values import Envelope, Peer, TLSInfo

__all__ = ["RecordedMessage", "RecordingBackend"]


@dataclass(frozen=True, slots=True, eq=False)
class RecordedMessage:
    """A message that was taken, and how it came. Equal only to itself."""

    #: The address in MAIL; "" for ``<>``.
    sender: str
    #: The addresses in RCPT, in their order.
    recipients: tuple[str, ...]
    #: As the server handed it on: lines end in CRLF, and ``Received:`` is in front if the settings say so.
    content: bytes = field(repr=False)
    envelope: Envelope = field(repr=False)
    #: What the client called itself in EHLO, HELO or LHLO.
    helo: str
    #: Who had logged in, or None.
    account: str | None
    #: The connection's TLS, or None.
    tls: TLSInfo | None = field(repr=False)

    @property
    def peer(self) -> Peer:
        """The client. It may have gone on since: :attr:`helo`, :attr:`account` and :attr:`tls` are of then."""
        return self.envelope.peer

    @property
    def params(self) -> Mapping[str, Any]:
        """The parameters of MAIL, parsed, by upper-case name."""
        return self.envelope.mail_params

    @property
    def recipient_params(self) -> tuple[Mapping[str, Any], ...]:
        """The parameters of each RCPT."""
        return tuple(recipient.params for recipient in self.envelope.recipients)

    @property
    def email(self) -> EmailMessage:
        """The content, parsed anew each time by the standard library with ``email.policy.default``."""
        return email.message_from_bytes(self.content, policy=email.policy.default)

    @property
    def subject(self) -> str:
        """The subject, decoded; "" without one."""
        return str(self.email["Subject"] or "")

    @property
    def text(self) -> str:
        """The text of the message, decoded, with LF as line end: the plain one, or else the HTML; "" without either."""
        body = self.email.get_body(("plain", "html"))
        return "" if body is None else str(body.get_content()).replace("\r\n", "\n")

    def __repr__(self) -> str:
        login = f" by {self.account}" if self.account is not None else ""
        return (
            f"<RecordedMessage {self.subject!r} from {self.sender or '<>'}{login} "
            f"to {', '.join(self.recipients)}, {len(self.content)} bytes>"
        )


class RecordingBackend(Backend):
    """
    Takes every message and keeps it in memory, in the order in which they came.

    A message is in :attr:`messages` before its client hears 250. All may be read from any thread, but
    :meth:`wait_for` is for the reactor's.
    """

    #: Where mail goes, for people.
    destination = "the memory of a test"

    def __init__(self) -> None:
        self.messages: list[RecordedMessage] = []
        #: How many clients have connected.
        self.sessions = 0
        self._waiting: list[tuple[int, Deferred[list[RecordedMessage]]]] = []

    def open_session(self, peer: Peer, connection: IConnection) -> Session:
        """Open a session that takes everything."""
        self.sessions += 1
        return _Session(self)

    def wait_for(self, count: int = 1) -> Deferred[list[RecordedMessage]]:
        """
        Wait until so many messages have come since the beginning, or since :meth:`clear`.

        :returns: a Deferred of all that are there then; it may have fired already.
        """

        def forget(cancelled: Deferred[list[RecordedMessage]]) -> None:
            self._waiting = [each for each in self._waiting if each[1] is not cancelled]

        done: Deferred[list[RecordedMessage]] = Deferred(forget)
        self._waiting.append((count, done))
        self._tell()
        return done

    def clear(self) -> None:
        """Forget the messages that have come."""
        self.messages.clear()

    def record(self, message: RecordedMessage) -> None:
        """Keep a message."""
        self.messages.append(message)
        self._tell()

    def _tell(self) -> None:
        there = len(self.messages)
        ready = [done for count, done in self._waiting if count <= there]
        self._waiting = [each for each in self._waiting if each[0] > there]
        for done in ready:
            done.callback(list(self.messages))

    def __len__(self) -> int:
        return len(self.messages)

    def __bool__(self) -> bool:
        # Without messages it is a backend all the same.
        return True

    def __repr__(self) -> str:
        return f"<RecordingBackend {self.messages!r}>"


class _Session(Session):
    __slots__ = ("_backend",)

    def __init__(self, backend: RecordingBackend) -> None:
        self._backend = backend

    def data(self, envelope: Envelope) -> Delivery:
        return _Delivery(self._backend, envelope)


class _Delivery(Delivery):
    __slots__ = ("_backend", "_envelope", "_pieces")

    def __init__(self, backend: RecordingBackend, envelope: Envelope) -> None:
        self._backend = backend
        self._envelope = envelope
        self._pieces: list[bytes] = []

    def write(self, content: bytes) -> None:
        self._pieces.append(content)

    def finish(self) -> None:
        envelope = self._envelope
        peer = envelope.peer
        self._backend.record(
            RecordedMessage(
                sender=str(envelope.sender),
                recipients=tuple(map(str, envelope.recipients)),
                content=b"".join(self._pieces),
                envelope=envelope,
                helo=peer.helo,
                account=None if peer.account is None else peer.account.name,
                tls=peer.tls,
            )
        )
