"""
Pausing: the part of a protocol that stops reading its client, and goes on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from smtpsvc.server.channel import BY_MEMORY, BY_READ_AHEAD, BY_TRANSPORT, CLOSED
from smtpsvc.settings import KIB

if TYPE_CHECKING:
    from smtpsvc.server.conversation import Conversation
    from smtpsvc.server.factory import SMTPFactory

#: A client that does not read its replies has about so much of them in memory.
_UNSENT: Final = 64 * KIB


class Pausing:
    """Reads no more while there is a reason not to, and keeps count of what has been read until then."""

    factory: SMTPFactory
    conversation: Conversation
    transport: Any
    since: float
    #: Why the client is not read, as bits of ``channel.BY_*``; 0 if it is.
    paused: int
    # What of the client is counted in the budget.
    _counted: int
    # What has been read and not been taken.
    _buffer: bytes
    # Pieces that have come while nothing could be read, and their bytes together.
    _gathered: list[bytes]
    _gathered_size: int
    _ended: bool
    _losing: bool

    if TYPE_CHECKING:

        def wake(self) -> None: ...

    # As a producer.

    def pauseProducing(self) -> None:
        """Replies are not read: read no commands."""
        if not self.paused & BY_TRANSPORT:
            self.count_unread(_UNSENT)
        self.hold(BY_TRANSPORT)

    def resumeProducing(self) -> None:
        """Replies have been read: go on."""
        if self.paused & BY_TRANSPORT:
            self.count_unread(-_UNSENT)
        self.release(BY_TRANSPORT)

    def stopProducing(self) -> None:
        """The connection is being lost; connectionLost follows."""

    # For the conversation.

    def hold(self, why: int) -> None:
        """Stop reading the client."""
        if not self.paused and not self._ended and not self._losing and self.transport is not None:
            self.transport.pauseProducing()
        if why == BY_MEMORY and not self.paused & why:
            # What a connection holds that waits for memory is not counted: else those who wait could wait for each
            # other.
            self.paused |= why
            self.factory.budget.wait(self)
            self.factory.budget.take(-self._counted)
            return
        self.paused |= why

    def release(self, why: int) -> None:
        """Read the client again, unless there is another reason not to."""
        if not self.paused & why:
            return
        self.paused &= ~why
        if why == BY_MEMORY:
            self.factory.budget.take(self._counted)
        if self.paused & ~BY_READ_AHEAD:
            return
        self.since = self.factory.sweep.now
        # For having read ahead the transport stays paused until something is taken.
        if not self.paused and not self._ended and self.conversation.mode is not CLOSED and self.transport is not None:
            self.transport.resumeProducing()
        self.wake()

    def remember(self) -> None:
        """There is room in memory again."""
        self.release(BY_MEMORY)

    @property
    def unread(self) -> bool:
        """True if there is something of the client that has not been taken."""
        return bool(self._buffer or self._gathered)

    def take_unread(self) -> bytes:
        """
        Forget what has been read and not been taken, and give it back.

        Not to be called while lines are being taken.
        """
        rest = b"".join([self._buffer, *self._gathered])
        self._buffer = b""
        if self._gathered_size:
            self.count_unread(-self._gathered_size)
            self._gathered.clear()
            self._gathered_size = 0
        return rest

    def count_unread(self, size: int) -> None:
        """So many bytes of the client wait more, here or in the transport; or less if it is below 0."""
        self._counted += size
        if not self.paused & BY_MEMORY:
            self.factory.budget.take(size)
