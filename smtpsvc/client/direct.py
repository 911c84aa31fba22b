"""
The short way of a message: octets in memory, one destination, a server that takes it.

It does what :class:`~smtpsvc.client.delivering.Delivering` does, without a coroutine: those cost more than the
message. Where anything is not as usual, that one takes over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from smtpsvc.client.composing import Outgoing
from smtpsvc.client.delivering import How
from smtpsvc.client.pool import Lease, Pool
from smtpsvc.client.report import Fate, RecipientReport, Report
from smtpsvc.client.result import Result


class Direct:
    """
    Sends a message to the first server.

    :param otherwise: is called if not all is well: with this, whether the connection was used before, and the
        result or the failure. It gives a Deferred of the report.
    """

    __slots__ = ("_lease", "_otherwise", "how", "outgoing", "pool")

    def __init__(
        self, pool: Pool, outgoing: Outgoing, how: How, otherwise: Callable[[Direct, bool, Any], Deferred[Report]]
    ) -> None:
        self.pool = pool
        self.outgoing = outgoing
        self.how = how
        self._otherwise = otherwise
        self._lease: Lease | None = None

    def start(self) -> Deferred[Report]:
        """Send it."""
        lease = self.pool.take()
        if lease is not None:
            return self._send(lease)
        return self.pool.acquire().addCallbacks(self._send, self._failed)

    def _send(self, lease: Lease) -> Deferred[Report]:
        self._lease = lease
        outgoing, how = self.outgoing, self.how
        sending = lease.connection.send(
            outgoing.sender, outgoing.recipients, outgoing.content, params=how.params,  # type: ignore[arg-type]
            recipient_params=how.recipient_params, forward=how.forward, normalize=how.normalize,
        )  # fmt: skip
        return sending.addCallbacks(self._sent, self._failed)

    def _sent(self, result: Result) -> Report | Deferred[Report]:
        lease = self._lease
        assert lease is not None
        used = lease.used
        self.pool.release(lease)
        host = self.pool.name
        found = []
        for name, each in zip(self.outgoing.names, result.recipients, strict=True):
            if not 200 <= each.reply.code < 300:
                return self._otherwise(self, used, result)
            found.append(RecipientReport(name, Fate.DELIVERED, host, each.reply))
        return Report(result.sender, tuple(found), result.dropped)

    def _failed(self, failure: Failure) -> Deferred[Report]:
        lease = self._lease
        used = lease is not None and lease.used
        if lease is not None:
            self.pool.release(lease)
        return self._otherwise(self, used, failure)
