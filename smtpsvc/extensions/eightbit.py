"""
8BITMIME: content with octets above 127 (RFC 6152).
"""

from __future__ import annotations

from smtpsvc.extensions import Extension
from smtpsvc.grammar import replies
from smtpsvc.grammar.params import choice
from smtpsvc.grammar.replies import Reply
from smtpsvc.interfaces import IConversation
from smtpsvc.values import Body, Envelope


class EightBitMIME(Extension):
    """
    8BITMIME (RFC 6152): ``BODY=7BIT`` or ``BODY=8BITMIME`` on MAIL.

    All content is kept octet by octet in any case; the backend sees what was declared.
    """

    keyword = "8BITMIME"
    mail_params = {"BODY": choice(Body)}

    def mail(self, conversation: IConversation, envelope: Envelope) -> Reply | None:
        """Refuse ``BODY=BINARYMIME`` (RFC 3030) where that extension is not offered."""
        offered = conversation.keywords >= {"BINARYMIME", "CHUNKING"}
        if envelope.mail_params["BODY"] is Body.BINARY_MIME and not offered:
            return replies.UNKNOWN_PARAMETER
        return None
