"""
The interfaces between the server and what people plug into it.

An :data:`Outcome` is what most hooks return: ``None`` for the usual success, a
:class:`~smtpsvc.grammar.replies.Reply` to word the answer, or an awaitable of either (a Deferred, a
coroutine, or a Future of asyncio; see :func:`smtpsvc.asyncio_hook`). Every hook may raise
:class:`~smtpsvc.grammar.replies.SMTPError`, which means the same as returning its reply. Any other
exception is answered 451 4.3.0 and logged with its traceback, and its text is never sent. While a
hook is waited for, nothing further of that client is read as a command, so the hooks of a session
never overlap. A hook that takes longer than ``settings.limits.hook_timeout`` is cancelled and
answered 451 4.3.0. A reply of 421 or 521 closes the connection after it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from zope.interface import Attribute, Interface

from smtpsvc.grammar.replies import Reply

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from smtpsvc.grammar.states import State
    from smtpsvc.settings import Role, Settings
    from smtpsvc.values import Envelope, Peer, Recipient, TLSInfo

Outcome: TypeAlias = None | Reply | Awaitable[None | Reply]

#: Stands in front of a verb: gives None to let the command pass, or the reply that refuses it.
Guard: TypeAlias = Callable[[Any], Reply | None]

#: Looks at a verb's argument: called with the conversation and what the argument was parsed to.
Check: TypeAlias = Callable[[Any, Any], Reply | None]


class IBackend(Interface):
    """
    Where mail goes: opens a session for each connection.

    The attributes have defaults in :class:`smtpsvc.session.Backend`.
    """

    supports: frozenset[str] = Attribute(
        "Upper-case names of the extensions whose promises it keeps (``DELIVERBY``, ``RRVS`` …)."
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


class IStorage(Interface):
    """Optional on a backend: knows how much room there is where it keeps mail."""

    def free_space() -> int | None:
        """
        Tell how much could still be kept.

        Called at MAIL, at most once a second, if ``settings.limits.min_free_space`` is not 0. With less
        than that, or less beyond it than the client declared (SIZE), the MAIL is answered 452 4.3.1, and
        the session is not asked. It cannot wait.

        :returns: in bytes, or None if that is not known: mail is taken then.
        """


class IReady(Interface):
    """Optional on a backend: knows whether it can take mail now."""

    def ready() -> Any:
        """
        Say why no mail can be taken, if so.

        Called for each ``/readyz`` of ``--metrics``, and not for mail.

        :returns: None or "" if mail can be taken, else half a sentence; or an awaitable of either, which is
            given up after 5 s.
        """


class IConnection(Interface):
    """What a session may do with its connection at any time."""

    peer: Peer = Attribute("The client.")
    host: Any = Attribute(
        "Where the client has connected to: the listener's address, as a transport's ``getHost`` gives it; "
        "None if the transport has none."
    )

    def close(reply: Reply) -> None:
        """
        Send a last reply when the replies before it are sent, and close. A second call is ignored.

        :param reply: 421 with a reason, mostly.
        """

    def drop() -> None:
        """
        Close without a word, behind the replies that were given before; for tests of clients mostly.

        Called in a hook, it takes the place of the hook's reply.
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
            message before it is sent; or an awaitable of either. A refusal at DATA leaves the transaction open;
            what comes by BDAT all the same is dropped.
        """

    def reset(envelope: Envelope | None, upgraded: bool) -> Awaitable[None] | None:
        """
        A transaction has ended without delivery by this client's doing, or the session begins anew.

        Called at RSET and at a further EHLO or HELO, at STARTTLS, and after a message that was
        refused or delivered.

        :param envelope: the transaction that ended, or None if none was open.
        :param upgraded: True if the connection now has TLS: forget what was learnt before.
        :returns: None, or an awaitable; the reply waits for it. Where each recipient has its own, the next
            command does.
        """

    def close(reason: Failure) -> Awaitable[None] | None:
        """
        The connection is gone, or XCLIENT gives it to another client; called once, last, whatever happened.

        :param reason: ``ConnectionDone`` after a regular end, and after XCLIENT.
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
            order, or an awaitable of such a list. Where ``envelope.each_answered`` (LMTP, PRDR) each is
            its recipient's reply, sent as soon as it and those before it have come; one Outcome stands
            for all. Else all of them make one: the message is taken only if all are, else the first
            4xx is the reply, else the first 5xx.
        """

    def abort(reason: Failure) -> Awaitable[None] | None:
        """
        The message will not come whole: leave no trace. Called instead of :meth:`finish`, never after it.

        :param reason: the cause: the connection's loss, an :class:`SMTPError` with the reply, or
            :class:`~smtpsvc.values.Abandoned`.
        :returns: None, or an awaitable that goes on in the background.
        """


class IAuthenticated(Interface):
    """Optional on a session: takes part in AUTH (RFC 4954)."""

    def mechanisms(offered: Sequence[str]) -> Sequence[str]:
        """
        Choose the mechanisms for this session; called at each EHLO and AUTH. It cannot wait.

        :param offered: the names that a checker can serve and the link permits, the strongest first.
        :returns: some of them; others are ignored.
        """

    def authenticated(account: IAccount, credentials: object) -> Outcome:
        """
        A client has shown who it is; called once for each good AUTH, before its 235.

        :param account: the avatar; ``peer.account`` is set when this consents.
        :param credentials: only if the session has a true ``wants_credentials``, else None.
        :returns: None or a 2xx Reply, whose text the 235 gets, to let it in; a 4xx or 5xx Reply to
            refuse it: the client is not logged in then, and may try again.
        """


class IAuthorizer(Interface):
    """Optional on a session: lets an account act as another. Without it no account may (RFC 4422 §3.4.1)."""

    def authorize(account: IAccount, identity: str) -> Any:
        """
        An account that has shown its credentials asks to act as someone else.

        :param account: who it is.
        :param identity: the authorization identity that it asks for; not the name of *account*.
        :returns: the :class:`IAccount` that it may act as, None to refuse (535 5.7.8), a 4xx or 5xx
            Reply to refuse in other words, or an awaitable of these.
        """


class ISecured(Interface):
    """Optional on a session: takes part in TLS."""

    def tls_context(default: Any) -> Any:
        """
        Choose what this connection's TLS begins with; called at STARTTLS, before its 220.

        Not called where TLS comes before the session (implicit TLS). The name that the client asks for
        (SNI) comes in the handshake only: to choose by it is up to what is given here, such as a
        :class:`smtpsvc.tls.CertificateStore` or a ``CertificateOptions``.

        :param default: what the others get.
        :returns: None for *default*; or an ``IOpenSSLServerConnectionCreator`` or
            ``IOpenSSLContextFactory``; or a 4xx or 5xx Reply to refuse; or an awaitable of these.
        """

    def secured(tls: TLSInfo) -> Outcome:
        """
        The handshake is complete; called once, before any command is taken, and with implicit TLS before
        the greeting.

        :param tls: as it is in ``peer.tls`` too.
        :returns: None to go on. A 4xx or 5xx Reply, best 554 5.7.0, answers every command from now on
            but QUIT (RFC 3207 §4.1); with implicit TLS it is the greeting, and the connection is closed.
        """


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
    """Optional on a session: brings the logger for what its hooks raise, instead of the server's."""

    logger: Any = Attribute("A :class:`twisted.logger.Logger`.")


class IPolicy(Interface):
    """
    A check in front of a backend; several make a chain in which the first refusal wins.

    :class:`smtpsvc.policies.chain.Policy` says yes to everything; a check that is not overridden
    costs nothing. A policy that also provides Twisted's ``IService`` is started before the backend and
    stopped after it.

    Each gives an :data:`Outcome`: None or a 2xx Reply to consent, and then the next policy is asked, at last
    the backend; or a 4xx or 5xx Reply to refuse. The client hears a refusal with the id of its transaction, or
    before MAIL of its connection, at the end of the text. All may wait. What a policy has found out, it may
    leave for later ones and the backend in ``peer.results`` and ``envelope.results``.
    """

    def connect(peer: Peer) -> Outcome:
        """A client has connected; before the greeting. A refusal is sent in its place, and the connection closed."""

    def helo(peer: Peer, name: str) -> Outcome:
        """A client introduces itself; ``peer.helo`` still has the name before."""

    def mail(envelope: Envelope) -> Outcome:
        """A client opens a transaction."""

    def rcpt(envelope: Envelope, recipient: Recipient) -> Outcome:
        """A client names a recipient, who is not in the envelope yet."""

    def data(envelope: Envelope) -> Outcome:
        """The content is about to come."""

    def content(envelope: Envelope, content: bytes) -> Outcome:
        """A piece of the content has come, as for :meth:`IDelivery.write`; a refusal drops the rest of the message."""

    def message(envelope: Envelope) -> Outcome:
        """The content is complete; before the delivery's ``finish``."""

    def examine(envelope: Envelope, held: Any) -> Outcome:
        """
        The content is complete, and may be read and changed.

        A chain in which a policy has this check holds each message back: it is in memory, or in a temporary
        file if it is large, and the backend gets it when all have consented. Then the backend is asked for its
        delivery, too, so what its ``data`` refuses is refused at the end of the message. Without this check
        content goes to the backend as it comes.

        :param held: a :class:`smtpsvc.policies.held.HeldMessage`; until the outcome has settled.
        """


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
    on_request: bool = Attribute(
        "True if it is a promise that the backend must keep: it is offered only where the backend's "
        "``supports`` or ``settings.enable`` has its keyword."
    )
    switches: frozenset[str] = Attribute("Further upper-case names that ``settings.enable`` and ``disable`` may have.")
    argument: str = Attribute("What may stand behind its keyword and a colon in ``settings.enable``, in a word; or ''.")
    varies: bool = Attribute(
        "True if :meth:`advertise` looks at more than the settings, at whether the connection has TLS, "
        "is logged in and comes from a trusted proxy, and at :meth:`variant`: EHLO is then computed each time."
    )

    def advertise(conversation: IConversation) -> str | None:
        """
        Say what EHLO shows after the keyword.

        :returns: the arguments, "" for none, or None to stay silent.
        """

    def configured(argument: str) -> IExtension:
        """
        Make one like this, as ``settings.enable`` asks.

        :param argument: what stands behind the keyword and a colon; not empty.
        :raises ValueError: with a sentence.
        """

    def guards(settings: Settings, role: Role) -> Mapping[str, Guard | None]:
        """
        Say which verbs this extension stands in front of; asked once, when a factory is made.

        A guard is called with the conversation before a verb's sequence and syntax are looked at. It
        gives None to let the command pass, or the reply that refuses it. A verb without one costs nothing.

        :returns: guards by upper-case verb. ``"*"`` stands for all verbs that are not named; None lets a
            named one pass.
        """

    def variant(conversation: IConversation) -> Hashable:
        """
        Say what else :meth:`advertise` depends on, so that the reply to EHLO is still built once for each kind.

        :returns: a value that is equal where the arguments are; None if there is nothing else.
        """

    def checks(settings: Settings, role: Role) -> Mapping[str, Check]:
        """
        Say of which verbs this extension looks at each argument; asked once, when a factory is made.

        A check is called with the conversation and what the verb's parser made of its argument, when
        sequence and syntax are good. It gives None to let the command pass, or the reply that refuses
        it. A verb without one costs nothing.

        :returns: checks by upper-case verb.
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
    max_recipients: int = Attribute("How many recipients a message of this listener may have.")
    notes: dict[str, Any] = Attribute(
        "What extensions keep about this connection, each under its own keyword; empty at first."
    )
    trusted: bool = Attribute(
        "True if whoever gives the commands is one of ``settings.trusted_proxies``: the client, "
        "or the proxy that gave XCLIENT."
    )
    secure: bool = Attribute(
        "True if TLS protects the dialogue. TLS that ended at a proxy counts if ``settings.trust_proxy_tls``."
    )

    tls: Any = Attribute("What STARTTLS begins with, or None if the listener offers no TLS.")

    def now() -> float:
        """Tell the time of day, in seconds since the epoch."""

    def reply(reply: Reply) -> None:
        """Send a reply in its turn; a 221, 421 or 521 closes the connection after it."""

    def prompt(reply: Reply) -> Awaitable[bytes]:
        """
        Send a 3xx reply and wait for one line of the client, which is not read as a command.

        :returns: a Deferred of the line without its CRLF.
        """

    def receive(receiver: Any) -> None:
        """
        Take what comes next as content, which is never read as commands.

        :param receiver: its ``feed(data, start)`` takes octets of *data* from *start* on, and gives the offset
            behind them; with the last of them it calls :meth:`received` and :meth:`answer_message`. Its
            ``abort(reason)`` is called if the rest will not come.
        """

    def received() -> None:
        """The content is over; command lines come next."""

    def answer_message(reply: Reply, verb: bytes = b"DATA", last: bool = True) -> None:
        """
        Send a reply to what has been received.

        :param verb: that brought it.
        :param last: no other reply to it follows; a connection is not closed by one before the last.
        """

    def ask(hook: Any, *args: Any, accepted: Any = None, reply: Reply = ...) -> Any:
        """
        Call a hook of the session and settle its outcome.

        :param accepted: called with the last of *args* if the hook consents, before the reply.
        :param reply: the answer if the hook returns None.
        :returns: the Reply, or a Deferred of it while the hook is pending.
        """

    def failed(failure: Failure, hook: object = "") -> Reply:
        """
        Log what someone else's code raised, with its traceback, and tell the monitors.

        :param hook: what was called, for the log.
        :returns: 451 4.3.0; the failure's text stays here.
        """

    def login(account: IAccount, mechanism: str = "", logout: Callable[[], object] | None = None) -> None:
        """
        The client is logged in: fill ``peer.account``.

        :param mechanism: how, for the monitors; "" if nothing was judged here.
        :param logout: called once when the connection ends or STARTTLS makes it begin anew.
        """

    def login_turn() -> Any:
        """
        Wait until the client's credentials may be judged.

        :returns: None for now, or a Deferred: logins of its network have failed.
        :raises SMTPError: 421 4.7.0, if others of its network wait already.
        """

    def login_refused(mechanism: str) -> None:
        """
        A client's credentials were refused: count that, and tell the monitors.

        Behind the reply, one too many closes the connection with 421 4.7.0.
        """

    def start_tls(creator: Any) -> bool:
        """
        Begin TLS when the reply that is given now has been sent.

        The dialogue then begins anew: the client's name, its login and its transaction are forgotten,
        and what it sends before the handshake is dropped.

        :param creator: an ``IOpenSSLServerConnectionCreator``, such as :attr:`tls`.
        :returns: False if that cannot be: the transport has none, or the connection is about to close.
        """

    def channel_binding(kind: str) -> bytes | None:
        """
        Give what binds an exchange to the connection's TLS.

        :param kind: as registered with IANA: ``tls-exporter`` (RFC 9266), ``tls-server-end-point`` (RFC 5929).
        :returns: None without TLS of our own, or if this kind cannot be had.
        """

    def begin_again(upgraded: bool = False) -> Any:
        """
        End the transaction, if one is open, and tell the session (RFC 5321 §4.1.4).

        :returns: None, or a Deferred that fires when the session has taken note.
        """

    def replace_peer(peer: Peer) -> Any:
        """
        Let *peer* take the place of the client: close the session, open another, and begin with the greeting.

        :returns: the greeting or, from ``open_session()``, the refusal after which the connection is
            closed; or a Deferred of either. It is the reply to the command.
        """


class IExtensionFactory(Interface):
    """A plugin that makes an extension for ``--extension NAME:ARGUMENT``."""

    name: str = Attribute("What stands before the colon.")
    argument: str = Attribute("What stands after the colon, in one word; '' for nothing.")
    summary: str = Attribute("What the extension does, in one line.")

    def make(argument: str) -> IExtension:
        """
        Make the extension.

        :param argument: what stands after the colon, or "".
        :raises ValueError: with a sentence for the person who typed it.
        """


class ISASLMechanism(Interface):
    """
    A SASL mechanism (RFC 4422): turns a client's responses into cred credentials; knows no SMTP.

    :class:`smtpsvc.sasl.Mechanism` has defaults for what is not its name and its exchange.
    """

    name: str = Attribute("As registered with IANA, e.g. ``SCRAM-SHA-256``.")
    plaintext: bool = Attribute("True if it shows a password or token to whoever reads the line.")
    server_first: bool = Attribute("True if the server begins, so that there is no initial response.")
    on_request: bool = Attribute("True if it is offered only where it is asked for by name.")
    credentials: Sequence[Any] = Attribute("The credentials interfaces, of which a checker must take one.")

    def available(context: Any) -> bool:
        """
        Say whether it can run on a connection; asked when a checker takes its credentials.

        :param context: a :class:`smtpsvc.sasl.Context`.
        """

    def start(context: Any) -> ISASLExchange:
        """
        Begin an exchange.

        :param context: a :class:`smtpsvc.sasl.Context`.
        """


class ISASLExchange(Interface):
    """One run of a mechanism."""

    async def step(response: bytes | None) -> Any:
        """
        Take the client's response.

        :param response: decoded; None at first, where the client sent no initial response.
        :returns: a :class:`smtpsvc.sasl.Challenge` to send, or :class:`smtpsvc.sasl.Done` with the credentials.
        :raises smtpsvc.sasl.SASLError: with a sentence for the client, if the response makes no sense.
        :raises twisted.cred.error.LoginFailed: to refuse it as a wrong password is refused.
        """


class IMechanismFactory(Interface):
    """Makes a SASL mechanism; found as a ``twisted.plugin``."""

    name: str = Attribute("The mechanism's name.")

    def make() -> ISASLMechanism:
        """
        Make the mechanism.

        :raises ValueError: with a sentence, if it cannot be had.
        """


class IAccount(Interface):
    """Who has logged in: the avatar that the portal's realm gives."""

    name: str = Attribute("The authenticated identity.")


class IMonitor(Interface):
    """
    Watches the server at ten points. It must neither raise nor wait.

    What it raises is logged, once for each point, and harms neither the client nor other monitors. Of a
    monitor that is derived from :class:`smtpsvc.Monitor` those points are watched that its class overrides,
    of any other all; what nobody watches costs nothing.
    """

    def connected(peer: Peer) -> None:
        """
        A client has connected.

        With implicit TLS that is before the handshake, and with a proxy behind its header. A client that is
        refused for a limit to connections is none. XCLIENT ends one client, and begins another.
        """

    def secured(peer: Peer, tls: TLSInfo | None, problem: str) -> None:
        """
        A TLS handshake has ended.

        :param tls: what came of it; None if it has failed.
        :param problem: why, in half a sentence of OpenSSL's or ours; "" if it has not.
        """

    def replied(peer: Peer, verb: str, reply: Reply) -> None:
        """A command was answered; *verb* is ``""`` for the greeting and for lines without a known verb."""

    def login(peer: Peer, mechanism: str, good: bool) -> None:
        """
        A client's credentials were judged.

        :param good: True if it is logged in now, False if it was answered 535.
        """

    def message(envelope: Envelope, size: int, seconds: float, replies: Sequence[Reply]) -> None:
        """A message was taken or refused; *size* in bytes, *seconds* since its MAIL, a reply for each recipient."""

    def broken(envelope: Envelope, size: int, problem: str) -> None:
        """
        A connection has ended in the middle of a transaction.

        :param size: bytes of its content that have come.
        :param problem: why, in half a sentence of ours.
        """

    def waited(peer: Peer, hook: str, seconds: float) -> None:
        """
        A hook that did not answer at once has answered, or its time was over.

        :param hook: the verb that asked it; ``"connect"`` for ``open_session``, ``"write"`` and ``"finish"`` for
            those of a delivery, ``""`` for others. An exchange with the client, such as AUTH, is not told.
        """

    def limited(peer: Peer, limit: str) -> None:
        """
        A client has met a limit.

        :param limit: the name of its option, such as ``"max-message-size"``: one of
            :data:`smtpsvc.server.watch.LIMITS` or :data:`~smtpsvc.server.watch.ACTING`.
        """

    def failed(peer: Peer, failure: Failure) -> None:
        """A hook has raised something other than a refusal."""

    def disconnected(peer: Peer, reason: Failure) -> None:
        """The connection is gone; *reason* is why. Told once for each :meth:`connected`."""


class IRoleMonitor(IMonitor):
    """A monitor that tells listeners apart."""

    def serving(role: Role) -> IMonitor:
        """
        Give the monitor that watches a factory in its place.

        Called once, when the factory is made.

        :param role: what the factory's listeners are for.
        """


class IPolicyFactory(Interface):
    """Makes a policy from the words of the command line; found as a ``twisted.plugin``."""

    name: str = Attribute("What stands before the colon in ``--policy NAME:ARGUMENTS``.")
    argument: str = Attribute("What stands after it, in a few words, e.g. ``DOMAIN,...``; \"\" for nothing.")
    summary: str = Attribute("What it does, in one line.")
    help: str = Attribute("What it does, in full, with its settings and their defaults.")

    def make(arguments: Any, reactor: Any) -> IPolicy:
        """
        Make the policy. It opens and starts nothing before its ``startService``.

        :param arguments: a :class:`smtpsvc.policies.arguments.Arguments`, without the settings that every policy
            has; what is not asked for of it is refused as a mistake.
        :raises ValueError: with a sentence for the person who typed it.
        """


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
