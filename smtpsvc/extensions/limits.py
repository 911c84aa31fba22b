"""
LIMITS: how much a client may do (RFC 9422).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from smtpsvc.extensions import Extension
from smtpsvc.grammar.commands import Path
from smtpsvc.grammar.replies import Reply
from smtpsvc.interfaces import Check, IConversation
from smtpsvc.settings import Role, Settings

TOO_MANY_MESSAGES: Final = Reply(421, "Too many messages in one connection, open another for the next", "4.7.0")
TOO_MANY_DOMAINS: Final = Reply(452, "Too many recipient domains in one connection", "4.5.3")


class _Counts:
    """What a connection has used up."""

    __slots__ = ("domains", "messages")

    def __init__(self) -> None:
        self.messages = 0
        self.domains: set[str] = set()


class LIMITS(Extension):
    """
    LIMITS (RFC 9422): the client learns beforehand how much it may do.

    RCPTMAX is the number of recipients of a message, which holds without this extension too; MAILMAX
    the number of MAIL commands of a connection, taken or refused: 421 4.7.0 after them; RCPTDOMAINMAX
    the number of domains among the recipients of a connection: 452 4.5.3 for another.
    """

    keyword = "LIMITS"

    def checks(self, settings: Settings, role: Role) -> Mapping[str, Check]:
        """Count messages and domains, where there is a limit to their number."""
        checks: dict[str, Check] = {}
        if settings.limits.messages:
            checks["MAIL"] = self.count_message
        if settings.limits.recipient_domains:
            checks["RCPT"] = self.count_domain
        return checks

    def advertise(self, conversation: IConversation) -> str:
        """Show the limits that there are."""
        limits = conversation.settings.limits
        shown = {
            "MAILMAX": limits.messages,
            "RCPTMAX": conversation.max_recipients,
            "RCPTDOMAINMAX": limits.recipient_domains,
        }
        return " ".join(f"{name}={limit}" for name, limit in shown.items() if limit)

    def count_message(self, conversation: IConversation, path: Path) -> Reply | None:
        """Count a MAIL, whether it is taken or not."""
        counts = self._counts(conversation)
        counts.messages += 1
        return TOO_MANY_MESSAGES if counts.messages > conversation.settings.limits.messages else None

    def count_domain(self, conversation: IConversation, path: Path) -> Reply | None:
        """Count a domain, if it is new to the connection; a postmaster without one has none."""
        domain = path.address.ascii_domain.lower()
        domains = self._counts(conversation).domains
        if not domain or domain in domains:
            return None
        if len(domains) >= conversation.settings.limits.recipient_domains:
            return TOO_MANY_DOMAINS
        domains.add(domain)
        return None

    def _counts(self, conversation: IConversation) -> _Counts:
        counts: _Counts = conversation.notes.setdefault(self.keyword, _Counts())
        return counts
