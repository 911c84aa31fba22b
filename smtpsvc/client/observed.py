"""
A connection on which somebody listens in.
"""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from smtpsvc.client.options import Options
from smtpsvc.client.protocol import ClientProtocol
from smtpsvc.values import TLSInfo


class ObservedProtocol(ClientProtocol):
    """Tells :attr:`Options.observer <smtpsvc.client.options.Options.observer>` what is said."""

    def __init__(self, options: Options, clock: IReactorTime, host: str = "") -> None:
        assert options.observer is not None
        self._observer = options.observer(host)
        super().__init__(options, clock, host)

    def dataReceived(self, data: bytes) -> None:
        """Take octets from the server."""
        self._observer.received(data)
        super().dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone."""
        self._observer.closed()
        super().connectionLost(reason)

    def _send(self, data: bytes) -> None:
        self._observer.sent(data)
        super()._send(data)

    def _secured(self, tls: TLSInfo) -> None:
        # What is said next is said within.
        self._observer.secured(tls)
        super()._secured(tls)
