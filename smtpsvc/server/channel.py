"""
What lies between a conversation and the protocol that carries it.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Final, Protocol


class Mode(IntEnum):
    """What a conversation takes next."""

    #: Command lines.
    LINES = 0
    #: One line that a prompt asked for.
    PROMPT = 1
    #: Content, by the conversation's receiver.
    CONTENT = 2
    #: Nothing, until a hook has answered.
    WAITING = 3
    #: Nothing, until the handshake of TLS is complete.
    SECURING = 4
    #: Nothing: the farewell is due.
    PARTING = 5
    #: Nothing any more.
    CLOSED = 6


# Names of the module: the loop over the lines of a read looks at the mode after each.
LINES: Final = Mode.LINES
PROMPT: Final = Mode.PROMPT
CONTENT: Final = Mode.CONTENT
WAITING: Final = Mode.WAITING
SECURING: Final = Mode.SECURING
PARTING: Final = Mode.PARTING
CLOSED: Final = Mode.CLOSED

# Why a client is not read, as bits of Channel.paused.

#: It does not read our replies.
BY_TRANSPORT: Final = 1
#: The session said so.
BY_SESSION: Final = 2
#: Enough has gathered for the hook that is waited for.
BY_READ_AHEAD: Final = 4
#: Others have their turn first.
BY_TURN: Final = 8
#: Too much is in memory.
BY_MEMORY: Final = 16


#: After so many replies to pipelined commands the other connections have their turn.
TURN: Final = 256


class Channel(Protocol):
    """What a conversation needs of the protocol that carries it."""

    #: Encoded replies, sent together when the read is done.
    out: list[bytes]

    #: When the client last got on, by the sweep's clock.
    since: float

    #: Why the client is not read, as bits of ``BY_*``; 0 if it is.
    paused: int

    @property
    def unread(self) -> bool:
        """True if there is something of the client that has not been taken."""

    def wake(self) -> None:
        """Something has changed: send what is in :attr:`out`, and read on if that may be."""

    def start_tls(self, creator: Any) -> bool:
        """
        Begin TLS when the replies so far are sent.

        :returns: False if there is none to be had on this transport.
        """

    def channel_binding(self, kind: str) -> bytes | None:
        """Give what binds an exchange to the connection's TLS, or None."""

    def hold(self, why: int) -> None:
        """Stop reading the client."""

    def release(self, why: int) -> None:
        """Read the client again, unless there is another reason not to."""


class Gone:
    """
    The channel of all whose connection is lost: a conversation that lets go of its protocol needs no collector.
    """

    since = 0.0
    paused = 0
    unread = False

    @property
    def out(self) -> list[bytes]:
        """Nobody is there to be told."""
        return []

    def wake(self) -> None:
        """Nothing is to be sent or read."""

    def start_tls(self, creator: Any) -> bool:
        """There is none to be had."""
        return False

    def channel_binding(self, kind: str) -> bytes | None:
        """There is none."""
        return None

    def hold(self, why: int) -> None:
        """Nobody is read."""

    def release(self, why: int) -> None:
        """Nobody is read."""


#: There is one for all.
GONE: Final[Any] = Gone()
