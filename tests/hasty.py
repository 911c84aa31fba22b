"""
A Maildir that answers 250 before it has kept anything, to be found out: ``python:tests.hasty.make``.
"""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor

from smtpsvc.backends.maildir import MaildirBackend, MaildirDelivery, MaildirSession
from smtpsvc.interfaces import IConnection
from smtpsvc.values import Envelope, Peer


class HastyDelivery(MaildirDelivery):
    def finish(self) -> Any:
        super().finish()


class HastySession(MaildirSession):
    def data(self, envelope: Envelope) -> Any:
        assert self._backend.store is not None
        return HastyDelivery(self._backend.store, envelope)


class HastyBackend(MaildirBackend):
    def open_session(self, peer: Peer, connection: IConnection) -> HastySession:
        return HastySession(self)


def make() -> HastyBackend:
    """Make the backend, with the Maildir in the working directory."""
    return HastyBackend("./Maildir", reactor)
