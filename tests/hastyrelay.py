"""
A relay that answers 250 before the next server has, to be found out: ``python:tests.hastyrelay.make``.
"""

from __future__ import annotations

import os
from typing import Any

from twisted.internet import reactor

from smtpsvc.backends.relay import RelayBackend, make_smtp
from smtpsvc.backends.relaying import RelayDelivery, RelaySession
from smtpsvc.interfaces import IConnection
from smtpsvc.values import Envelope, Peer

#: The variable of the environment that has the next server's port.
PORT = "HASTY_RELAY_PORT"


class HastyDelivery(RelayDelivery):
    def finish(self) -> Any:
        super().finish().addErrback(lambda _: None)


class HastySession(RelaySession):
    async def _data(self, envelope: Envelope) -> Any:
        delivery = await super()._data(envelope)
        return HastyDelivery(delivery._way, envelope) if isinstance(delivery, RelayDelivery) else delivery


class HastyBackend(RelayBackend):
    def open_session(self, peer: Peer, connection: IConnection) -> HastySession:
        return HastySession(self.hops, peer)


def make() -> HastyBackend:
    """Make the backend."""
    return HastyBackend(make_smtp(f"127.0.0.1:{os.environ[PORT]}", reactor).hops)
