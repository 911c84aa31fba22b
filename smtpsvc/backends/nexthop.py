"""
A server that mail is passed on to: connections to it that are kept, and bounded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred, DeferredList, TimeoutError
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from smtpsvc.backends.breaker import Breaker
from smtpsvc.client import ClientError, Connection, Stage

_log = Logger()

#: Gives a Deferred of an open connection; it gets the attributes for XCLIENT, if there are any.
Dial = Callable[[Mapping[str, object]], "Deferred[Connection]"]

#: Connections at once.
MOST: Final = 50
#: Seconds after which a connection that nobody uses is closed: servers close theirs after 300 s or sooner.
IDLE: Final = 30.0
#: Messages that a connection carries, and seconds that it lives, so that load finds its way to a server that is new.
MOST_MESSAGES: Final = 1000
LONGEST_LIFE: Final = 600.0
#: Seconds that a message waits for a connection when all are in use.
PATIENCE: Final = 30.0

_NOTHING: Final[Mapping[str, object]] = {}


class Unreachable(ClientError):
    """The server is left alone for now, or all connections that it may have are in use."""


class NextHop:
    """
    One server.

    :param name: for people: its host and port, or path.
    :param dial: connects to it.
    :param most: connections at once; who finds none free waits.
    :param idle: seconds after which one that nobody uses is closed.
    :param patience: seconds for which somebody waits.
    :ivar opened: how many connections were made.
    """

    def __init__(
        self,
        name: str,
        dial: Dial,
        clock: IReactorTime,
        *,
        most: int = MOST,
        idle: float = IDLE,
        patience: float = PATIENCE,
        breaker: Breaker | None = None,
    ) -> None:
        self.name = name
        self.breaker = breaker or Breaker(clock)
        self.opened = 0
        #: What the server offered when it was last connected to; None before.
        self.offers: frozenset[str] | None = None
        self._dial = dial
        self._clock = clock
        self._most = most
        self._idle_time = idle
        self._patience = patience
        self._count = 0
        # Those that nobody uses, the last used at the end, each with when that was.
        self._idle: list[tuple[Connection, float]] = []
        self._born: dict[Connection, float] = {}
        self._waiting: deque[Deferred[Connection | None]] = deque()
        self._sweep: IDelayedCall | None = None
        self._stopped = False

    @property
    def host(self) -> str:
        """Its name without the port, as a notification has it; that of this machine is ``localhost``."""
        if self.name.startswith("unix:"):
            return "localhost"
        return self.name[1:].partition("]")[0] if self.name.startswith("[") else self.name.partition(":")[0]

    def __repr__(self) -> str:
        return f"<NextHop {self.name}>"

    async def acquire(self, xclient: Mapping[str, object] = _NOTHING) -> tuple[Connection, bool]:
        """
        Give a connection, which is to be given back.

        :param xclient: whom the connection speaks for; one that speaks for somebody is used once.
        :returns: it, and whether it was made for this.
        :raises ClientError: if there is none.
        """
        if self._stopped:
            raise Unreachable("the service is ending", Stage.CONNECT)
        while self._idle and not xclient:
            connection, _ = self._idle.pop()
            if connection.usable:
                return connection, False
            self._discard(connection)
        if self._count >= self._most and self._idle:
            # It holds the place of one that speaks for somebody.
            self._discard(self._idle.pop(0)[0])
        probe = self.breaker.open
        if probe and not self.breaker.allows():
            raise Unreachable(f"{self.name} did not answer lately", Stage.CONNECT)
        if self._count >= self._most:
            given = await self._turn(probe)
            if given is not None and not xclient and given.usable:
                self._give_up(probe)
                return given, False
            if given is not None:
                self._discard(given)
                self._count += 1
        else:
            self._count += 1
        return await self._open(xclient, probe), True

    def release(self, connection: Connection) -> None:
        """Take a connection back: for the next, or to be closed."""
        if connection.error is not None:
            return
        old = self._clock.seconds() - self._born.get(connection, 0) > LONGEST_LIFE
        used_up = old or connection.sent >= MOST_MESSAGES or bool(connection.options.xclient)
        if self._stopped or used_up or not connection.usable:
            self._discard(connection)
        elif self._waiting:
            self._waiting.popleft().callback(connection)
        else:
            self._idle.append((connection, self._clock.seconds()))
            if self._sweep is None:
                self._sweep = self._clock.callLater(self._idle_time, self._close_idle)

    def stop(self) -> Deferred[Any]:
        """Close those that nobody uses, and make no more; it fires when they are closed."""
        self._stopped = True
        idle, self._idle = self._idle, []
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        return DeferredList([connection.quit() for connection, _ in idle])

    def start(self) -> None:
        """Connections may be made, again."""
        self._stopped = False

    def _give_up(self, probe: bool) -> None:
        if probe:
            self.breaker.given_up()

    async def _turn(self, probe: bool) -> Connection | None:
        """Wait for a connection, or None: for the place of one."""
        turn: Deferred[Connection | None] = Deferred(self._waiting.remove)
        self._waiting.append(turn)
        turn.addTimeout(self._patience, self._clock)
        try:
            return await turn
        except TimeoutError:
            self._give_up(probe)
            raise Unreachable(f"all {self._most} connections to {self.name} are in use", Stage.CONNECT) from None
        except CancelledError:
            self._give_up(probe)
            raise

    async def _open(self, xclient: Mapping[str, object], probe: bool) -> Connection:
        try:
            connection = await self._dial(xclient)
        except ClientError as error:
            was_open = self.breaker.open
            self.breaker.failed(probe=probe)
            if self.breaker.open and not was_open:
                _log.warn("{name} does not answer, and is left alone for a while: {error}", name=self.name, error=error)
            self._leave_place()
            raise
        except Exception:
            self._give_up(probe)
            self._leave_place()
            raise
        if self.breaker.open:
            _log.info("{name} answers again", name=self.name)
        self.breaker.succeeded()
        self.opened += 1
        self.offers = frozenset(connection.capabilities.keywords)
        self._born[connection] = self._clock.seconds()
        connection.when_closed().addCallback(self._gone, connection)
        return connection

    def _discard(self, connection: Connection) -> None:
        if connection.error is None:
            connection.quit()

    def _gone(self, _: object, connection: Connection) -> None:
        """A connection is closed, whoever did it."""
        self._born.pop(connection, None)
        self._idle = [each for each in self._idle if each[0] is not connection]
        self._leave_place()

    def _leave_place(self) -> None:
        if self._waiting:
            self._waiting.popleft().callback(None)
        else:
            self._count -= 1

    def _close_idle(self) -> None:
        self._sweep = None
        now = self._clock.seconds()
        old = [connection for connection, since in self._idle if now - since >= self._idle_time]
        self._idle = [each for each in self._idle if now - each[1] < self._idle_time]
        if self._idle:
            self._sweep = self._clock.callLater(self._idle[0][1] + self._idle_time - now, self._close_idle)
        for connection in old:
            connection.quit()
