"""
ESMTP extensions, a file each. Every one of them comes in by the road that anyone's may take:
:class:`~smtpsvc.interfaces.IExtension`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

from zope.interface import implementer

from smtpsvc.grammar.commands import NO_PARAMS
from smtpsvc.interfaces import Check, Guard, IConversation, IExtension
from smtpsvc.settings import Role

if TYPE_CHECKING:
    from smtpsvc.grammar.replies import Reply
    from smtpsvc.settings import Settings
    from smtpsvc.values import Envelope, Recipient


@implementer(IExtension)
class Extension:
    """An extension that is advertised by its keyword alone and changes nothing: override what it brings."""

    keyword: str
    roles: frozenset[Role] = frozenset(Role)
    mail_params: Mapping[str, Any] = NO_PARAMS
    rcpt_params: Mapping[str, Any] = NO_PARAMS
    verbs: Mapping[str, Any] = NO_PARAMS
    on_request = False
    switches: frozenset[str] = frozenset()
    argument = ""
    varies = False

    def advertise(self, conversation: IConversation) -> str | None:
        """Show the keyword without arguments."""
        return ""

    def variant(self, conversation: IConversation) -> Hashable:
        """Depend on nothing else."""
        return None

    def configured(self, argument: str) -> Extension:
        """
        Take no argument.

        :raises ValueError: always.
        """
        raise ValueError("it takes no argument")

    def guards(self, settings: Settings, role: Role) -> Mapping[str, Guard | None]:
        """Stand in front of no verb."""
        return NO_PARAMS

    def checks(self, settings: Settings, role: Role) -> Mapping[str, Check]:
        """Look at no verb's arguments."""
        return NO_PARAMS

    def mail(self, conversation: IConversation, envelope: Envelope) -> Reply | None:
        """Take any MAIL that has one of the parameters."""
        return None

    def rcpt(self, conversation: IConversation, envelope: Envelope, recipient: Recipient) -> Reply | None:
        """Take any RCPT that has one of the parameters."""
        return None


def defaults() -> list[Extension]:
    """
    All extensions of smtpsvc, in the order of the reply to EHLO.

    Those with ``on_request`` are offered only where the backend or the settings ask for them:
    :func:`smtpsvc.extensions.offer.offered` says which.
    """
    from smtpsvc.extensions.chunking import BinaryMIME, Chunking
    from smtpsvc.extensions.deliverby import DELIVERBY
    from smtpsvc.extensions.dsn import DSN
    from smtpsvc.extensions.eightbit import EightBitMIME
    from smtpsvc.extensions.flags import EnhancedStatusCodes, Pipelining
    from smtpsvc.extensions.futurerelease import FutureRelease
    from smtpsvc.extensions.limits import LIMITS
    from smtpsvc.extensions.mtpriority import MTPriority
    from smtpsvc.extensions.nosoliciting import NoSoliciting
    from smtpsvc.extensions.prdr import PRDR
    from smtpsvc.extensions.requiretls import RequireTLS
    from smtpsvc.extensions.rrvs import RRVS
    from smtpsvc.extensions.size import Size
    from smtpsvc.extensions.smtputf8 import SMTPUTF8
    from smtpsvc.extensions.starttls import StartTLS
    from smtpsvc.extensions.xclient import XClient
    from smtpsvc.extensions.xforward import XForward
    from smtpsvc.extensions.xoorg import XOORG

    return [
        Pipelining(),
        Size(),
        EightBitMIME(),
        SMTPUTF8(),
        EnhancedStatusCodes(),
        Chunking(),
        BinaryMIME(),
        StartTLS(),
        DSN(),
        LIMITS(),
        DELIVERBY(),
        FutureRelease(),
        MTPriority(),
        NoSoliciting(),
        PRDR(),
        RequireTLS(),
        RRVS(),
        XOORG(),
        XClient(),
        XForward(),
    ]
