"""
Faults: what a client may get wrong before its connection is closed.

Nothing is counted on the way of a message that is taken: only refusals, and verbs that send no mail.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from smtpsvc.grammar import replies
from smtpsvc.grammar.replies import Reply

if TYPE_CHECKING:
    from smtpsvc.server.conversation import Conversation

#: Verbs that send no mail. Many of them without a message are a probe, or a client that is stuck.
JUNK: Final = ("NOOP", "RSET", "VRFY", "EXPN", "HELP")
HELLO: Final = ("EHLO", "HELO", "LHLO")

#: Recipients beyond the limit of a message that are no error: a client may have sent a long list of RCPTs
#: before it read the first 452 (RFC 5321 §4.5.3.1.10).
OVERSHOOT: Final = 1000

# A RCPT that is answered so is no recipient that was refused, but a mistake.
_MISTAKES: Final = frozenset({500, 501, 502, 503, 504, 530, 555})

_HTTP: Final = frozenset(b"CONNECT DELETE GET HEAD OPTIONS PATCH POST PRI PROPFIND PUT TRACE".split())
_LONGEST: Final = max(map(len, _HTTP))
# A TLS record that begins a handshake (RFC 8446 §5.1).
_CLIENT_HELLO: Final = b"\x16\x03"


class Faults:
    """What has gone wrong in a connection since its last message was taken."""

    __slots__ = ("errors", "excess", "junk", "logins", "refused")

    def __init__(self) -> None:
        self.errors = 0
        #: Recipients that were refused.
        self.refused = 0
        #: Recipients beyond the limit of a message.
        self.excess = 0
        self.junk = 0
        #: Logins that failed; these a message does not undo.
        self.logins = 0

    def forgive(self) -> None:
        """A message was taken: its client is no prober."""
        self.errors = self.refused = self.excess = self.junk = 0


def faults_of(conversation: Any) -> Faults:
    """Give the faults of a conversation; they are made with the first."""
    faults: Faults | None = conversation.faults
    if faults is None:
        faults = conversation.faults = Faults()
    return faults


def count_refusal(conversation: Conversation, verb: str, reply: Reply) -> None:
    """
    Count a command that is refused; behind its reply the connection is closed if it was one too many.

    :param verb: "" if it is unknown.
    """
    faults = faults_of(conversation)
    if verb == "RCPT" and reply.code not in _MISTAKES:
        if reply.enhanced == "4.5.3":
            faults.excess += 1
            if faults.excess <= OVERSHOOT:
                return
        else:
            faults.refused += 1
            limit = conversation.settings.limits.refused_recipients
            if not limit or faults.refused <= limit:
                return
    _count_error(conversation, faults)


def count_junk(conversation: Any, _: object) -> None:
    """Count a command that sends no mail; it is served all the same."""
    faults = faults_of(conversation)
    faults.junk += 1
    if faults.junk > conversation.settings.limits.junk:
        _count_error(conversation, faults)


def count_hello(conversation: Any, _: object) -> None:
    """Count an EHLO, but for the first."""
    if conversation.peer.helo:
        count_junk(conversation, _)


def _count_error(conversation: Conversation, faults: Faults) -> None:
    faults.errors += 1
    limit = conversation.settings.limits.errors
    if limit and faults.errors >= limit:
        conversation.close(replies.TOO_MANY_ERRORS)


def is_foreign(line: bytes) -> bool:
    """
    Say whether a line that is no command is the beginning of HTTP, or of TLS.

    A browser can be made to send both to a mail server, with commands in what follows.
    """
    return line.startswith(_CLIENT_HELLO) or line[: _LONGEST + 1].partition(b" ")[0].upper() in _HTTP
