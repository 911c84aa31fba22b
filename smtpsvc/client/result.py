"""
What became of a message.
"""

from __future__ import annotations

from dataclasses import dataclass

from smtpsvc.client.errors import Stage
from smtpsvc.grammar.replies import Reply


@dataclass(frozen=True, slots=True)
class RecipientResult:
    """What became of a message for one recipient."""

    address: str
    #: The refusal of the RCPT; or else the reply to the message: over LMTP and PRDR the recipient's own.
    reply: Reply
    #: The step at which that was said: ``MAIL``, ``RCPT``, ``DATA``, ``CONTENT`` or ``END``.
    stage: Stage = Stage.END

    @property
    def taken(self) -> bool:
        """True if the server has taken the message for this recipient."""
        return 200 <= self.reply.code < 300


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a message: the replies, recipient by recipient."""

    sender: str
    #: In the order in which they were given.
    recipients: tuple[RecipientResult, ...]
    #: The reply that decided on the whole: that to the message, or the refusal before it.
    reply: Reply
    #: Parameters that were left out, since the server does not know their extension; by name.
    dropped: tuple[str, ...] = ()

    @property
    def taken(self) -> tuple[str, ...]:
        """The recipients for which the server has taken the message."""
        return tuple(each.address for each in self.recipients if each.taken)

    @property
    def refused(self) -> dict[str, Reply]:
        """The other recipients, each with its refusal."""
        return {each.address: each.reply for each in self.recipients if not each.taken}
