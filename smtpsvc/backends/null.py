"""
Take every message and keep nothing, for measurements and for trying clients out.

It takes no argument.
"""

from __future__ import annotations

from typing import ClassVar, Final

from smtpsvc.interfaces import IConnection
from smtpsvc.session import Backend, Delivery, Session
from smtpsvc.values import Envelope, Peer


class NullSession(Session):
    """Takes everything; one session and one delivery serve all, since they keep nothing."""

    __slots__ = ()

    def data(self, envelope: Envelope) -> Delivery:
        """Give the delivery that drops what it is given."""
        return _DELIVERY


_DELIVERY: Final = Delivery()
_SESSION: Final = NullSession()


class NullBackend(Backend):
    """Takes every message and keeps nothing."""

    #: Where mail goes, for people.
    destination: ClassVar[str] = "nowhere, it is dropped"

    def open_session(self, peer: Peer, connection: IConnection) -> NullSession:
        """Give the session that serves all."""
        return _SESSION


def make(argument: str, reactor: object) -> NullBackend:
    """
    Make the backend of ``--backend null:``.

    :raises ValueError: with a sentence, if there is an argument.
    """
    if argument:
        raise ValueError(f"null: takes no argument, so {argument!r} has no meaning; write null:")
    return NullBackend()
