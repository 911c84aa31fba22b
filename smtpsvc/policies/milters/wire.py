"""
A connection to a filter that speaks the milter protocol: messages out, messages in, each in its time.

The codec is that of ``kilter.protocol``. What it cannot write, since it takes strangers' words for text of some kind,
is written as octets here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from kilter.protocol import messages
from kilter.protocol.buffer import SimpleBuffer
from kilter.protocol.exceptions import InsufficientSpace, UnknownMessage
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from smtpsvc.policies.reaching import ProgramFailed, in_time
from smtpsvc.settings import KIB, MIB

#: Octets of a message from the filter, where it is not told of a body.
LONGEST: Final = 64 * KIB
#: Octets that are read ahead while nobody waits.
_AHEAD: Final = MIB
#: Messages that are sent in one turn of the reactor where the filter answers none of them.
_TURN: Final = 500
_CAPACITIES: Final = (KIB, 8 * KIB, 64 * KIB, MIB, 8 * MIB)


class Octets(messages.BytesMessage):
    """
    A message whose content is written as it is.

    :param letter: of the command.
    """

    def __init__(self, letter: bytes, content: bytes = b"") -> None:
        super().__init__(content)
        self.ident = letter[0]  # type: ignore[misc]


class Shutdown(messages.NoDataMessage):
    """The filter wants the client to be gone (SMFIR_SHUTDOWN): 421."""


def macro(letter: bytes, values: Mapping[str, str]) -> Octets:
    """
    Make the message of macros.

    :param letter: of the command that they are for.
    :param values: by name, with braces where the name is longer than a letter.
    """
    return Octets(b"D", letter + b"".join(text(name) + text(value) for name, value in values.items()))


def text(value: str) -> bytes:
    """Write a text with the NUL that ends it; none can be in it."""
    return value.replace("\0", "").encode("utf-8", "backslashreplace") + b"\0"


def packed(message: messages.Message) -> bytes:
    """
    Write a message.

    :raises ProgramFailed: if it is too long.
    """
    if isinstance(message, Octets):
        return (len(message.content) + 1).to_bytes(4, "big") + bytes((message.ident,)) + bytes(message.content)
    for capacity in _CAPACITIES:
        buffer = SimpleBuffer(capacity)
        try:
            message.pack(buffer)
        except InsufficientSpace:
            continue
        return bytes(buffer.buffer[: buffer.filled])
    raise ProgramFailed("a message is too long for it")


def unpacked(frame: bytes) -> messages.Message:
    """
    Read a message.

    :param frame: with its length.
    :raises ProgramFailed: if it is none.
    """
    if frame[4:5] == b"4":
        return Shutdown()
    buffer = SimpleBuffer(len(frame))
    buffer[:] = frame
    try:
        message, _ = messages.Message.unpack(buffer)
    except UnknownMessage as error:
        raise ProgramFailed(f"it has said {frame[4:5]!r}, which is no answer") from error
    except Exception as error:  # the codec asserts and indexes as it reads
        raise ProgramFailed(f"it has said {frame[4:24]!r}, which cannot be read") from error
    message.freeze()
    return message


class MilterConnection(Protocol):
    """One connection to a filter."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._buffer = bytearray()
        self._waiting: Deferred[None] | None = None
        self._drained: Deferred[None] | None = None
        self._reading = True
        self._full = False
        self._sent = 0
        #: False once it is lost.
        self.usable = False

    def connectionMade(self) -> None:
        """Begin."""
        self.usable = True
        self._transport.registerProducer(self, True)

    @property
    def _transport(self) -> Any:
        return self.transport

    def dataReceived(self, data: bytes) -> None:
        """Take octets of the filter."""
        self._buffer += data
        if self._waiting is None and len(self._buffer) > _AHEAD and self._reading:
            self._reading = False
            self._transport.pauseProducing()
        self._wake()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Let who waits know."""
        self.usable = False
        self._full = False
        self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, None
        drained, self._drained = (None, self._drained) if self._full else (self._drained, None)
        for each in (waiting, drained):
            if each is not None and not each.called:
                each.callback(None)

    # The transport calls these two when its buffer is full, and when it is not any more.

    def pauseProducing(self) -> None:
        """Write nothing for now."""
        self._full = True

    def resumeProducing(self) -> None:
        """Write again."""
        self._full = False
        drained, self._drained = self._drained, None
        if drained is not None and not drained.called:
            drained.callback(None)

    def stopProducing(self) -> None:
        """The connection is lost, of which :meth:`connectionLost` hears."""

    def send(self, *sent: messages.Message) -> None:
        """
        Send messages.

        :raises ProgramFailed: if the connection is lost, or the filter has said what it was not asked.
        """
        if not self.usable:
            raise ProgramFailed("it has closed the connection")
        if self._buffer:
            raise ProgramFailed("it has said more than it was asked")
        self._transport.write(b"".join(map(packed, sent)))

    async def drained(self, seconds: float) -> None:
        """
        Wait until the filter has taken most of what was sent.

        :raises ProgramFailed: if it does not in time.
        """
        self._sent += 1
        if self._sent % _TURN == 0:
            # A header of a MiB can have some 300,000 fields; others want to be served too.
            await deferLater(self._clock, 0)
        if self._full:
            self._drained = Deferred()
            await in_time(self._drained, seconds, self._clock, "reading")

    async def receive(self, seconds: float, longest: int = LONGEST) -> messages.Message:
        """
        Wait for the next message.

        :param seconds: for it to be whole; *progress* begins them anew.
        :param longest: octets.
        :raises ProgramFailed: if it does not come in time, or is none.
        """
        end = self._clock.seconds() + seconds
        while True:
            message = self._next(longest)
            if isinstance(message, messages.Progress):
                end = self._clock.seconds() + seconds
            elif message is not None:
                return message
            elif not self.usable:
                raise ProgramFailed("it has closed the connection")
            else:
                if not self._reading:
                    self._reading = True
                    self._transport.resumeProducing()
                self._waiting = Deferred()
                await in_time(self._waiting, max(0.0, end - self._clock.seconds()), self._clock, "answer")

    def _next(self, longest: int) -> messages.Message | None:
        buffer = self._buffer
        if len(buffer) < 5:
            return None
        size = int.from_bytes(buffer[:4], "big")
        if not 0 < size <= longest:
            raise ProgramFailed(f"it has announced a message of {size} octets")
        if len(buffer) < size + 4:
            return None
        frame = bytes(buffer[: size + 4])
        del buffer[: size + 4]
        return unpacked(frame)

    def drop(self) -> None:
        """Close the connection at once."""
        if self.usable:
            self.usable = False
            self._transport.abortConnection()

    def close(self, *last: messages.Message) -> None:
        """Send last messages and close the connection."""
        if self.usable:
            self._transport.write(b"".join(map(packed, last)))
            self.usable = False
            self._transport.unregisterProducer()
            self._transport.loseConnection()
