"""
What a client of ours is told: the next server's words where they are meant for it, and ours where they are not.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.logger import Logger

from smtpsvc.client import ClientError, ContentRefused, LimitReached, Stage, Unsupported
from smtpsvc.grammar.replies import Reply, SMTPError
from smtpsvc.parameters import ByMode, RRVSAction
from smtpsvc.values import Body, Envelope, Recipient

_log = Logger()

UNREACHABLE: Final = Reply(451, "The next server cannot be reached, try again later", "4.4.1")
LOST: Final = Reply(451, "The connection to the next server was lost, try again later", "4.4.2")
UNKNOWN: Final = Reply(451, "The next server did not say what became of the message, try again later", "4.4.2")
CONFUSED: Final = Reply(451, "The next server gives no answer that makes sense, try again later", "4.3.5")
CHANGED: Final = Reply(451, "The recipients have changed since the next server took them, try again later", "4.3.5")
NOT_TOLD: Final = Reply(451, "Taken for some recipients, and the sender cannot be told of the others yet", "4.3.0")

NO_TLS: Final = Reply(550, "REQUIRETLS is needed, and the next server does not support it", "5.7.30")
NO_UTF8: Final = Reply(553, "SMTPUTF8 is needed, and the next server does not support it", "5.6.7")
NO_BINARY: Final = Reply(554, "The content is BINARYMIME, and the next server does not support it", "5.6.1")
NO_EIGHT_BIT: Final = Reply(554, "The content has 8-bit octets, and the next server does not take them", "5.6.3")
NO_RRVS: Final = Reply(550, "RRVS is needed, and the next server does not support it", "5.7.19")
NOT_SUPPORTED: Final = Reply(550, "The next server does not support what the message needs", "5.3.3")
TOO_BIG: Final = Reply(552, "Message is larger than the next server takes", "5.3.4")
DAMAGED: Final = Reply(554, "The content has bare line ends or NUL, and cannot be sent on", "5.6.0")

#: These say that we and the next server do not fit together: no client can help it, and its mail shall not bounce.
_OURS: Final = frozenset({500, 502, 503, 504, 530, 534, 535, 538})

#: More of a reply is not handed on: characters, and lines.
MAX_TEXT: Final = 1000
MAX_LINES: Final = 8


def handed_on(reply: Reply) -> Reply:
    """
    Make the next server's reply one for our client.

    Code, enhanced code and text stay, but for what is between us and that server only: 421 and 521 would close
    the client's connection, and codes that tell of a wrong setup would let its mail bounce.
    """
    code, text = reply.code, reply.text
    if code in _OURS or 300 <= code < 400:
        _log.error("the next server gives an answer that its setup or ours must be the reason of: {reply}", reply=reply)
        return CONFUSED
    if code < 300:
        code = code if code in (250, 251, 252) else 250
    elif code in (421, 521):
        code = 451 if code == 421 else 554
    if len(text) > MAX_TEXT or text.count("\n") >= MAX_LINES:
        text = "\n".join(text[:MAX_TEXT].split("\n")[:MAX_LINES])
    if code == reply.code and text is reply.text:
        # It knows its octets already, if it came before.
        return reply
    return Reply(code, text, reply.enhanced)


def taken(envelope: Envelope, reply: Reply) -> Reply:
    """Make the reply to a message that the next server has taken: with our name for it, and what that server said."""
    said = " ".join(f"{reply.enhanced} {reply.text[:200]}".split())
    return Reply(250, f"OK, taken as {envelope.id}; the next server says: {said}", "2.0.0")


def answer(envelope: Envelope, reply: Reply) -> Reply:
    """Make the reply to a message, or to it for one recipient."""
    return taken(envelope, reply) if reply.code < 300 else handed_on(reply)


def problem(error: Exception, envelope: Envelope, hop: str, recipient: Recipient | None = None) -> SMTPError:
    """
    Make the refusal for what went wrong between us and the next server, and log what an operator should know.

    :param hop: the server's name.
    :param recipient: the one that was being named.
    """
    if isinstance(error, Unsupported):
        return SMTPError(_missing(envelope, recipient))
    if isinstance(error, LimitReached):
        too_big = error.stage is Stage.MAIL and "octets" in str(error)
        return SMTPError(TOO_BIG if too_big else NOT_SUPPORTED)
    if isinstance(error, ContentRefused):
        return SMTPError(NO_EIGHT_BIT if "8BITMIME" in str(error) else DAMAGED)
    if isinstance(error, ClientError):
        _log.warn("{id}: relaying to {hop} failed: {error}", id=envelope.id, hop=hop, error=error)
        reply = error.reply
        if error.stage is Stage.CONTENT and reply is not None and reply.code >= 400:
            # It broke the content off, and said why.
            return SMTPError(handed_on(reply))
        return SMTPError(UNKNOWN if error.maybe_delivered else LOST)
    # What cannot be written: our parser is more lenient than our writer.
    _log.warn("{id}: cannot be said to {hop}: {error}", id=envelope.id, hop=hop, error=error)
    return SMTPError(NOT_SUPPORTED)


def _missing(envelope: Envelope, recipient: Recipient | None) -> Reply:
    """Say what the next server lacks."""
    if recipient is not None:
        rrvs: Any = recipient.params.get("RRVS")
        if rrvs is not None and rrvs.action is not RRVSAction.CONTINUE:
            return NO_RRVS
        return NO_UTF8
    params = envelope.mail_params
    by: Any = params.get("BY")
    if "REQUIRETLS" in params:
        return NO_TLS
    if params.get("BODY") is Body.BINARY_MIME:
        return NO_BINARY
    if (by is not None and by.mode is ByMode.RETURN) or "HOLDFOR" in params or "HOLDUNTIL" in params:
        return NOT_SUPPORTED
    return NO_UTF8
