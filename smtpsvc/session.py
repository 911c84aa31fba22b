"""
Base classes that say yes to everything: override what you need.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, ClassVar

from twisted.python.failure import Failure
from zope.interface import implementer

from smtpsvc.interfaces import IBackend, IConnection, IDelivery, ISession, Outcome
from smtpsvc.values import Envelope, Peer, Recipient


@implementer(ISession)
class Session:
    """A session whose hooks all consent; only :meth:`data` must be provided."""

    __slots__ = ()

    def helo(self, name: str) -> Outcome:
        """Take any name."""
        return None

    def mail(self, envelope: Envelope) -> Outcome:
        """Take any sender."""
        return None

    def rcpt(self, envelope: Envelope, recipient: Recipient) -> Outcome:
        """Take any recipient."""
        return None

    def data(self, envelope: Envelope) -> Any:
        """
        Make the delivery for a message; a subclass must.

        :raises TypeError: always; it is answered 451 and logged.
        """
        raise TypeError(f"{type(self).__qualname__} takes no mail: it has no data() of its own")

    def reset(self, envelope: Envelope | None, upgraded: bool) -> Awaitable[None] | None:
        """Forget nothing."""
        return None

    def close(self, reason: Failure) -> Awaitable[None] | None:
        """Release nothing."""
        return None


@implementer(IBackend)
class Backend:
    """A backend with the usual attributes; :meth:`open_session` must be provided."""

    supports: ClassVar[frozenset[str]] = frozenset()
    max_message_size: int | None = None
    shareable = True
    per_recipient = False

    def open_session(self, peer: Peer, connection: IConnection) -> Any:
        """
        Open a session for a client; a subclass must.

        :raises TypeError: always; the client is told 421.
        """
        raise TypeError(f"{type(self).__qualname__} has no open_session() of its own")


@implementer(IDelivery)
class Delivery:
    """A delivery that takes the content and keeps nothing; override what you need."""

    __slots__ = ()

    def write(self, content: bytes) -> Awaitable[None] | None:
        """Drop the content."""
        return None

    def finish(self) -> Any:
        """Say that it was taken."""
        return None

    def abort(self, reason: Failure) -> Awaitable[None] | None:
        """There is nothing to undo."""
        return None
