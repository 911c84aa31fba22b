"""
STARTTLS: TLS on a connection that began without (RFC 3207).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from twisted.internet.interfaces import IOpenSSLContextFactory, IOpenSSLServerConnectionCreator
from twisted.python.failure import Failure

from smtpsvc.extensions import Extension
from smtpsvc.grammar import replies
from smtpsvc.grammar.commands import parse_nothing
from smtpsvc.grammar.replies import Reply
from smtpsvc.grammar.states import State
from smtpsvc.interfaces import Guard, IConversation, ISecured
from smtpsvc.server.verbs import Verb
from smtpsvc.settings import Role, Settings

READY: Final = Reply(220, "Ready to start TLS", "2.0.0")
NOT_NOW: Final = Reply(454, "TLS not available due to temporary reason", "4.7.0")
TWICE: Final = Reply(503, "TLS is active already", "5.5.1")
MUST_START: Final = Reply(530, "Must issue a STARTTLS command first", "5.7.0")

#: What ``--require-tls`` serves before TLS (RFC 3207 §4), and the greetings of old clients and of LMTP.
_SERVED: Final = ("EHLO", "HELO", "LHLO", "NOOP", "STARTTLS", "QUIT")


def need_tls(conversation: IConversation) -> Reply | None:
    """Refuse what needs TLS: 530 5.7.0 (RFC 3207 §4)."""
    return None if conversation.secure else MUST_START


def start_tls(conversation: Any, _: None) -> Any:
    """STARTTLS: ask the session for its context, if it has one; TLS begins behind the 220."""
    default = conversation.tls
    if conversation.peer.tls is not None:
        return TWICE
    if default is None:
        return replies.NOT_IMPLEMENTED
    session = conversation.session
    if not ISecured.providedBy(session):
        return _begin(conversation, default)

    def chosen(value: Any) -> Reply:
        if value is None:
            return _begin(conversation, default)
        if isinstance(value, (Reply, Failure)):
            refusal = conversation.judge(value, session.tls_context)
            return refusal if refusal is not None and not refusal.positive else NOT_NOW
        return _begin(conversation, value)

    return conversation.call(chosen, session.tls_context, default)


def _begin(conversation: Any, creator: Any) -> Reply:
    if not (IOpenSSLServerConnectionCreator.providedBy(creator) or IOpenSSLContextFactory.providedBy(creator)):
        wrong = f"tls_context() gave {creator!r:.80}: a creator of TLS connections was expected"
        conversation.failed(Failure(TypeError(wrong)), "tls_context")
        return NOT_NOW
    return READY if conversation.start_tls(creator) else NOT_NOW


class StartTLS(Extension):
    """
    STARTTLS (RFC 3207): shown where the factory has TLS and the connection has none yet.

    What a client sends behind STARTTLS before the handshake is dropped, never executed.
    """

    keyword = "STARTTLS"
    verbs = {"STARTTLS": Verb(State.GREETED, parse_nothing, start_tls)}

    def advertise(self, conversation: IConversation) -> str | None:
        """Keep silent without TLS to offer, and under TLS (RFC 3207 §4.2)."""
        return None if conversation.tls is None or conversation.peer.tls is not None else ""

    def guards(self, settings: Settings, role: Role) -> Mapping[str, Guard | None]:
        """Let nothing of weight pass before TLS if that is required; for submission, AUTH."""
        if settings.require_tls:
            return {"*": need_tls, **dict.fromkeys(_SERVED)}
        if role is Role.SUBMISSION and not settings.allow_insecure_auth:
            return {"AUTH": need_tls}
        return {}
