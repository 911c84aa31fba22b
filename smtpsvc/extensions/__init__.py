"""
ESMTP extensions, a file each. Every one of them comes in by the road that anyone's may take:
:class:`~smtpsvc.interfaces.IExtension`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from zope.interface import implementer

from smtpsvc.grammar.commands import NO_PARAMS
from smtpsvc.interfaces import IConversation, IExtension
from smtpsvc.settings import Role

if TYPE_CHECKING:
    from smtpsvc.grammar.replies import Reply
    from smtpsvc.values import Envelope, Recipient


@implementer(IExtension)
class Extension:
    """An extension that is advertised by its keyword alone and changes nothing: override what it brings."""

    keyword: str
    roles: frozenset[Role] = frozenset(Role)
    mail_params: Mapping[str, Any] = NO_PARAMS
    rcpt_params: Mapping[str, Any] = NO_PARAMS
    verbs: Mapping[str, Any] = NO_PARAMS
    varies = False

    def advertise(self, conversation: IConversation) -> str | None:
        """Show the keyword without arguments."""
        return ""

    def mail(self, conversation: IConversation, envelope: Envelope) -> Reply | None:
        """Take any MAIL that has one of the parameters."""
        return None

    def rcpt(self, conversation: IConversation, envelope: Envelope, recipient: Recipient) -> Reply | None:
        """Take any RCPT that has one of the parameters."""
        return None


def defaults() -> list[Extension]:
    """The extensions of a server that was not told otherwise, in the order of the reply to EHLO."""
    from smtpsvc.extensions.eightbit import EightBitMIME
    from smtpsvc.extensions.flags import EnhancedStatusCodes, Pipelining
    from smtpsvc.extensions.size import Size
    from smtpsvc.extensions.smtputf8 import SMTPUTF8

    return [Pipelining(), Size(), EightBitMIME(), SMTPUTF8(), EnhancedStatusCodes()]
