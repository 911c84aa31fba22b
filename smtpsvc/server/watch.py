"""
Watching: monitors, looked at once for the points that they really watch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer
from zope.interface.verify import verifyObject

from smtpsvc.grammar.replies import Reply
from smtpsvc.interfaces import IMonitor
from smtpsvc.values import Envelope, Peer

log = Logger()

Watcher = Callable[..., None]


@implementer(IMonitor)
class Monitor:
    """Watches nothing: override the points that matter; the others cost nothing."""

    def connected(self, peer: Peer) -> None:
        """A client has connected."""

    def replied(self, peer: Peer, verb: str, reply: Reply) -> None:
        """A command was answered."""

    def login(self, peer: Peer, mechanism: str, good: bool) -> None:
        """An AUTH exchange has ended."""

    def message(self, envelope: Envelope, size: int, seconds: float, replies: Sequence[Reply]) -> None:
        """A message was taken or refused."""

    def failed(self, peer: Peer, failure: Failure) -> None:
        """A hook has raised something other than a refusal."""

    def disconnected(self, peer: Peer, reason: Failure) -> None:
        """The connection is gone."""


class Watch:
    """
    The six points, each a function or None if no monitor watches it.

    :param monitors: a :class:`Monitor` is asked only at the points that its class overrides.
    """

    __slots__ = ("connected", "disconnected", "failed", "login", "message", "replied")

    connected: Watcher | None
    replied: Watcher | None
    login: Watcher | None
    message: Watcher | None
    failed: Watcher | None
    disconnected: Watcher | None

    def __init__(self, monitors: Iterable[IMonitor]) -> None:
        monitors = list(monitors)
        for monitor in monitors:
            verifyObject(IMonitor, monitor)
        for point in self.__slots__:
            setattr(self, point, _grouped(point, [m for m in monitors if _watches(m, point)]))


def _watches(monitor: Any, point: str) -> bool:
    own = getattr(type(monitor), point, None)
    return own is not getattr(Monitor, point)


def _grouped(point: str, monitors: Sequence[Any]) -> Watcher | None:
    if not monitors:
        return None
    watchers = [getattr(monitor, point) for monitor in monitors]

    def watch(*args: Any) -> None:
        for watcher in watchers:
            try:
                watcher(*args)
            except Exception:
                log.failure("the monitor {watcher} failed", watcher=watcher)

    return watch
