"""
What can go wrong while mail is sent: one class for each kind, and for all of them what was said and when.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

from smtpsvc.grammar.replies import Reply

if TYPE_CHECKING:
    from smtpsvc.client.result import Result


class Stage(enum.StrEnum):
    """A step of the dialogue; the value reads behind "while"."""

    CONNECT = "connecting"
    GREETING = "waiting for the greeting"
    HELLO = "introducing ourselves"
    STARTTLS = "asking for TLS"
    TLS = "beginning TLS"
    AUTH = "logging in"
    COMMAND = "giving a command"
    MAIL = "naming the sender"
    RCPT = "naming a recipient"
    DATA = "opening the message"
    CONTENT = "sending the message"
    END = "waiting for the reply to the message"
    RESET = "resetting"
    QUIT = "saying goodbye"


class ClientError(Exception):
    """
    Mail was not sent, or a connection was not made.

    :ivar stage: the step at which it went wrong.
    :ivar reply: what the server said, or None.
    :ivar maybe_delivered: True if the whole message was sent and its reply never came: the server may
        have taken it, and sending it again may deliver it twice (RFC 1047).
    :ivar result: what is known of each recipient, where there is something to know.
    """

    #: True if the same may succeed later; of a reply it is its code that decides.
    passing = True

    def __init__(
        self,
        text: str,
        stage: Stage,
        reply: Reply | None = None,
        *,
        maybe_delivered: bool = False,
        result: Result | None = None,
    ) -> None:
        super().__init__(text)
        self.stage = stage
        self.reply = reply
        self.maybe_delivered = maybe_delivered
        self.result = result

    def again(self) -> ClientError:
        """Give the same for another message that it hits too."""
        made = type(self)(self.args[0], self.stage, self.reply)
        made.__cause__ = self.__cause__
        return made

    @property
    def temporary(self) -> bool:
        """True if the same may succeed later."""
        return self.reply.code < 500 if self.reply is not None and self.reply.code >= 400 else self.passing

    def __str__(self) -> str:
        text = f"{self.args[0]} (while {self.stage})"
        if self.reply is not None:
            text += f": {self.reply}"
        if self.maybe_delivered:
            text += "; the message may have been delivered"
        return text


class ConnectFailed(ClientError):
    """No connection could be made; ``__cause__`` is the reason."""


class TLSFailed(ClientError):
    """TLS was wanted and could not be had: it is not offered, the handshake failed, or the certificate is not good."""


class LoginFailed(ClientError):
    """The login was refused, or there is no way to log in that is allowed."""

    passing = False


class Refused(ClientError):
    """The server said no, with its reply; of a message: for all recipients, see ``result``."""


class Unsupported(ClientError):
    """The message needs what this server does not offer; nothing was sent."""

    passing = False


class ContentRefused(ClientError, ValueError):
    """The content cannot be sent as it is: damaged line ends, NUL, octets that the server does not take."""

    passing = False


class LimitReached(ClientError):
    """The server has announced a limit (SIZE, LIMITS) that the message or the connection would go beyond."""


class ServerMisbehaved(ClientError):
    """The server says what is no reply, or none that can stand at this place; the connection is closed."""


class Disconnected(ClientError):
    """The connection was lost; ``reply`` is the server's 421 if it said one."""


class TimedOut(Disconnected):
    """The server was silent, or took nothing, for too long; the connection is closed."""


#: What a refusal's text says before the reply.
REFUSED: Final = "the server refused"
