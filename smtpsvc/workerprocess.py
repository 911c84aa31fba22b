"""
One process of a worker, as its parent sees it.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any, Final, Protocol

from twisted.internet.error import ProcessTerminated
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from smtpsvc.frames import Frame, FrameReader
from smtpsvc.workerlog import Lines, log_line

#: Descriptors of a worker: what it hears, what it says, and the first of the sockets.
HEAR: Final = 3
SAY: Final = 4
SOCKETS: Final = 5

#: What a worker has said before its end has so many seconds to come.
_LAST_WORDS: Final = 1.0
#: Octets of a worker's last words that are told.
_WORDS: Final = 500

log = Logger(namespace="smtpsvc")


class Owner(Protocol):
    """What a process knows of those that started it."""

    #: Is given what it has logged.
    publish: Callable[[Any], object]

    def later(self, seconds: float, function: Callable[..., object], *arguments: object) -> IDelayedCall:
        """Call something later."""

    def listens(self, process: WorkerProcess) -> None:
        """It listens."""

    def ended(self, process: WorkerProcess, how: str) -> None:
        """It has ended."""

    def answered(self, worker: int, number: int, answer: bytes | None) -> None:
        """It has answered."""


class WorkerProcess(ProcessProtocol):
    """
    One process of a worker.

    :param owner: is told of it.
    :param number: which of the workers it is.
    :param hello: the first thing that it is told.
    """

    def __init__(self, owner: Owner, number: int, hello: Frame) -> None:
        self.number = number
        self.listening = False
        #: When it began to listen.
        self.since = 0.0
        #: The numbers of the questions that it has not answered.
        self.owes: set[int] = set()
        #: Its last word on why it ended.
        self.words = ""
        self.pid = 0
        self._waiting: IDelayedCall | None = None
        self._owner = owner
        self._hello = hello
        self._frames = FrameReader()
        self._lines = {1: Lines(self._line), 2: Lines(self._line)}

    def tell(self, frame: Frame) -> None:
        """Send it a message; to one that is ending it may be lost."""
        transport: Any = self.transport
        if transport is not None and HEAR in transport.pipes:
            transport.writeToChild(HEAR, frame.encode())

    def kill(self, name: str) -> None:
        """Send it a signal, unless it has ended."""
        transport: Any = self.transport
        try:
            transport.signalProcess(name)
        except Exception as error:  # ProcessExitedAlready, or no right to
            log.debug("worker {worker}: {error}", worker=self.number, error=error)

    def connectionMade(self) -> None:
        """It has begun."""
        transport: Any = self.transport
        self.pid = transport.pid
        transport.closeStdin()
        self.tell(self._hello)

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        """It has said something."""
        if childFD != SAY:
            self._lines[childFD].feed(data)
            return
        try:
            for frame in self._frames.feed(data):
                self._take(frame)
        except ValueError as error:
            log.error("worker {worker} is killed: {error}", worker=self.number, error=str(error))
            self.kill("KILL")

    def processExited(self, reason: Failure) -> None:
        """It has ended; what it has said may still be on its way, and a process of its own may keep the pipes."""
        self._waiting = self._owner.later(_LAST_WORDS, self._over, reason)

    def processEnded(self, reason: Failure) -> None:
        """It has ended, and all that it had to say has come."""
        if self._waiting is not None and self._waiting.active():
            self._waiting.cancel()
            self._over(reason)

    def _over(self, reason: Failure) -> None:
        transport: Any = self.transport
        transport.loseConnection()
        for lines in self._lines.values():
            lines.end()
        self._owner.ended(self, _how(reason.value))

    def _take(self, frame: Frame) -> None:
        if frame.kind == b"listening":
            self.listening = True
            self._owner.listens(self)
        elif frame.kind in (b"answer", b"none"):
            self.owes.discard(frame.number)
            answer = frame.payload if frame.kind == b"answer" else None
            self._owner.answered(self.number, frame.number, answer)

    def _line(self, line: bytes) -> None:
        # What a person would be told on a terminal.
        if line.startswith(b"smtpsvc: "):
            self.words = line[len(b"smtpsvc: ") :][:_WORDS].decode("utf-8", "backslashreplace")
        else:
            log_line(self.number, line, self._owner.publish)


def _how(error: BaseException | None) -> str:
    if not isinstance(error, ProcessTerminated):
        return "has ended"
    if error.signal is not None:
        return f"was ended by {signal.Signals(error.signal).name}"
    return f"has ended with exit status {error.exitCode}"
