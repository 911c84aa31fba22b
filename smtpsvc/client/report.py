"""
What became of a message that went through a :class:`~smtpsvc.client.Mailer`: a fate for each recipient.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from smtpsvc.client.errors import ClientError, ConnectFailed, Disconnected, LoginFailed, Stage, TLSFailed
from smtpsvc.grammar.replies import Reply


class Fate(enum.StrEnum):
    """What became of a message for one recipient."""

    #: A server has taken it.
    DELIVERED = "delivered"
    #: It was refused for good: the same will not succeed later.
    REFUSED = "refused"
    #: Nobody has taken it, and it may be tried again later.
    DEFERRED = "deferred"
    #: All of it was sent and no reply came: to try again may deliver it twice (RFC 1047).
    UNKNOWN = "unknown"


#: RFC 3463 codes of what no server has said.
_STATUS: Final = ((ConnectFailed, "4.4.1"), (TLSFailed, "4.7.5"), (LoginFailed, "5.7.8"), (Disconnected, "4.4.2"))


@dataclass(frozen=True, slots=True)
class RecipientReport:
    """What became of a message for one recipient, by whom that was said, and why."""

    address: str
    fate: Fate
    #: The server that said so, or was tried last; "" if there was none.
    host: str = ""
    #: What it said, or what is to be said in its place where there is no server; None if *error* says it.
    reply: Reply | None = None
    error: ClientError | None = None

    @property
    def status(self) -> str:
        """The enhanced status code (RFC 3463), for notifications: ``2.0.0``, ``5.1.1`` ..."""
        if self.reply is not None and self.reply.enhanced:
            return self.reply.enhanced
        if self.fate is Fate.DELIVERED:
            return "2.0.0"
        found = next((code for kind, code in _STATUS if isinstance(self.error, kind)), "4.0.0")
        return ("5" if self.fate is Fate.REFUSED else "4") + found[1:]

    @property
    def reason(self) -> str:
        """The reply, or what went wrong, in one line."""
        text = str(self.reply) if self.reply is not None else str(self.error or "")
        return " ".join(text.split())

    def __str__(self) -> str:
        host = f" by {self.host}" if self.host else ""
        return f"{self.fate} {self.address}{host}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Report:
    """
    What became of a message, recipient by recipient.

    :ivar recipients: in the order in which they were given.
    :ivar dropped: parameters that some server did not know, and that were left out for it.
    """

    sender: str
    recipients: tuple[RecipientReport, ...]
    dropped: tuple[str, ...] = ()

    def of(self, fate: Fate) -> tuple[str, ...]:
        """Give the addresses of those who had a fate."""
        return tuple(each.address for each in self.recipients if each.fate is fate)

    @property
    def delivered(self) -> tuple[str, ...]:
        """For whom a server has taken it."""
        return self.of(Fate.DELIVERED)

    @property
    def refused(self) -> tuple[str, ...]:
        """For whom it was refused for good."""
        return self.of(Fate.REFUSED)

    @property
    def deferred(self) -> tuple[str, ...]:
        """For whom it may be tried again."""
        return self.of(Fate.DEFERRED)

    @property
    def unknown(self) -> tuple[str, ...]:
        """For whom nobody knows."""
        return self.of(Fate.UNKNOWN)

    @property
    def complete(self) -> bool:
        """True if it was delivered to all."""
        return all(each.fate is Fate.DELIVERED for each in self.recipients)

    def __str__(self) -> str:
        return "\n".join(map(str, self.recipients))


class NotSent(ClientError):
    """
    A message was delivered to nobody.

    :ivar report: says why, recipient by recipient.
    """

    def __init__(self, report: Report) -> None:
        first = report.recipients[0]
        unknown = bool(report.unknown)
        stage = first.error.stage if first.error is not None else Stage.END
        super().__init__(f"the message was delivered to nobody: {first}", stage, first.reply, maybe_delivered=unknown)
        self.report = report

    @property
    def temporary(self) -> bool:
        """True if it may be tried again for somebody."""
        return bool(self.report.deferred)

    def __str__(self) -> str:
        return str(self.args[0])
