"""
REQUIRETLS: mail that must never travel without TLS (RFC 8689).
"""

from __future__ import annotations

from typing import Final

from smtpsvc.extensions import Extension
from smtpsvc.grammar.params import no_value
from smtpsvc.grammar.replies import Reply
from smtpsvc.interfaces import IConversation
from smtpsvc.values import Envelope

NEEDS_TLS: Final = Reply(530, "REQUIRETLS is offered under TLS only", "5.7.10")


class RequireTLS(Extension):
    """
    REQUIRETLS (RFC 8689): the message must never travel without TLS.

    It is shown, and its parameter of MAIL taken, under TLS only. Who takes a message with it must hand
    it on only under verified TLS, to a host that has this extension.
    """

    keyword = "REQUIRETLS"
    on_request = True
    mail_params = {"REQUIRETLS": no_value}

    def advertise(self, conversation: IConversation) -> str | None:
        """Keep silent without TLS (RFC 8689 §2)."""
        return "" if conversation.secure else None

    def mail(self, conversation: IConversation, envelope: Envelope) -> Reply | None:
        """Refuse it without TLS: 530 5.7.10."""
        return None if conversation.secure else NEEDS_TLS
