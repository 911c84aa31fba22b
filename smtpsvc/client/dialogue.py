"""
The dialogue with a server: what was sent and is not answered yet. It knows no I/O.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Final, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from smtpsvc.client.errors import ClientError, Disconnected, ServerMisbehaved, Stage, TimedOut
from smtpsvc.client.replies import ReplyProblem, ReplyReader
from smtpsvc.grammar.replies import CLOSING, Reply


@dataclass(frozen=True, slots=True)
class Timeouts:
    """
    Seconds to wait, for each step (RFC 5321 §4.5.3.2: these are its minimums).

    :raises ValueError: if one is not more than 0.
    """

    #: Until the connection is there.
    connect: float = 30.0
    #: Until the greeting.
    greeting: float = 300.0
    #: For the TLS handshake.
    handshake: float = 60.0
    #: For the reply to a command: EHLO, AUTH, MAIL, RCPT and all without one of their own.
    command: float = 300.0
    #: For the reply to DATA.
    data: float = 120.0
    #: Until the server takes more of the content, or answers a chunk.
    block: float = 180.0
    #: For the reply to the message.
    end: float = 600.0
    #: For the reply to QUIT: the mail is long delivered then.
    quit: float = 10.0

    def __post_init__(self) -> None:
        for each in fields(self):
            if not getattr(self, each.name) > 0:
                raise ValueError(f"the timeout {each.name} must be more than 0 seconds")

    def of(self, stage: Stage) -> float:
        """Give the time for a step."""
        return getattr(self, _FIELDS.get(stage, "command"))  # type: ignore[no-any-return]


_FIELDS: Final = {
    Stage.CONNECT: "connect",
    Stage.GREETING: "greeting",
    Stage.TLS: "handshake",
    Stage.DATA: "data",
    Stage.CONTENT: "block",
    Stage.END: "end",
    Stage.QUIT: "quit",
}


class Carrier(Protocol):
    """What carries a dialogue."""

    def write(self, data: bytes) -> None:
        """Send octets, when it can."""

    def start_tls(self) -> None:
        """Begin TLS; :meth:`Dialogue.secured` is called when it is there."""

    def close(self) -> None:
        """Close when all is sent."""

    def abort(self) -> None:
        """Close at once; what was not sent is thrown away."""

    def watch(self) -> None:
        """Call :meth:`Dialogue.tick` now and then, as long as its ``deadline`` is not None."""


class Active(Protocol):
    """Whoever sends a message: it hears of the loss of the connection, and of replies out of turn."""

    def failed(self, error: ClientError) -> None:
        """The connection is gone."""

    def interrupted(self, reply: Reply) -> None:
        """The server spoke although nothing was asked."""


class Dialogue:
    """
    Brings each reply to the one who waits for it, in order.

    :ivar waiting: a stage for each reply that is due, who takes the reply, and who is told if it never comes.
    :ivar error: why there is no connection any more, or None.
    :ivar farewell: the server's 421 (or 221, 521), after which it closes.
    :ivar surplus: True while a reply is taken behind which more has come already.
    """

    def __init__(self, channel: Carrier, clock: IReactorTime, timeouts: Timeouts) -> None:
        self.channel = channel
        self.timeouts = timeouts
        self.waiting: deque[tuple[Stage, Callable[[Reply], object], Callable[[ClientError], object] | None]] = deque()
        self.active: Active | None = None
        self.error: ClientError | None = None
        self.farewell: Reply | None = None
        self.surplus = False
        #: When the server must have answered, in the clock's time; None while nothing is due.
        self.deadline: float | None = None
        #: True while the transport takes no more.
        self.paused = False
        self._reader = ReplyReader()
        self._seconds = clock.seconds
        self._times = {stage: timeouts.of(stage) for stage in Stage}
        self._stage = Stage.CONNECT
        self._parting = False
        self._room: Deferred[None] | None = None
        self._tls: Deferred[None] | None = None

    # What is sent.

    def expect(
        self,
        stage: Stage,
        took: Callable[[Reply], object],
        failed: Callable[[ClientError], object] | None = None,
        *,
        next: bool = False,
    ) -> None:
        """
        Wait for a reply.

        :param took: is called with it.
        :param failed: is called instead if the connection is lost.
        :param next: it comes before those that are waited for already.
        """
        if next:
            self.waiting.appendleft((stage, took, failed))
        else:
            self.waiting.append((stage, took, failed))
        if self.deadline is None or next:
            self._arm(stage)

    def command(self, line: bytes, stage: Stage) -> Deferred[Reply]:
        """
        Send a command.

        :param line: with its CRLF.
        :returns: a Deferred of the reply, whatever it says; it fails with a :class:`ClientError`.
        """
        done: Deferred[Reply] = Deferred()
        if self.error is not None:
            done.errback(self.error)
            return done
        self.expect(stage, done.callback, done.errback)
        self.channel.write(line)
        return done

    def greeting(self) -> Deferred[Reply]:
        """Wait for what the server says first."""
        done: Deferred[Reply] = Deferred()
        if self.error is not None:
            done.errback(self.error)
        else:
            self.expect(Stage.GREETING, done.callback, done.errback)
        return done

    def handshake(self) -> Deferred[None]:
        """Begin TLS; what follows is sent and read through it."""
        done: Deferred[None] = Deferred()
        self._tls = done
        self._reader = ReplyReader()
        self._arm(Stage.TLS)
        self.channel.start_tls()
        return done

    # What comes.

    def received(self, data: bytes) -> None:
        """Take octets from the server."""
        if self.closed:
            return
        try:
            replies = self._reader.feed(data)
        except ReplyProblem as problem:
            self.fail(ServerMisbehaved(f"the server sent {problem}", self.stage))
            return
        left = len(replies)
        waiting = self.waiting
        for reply in replies:
            left -= 1
            if reply.code in CLOSING:
                self.farewell = reply
            if not waiting:
                self._unasked(reply)
            else:
                self.surplus = left > 0 or self._reader.pending
                self._stage, took, _ = waiting.popleft()
                took(reply)
            if self.error is not None:
                return
        if replies:
            if waiting:
                self._arm(waiting[0][0])
            elif self._tls is None and not self.paused and not self._parting:
                self.deadline = None

    def _unasked(self, reply: Reply) -> None:
        if reply.code in CLOSING:
            # It closes: the loss that follows says so to whoever is concerned.
            if self.active is not None:
                self.active.interrupted(reply)
            return
        if self.active is not None and reply.code >= 400:
            self.active.interrupted(reply)
            return
        self.fail(ServerMisbehaved("the server said something although nothing was asked", self.stage, reply))

    def secured(self) -> None:
        """The TLS handshake is complete."""
        done, self._tls = self._tls, None
        self.deadline = None
        if done is not None:
            done.callback(None)

    # What holds it up.

    def pause(self) -> None:
        """The transport takes no more for now."""
        self.paused = True

    def resume(self) -> None:
        """The transport takes more."""
        self.paused = False
        if self.waiting and self.waiting[0][0] is Stage.CONTENT:
            # It reads: the reply to a chunk may take as long again.
            self._arm(Stage.CONTENT)
        self.wake()

    def room(self) -> Deferred[None]:
        """
        Wait until more content can be sent: the transport has taken some, or a chunk was answered.

        Who waited must look again. At the loss of the connection it is woken too.
        """
        if self._room is None:
            self._room = Deferred()
        if not self.waiting:
            self._arm(Stage.CONTENT)
        waiter: Deferred[None] = Deferred()
        self._room.chainDeferred(waiter)
        return waiter

    def wake(self) -> None:
        """Let those who wait for room look again."""
        room, self._room = self._room, None
        if room is not None:
            if not self.waiting:
                self.deadline = None
            room.callback(None)

    def _arm(self, stage: Stage) -> None:
        self.deadline = self._seconds() + self._times[stage]
        self.channel.watch()

    def tick(self) -> None:
        """Look whether the server is late."""
        if self.deadline is not None and self._seconds() >= self.deadline:
            stage = Stage.TLS if self._tls is not None else self.stage
            self.fail(TimedOut(f"the server was silent for {self._times[stage]:.0f} s", stage))

    # How it ends.

    @property
    def closed(self) -> bool:
        """True once there is no connection any more."""
        return self.error is not None

    @property
    def stage(self) -> Stage:
        """The step that is being taken, or was last."""
        if self.waiting:
            return self.waiting[0][0]
        if self._tls is not None:
            return Stage.TLS
        return Stage.CONTENT if self.active is not None else self._stage

    def lost(self, cause: BaseException, why: str = "the connection was lost") -> None:
        """The connection is gone."""
        if self.error is None:
            error = Disconnected(why, self.stage, self.farewell)
            error.__cause__ = cause
            self._end(error)

    def part(self, _: object = None) -> None:
        """Close when all is sent; a server that does not let go is left all the same."""
        self._parting = True
        self._arm(Stage.QUIT)
        self.channel.close()

    def fail(self, error: ClientError) -> None:
        """Give the connection up: whoever waits is told *error*."""
        if self.error is None:
            self._end(error)
            self.channel.abort()

    def _end(self, error: ClientError) -> None:
        self.error = error
        self.deadline = None
        waiting = list(self.waiting)
        self.waiting.clear()
        active, self.active = self.active, None
        tls, self._tls = self._tls, None
        if active is not None:
            active.failed(error)
        for _, _, failed in waiting:
            if failed is not None:
                failed(error)
        if tls is not None:
            tls.errback(error)
        self.wake()
