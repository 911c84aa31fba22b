"""
The monitor that tells what happens as events of ``twisted.logger``, for observers that read fields.

Its events have a field ``event``; the names of fields do not change. Nothing that a client has sent is
escaped in a field: whoever writes them must do that, as :class:`smtpsvc.jsonlines.JSONLog` does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from smtpsvc.grammar.replies import Reply
from smtpsvc.interfaces import IMonitor, IRoleMonitor
from smtpsvc.server.watch import Monitor
from smtpsvc.settings import Role
from smtpsvc.values import Envelope, Peer

#: Of the events about one limit, the first in so many seconds is logged.
QUIET: Final = 60.0
#: So many recipients are named.
NAMED: Final = 100

_PEER: Final = {
    "peer_id": "names the connection, in other events too",
    "host": "the client's address; null for a unix socket",
    "port": "its port; null for a unix socket",
    "helo": "the name that it gave; what it has sent, unchecked",
    "role": "``smtp``, ``submission`` or ``lmtp``",
    "tls": "the version of TLS; null without",
    "account": "who has logged in; null if nobody has",
}

#: The events, and what their fields mean.
EVENTS: Final[Mapping[str, Mapping[str, str]]] = {
    "message": {
        "id": "of the transaction: it is in ``Received:`` and in the reply too",
        "result": "``taken``, ``deferred`` (4xx), ``refused`` (5xx), or ``partly``: not the same for all recipients",
        "code": "of the reply; of several the highest",
        "reply": "that reply in full",
        **_PEER,
        "sender": "the reverse path; empty for ``<>``",
        "recipients": f"the first {NAMED} of them",
        "recipient_count": "how many there are",
        "size": "in bytes",
        "seconds": "from MAIL to the reply",
    },
    "login": {
        **_PEER,
        "mechanism": "of SASL",
        "result": "``good`` or ``bad``",
    },
    "limit": {
        **_PEER,
        "limit": "the name of the option",
        "others": f"how many events of this limit were left out before; there is one in {QUIET:.0f} s",
    },
    "session": {
        **_PEER,
        "seconds": "from the client's connection to its end",
        "messages": "how many messages have come",
        "reason": "how the connection ended",
    },
}

_RESULTS: Final = {2: "taken", 4: "deferred", 5: "refused"}


@implementer(IRoleMonitor)
class EventMonitor(Monitor):
    """
    Logs messages, logins, sessions that end, and limits that were met: an event each.

    :param logger: where to; the events have the namespace ``smtpsvc`` if not given.
    :param now: a monotonic clock, in seconds.
    """

    def __init__(self, logger: Any = None, now: Callable[[], float] = time.monotonic) -> None:
        self._log = Logger(namespace="smtpsvc") if logger is None else logger
        self._now = now
        self._limits: dict[str, tuple[float, int]] = {}

    def serving(self, role: Role) -> IMonitor:
        """Give the monitor for the listeners of a role."""
        return _Events(self._log, self._now, role, self._limits)


class _Events(Monitor):
    """Logs for the listeners of a role."""

    def __init__(
        self, log: Any, now: Callable[[], float], role: Role, limits: dict[str, tuple[float, int]]
    ) -> None:
        self._log = log
        self._now = now
        self._role = role.value
        # When an event of a limit was logged, and how many there have been since.
        self._limits = limits
        # When each client came who is there, and how many messages have come.
        self._clients: dict[Peer, list[float]] = {}

    def connected(self, peer: Peer) -> None:
        self._clients[peer] = [self._now(), 0]

    def login(self, peer: Peer, mechanism: str, good: bool) -> None:
        result = "good" if good else "bad"
        fields = self._fields(peer)
        self._log.info("login by {mechanism}: {result}", event="login", mechanism=mechanism, result=result, **fields)

    def message(self, envelope: Envelope, size: int, seconds: float, replies: Sequence[Reply]) -> None:
        peer = envelope.peer
        client = self._clients.get(peer)
        if client is not None:
            client[1] += 1
        if not replies:
            return
        results = {_RESULTS.get(reply.code // 100, "") for reply in replies}
        result = results.pop() if len(results) == 1 else "partly"
        worst = max(replies, key=_code)
        self._log.info(
            "message {id}: {result}",
            event="message",
            id=envelope.id,
            result=result,
            code=worst.code,
            reply=str(worst),
            sender=str(envelope.sender),
            recipients=list(map(str, envelope.recipients[:NAMED])),
            recipient_count=len(envelope.recipients),
            size=size,
            seconds=round(seconds, 6),
            **self._fields(peer),
        )

    def limited(self, peer: Peer, limit: str) -> None:
        now = self._now()
        since, others = self._limits.get(limit, (-QUIET, 0))
        if now - since < QUIET:
            self._limits[limit] = (since, others + 1)
            return
        self._limits[limit] = (now, 0)
        self._log.warn("a client met {limit}", event="limit", limit=limit, others=others, **self._fields(peer))

    def disconnected(self, peer: Peer, reason: Failure) -> None:
        since, messages = self._clients.pop(peer, (self._now(), 0))
        self._log.info(
            "session {peer_id} has ended",
            event="session",
            seconds=round(self._now() - since, 6),
            messages=int(messages),
            reason=reason.type.__name__ if reason.type is not None else "",
            **self._fields(peer),
        )

    def _fields(self, peer: Peer) -> dict[str, Any]:
        tls, account = peer.tls, peer.account
        return {
            "peer_id": peer.id,
            "host": peer.host or None,
            "port": peer.port or None,
            "helo": peer.helo,
            "role": self._role,
            "tls": None if tls is None else tls.version,
            "account": None if account is None else account.name,
        }


def _code(reply: Reply) -> int:
    return reply.code
