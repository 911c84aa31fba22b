"""
Connections that are kept and used again: a pool for each destination, and a bound on all of them.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Final

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from smtpsvc.client.connection import Connection
from smtpsvc.client.errors import ClientError, ConnectFailed, LimitReached, Stage


@dataclass(frozen=True, slots=True)
class Frugality:
    """
    How much a :class:`~smtpsvc.client.Mailer` may use, and how patient it is.

    :raises ValueError: if a value makes no sense.
    """

    #: Connections that are open at once, to all servers.
    connections: int = 100
    #: Connections that are open at once, to one server.
    per_server: int = 5
    #: Messages on one connection; the server's own limit (MAILMAX) is kept too.
    messages: int = 100
    #: Messages that are given to one connection at once where no more may be opened and the server has PIPELINING:
    #: the next one's envelope leaves with the end of the one before.
    at_once: int = 2
    #: Seconds after which a connection is used no more.
    age: float = 600.0
    #: Seconds for which a connection is kept that nobody uses; with 0 none is.
    idle: float = 30.0
    #: Messages that may wait for a connection to one server; more are deferred.
    waiting: int = 1000
    #: Servers that are tried for one recipient, counted by addresses.
    attempts: int = 10
    #: Domains of one message that are served at once.
    domains: int = 50
    #: Seconds for which a server is left alone that could not be reached; doubled with each further time ...
    back_off: float = 5.0
    #: ... up to this.
    longest_back_off: float = 300.0

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            least = 0 if each.name in ("idle", "back_off", "longest_back_off") else 1
            if value < least:
                raise ValueError(f"{each.name}: {value} is less than {least}")


class Budget:
    """Connections that all pools may have together; when there are no more, idle ones make room."""

    def __init__(self, most: int) -> None:
        self._free = most
        self._leaving = 0
        self.pools: list[Pool] = []
        #: Those who want one, in the order in which they came.
        self.waiting: OrderedDict[Pool, None] = OrderedDict()

    def take(self, pool: Pool) -> bool:
        """Take one, or have the pool pumped when there is one."""
        if self._free:
            self._free -= 1
            self.waiting.pop(pool, None)
            return True
        self.waiting[pool] = None
        if self._leaving < len(self.waiting):
            oldest = min((each for each in self.pools if each.idle), key=lambda each: each.idle[0].since, default=None)
            if oldest is not None:
                self._leaving += 1
                oldest.retire(oldest.idle.popleft())
        return False

    def give(self) -> None:
        """Give one back."""
        self._free += 1
        self._leaving = max(0, self._leaving - 1)
        # One that wants none any more must not stand before the others.
        while self._free and self.waiting:
            pool, _ = self.waiting.popitem(last=False)
            pool.pump()


class Lease:
    """A connection of a pool."""

    __slots__ = ("born", "connection", "load", "retired", "since", "uses")

    def __init__(self, connection: Connection, now: float) -> None:
        self.connection = connection
        #: When it was made, and since when nobody uses it.
        self.born = self.since = now
        self.uses = 0
        #: Messages that are on their way.
        self.load = 0
        self.retired = False

    @property
    def used(self) -> bool:
        """True if whoever has it now is not the first."""
        return self.uses > 0 or self.load > 1


_TOO_MANY: Final = "too many messages wait for a connection to the server"


class Pool:
    """
    Connections to one server.

    :param name: the server, for errors.
    :param opener: opens one.
    """

    def __init__(
        self,
        name: str,
        opener: Callable[[], Deferred[Connection]],
        frugality: Frugality,
        budget: Budget,
        clock: IReactorTime,
    ) -> None:
        self.name = name
        self._opener = opener
        self._frugality = frugality
        self._budget = budget
        self._clock = clock
        #: The one that was used last is at the right, and is used first.
        self.idle: deque[Lease] = deque()
        self._open: set[Lease] = set()
        self._opening: set[Deferred[Connection]] = set()
        self._waiting: OrderedDict[Deferred[Lease], None] = OrderedDict()
        self._failures = 0
        self._until = 0.0
        self._error: Exception | None = None
        self._sweep: IDelayedCall | None = None
        budget.pools.append(self)

    @property
    def size(self) -> int:
        """How many connections are open, or being opened."""
        return len(self._open) + len(self._opening)

    @property
    def forgettable(self) -> bool:
        """True if nothing is lost without it."""
        return not self.size and not self._waiting and self._clock.seconds() >= self._until

    # Taking and giving back.

    def take(self) -> Lease | None:
        """Take a connection that is there; None if there is none."""
        idle = self.idle
        while idle:
            lease = idle.pop()
            if self._lasts(lease):
                lease.load = 1
                return lease
            self.retire(lease)
        most = self._frugality.at_once
        if most > 1 and len(self._open) >= self._frugality.per_server:
            for lease in self._open:
                if lease.load < most and self._lasts(lease) and lease.connection.capabilities.pipelining:
                    lease.load += 1
                    return lease
        return None

    def acquire(self) -> Deferred[Lease]:
        """
        Take a connection: one that is there, or a new one.

        :returns: a Deferred that waits for one where there may be no more; it fails with the error of the opening.
        """
        lease = self.take()
        if lease is not None:
            return succeed(lease)
        now = self._clock.seconds()
        if self._error is not None and now < self._until and not self._open:
            return fail(self._refusal(now))
        if len(self._waiting) >= self._frugality.waiting:
            return fail(LimitReached(_TOO_MANY, Stage.CONNECT))
        waiting: Deferred[Lease] = Deferred(lambda each: self._waiting.pop(each, None))
        self._waiting[waiting] = None
        self.pump()
        return waiting

    def release(self, lease: Lease) -> None:
        """Give a connection back."""
        lease.uses += 1
        lease.load -= 1
        if lease not in self._open:
            return
        if not self._lasts(lease):
            if not lease.load:
                self.retire(lease)
        elif self._waiting or not lease.load:
            self._offer(lease)

    def _lasts(self, lease: Lease) -> bool:
        """Tell whether another message may go by a connection."""
        if lease.retired or not lease.connection.open_for_more:
            return False
        frugality = self._frugality
        return lease.uses + lease.load < frugality.messages and self._clock.seconds() - lease.born < frugality.age

    def _offer(self, lease: Lease) -> None:
        """Give a connection to whoever waits, or keep it."""
        if self._waiting:
            lease.load += 1
            self._waiting.popitem(last=False)[0].callback(lease)
        elif not self._frugality.idle or self._budget.waiting:
            self.retire(lease)
        else:
            lease.since = self._clock.seconds()
            self.idle.append(lease)
            if self._sweep is None:
                self._sweep = self._clock.callLater(self._frugality.idle, self._look)

    def retire(self, lease: Lease) -> None:
        """Close a connection, politely where that is possible."""
        if lease.retired:
            return
        lease.retired = True
        if lease.connection.busy:
            lease.connection.abort()
        else:
            lease.connection.quit()

    def purge(self) -> None:
        """Close all connections that nobody uses: one was found dead."""
        while self.idle:
            self.retire(self.idle.pop())

    def _look(self) -> None:
        """Close what nobody has used for a while."""
        self._sweep = None
        oldest = self._clock.seconds() - self._frugality.idle
        while self.idle and self.idle[0].since <= oldest:
            self.retire(self.idle.popleft())
        if self.idle:
            self._sweep = self._clock.callLater(self.idle[0].since - oldest, self._look)

    # Opening.

    def pump(self) -> None:
        """Open connections for those who wait, as far as that is allowed."""
        while self._waiting and self.size < self._frugality.per_server and len(self._opening) < len(self._waiting):
            if self._failures:
                if self._opening:
                    # One tries whether the server is there again.
                    return
                if self._clock.seconds() < self._until:
                    self._give_up()
                    return
            if not self._budget.take(self):
                return
            opening = self._opener()
            self._opening.add(opening)
            opening.addBoth(self._ended, opening).addErrback(self._failed)
        if not self._waiting:
            self._budget.waiting.pop(self, None)

    def _ended(self, outcome: Any, opening: Deferred[Connection]) -> Any:
        self._opening.discard(opening)
        if isinstance(outcome, Failure):
            return outcome
        self._failures, self._error, self._until = 0, None, 0.0
        lease = Lease(outcome, self._clock.seconds())
        self._open.add(lease)
        outcome.when_closed().addCallback(lambda _: self._gone(lease))
        self._offer(lease)
        self.pump()
        return None

    def _failed(self, failure: Failure) -> None:
        self._failures += 1
        self._error = failure.value if isinstance(failure.value, Exception) else ClientError("", Stage.CONNECT)
        frugality = self._frugality
        pause = min(frugality.back_off * 2.0 ** min(self._failures - 1, 30), frugality.longest_back_off)
        self._until = self._clock.seconds() + pause
        self._give_up()
        self._budget.give()

    def _give_up(self) -> None:
        """Let those fail who wait, unless there is a connection that they may have."""
        if not self._open and not self._opening:
            waiting = list(self._waiting)
            self._waiting.clear()
            for each in waiting:
                each.errback(self._again())

    def _again(self) -> Exception:
        error = self._error
        assert error is not None
        return error.again() if isinstance(error, ClientError) else error

    def _refusal(self, now: float) -> Exception:
        error = self._again()
        if not isinstance(error, ConnectFailed):
            return error
        seconds = self._until - now
        made = ConnectFailed(f"{error.args[0]}; not tried again for {seconds:.0f} s", error.stage)
        made.__cause__ = error
        return made

    def _gone(self, lease: Lease) -> None:
        self._open.discard(lease)
        if lease in self.idle:
            self.idle.remove(lease)
        self._budget.give()
        if self._waiting:
            self.pump()

    # The end.

    def close(self) -> list[Deferred[Any]]:
        """Close all; those who wait for a connection fail. What is given fires when each is closed."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        self._budget.waiting.pop(self, None)
        waiting = list(self._waiting)
        self._waiting.clear()
        for opening in list(self._opening):
            opening.cancel()
        for each in waiting:
            each.errback(ClientError("the mailer is closed", Stage.CONNECT))
        closed: list[Deferred[Any]] = [lease.connection.when_closed() for lease in self._open]
        for lease in list(self._open):
            self.retire(lease)
        return closed
