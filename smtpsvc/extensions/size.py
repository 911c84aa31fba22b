"""
SIZE: how large a message may be (RFC 1870).
"""

from __future__ import annotations

from smtpsvc.extensions import Extension
from smtpsvc.grammar import replies
from smtpsvc.grammar.params import number
from smtpsvc.grammar.replies import Reply
from smtpsvc.interfaces import IConversation
from smtpsvc.values import Envelope


class Size(Extension):
    """
    SIZE (RFC 1870): announces the limit, and refuses at MAIL what is declared to be larger.

    What was not declared, or declared wrongly, meets the same limit while it is received.
    """

    keyword = "SIZE"
    mail_params = {"SIZE": number(20)}

    def advertise(self, conversation: IConversation) -> str:
        """Show the limit; 0 is none (RFC 1870 §4)."""
        return str(conversation.settings.limits.message_size)

    def mail(self, conversation: IConversation, envelope: Envelope) -> Reply | None:
        """Refuse what is declared to be larger than the limit: 552 5.3.4 (RFC 1870 §6.1)."""
        limit = conversation.settings.limits.message_size
        if limit and envelope.mail_params["SIZE"] > limit:
            return replies.TOO_BIG
        return None
