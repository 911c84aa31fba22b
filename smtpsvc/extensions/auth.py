"""
AUTH: clients show who they are (RFC 4954).

The mechanisms turn what a client sends into credentials, and a portal of ``twisted.cred`` judges them.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from twisted.cred.error import LoginFailed, UnauthorizedLogin
from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from smtpsvc.awaiting import settled
from smtpsvc.extensions import Extension
from smtpsvc.grammar import replies
from smtpsvc.grammar.addresses import NULL, Address, SyntaxProblem, parse_mailbox
from smtpsvc.grammar.replies import Reply, SMTPError
from smtpsvc.grammar.states import NOT_SERVED, State
from smtpsvc.grammar.xtext import decode_xtext
from smtpsvc.interfaces import Guard, IAccount, IAuthenticated, IAuthorizer, IConversation, ISASLMechanism
from smtpsvc.sasl import Challenge, Context, Done, SASLError, default_mechanisms
from smtpsvc.server.verbs import Verb
from smtpsvc.settings import Role, Settings

if TYPE_CHECKING:
    from smtpsvc.values import Envelope

# RFC 4954 §6 says which codes go with which enhanced codes.
GOOD: Final = Reply(235, "Authentication succeeded", "2.7.0")
TEMPORARY: Final = Reply(454, "Temporary authentication failure, try again later", "4.7.0")
TOO_LONG: Final = Reply(500, "Authentication exchange line is too long", "5.5.6")
SYNTAX: Final = Reply(501, "Syntax: AUTH mechanism [initial-response]", "5.5.4")
NOT_BASE64: Final = Reply(501, "A response is not base64", "5.5.2")
CANCELLED: Final = Reply(501, "Authentication cancelled", "5.7.0")
SERVER_FIRST: Final = Reply(501, "This mechanism takes no initial response", "5.7.0")
NEEDS_EHLO: Final = Reply(503, "AUTH needs EHLO", "5.5.1")
ONCE: Final = Reply(503, "Already authenticated", "5.5.1")
UNKNOWN: Final = Reply(504, "Authentication mechanism is not offered", "5.5.4")
REQUIRED: Final = Reply(530, "Authentication required", "5.7.0")
REFUSED: Final = Reply(535, "Authentication credentials invalid", "5.7.8")
NEEDS_TLS: Final = Reply(538, "Encryption required for requested authentication mechanism", "5.7.11")

#: Verbs that are served to clients who have not logged in, where they must: RFC 4954 §6, and those
#: that come before a login. BDAT refuses itself outside of a transaction, and drops its octets.
FREE: Final = (
    "AUTH", "BDAT", "EHLO", "HELO", "HELP", "LHLO", "NOOP", "QUIT", "RSET", "STARTTLS", "XCLIENT", "XFORWARD",
    *NOT_SERVED,
)  # fmt: skip

# RFC 4422 §3.1: sasl-mech, of either case on the wire (RFC 4954 §8).
_COMMAND = re.compile(rb"([A-Za-z0-9_-]{1,20})(?: ([!-~]+))?")

# Between the parts of a field that a mechanism has, such as ``auth=Bearer …``.
_SEPARATORS = re.compile(rb"[\x01 ,=]")
#: Parts of a field up to this length are looked for with the field only.
_SHORT: Final = 3


class Request(NamedTuple):
    """The argument of AUTH."""

    mechanism: str
    #: The initial response, or None if there is none.
    response: bytes | None


class Auth(Extension):
    """
    AUTH (RFC 4954): offers the mechanisms that one of the portal's checkers takes credentials of.

    Those that show a password to whoever reads the line are offered under TLS only, or where
    ``settings.allow_insecure_auth``; CRAM-MD5 and ANONYMOUS only if ``settings.enable`` has their names.
    ``settings.disable`` may have any mechanism's name. A session that provides
    :class:`~smtpsvc.interfaces.IAuthenticated` takes part.

    :param portal: its realm gives an :class:`~smtpsvc.interfaces.IAccount`.
    :param mechanisms: the strongest first; :func:`smtpsvc.sasl.default_mechanisms` if None.
    :raises zope.interface.Invalid: if a mechanism does not provide its interface.
    """

    keyword = "AUTH"

    def __init__(self, portal: Any, mechanisms: Iterable[Any] | None = None) -> None:
        self.portal = portal
        self.mechanisms: dict[str, Any] = {}
        for mechanism in default_mechanisms() if mechanisms is None else mechanisms:
            verifyObject(ISASLMechanism, mechanism)
            self.mechanisms[mechanism.name.upper()] = mechanism
        self.switches = frozenset(self.mechanisms)
        self.verbs = {"AUTH": Verb(State.GREETED, parse_auth, self.authenticate)}
        self.mail_params = {"AUTH": parse_submitter}

    def advertise(self, conversation: IConversation) -> str | None:
        """Name the mechanisms that this client may use; after a login too (RFC 4954 §4)."""
        return " ".join(self.offered(conversation)) or None

    def variant(self, conversation: IConversation) -> tuple[str, ...]:
        """Depend on the mechanisms that this client may use."""
        return self.offered(conversation)

    def guards(self, settings: Settings, role: Role) -> Mapping[str, Guard | None]:
        """Refuse what needs a login, where one is required."""
        required = role is Role.SUBMISSION or (role is Role.SMTP and settings.require_auth)
        return {"*": _need_login, **dict.fromkeys(FREE)} if required else {}

    def mail(self, conversation: IConversation, envelope: Envelope) -> Reply | None:
        """Take ``AUTH=`` of clients that have logged in, and as ``AUTH=<>`` of others (RFC 4954 §5)."""
        if conversation.peer.account is None:
            envelope.mail_params = {**envelope.mail_params, "AUTH": NULL}
        return None

    def offered(self, conversation: IConversation) -> tuple[str, ...]:
        """Name the mechanisms that this client may use, the strongest first."""
        private = is_private(conversation)
        first = conversation.settings.require_tls and not conversation.secure
        if first or (not private and conversation.role is Role.SUBMISSION):
            # Not even a mechanism that hides the password: TLS comes first.
            return ()
        context = self._context(conversation)
        names = tuple(
            name
            for name, mechanism in self._served(conversation.settings).items()
            if (private or not mechanism.plaintext) and mechanism.available(context)
        )
        session = conversation.session
        if not IAuthenticated.providedBy(session):
            return names
        chosen = [name.upper() for name in session.mechanisms(names)]
        return tuple(name for name in names if name in chosen)

    def authenticate(self, conversation: IConversation, request: Request) -> Any:
        """AUTH: find the mechanism, and converse (RFC 4954 §4)."""
        if not conversation.extended:
            return NEEDS_EHLO
        if conversation.peer.account is not None:
            return ONCE
        mechanism = self._served(conversation.settings).get(request.mechanism)
        if mechanism is None:
            return UNKNOWN
        offered = self.offered(conversation)
        if request.mechanism not in offered:
            return NEEDS_TLS if mechanism.plaintext and not is_private(conversation) else UNKNOWN
        if mechanism.server_first and request.response is not None:
            return SERVER_FIRST
        return self._converse(conversation, mechanism, self._context(conversation, offered), request.response)

    def _served(self, settings: Settings) -> dict[str, Any]:
        """The mechanisms that are wanted, and that a checker takes credentials of."""
        taken = set(self.portal.listCredentialsInterfaces())
        return {
            name: mechanism
            for name, mechanism in self.mechanisms.items()
            if taken.intersection(mechanism.credentials)
            and name not in settings.disable
            and (not mechanism.on_request or settings.enabled(name) is not None)
        }

    def _context(self, conversation: IConversation, offered: Sequence[str] = ()) -> Context:
        return Context(
            hostname=conversation.settings.hostname,
            tls=conversation.peer.tls,
            checkers=getattr(self.portal, "checkers", {}),
            channel_binding=conversation.channel_binding,
            offered=offered,
        )

    async def _converse(
        self, conversation: IConversation, mechanism: Any, context: Context, response: bytes | None
    ) -> Reply:
        """
        Go through the exchange, and word its end.

        :raises SMTPError: with a reply that somebody else has worded.
        """
        sent = [response or b""]
        try:
            turn = conversation.login_turn()
            if turn is not None:
                await turn
            exchange = mechanism.start(context)
            step = await exchange.step(response)
            while isinstance(step, Challenge):
                sent.append(await _respond(conversation, step.data))
                step = await exchange.step(sent[-1])
            return await self._judge(conversation, mechanism.name, step)
        except SASLError as error:
            return Reply(501, str(error), "5.5.2")
        except LoginFailed:
            conversation.login_refused(mechanism.name)
            return REFUSED
        except SMTPError as error:
            if error.reply is replies.LINE_TOO_LONG:
                return TOO_LONG
            raise
        except CancelledError:
            raise
        except Exception as error:
            conversation.failed(_failure(error, sent), f"AUTH {mechanism.name}")
            return TEMPORARY

    async def _judge(self, conversation: IConversation, mechanism: str, done: Done) -> Reply:
        """
        Ask the portal, then the session.

        :raises LoginFailed: if the portal refuses, or nobody permits to act as someone else.
        """
        try:
            _, account, logout = await self.portal.login(done.credentials, None, IAccount)
        except LoginFailed:
            if done.refusal is not None:
                await _acknowledged(conversation, done.refusal)
            raise
        try:
            account = await _acting_as(conversation, account, done.identity)
            if done.proof is not None and await _respond(conversation, done.proof()):
                # RFC 4422 §3.1: additional data with the outcome becomes a challenge.
                raise SASLError("The last response must be empty")
            reply = await _consent(conversation, account, done.credentials)
        except BaseException:
            logout()
            raise
        if not reply.positive:
            logout()
            return reply
        conversation.login(account, mechanism, logout)
        return reply if reply.code == GOOD.code else Reply(GOOD.code, reply.text, "2.7.0")


class LoginBroken(Exception):
    """
    Something has failed while a client logged in, in words that had something of what it sent, such as a password.

    ``str()`` names the exception's class in their place.
    """


def _failure(error: Exception, sent: Iterable[bytes]) -> Failure:
    """
    Give the failure to log for an exception.

    :param sent: by the client, of which nothing may be logged.
    """
    words = f"{error} {error!r}"
    fields = [field for response in sent for field in response.split(b"\0")]
    # Tokens and names stand within fields too.
    fields += [part for field in fields for part in _SEPARATORS.split(field) if len(part) > _SHORT]
    for field in filter(None, fields):
        text = field.decode("utf-8", "replace")
        if text in words or repr(text)[1:-1] in words or repr(field)[2:-1] in words:
            kind = type(error)
            broken = LoginBroken(f"{kind.__module__}.{kind.__qualname__}, with words that are not logged")
            return Failure(broken, LoginBroken, error.__traceback__)
    return Failure(error)


def is_private(conversation: IConversation) -> bool:
    """Tell whether a password may be sent as it is: under TLS, or where the operator says so."""
    return conversation.secure or conversation.settings.allow_insecure_auth


def parse_auth(argument: bytes) -> Request:
    """
    Parse ``mechanism [initial-response]`` (RFC 4954 §8).

    :raises SMTPError: 501 5.5.4, or 501 5.5.2 if the response is not base64.
    """
    match = _COMMAND.fullmatch(argument)
    if match is None:
        raise SMTPError(SYNTAX)
    name, initial = match.groups()
    response = None if initial is None else b"" if initial == b"=" else decode(initial)
    return Request(name.decode().upper(), response)


def decode(line: bytes) -> bytes:
    """
    Decode base64, strictly: nothing outside its alphabet, padding at the end and nowhere else.

    :raises SMTPError: 501 5.5.2.
    """
    try:
        return binascii.a2b_base64(line, strict_mode=True)
    except ValueError:
        raise SMTPError(NOT_BASE64) from None


def parse_submitter(value: str | None) -> Address:
    """
    Parse ``AUTH=`` of MAIL: a mailbox or ``<>`` in xtext (RFC 4954 §5).

    :returns: the address; the null one for ``<>``.
    :raises SyntaxProblem: if it is neither.
    """
    if value is None:
        raise SyntaxProblem("must have a mailbox or <>")
    text = decode_xtext(value)
    return NULL if text == "<>" else parse_mailbox(text)


class _ChallengeReply(Reply):
    """A 334, in one line however long it is (RFC 4954 §4)."""

    __slots__ = ()

    def wire(self, extended: bool) -> bytes:
        return b"334 %b\r\n" % self.text.encode("ascii")


async def _respond(conversation: IConversation, data: bytes) -> bytes:
    """
    Send a challenge, and give the client's response.

    :raises SMTPError: if it is cancelled or not base64, or if the conversation ends.
    """
    challenge = binascii.b2a_base64(data, newline=False).decode("ascii")
    line = await conversation.prompt(_ChallengeReply(334, challenge))
    if line == b"*":
        raise SMTPError(CANCELLED)
    return decode(line)


async def _acknowledged(conversation: IConversation, refusal: bytes) -> None:
    """Say why in a challenge; whatever the client answers, the refusal follows (RFC 7628 §3.2.3)."""
    try:
        await _respond(conversation, refusal)
    except SMTPError as error:
        if error.reply not in (CANCELLED, NOT_BASE64):
            raise


async def _acting_as(conversation: IConversation, account: Any, identity: str) -> Any:
    """
    Give the account that the client acts as.

    :raises UnauthorizedLogin: if it wants to be someone else, and nobody permits it.
    """
    if identity in ("", account.name):
        return account
    session = conversation.session
    if not IAuthorizer.providedBy(session):
        raise UnauthorizedLogin
    other = await settled(session.authorize(account, identity))
    if other is None:
        raise UnauthorizedLogin
    if isinstance(other, Reply):
        if other.positive:
            raise TypeError(f"authorize() gave {other!r}: an IAccount, None or a refusal was expected")
        raise SMTPError(other)
    return other


async def _consent(conversation: IConversation, account: Any, credentials: Any) -> Reply:
    """Ask the session whether it takes the account."""
    session = conversation.session
    if not IAuthenticated.providedBy(session):
        return GOOD
    shown = credentials if getattr(session, "wants_credentials", False) else None
    reply: Reply = await settled(conversation.ask(session.authenticated, account, shown, reply=GOOD))
    return reply


def _need_login(conversation: IConversation) -> Reply | None:
    return None if conversation.peer.account is not None else REQUIRED
