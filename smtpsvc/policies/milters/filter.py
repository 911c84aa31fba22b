"""
A filter as it is seen by all clients: connections to it that are made, kept and ended.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import Factory

from smtpsvc.policies.milters.dialogue import Dialogue, Waits, negotiate
from smtpsvc.policies.milters.wire import MilterConnection
from smtpsvc.policies.reaching import ProgramFailed, Reach

_Result = TypeVar("_Result")

#: Connections that wait for the next client, and for how many seconds.
MOST_IDLE: Final = 10
IDLE_FOR: Final = 60.0


class Filter:
    """
    Gives dialogues with a filter.

    :param reuse: a connection serves one client after the other.
    """

    def __init__(self, reach: Reach, *, clock: IReactorTime, waits: Waits, reuse: bool = False) -> None:
        self.reach = reach
        self.waits = waits
        self._clock = clock
        self._reuse = reuse
        self._idle: list[tuple[Dialogue, IDelayedCall]] = []

    async def take(self) -> Dialogue:
        """
        Get a dialogue for a client.

        :raises ProgramFailed: if none can be had.
        """
        while self._idle:
            dialogue, timer = self._idle.pop()
            timer.cancel()
            if dialogue.usable:
                return dialogue
        factory = Factory.forProtocol(lambda: MilterConnection(self._clock))
        factory.noisy = False
        connection: MilterConnection = await self.reach.connect(factory)
        return await guarded(connection.drop, negotiate(connection, self.waits))

    def give_back(self, dialogue: Dialogue) -> None:
        """Take a dialogue of which the client is gone, whose transaction is over."""
        if not dialogue.usable:
            return
        if not self._reuse or len(self._idle) >= MOST_IDLE:
            dialogue.close()
            return
        try:
            dialogue.renew()
        except ProgramFailed:
            dialogue.drop()
            return
        self._idle.append((dialogue, self._clock.callLater(IDLE_FOR, self._expire, dialogue)))

    def _expire(self, dialogue: Dialogue) -> None:
        self._idle = [each for each in self._idle if each[0] is not dialogue]
        dialogue.close()

    def stop(self) -> None:
        """Close what nobody uses."""
        while self._idle:
            dialogue, timer = self._idle.pop()
            timer.cancel()
            dialogue.close()


async def guarded(drop: Callable[[], object], pending: Awaitable[_Result]) -> _Result:
    """Wait, and drop the connection if that fails or is cancelled: nobody knows what comes next on it."""
    try:
        return await pending
    except BaseException:
        drop()
        raise
