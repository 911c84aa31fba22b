"""
The interfaces between the server and what people plug into it.

An :data:`Outcome` is what most hooks return: ``None`` for the usual success, a
:class:`~smtpsvc.grammar.replies.Reply` to word the answer, or an awaitable of either (a Deferred or
a coroutine). Every hook may raise :class:`~smtpsvc.grammar.replies.SMTPError`, which means the same
as returning its reply. Any other exception is answered 451 4.3.0 and logged with its traceback, and
its text is never sent. While a hook is waited for, nothing further of that client is read as a
command, so the hooks of a session never overlap. A hook that takes longer than
``settings.limits.hook_timeout`` is cancelled and answered 451 4.3.0. A reply of 421 or 521 closes
the connection after it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from zope.interface import Attribute, Interface

from smtpsvc.grammar.replies import Reply

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from smtpsvc.grammar.states import State
    from smtpsvc.settings import Role, Settings
    from smtpsvc.values import Envelope, Peer, Recipient, TLSInfo

Outcome: TypeAlias = None | Reply | Awaitable[None | Reply]


class IBackend(Interface):
    """
    Where mail goes: opens a session for each connection.

    The attributes have defaults in :class:`smtpsvc.session.Backend`.
    """

    supports: frozenset[str] = Attribute(
        "Upper-case names of the extensions whose promises it keeps (``DSN``, ``DELIVERBY`` …)."
    )
    max_message_size: int | None = Attribute("The largest message in bytes it can take, or None for any.")
    shareable: bool = Attribute("True if several processes may use it on the same store.")
    per_recipient: bool = Attribute(
        "True if it may keep a message for some recipients and refuse it for others, and cannot "
        "undo that. Over SMTP, where one reply stands for all, it then gets one recipient a "
        "message: a further RCPT is 452 4.5.3, so that clients send the others their own."
    )

    def open_session(peer: Peer, connection: IConnection) -> Any:
        """
        A client has connected; called before the greeting.

        :param peer: who is there; ``helo`` and ``account`` are filled later.
        :param connection: a handle that the session may keep.
        :returns: an :class:`ISession`; or a 4xx or 5xx Reply to send as the greeting before the
            connection is closed; or an awaitable of either. The client waits for its greeting.
        """


class IConnection(Interface):
    """What a session may do with its connection at any time."""

    peer: Peer = Attribute("The client.")

    def close(reply: Reply) -> None:
        """
        Send a last reply when the replies before it are sent, and close. A second call is ignored.

        :param reply: 421 with a reason, mostly.
        """

    def pause() -> None:
        """Read nothing more of this client until :meth:`resume`; deadlines stand still."""

    def resume() -> None:
        """Read on after :meth:`pause`."""


class ISession(Interface):
    """
    One connection, seen by the backend. :class:`smtpsvc.session.Session` says yes to everything.
    """

    def helo(name: str) -> Outcome:
        """
        The client introduces itself with EHLO, HELO or LHLO.

        :param name: as given, 1 to 255 octets, often no domain; octets that are not UTF-8 are escaped.
            ``peer.helo`` still has the name before.
        :returns: None to take it. A 2xx Reply is taken as None: the reply to EHLO is the server's.
        """

    def mail(envelope: Envelope) -> Outcome:
        """
        A client opens a transaction; called for each MAIL with good syntax and sequence.

        :param envelope: has its sender and parameters, no recipient yet.
        :returns: None or a 2xx Reply to open it, a 4xx or 5xx Reply to refuse.
        """

    def rcpt(envelope: Envelope, recipient: Recipient) -> Outcome:
        """
        A client names a recipient; called for each RCPT with good syntax and sequence.

        :param envelope: the open transaction; *recipient* is not in it yet.
        :returns: None or a 2xx Reply to take it, a 4xx or 5xx Reply to refuse it; the transaction
            stays open.
        """

    def data(envelope: Envelope) -> Any:
        """
        The content is about to come: at DATA before the 354, or at the first BDAT.

        :param envelope: the open transaction with all its recipients.
        :returns: an :class:`IDelivery` that takes the content; or a 4xx or 5xx Reply to refuse the
            message before it is sent; or an awaitable of either. A refusal at DATA leaves the transaction open.
        """

    def reset(envelope: Envelope | None, upgraded: bool) -> Awaitable[None] | None:
        """
        A transaction has ended without delivery by this client's doing, or the session begins anew.

        Called at RSET and at a further EHLO or HELO, at STARTTLS, and after a message that was
        refused or delivered.

        :param envelope: the transaction that ended, or None if none was open.
        :param upgraded: True if the connection now has TLS: forget what was learnt before.
        :returns: None, or an awaitable; the reply waits for it.
        """

    def close(reason: Failure) -> Awaitable[None] | None:
        """
        The connection is gone; called once, last, whatever happened.

        :param reason: ``ConnectionDone`` after a regular end.
        :returns: None, or an awaitable that goes on in the background.
        """


class IDelivery(Interface):
    """
    Takes the content of one message; made by :meth:`ISession.data`.

    After any number of :meth:`write`, exactly one of :meth:`finish` and :meth:`abort` is called.
    """

    def write(content: bytes) -> Awaitable[None] | None:
        """
        Take the next piece of the content.

        :param content: not empty; lines end in CRLF and dots are undone. Pieces are cut anywhere.
            The first begins with ``Received:`` if ``settings.add_received``.
        :returns: None, or an awaitable: the client is paused until it fires. An error drops the
            rest of the content, and :meth:`abort` follows.
        """

    def finish() -> Outcome | Sequence[Outcome] | Awaitable[Sequence[Outcome]]:
        """
        The content is complete: keep it. The 250 is sent when this has come true, not before.

        :returns: an Outcome for the message, or a list of Outcome, one for each recipient in RCPT
            order, or an awaitable of such a list. Over LMTP each is its recipient's reply; over
            SMTP all of them make one: the message is taken only if all are, else the first 4xx is
            the reply, else the first 5xx.
        """

    def abort(reason: Failure) -> Awaitable[None] | None:
        """
        The message will not come whole: leave no trace. Called instead of :meth:`finish`, never after it.

        :param reason: the cause: the connection's loss, or an :class:`SMTPError` with the reply.
        :returns: None, or an awaitable that goes on in the background.
        """


class IAuthenticated(Interface):
    """Optional on a session: takes part in AUTH (RFC 4954)."""

    def mechanisms(offered: Sequence[str]) -> Sequence[str]:
        """
        Choose the mechanisms for this session.

        :param offered: the names that a checker can serve and the link permits.
        :returns: some of them.
        """

    def authenticated(account: IAccount, credentials: object) -> Outcome:
        """
        A client has logged in.

        :param account: the avatar; ``peer.account`` is set when this consents.
        :param credentials: only if the session has a true ``wants_credentials``, else None.
        """


class ISecured(Interface):
    """Optional on a session: takes part in TLS."""

    def tls_context(default: object, sni: str) -> Any:
        """
        Choose the TLS context of this connection.

        :returns: a context, or an awaitable of one.
        """

    def secured(tls: TLSInfo) -> Outcome:
        """The handshake is complete."""


class IGreeting(Interface):
    """Optional on a session: edits the reply to EHLO."""

    def ehlo(lines: list[str]) -> list[str]:
        """
        Edit what EHLO announces to this client.

        :param lines: keywords with their arguments, e.g. ``"SIZE 33554432"``; without the host name.
        :returns: the lines to send.
        """


class IVerifier(Interface):
    """Optional on a session: answers VRFY and EXPN. Without it they are 252 and 502."""

    def verify(query: str) -> Any:
        """
        Say whether a mailbox exists (RFC 5321 §3.5).

        :param query: what the client asked, without control characters.
        :returns: a list of str to send with 250, a Reply, or an awaitable of either.
            An empty list is answered 252.
        """

    def expand(query: str) -> Any:
        """
        Name the members of a list.

        :returns: as :meth:`verify`; an empty list is answered 550 5.1.1.
        """


class ILogged(Interface):
    """Optional on a session: brings the logger to use for its events."""

    logger: Any = Attribute("A :class:`twisted.logger.Logger`.")


class IPolicy(Interface):
    """
    A check in front of a backend; several make a chain in which the first refusal wins.

    :class:`smtpsvc.policies.chain.Policy` says yes to everything; a check that is not overridden
    costs nothing.
    """

    def connect(peer: Peer) -> Outcome:
        """A client has connected; before the greeting."""

    def helo(peer: Peer, name: str) -> Outcome:
        """A client introduces itself."""

    def mail(envelope: Envelope) -> Outcome:
        """A client opens a transaction."""

    def rcpt(envelope: Envelope, recipient: Recipient) -> Outcome:
        """A client names a recipient."""

    def data(envelope: Envelope) -> Outcome:
        """The content is about to come."""

    def content(envelope: Envelope, content: bytes) -> Outcome:
        """A piece of the content has come; a refusal drops the rest of the message."""

    def message(envelope: Envelope) -> Outcome:
        """The content is complete; before the delivery's ``finish``."""


class IExtension(Interface):
    """
    An ESMTP extension (RFC 5321 §2.2), given to the factory.

    :class:`smtpsvc.extensions.Extension` has defaults for all of it.
    """

    keyword: str = Attribute("Its name in EHLO, upper case.")
    roles: frozenset[Role] = Attribute("The roles of the listeners that have it.")
    mail_params: Mapping[str, Any] = Attribute("Parsers for parameters of MAIL, by upper-case name.")
    rcpt_params: Mapping[str, Any] = Attribute("Parsers for parameters of RCPT, by upper-case name.")
    verbs: Mapping[str, Any] = Attribute("Rows of :class:`smtpsvc.server.verbs.Verb`, by upper-case name.")
    varies: bool = Attribute(
        "True if :meth:`advertise` looks at more than the settings and at whether the connection "
        "has TLS, is logged in and comes from a trusted proxy: EHLO is then computed each time."
    )

    def advertise(conversation: IConversation) -> str | None:
        """
        Say what EHLO shows after the keyword.

        :returns: the arguments, "" for none, or None to stay silent.
        """

    def mail(conversation: IConversation, envelope: Envelope) -> Reply | None:
        """
        Check a MAIL that has one of this extension's parameters; before the session's hook.

        :returns: None, or a refusal.
        """

    def rcpt(conversation: IConversation, envelope: Envelope, recipient: Recipient) -> Reply | None:
        """
        Check a RCPT that has one of this extension's parameters; before the session's hook.

        :returns: None, or a refusal.
        """


class IConversation(IConnection):
    """One client's dialogue, as the verbs and extensions see it."""

    settings: Settings = Attribute("What the server was told.")
    role: Role = Attribute("What the listener is for.")
    state: State = Attribute("Where the dialogue stands.")
    envelope: Envelope | None = Attribute("The open transaction, or None.")
    session: ISession = Attribute("The backend's side.")
    extended: bool = Attribute("True after EHLO or LHLO.")
    keywords: frozenset[str] = Attribute("The upper-case keywords of the extensions that the listener has.")
    trusted: bool = Attribute("True if the peer is one of ``settings.trusted_proxies``.")

    def reply(reply: Reply) -> None:
        """Send a reply in its turn; a 221, 421 or 521 closes the connection after it."""

    def prompt(reply: Reply) -> Awaitable[bytes]:
        """
        Send a 3xx reply and wait for one line of the client, which is not read as a command.

        :returns: a Deferred of the line without its CRLF.
        """

    def ask(hook: Any, *args: Any, accepted: Any = None, reply: Reply = ...) -> Any:
        """
        Call a hook of the session and settle its outcome.

        :param accepted: called with the last of *args* if the hook consents, before the reply.
        :param reply: the answer if the hook returns None.
        :returns: the Reply, or a Deferred of it while the hook is pending.
        """

    def begin_again(upgraded: bool = False) -> Any:
        """
        End the transaction, if one is open, and tell the session (RFC 5321 §4.1.4).

        :returns: None, or a Deferred that fires when the session has taken note.
        """


class ISASLMechanism(Interface):
    """A SASL mechanism (RFC 4422): turns a client's responses into cred credentials; knows no SMTP."""

    name: str = Attribute("As registered with IANA, e.g. ``SCRAM-SHA-256``.")
    plaintext: bool = Attribute("True if it shows the password to whoever reads the line.")
    credentials: Any = Attribute("The credentials interface it makes.")

    def start(context: Mapping[str, Any]) -> ISASLExchange:
        """Begin an exchange."""


class ISASLExchange(Interface):
    """One run of a mechanism."""

    async def step(response: bytes | None) -> Any:
        """
        Take the client's response.

        :param response: decoded; None where the client sent no initial response.
        :returns: a challenge to send, or the credentials.
        """


class IAccount(Interface):
    """Who has logged in: the avatar that the portal's realm gives."""

    name: str = Attribute("The authenticated identity.")


class IMonitor(Interface):
    """
    Watches the server at six points. It must neither raise nor wait; what it raises is logged.
    """

    def connected(peer: Peer) -> None:
        """A client has connected."""

    def replied(peer: Peer, verb: str, reply: Reply) -> None:
        """A command was answered; *verb* is ``""`` for the greeting and for lines without a known verb."""

    def login(peer: Peer, mechanism: str, good: bool) -> None:
        """An AUTH exchange has ended."""

    def message(envelope: Envelope, size: int, seconds: float, replies: Sequence[Reply]) -> None:
        """A message was taken or refused; *size* in bytes, *seconds* since its MAIL, a reply for each recipient."""

    def failed(peer: Peer, failure: Failure) -> None:
        """A hook has raised something other than a refusal."""

    def disconnected(peer: Peer, reason: Failure) -> None:
        """The connection is gone."""


class IBackendFactory(Interface):
    """Makes a backend from the words of the command line; found as a ``twisted.plugin``."""

    name: str = Attribute("What stands before the colon in ``--backend NAME:ARGUMENT``.")
    argument: str = Attribute("What stands after it, in one word, e.g. ``DIR``; \"\" for nothing.")
    summary: str = Attribute("What it does, in one line.")
    help: str = Attribute("What it does, in full.")

    def make(argument: str, reactor: Any) -> IBackend:
        """
        Make the backend. It opens and starts nothing before its ``startService``.

        :param argument: what followed the colon, "" if nothing did.
        :raises ValueError: with a sentence for the person who typed it.
        """
