"""
The client of Postfix's policy delegation protocol: questions of lines ``name=value``, answers of one line.

A connection serves many questions, one after the other; while it is busy another is opened.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from smtpsvc.grammar.shown import shown
from smtpsvc.policies.reaching import ProgramFailed, Reach, in_time

#: Octets of an answer.
LONGEST: Final = 8192
#: Connections that wait for the next question, and for how many seconds; Postfix's own is 300.
MOST_IDLE: Final = 20
IDLE_FOR: Final = 60.0


class PolicyConnection(Protocol):
    """One connection to a policy server."""

    def __init__(self) -> None:
        self._buffer = b""
        self._waiting: Deferred[str] | None = None
        #: False once it is lost.
        self.usable = False

    def connectionMade(self) -> None:
        """Begin."""
        self.usable = True

    def ask(self, question: bytes) -> Deferred[str]:
        """
        Ask one question.

        :returns: fires with the action; fails with :class:`~smtpsvc.policies.reaching.ProgramFailed`. Cancelled, the
            connection is closed.
        """
        waiting: Deferred[str] = Deferred(lambda _: self._forget())
        if not self.usable or self._buffer:
            self.drop()
            waiting.errback(ProgramFailed("it has closed the connection"))
            return waiting
        self._waiting = waiting
        transport: Any = self.transport
        transport.write(question)
        return waiting

    def _forget(self) -> None:
        self._waiting = None
        self.drop()

    def dataReceived(self, data: bytes) -> None:
        """Take octets of the server."""
        self._buffer += data
        head, end, rest = self._buffer.partition(b"\n\n")
        if len(head) > LONGEST:
            self._fail("it has answered too much")
        elif end:
            waiting, self._waiting = self._waiting, None
            self._buffer = rest
            if rest or waiting is None:
                self._waiting = waiting
                self._fail("it has answered what it was not asked")
                return
            try:
                action = read_answer(head)
            except ProgramFailed:
                self.drop()
                waiting.errback(Failure())
            else:
                waiting.callback(action)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Let who waits know."""
        self.usable = False
        self._fail("it has closed the connection")

    def _fail(self, problem: str) -> None:
        waiting, self._waiting = self._waiting, None
        self.drop()
        if waiting is not None and not waiting.called:
            waiting.errback(ProgramFailed(problem))

    def drop(self) -> None:
        """Close the connection."""
        if self.usable:
            self.usable = False
            transport: Any = self.transport
            transport.abortConnection()


class PolicyServer:
    """
    A policy server, and the connections to it.

    :param seconds: for an answer.
    """

    def __init__(self, reach: Reach, *, clock: IReactorTime, seconds: float) -> None:
        self.reach = reach
        self._clock = clock
        self._seconds = seconds
        self._idle: list[tuple[PolicyConnection, IDelayedCall]] = []

    async def ask(self, attributes: Mapping[str, str]) -> str:
        """
        Ask one question.

        :returns: the action, with its text.
        :raises ProgramFailed: if there is no answer.
        """
        question = written(attributes)
        while (connection := self._kept()) is not None:
            try:
                return await self._ask(connection, question)
            except ProgramFailed:
                if connection.usable:
                    raise
                # It had been closed, or was while the question was on its way: that happens to what is kept.
        factory = Factory.forProtocol(PolicyConnection)
        factory.noisy = False
        return await self._ask(await self.reach.connect(factory), question)

    async def _ask(self, connection: PolicyConnection, question: bytes) -> str:
        action: str = await in_time(connection.ask(question), self._seconds, self._clock, "answer")
        if len(self._idle) < MOST_IDLE:
            timer = self._clock.callLater(IDLE_FOR, self._expire, connection)
            self._idle.append((connection, timer))
        else:
            connection.drop()
        return action

    def _kept(self) -> PolicyConnection | None:
        while self._idle:
            connection, timer = self._idle.pop()
            timer.cancel()
            if connection.usable:
                return connection
        return None

    def _expire(self, connection: PolicyConnection) -> None:
        self._idle = [each for each in self._idle if each[0] is not connection]
        connection.drop()

    def stop(self) -> None:
        """Close what nobody uses."""
        while (connection := self._kept()) is not None:
            connection.drop()


def written(attributes: Mapping[str, str]) -> bytes:
    """Write a question. Nothing in a value is a line of its own."""
    lines: Iterable[str] = (
        f"{name}={shown(value.encode('utf-8', 'backslashreplace'))}\n" for name, value in attributes.items()
    )
    return "".join(lines).encode("utf-8", "backslashreplace") + b"\n"


def read_answer(lines: bytes) -> str:
    """
    Read an answer.

    :returns: the last action in it, as Postfix has it.
    :raises ProgramFailed: if there is none.
    """
    found = [line[7:] for line in lines.split(b"\n") if line.startswith(b"action=")]
    if not found:
        raise ProgramFailed(f"it has answered {shown(lines[:40])!r}")
    return found[-1].decode("utf-8", "backslashreplace").strip()
