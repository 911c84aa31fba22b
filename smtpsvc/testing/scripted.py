"""
A backend that answers as it is told, and remembers what it was asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from twisted.python.failure import Failure
from zope.interface import alsoProvides, implementer

from smtpsvc.grammar.addresses import Address
from smtpsvc.interfaces import IConnection, ISession
from smtpsvc.session import Backend, Delivery, Session
from smtpsvc.testing.faults import Call
from smtpsvc.values import Envelope, Peer, Recipient

__all__ = ["Message", "ScriptedBackend", "ScriptedDelivery", "ScriptedSession"]


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
        ``finish``, ``abort``, ``reset``, ``close``): an outcome, a code for a Reply, an exception to raise, a
        function of the hook's arguments, or a fault such as ``smtpsvc.testing.stall()``. Hooks without one
        consent. A list is used up, one answer a call; what comes after it consents.
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

    def answer(
        self,
        name: str,
        *args: Any,
        usual: Callable[[], Any] = lambda: None,
        connection: Any = None,
        message: Message | None = None,
    ) -> Any:
        """Remember a call, and give what the script says or *usual*."""
        self.calls.append((name, *args))
        answer = self.answers.get(name)
        if isinstance(answer, list):
            answer = answer.pop(0) if answer else None
        return Call(name, args, usual, connection, message).give(answer)

    def open_session(self, peer: Peer, connection: IConnection) -> Any:
        """Open a session that follows the script."""
        return self.answer(
            "open_session",
            peer,
            connection,
            usual=lambda: self.new_session(peer, connection),
            connection=connection,
        )

    def new_session(self, peer: Peer, connection: IConnection) -> ScriptedSession:
        """Make a session that follows the script; for scripts that give one late."""
        session = ScriptedSession(self, peer, connection)
        for interface in self.provides:
            alsoProvides(session, interface)
            for name in interface.names():
                setattr(session, name, partial(self.answer, name, connection=connection))
        self.sessions.append(session)
        return session

    def new_delivery(self, envelope: Envelope) -> ScriptedDelivery:
        """Make a delivery that follows the script, and remember its message; for scripts that give one late."""
        message = Message(envelope)
        self.messages.append(message)
        found = (session.connection for session in reversed(self.sessions) if session.peer is envelope.peer)
        return ScriptedDelivery(self, message, next(found, None))


@implementer(ISession)
class ScriptedSession(Session):
    """A session of a :class:`ScriptedBackend`."""

    def __init__(self, backend: ScriptedBackend, peer: Peer, connection: IConnection) -> None:
        self.backend = backend
        self.peer = peer
        self.connection = connection

    def _answer(self, name: str, *args: Any, **more: Any) -> Any:
        return self.backend.answer(name, *args, connection=self.connection, **more)

    def helo(self, name: str) -> Any:
        """Follow the script."""
        return self._answer("helo", name)

    def mail(self, envelope: Envelope) -> Any:
        """Follow the script."""
        return self._answer("mail", envelope)

    def rcpt(self, envelope: Envelope, recipient: Recipient) -> Any:
        """Follow the script."""
        return self._answer("rcpt", envelope, recipient)

    def data(self, envelope: Envelope) -> Any:
        """Follow the script; usually take the message and remember it."""
        return self._answer("data", envelope, usual=lambda: self.backend.new_delivery(envelope))

    def reset(self, envelope: Envelope | None, upgraded: bool) -> Any:
        """Follow the script."""
        return self._answer("reset", envelope, upgraded)

    def close(self, reason: Failure) -> Any:
        """Follow the script."""
        return self._answer("close", reason)


class ScriptedDelivery(Delivery):
    """A delivery of a :class:`ScriptedBackend`: keeps the content in its :class:`Message`."""

    def __init__(self, backend: ScriptedBackend, message: Message, connection: Any = None) -> None:
        self.backend = backend
        self.message = message
        self.connection = connection

    def _answer(self, name: str, *args: Any) -> Any:
        return self.backend.answer(name, *args, connection=self.connection, message=self.message)

    def write(self, content: bytes) -> Any:
        """Keep the piece, and follow the script."""
        self.message.content += content
        return self._answer("write", content)

    def finish(self) -> Any:
        """Remember it, and follow the script."""
        self.message.finished = True
        return self._answer("finish")

    def abort(self, reason: Failure) -> Any:
        """Remember it, and follow the script."""
        self.message.aborted = reason
        return self._answer("abort", reason)
