"""
The budget: bytes in memory that wait for the backend or for clients, of all connections together.

What is counted: what has been read of clients and not been taken, content that the backend is busy with,
and replies that are not read. Backends count what they keep of messages themselves.
"""

from __future__ import annotations

from typing import Final, Protocol

#: Content is read again when so much of the budget is in use.
RELIEF: Final = 0.75


class Pausable(Protocol):
    """What the budget knows of a connection."""

    def remember(self) -> None:
        """There is room again: read on."""


class Budget:
    """
    Counts bytes, and lets connections wait for room.

    Nobody is refused. Those who wait hold nothing that others wait for, so there is always an end to it: what is
    counted goes when a hook answers or takes too long, or when a client reads its replies or is dropped.

    :param limit: in bytes.
    """

    __slots__ = ("_limit", "_relief", "_waiting", "full", "used")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._relief = limit * RELIEF
        self.used = 0
        #: True if content is not to be read now.
        self.full = False
        # In the order in which they came.
        self._waiting: dict[Pausable, None] = {}

    def take(self, size: int) -> None:
        """Count so many bytes more; or less, if it is below 0."""
        self.used += size
        if self.used > self._limit:
            self.full = True
        elif self.full and self.used <= self._relief:
            self.full = False
            waiting, self._waiting = self._waiting, {}
            for connection in waiting:
                connection.remember()

    def wait(self, connection: Pausable) -> None:
        """Have a connection told when there is room."""
        self._waiting[connection] = None

    def leave(self, connection: Pausable) -> None:
        """A connection waits no longer."""
        self._waiting.pop(connection, None)


class Held:
    """
    Bytes that are counted until :meth:`release`, which may be called several times.

    :param budget: counts them.
    """

    __slots__ = ("_budget", "_size")

    def __init__(self, budget: Budget, size: int) -> None:
        self._budget = budget
        self._size = size
        budget.take(size)

    def release(self) -> None:
        """They are not held any more."""
        size, self._size = self._size, 0
        if size:
            self._budget.take(-size)
