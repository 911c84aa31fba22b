"""
Deadlines: one sweep over all connections of a factory, instead of a timer for each.

A connection notes when it last got on; that is one assignment a read. The sweep looks at all of
them every second or more often, and only while there are any.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, Final, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from zope.interface import implementer

from smtpsvc.server.channel import BY_MEMORY, BY_SESSION, BY_TRANSPORT, BY_TURN, CLOSED, CONTENT, SECURING, WAITING

if TYPE_CHECKING:
    from smtpsvc.server.conversation import Conversation
    from smtpsvc.server.factory import SMTPFactory


#: A message that comes too slowly does so for so many seconds.
PERIOD: Final = 30.0


class Watched(Protocol):
    """What the sweep knows of a connection."""

    def check_deadline(self, now: float) -> None:
        """Act if the connection is late at *now*."""


@implementer(IReactorTime)
class MonotonicClock:
    """
    A reactor's timed calls with a clock that is never set back: ``reactor.seconds()`` may be.

    :param reactor: schedules the calls.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def seconds(self) -> float:
        """Seconds since some moment in the past."""
        return time.monotonic()

    def callLater(self, delay: float, callable: Callable[..., Any], *args: object, **kwargs: object) -> IDelayedCall:
        """Call later, as the reactor does."""
        call: IDelayedCall = self._reactor.callLater(delay, callable, *args, **kwargs)
        return call

    def getDelayedCalls(self) -> Any:
        """The reactor's pending calls."""
        return self._reactor.getDelayedCalls()


class Sweep:
    """
    Looks at all connections of a factory once every :attr:`interval`.

    :param clock: its ``seconds`` must be monotonic.
    :param watched: the open connections; looked at anew each time.
    :param shortest: the shortest deadline in seconds; the sweep comes four times as often, or
        every second. A deadline passes late by two intervals at most, and never early.
    """

    def __init__(self, clock: IReactorTime, watched: Collection[Watched], shortest: float) -> None:
        self._clock = clock
        self._watched = watched
        self.interval = min(1.0, shortest / 4)
        #: The clock's time at the last sweep.
        self.now = 0.0
        self._call: IDelayedCall | None = None

    def begin(self) -> None:
        """There is a connection: sweep, if not already so."""
        if self._call is None:
            self.now = self._clock.seconds()
            self._call = self._clock.callLater(self.interval, self._sweep)

    def end(self) -> None:
        """There is no connection left: leave the reactor clean."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _sweep(self) -> None:
        self._call = self._clock.callLater(self.interval, self._sweep)
        self.now = now = self._clock.seconds()
        for connection in tuple(self._watched):
            connection.check_deadline(now - self.interval)


class Timed:
    """The part of a protocol that acts when its client or the backend is late."""

    factory: SMTPFactory
    conversation: Conversation
    since: float
    paused: Any
    octets: int
    #: When the rate of content was looked at, and how much there had been by then; None outside of content.
    measured: tuple[float, int] | None = None

    if TYPE_CHECKING:

        def abort(self) -> None: ...

        def check_handshake(self, waited: float) -> None: ...

        def wake(self) -> None: ...

    def _patience(self, content: bool) -> float:
        """How long the client may take for what comes next."""
        limits = self.factory.settings.limits
        usual = limits.data_timeout if content else limits.command_timeout
        return min(usual, limits.stress_timeout) if self.factory.admission.stressed else usual

    def _is_slow(self, now: float, rate: int) -> bool:
        """Say whether less of a message has come than should have, over :data:`PERIOD`."""
        content = self.conversation.mode is CONTENT and not self.paused
        began, octets = self.measured or (now, self.octets)
        over = now - began
        if not content or self.measured is None or over >= PERIOD:
            self.measured = (now, self.octets) if content else None
        return content and over >= PERIOD and self.octets - octets < rate * over

    def check_deadline(self, now: float) -> None:
        """
        Act if the client or the backend is late (RFC 5321 §4.5.3.2).

        :param now: the sweep's time, less the error of :attr:`since`.
        """
        conversation = self.conversation
        mode = conversation.mode
        limits = self.factory.settings.limits
        waited = now - self.since
        slow = limits.data_rate and self._is_slow(now, limits.data_rate)
        if mode is WAITING:
            if now - conversation.asked > limits.hook_timeout:
                conversation.expire()
                self.wake()
        elif mode is SECURING:
            self.check_handshake(waited)
        elif self.paused & (BY_SESSION | BY_MEMORY | BY_TURN) and mode is not CLOSED:
            self.since = now
        elif waited <= self._patience(mode is CONTENT) and not slow:
            return
        else:
            watch = self.factory.watch.limited
            if watch is not None and mode is not CLOSED:
                limit = "min-data-rate" if slow else "data-timeout" if mode is CONTENT else "timeout"
                watch(conversation.peer, limit)
            if mode is CLOSED or self.paused & BY_TRANSPORT:
                # It does not even read that it was told to go.
                self.abort()
            else:
                conversation.time_out()
