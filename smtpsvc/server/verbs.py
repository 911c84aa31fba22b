"""
The core verbs: a row each.

A verb is a **parse** (syntax, pure) and a **proceed** (effect). The checks that hold for all verbs
stand between the two, in the conversation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred

from smtpsvc.grammar import replies
from smtpsvc.grammar.commands import (
    Path,
    Query,
    parse_mail,
    parse_name,
    parse_nothing,
    parse_optional_text,
    parse_rcpt,
    parse_verify,
    remembering,
)
from smtpsvc.grammar.replies import Reply, SMTPError, UTF8Reply
from smtpsvc.grammar.states import ALLOWED, ANY, NOT_SERVED, State
from smtpsvc.interfaces import IVerifier
from smtpsvc.server.receiving import data
from smtpsvc.values import Envelope, Recipient

if TYPE_CHECKING:
    from smtpsvc.grammar.params import Parser
    from smtpsvc.server.conversation import Conversation


#: What VRFY and EXPN have found needs UTF-8, and the client has not said that it takes it (RFC 6531 §3.7.4.2).
ASK_IN_UTF8: Final = Reply(252, "The answer needs UTF-8, ask again with the SMTPUTF8 parameter", "2.6.8")
NO_UTF8: Final = Reply(504, "The SMTPUTF8 parameter is not offered", "5.5.4")


# The verbs of a message. What stands behind others comes once.
_MEMORABLE: Final = frozenset({"MAIL", "RCPT", "DATA", "RSET", "QUIT"})


@dataclass(frozen=True, slots=True)
class Verb:
    """
    A row of the verb table.

    :param allowed: the states in which the verb is served; in others it is answered 503.
    :param parse: takes the octets behind the verb, gives a value for *proceed*; raises
        :class:`~smtpsvc.grammar.replies.SMTPError`, or ValueError with a sentence for 501 5.5.4.
    :param proceed: takes the conversation and the value; gives an
        :data:`~smtpsvc.interfaces.Outcome`, of which None is 250.
    :param plain: its replies carry no enhanced status code (RFC 2034 §4).
    :param listed: HELP names it; a verb of an extension only where EHLO shows that.
    :param name: filled in by the factory.
    :param memorable: its *parse* depends on the octets alone, and what it gives for a line without
        parameters (with *refused*: for any line) is immutable: so for one that comes again it is not called again.
    :param refused: for a verb that brings octets of its own, which nobody may take for commands: called with
        the conversation, the value and the reply when the command is refused before its *proceed*, and gives
        what *proceed* may give. Its *parse* raises nothing but :class:`~smtpsvc.grammar.replies.SMTPError`.
    """

    allowed: State | int
    parse: Callable[[bytes], Any]
    proceed: Callable[[Any, Any], Any]
    plain: bool = False
    listed: bool = True
    name: str = ""
    refused: Callable[[Any, Any, Reply], Any] | None = None
    memorable: bool = False

    def refuse(self, conversation: Conversation, argument: bytes, reply: Reply) -> Any:
        """
        Give the answer to a command that is refused before its syntax was looked at.

        :returns: what *proceed* may give.
        """
        if self.refused is None or reply.closes:
            return reply
        try:
            value = self.parse(argument)
        except SMTPError as error:
            return error.reply
        return self.refused(conversation, value, reply)


def hello(conversation: Conversation, name: str, *, extended: bool) -> Any:
    """EHLO, HELO and LHLO: ask the session; on consent begin anew and announce (RFC 5321 §4.1.1.1)."""

    answer = conversation.ask(conversation.session.helo, name)
    if isinstance(answer, Reply):
        return _welcome(conversation, name, extended, answer)
    return answer.addCallback(partial(_welcome, conversation, name, extended))


def _welcome(conversation: Conversation, name: str, extended: bool, reply: Reply) -> Any:
    """Begin anew, if the session has consented to a greeting."""
    if not reply.positive:
        # RFC 5321 §4.1.4: a refused greeting leaves everything as it was.
        return reply
    # Made first: a hook or an extension that breaks here greets nobody.
    welcome = conversation.tables.welcome(conversation, extended)

    def begin(_: None) -> Reply:
        conversation.greeted(name, extended)
        return welcome

    pending = conversation.begin_again() if conversation.was_greeted else None
    return begin(None) if pending is None else pending.addCallback(begin)


def mail(conversation: Conversation, path: Path) -> Any:
    """MAIL: open a transaction (RFC 5321 §4.1.1.2)."""
    address, params, ascii = path
    if params and not conversation.extended:
        return replies.PARAMETERS_NEED_EHLO
    if not ascii and "SMTPUTF8" not in params:
        return replies.SENDER_NOT_ASCII
    peer = conversation.peer
    envelope = Envelope(conversation.factory.new_id(), peer, address, params, conversation.tables.role)
    if peer.forwarded is not None:
        envelope.forwarded = peer.forwarded
    if params:
        refusal = conversation.tables.check_mail(conversation, envelope)
        if refusal is not None:
            return refusal
    session = conversation.session
    try:
        outcome = session.mail(envelope)
    except Exception as error:
        return conversation.raised(error, session.mail)
    if outcome is None:
        conversation.open_transaction(envelope)
        return replies.SENDER_OK
    return conversation.consented(outcome, session.mail, envelope, conversation.open_transaction, replies.SENDER_OK)


def rcpt(conversation: Conversation, path: Path) -> Any:
    """RCPT: add a recipient (RFC 5321 §4.1.1.3)."""
    envelope = conversation.envelope
    assert envelope is not None
    address, params, ascii = path
    if params and not conversation.extended:
        return replies.PARAMETERS_NEED_EHLO
    if not ascii and not envelope.utf8:
        return replies.RECIPIENT_NOT_ASCII
    if len(envelope.recipients) >= conversation.tables.max_recipients:
        # RFC 5321 §4.5.3.1.10: 452, so that the client sends the rest in another transaction.
        full = conversation.tables.full(envelope)
        if full is not None:
            return full
    recipient = Recipient(address, params)
    if params:
        refusal = conversation.tables.check_rcpt(conversation, envelope, recipient)
        if refusal is not None:
            return refusal
    session = conversation.session
    try:
        outcome = session.rcpt(envelope, recipient)
    except Exception as error:
        return conversation.raised(error, session.rcpt)
    if outcome is None:
        conversation.add_recipient(recipient)
        return replies.RECIPIENT_OK
    return conversation.consented(outcome, session.rcpt, recipient, conversation.add_recipient, replies.RECIPIENT_OK)


def rset(conversation: Conversation, _: None) -> Any:
    """RSET: end the transaction (RFC 5321 §4.1.1.5)."""
    pending = conversation.begin_again()
    if pending is None:
        return replies.OK
    return pending.addCallback(lambda _: replies.OK)


def noop(conversation: Conversation, _: str) -> Reply:
    """NOOP: do nothing (RFC 5321 §4.1.1.9)."""
    return replies.OK


def quit(conversation: Conversation, _: None) -> Reply:
    """QUIT: say goodbye; the reply closes the connection (RFC 5321 §4.1.1.10)."""
    return replies.BYE


def help(conversation: Conversation, _: str) -> Reply:
    """HELP: name the verbs (RFC 5321 §4.1.1.8)."""
    return conversation.tables.help(conversation)


def vrfy(conversation: Conversation, query: Query) -> Any:
    """VRFY: ask the session, if it is an IVerifier (RFC 5321 §3.5)."""
    session = conversation.session
    if not IVerifier.providedBy(session):
        return replies.CANNOT_VERIFY
    return _listed(conversation, session.verify, query, replies.CANNOT_VERIFY)


def expn(conversation: Conversation, query: Query) -> Any:
    """EXPN: ask the session, if it is an IVerifier (RFC 5321 §3.5)."""
    session = conversation.session
    if not IVerifier.providedBy(session):
        return replies.NO_EXPANSION
    return _listed(conversation, session.expand, query, replies.NO_SUCH_USER)


def _listed(conversation: Conversation, hook: Callable[[str], Any], query: Query, nothing: Reply) -> Any:
    if query.utf8 and "SMTPUTF8" not in conversation.keywords:
        return NO_UTF8

    def answer(found: Any) -> Reply:
        if not (isinstance(found, list) and all(isinstance(item, str) for item in found)):
            return conversation.judge(found) or nothing
        text = "\n".join(item.replace("\n", " ") for item in found)
        if not text.isascii():
            return UTF8Reply(250, text, "2.1.5") if query.utf8 else ASK_IN_UTF8
        return Reply(250, text, "2.1.5") if found else nothing

    result: Reply | Deferred[Reply] = conversation.call(answer, hook, query.text)
    return result


def not_served(conversation: Conversation, _: bytes) -> Reply:
    """SEND, SOML, SAML, TURN, ETRN: known, and not served (RFC 5321 §4.2.4)."""
    return replies.NOT_IMPLEMENTED


def core_verbs(
    mail_params: dict[str, Parser], rcpt_params: dict[str, Parser], *, lenient: bool = False, lmtp: bool = False
) -> dict[str, Verb]:
    """
    Make the rows of the core verbs.

    :param mail_params: parsers for the parameters of MAIL that the extensions bring.
    :param rcpt_params: the same for RCPT.
    :param lenient: let odd paths pass.
    :param lmtp: LHLO takes the place of EHLO and HELO (RFC 2033 §4.1).
    """
    rows: dict[str, tuple[Callable[[bytes], Any], Callable[[Any, Any], Any]]] = {
        "MAIL": (remembering(partial(parse_mail, parsers=mail_params, lenient=lenient)), mail),
        "RCPT": (remembering(partial(parse_rcpt, parsers=rcpt_params, lenient=lenient)), rcpt),
        "DATA": (parse_nothing, data),
        "RSET": (parse_nothing, rset),
        "NOOP": (parse_optional_text, noop),
        "QUIT": (parse_nothing, quit),
        "VRFY": (parse_verify, vrfy),
        "EXPN": (parse_verify, expn),
        "HELP": (parse_optional_text, help),
    }
    verbs = {
        name: Verb(ALLOWED[name], parse, proceed, memorable=name in _MEMORABLE)
        for name, (parse, proceed) in rows.items()
    }
    for name, extended in {"LHLO": True}.items() if lmtp else {"EHLO": True, "HELO": False}.items():
        verbs[name] = Verb(
            ALLOWED["EHLO"], parse_name, partial(hello, extended=extended), plain=True, memorable=True
        )
    verbs.update((name, Verb(ANY, bytes, not_served, listed=False)) for name in NOT_SERVED)
    return verbs
