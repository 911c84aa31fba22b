"""
The nest: one epoll for all connections of a reactor, that is one reader of it.
"""

from __future__ import annotations

import select
from typing import Any, ClassVar, Final, Protocol
from weakref import WeakKeyDictionary

from twisted.internet.interfaces import ILoggingContext, IReadDescriptor
from twisted.python import log
from twisted.python.failure import Failure
from zope.interface import implementer

#: Events that are taken in one turn, so that the reactor's other readers have theirs.
_EVENTS: Final = 64


class Inmate(Protocol):
    """What the nest knows of a connection."""

    def ready(self, event: int) -> None:
        """Deal with an event: the bits of epoll."""

    def send_due(self) -> None:
        """Send what was written meanwhile."""

    def connectionLost(self, reason: Failure) -> None:
        """The connection is gone."""


@implementer(IReadDescriptor, ILoggingContext)
class Nest:
    """
    All connections of one reactor, in one epoll that is one reader of it.

    It comes with the first port or connection and goes with the last.
    """

    _nests: ClassVar[WeakKeyDictionary[Any, Nest]] = WeakKeyDictionary()

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        #: True once it is not read any more.
        self.closed = False
        self._epoll = select.epoll()
        #: Those that wait for something, by descriptor.
        self._waiting: dict[int, Inmate] = {}
        # Descriptors that were taken out while events are dealt with: what is left of theirs is for nobody.
        self._stale: set[int] = set()
        #: Those whose replies are sent when all that can be read was read: a client that has slept is woken by the
        #: first, 5 µs, and is awake for the others.
        self.due: list[Inmate] = []
        #: All ports and connections.
        self._users: set[Any] = set()
        reactor.addReader(self)

    @classmethod
    def enter(cls, reactor: Any, user: object) -> Nest:
        """Find or make the nest of a reactor, for one more port or connection."""
        nest = cls._nests.get(reactor)
        if nest is None:
            nest = cls._nests[reactor] = cls(reactor)
        nest.join(user)
        return nest

    def join(self, user: object) -> None:
        """One more port or connection is here."""
        self._users.add(user)

    @classmethod
    def renew(cls, reactor: Any) -> None:
        """
        Drop the nest of a reactor that does not read it any more.

        ``removeAll`` takes it out without a word; so does trial behind a test that left something open.
        """
        nest = cls._nests.get(reactor)
        if nest is not None and nest not in reactor.getReaders():
            nest._close()

    def leave(self, user: object) -> None:
        """A port or connection has gone; with the last the reactor is left clean."""
        self._users.discard(user)
        if not self._users and not self.closed:
            self._reactor.removeReader(self)
            self._close()

    def _close(self) -> None:
        if self._nests.get(self._reactor) is self:
            del self._nests[self._reactor]
        self.closed = True
        self._epoll.close()

    def watch(self, connection: Inmate, fd: int, before: int, mask: int) -> None:
        """
        Change what a connection waits for.

        :param before: the mask that is registered.
        :param mask: the mask to register; 0 takes it out.
        """
        if self.closed:
            return
        if not mask:
            del self._waiting[fd]
            self._stale.add(fd)
            self._epoll.unregister(fd)
        elif before:
            self._epoll.modify(fd, mask)
        else:
            self._epoll.register(fd, mask)
            self._waiting[fd] = connection

    # For the reactor.

    def fileno(self) -> int:
        """The descriptor of the epoll, which is readable while there are events; -1 when closed."""
        return -1 if self.closed else self._epoll.fileno()

    def logPrefix(self) -> str:
        """Name it in the log."""
        return "smtpsvc"

    def __repr__(self) -> str:
        return f"<Nest of {list(self._users)!r}>"

    def doRead(self) -> None:
        """Deal with the events of all connections."""
        waiting = self._waiting
        # Whoever registered for an event gets it, also if its descriptor is another's by then.
        stale = self._stale
        stale.clear()
        for fd, event in self._epoll.poll(0, _EVENTS):
            if fd not in stale and fd in waiting:
                waiting[fd].ready(event)
        due, self.due = self.due, []
        for connection in due:
            connection.send_due()

    def connectionLost(self, reason: Failure) -> None:
        """The reactor drops all its readers: pass the loss on."""
        users = [user for user in self._users if hasattr(user, "ready")]
        self._close()
        for connection in users:
            try:
                connection.connectionLost(reason)
            except Exception:
                log.err()
