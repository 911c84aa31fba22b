"""
Watching: monitors, looked at once for the points that they really watch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer
from zope.interface.verify import verifyObject

from smtpsvc.extensions.limits import TOO_MANY_DOMAINS, TOO_MANY_MESSAGES
from smtpsvc.failures import shown_failure
from smtpsvc.grammar import replies
from smtpsvc.grammar.replies import Reply
from smtpsvc.interfaces import IMonitor, IRoleMonitor
from smtpsvc.server.space import NO_ROOM
from smtpsvc.settings import Role
from smtpsvc.values import Envelope, Peer, TLSInfo

log = Logger()

Watcher = Callable[..., None]

#: What a monitor may watch.
POINTS: Final = (
    "connected", "secured", "replied", "login", "message", "broken", "waited", "limited", "failed", "disconnected",
)  # fmt: skip

#: The limits that are told of as they act, by the names of their options.
ACTING: Final = (
    "timeout", "data-timeout", "hook-timeout", "handshake-timeout", "proxy-timeout", "min-data-rate",
    "max-connections", "max-connections-per-client",
)  # fmt: skip

#: The limits that a reply tells of.
LIMITS: Final = {
    replies.TOO_BIG: "max-message-size",
    replies.TOO_MANY_RECIPIENTS: "max-recipients",
    TOO_MANY_MESSAGES: "max-messages",
    TOO_MANY_DOMAINS: "max-domains",
    replies.LINE_TOO_LONG: "max-line-length",
    NO_ROOM: "min-free-space",
    replies.EARLY: "greet-delay",
    replies.TOO_MANY_ERRORS: "max-errors",
    replies.TOO_MANY_LOGINS: "max-auth-failures",
    replies.TOO_MANY_HOPS: "max-received",
    replies.HEADER_TOO_BIG: "max-header-size",
    replies.TEXT_LINE_TOO_LONG: "max-text-line",
}


@implementer(IMonitor)
class Monitor:
    """Watches nothing: override the points that matter; the others cost nothing."""

    def connected(self, peer: Peer) -> None:
        """A client has connected."""

    def secured(self, peer: Peer, tls: TLSInfo | None, problem: str) -> None:
        """A TLS handshake has ended."""

    def replied(self, peer: Peer, verb: str, reply: Reply) -> None:
        """A command was answered."""

    def login(self, peer: Peer, mechanism: str, good: bool) -> None:
        """An AUTH exchange has ended."""

    def message(self, envelope: Envelope, size: int, seconds: float, replies: Sequence[Reply]) -> None:
        """A message was taken or refused."""

    def broken(self, envelope: Envelope, size: int, problem: str) -> None:
        """A connection has ended in the middle of a transaction."""

    def waited(self, peer: Peer, hook: str, seconds: float) -> None:
        """A hook that did not answer at once has answered."""

    def limited(self, peer: Peer, limit: str) -> None:
        """A client has met a limit."""

    def failed(self, peer: Peer, failure: Failure) -> None:
        """A hook has raised something other than a refusal."""

    def disconnected(self, peer: Peer, reason: Failure) -> None:
        """The connection is gone."""


class Quick(Monitor):
    """
    A monitor of ours that never raises, and finds limits in replies itself.

    Where no other watches replies, it is called without a guard: that is half of the cost of a reply.
    """

    def replied_or_limited(self, peer: Peer, verb: str, reply: Reply) -> None:
        """A command was answered, perhaps with the word of a limit."""
        raise NotImplementedError


class Watch:
    """
    The points of :class:`~smtpsvc.interfaces.IMonitor`, each a function or None if no monitor watches it.

    :param monitors: a :class:`Monitor` is asked only at the points that its class overrides.
    :param role: of the listeners that are watched.
    """

    __slots__ = POINTS

    connected: Watcher | None
    secured: Watcher | None
    replied: Watcher | None
    login: Watcher | None
    message: Watcher | None
    broken: Watcher | None
    waited: Watcher | None
    limited: Watcher | None
    failed: Watcher | None
    disconnected: Watcher | None

    def __init__(self, monitors: Iterable[IMonitor], role: Role = Role.SMTP) -> None:
        serving = []
        for monitor in monitors:
            verifyObject(IMonitor, monitor)
            if IRoleMonitor.providedBy(monitor):
                monitor = monitor.serving(role)
                verifyObject(IMonitor, monitor)
            serving.append(monitor)
        for point in POINTS:
            setattr(self, point, _grouped(point, [m for m in serving if _watches(m, point)]))
        if self.limited is not None:
            self.replied = _with_limits(self.replied, self.limited)
            [first, *others] = [m for m in serving if _watches(m, "replied") or _watches(m, "limited")]
            if not others and isinstance(first, Quick):
                self.replied = first.replied_or_limited


def _watches(monitor: Any, point: str) -> bool:
    own = getattr(type(monitor), point, None)
    return own is not getattr(Monitor, point)


def _grouped(point: str, monitors: Sequence[Any]) -> Watcher | None:
    if not monitors:
        return None
    watchers: list[Watcher] = [getattr(monitor, point) for monitor in monitors]
    noted: set[Watcher] = set()

    def failed(watcher: Watcher) -> None:
        # One that fails does so for each command: its first failure is enough to tell.
        if watcher not in noted:
            noted.add(watcher)
            log.failure("the monitor {watcher} failed; that is said once", shown_failure(Failure()), watcher=watcher)

    first, *others = watchers

    def watch_one(*args: Any) -> None:
        try:
            first(*args)
        except Exception:
            failed(first)

    def watch_all(*args: Any) -> None:
        for watcher in watchers:
            try:
                watcher(*args)
            except Exception:
                failed(watcher)

    return watch_all if others else watch_one


def _with_limits(replied: Watcher | None, limited: Watcher) -> Watcher:
    """Tell of limits by the replies that say so: who keeps them need not know that they are watched."""

    def watch(peer: Peer, verb: str, reply: Reply) -> None:
        if replied is not None:
            replied(peer, verb, reply)
        if reply.code >= 400:
            limit = LIMITS.get(reply)
            if limit is not None:
                limited(peer, limit)

    return watch
