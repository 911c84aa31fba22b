"""
Messages that a policy discards without holding them back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from smtpsvc.interfaces import IDelivery
from smtpsvc.values import Envelope

log = Logger()


@dataclass(frozen=True, slots=True)
class _Discarded:
    """In ``envelope.results``: the message is to go to nobody."""


def discard(envelope: Envelope) -> None:
    """
    Let the message of this transaction go to nobody, and its client hear that it was taken.

    A policy that calls this has ``prepends = True``, and calls it before the content comes: in ``data`` at the
    latest.
    """
    envelope.results.put(_Discarded())


def discarded(envelope: Envelope) -> bool:
    """Say whether the message is to go to nobody."""
    return envelope.results.get(_Discarded) is not None


@implementer(IDelivery)
class Nowhere:
    """Takes a message and keeps nothing of it."""

    __slots__ = ("_envelope",)

    def __init__(self, envelope: Envelope) -> None:
        self._envelope = envelope

    def write(self, content: bytes) -> None:
        """Drop it."""

    def finish(self) -> Any:
        """Log it."""
        envelope = self._envelope
        log.info("{peer_id}: message {id} is discarded by a policy", peer_id=envelope.peer.id, id=envelope.id)

    def abort(self, reason: Failure) -> None:
        """There is nothing to do."""
