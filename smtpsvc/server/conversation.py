"""
The conversation: the ESMTP state machine of one connection.

It knows no transport. Lines and content come in by calls, replies gather in the channel's ``out``,
and the channel is told when something has changed while it was not being read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from smtpsvc.grammar import replies
from smtpsvc.grammar.replies import Reply, SMTPError
from smtpsvc.grammar.states import State, out_of_sequence
from smtpsvc.interfaces import IConversation
from smtpsvc.server.channel import BY_SESSION, CLOSED, CONTENT, LINES, PARTING, SECURING, Channel
from smtpsvc.server.opening import Opening
from smtpsvc.server.outcomes import deferred_of
from smtpsvc.settings import Role, Settings
from smtpsvc.values import Envelope, Peer, Recipient

if TYPE_CHECKING:
    from smtpsvc.server.factory import SMTPFactory
    from smtpsvc.server.receiving import Receiver
    from smtpsvc.server.tables import Tables
    from smtpsvc.server.verbs import Verb


_WHITE: Final = b" \t"
_CONNECTED: Final = State.CONNECTED.value
_GREETED: Final = State.GREETED.value
_MAIL: Final = State.MAIL.value
_RCPT: Final = State.RCPT.value


@implementer(IConversation)
class Conversation(Opening):
    """
    One client's dialogue.

    :param channel: carries it.
    :param factory: has the backend, the settings and the tables.
    :param peer: who is there.
    """

    __slots__ = (
        "_notes", "_send", "_state", "began", "enhanced", "envelope", "extended", "receiver", "settings", "tables",
    )  # fmt: skip

    def __init__(self, channel: Channel, factory: SMTPFactory, peer: Peer) -> None:
        super().__init__(channel, factory, peer)
        self.settings: Settings = factory.settings
        self.tables: Tables = factory.tables
        self.envelope: Envelope | None = None
        self.receiver: Receiver | None = None
        self.extended = False
        #: True if replies carry enhanced codes.
        self.enhanced = False
        #: When the transaction was opened, by the factory's clock; kept only for monitors.
        self.began = 0.0
        self._notes: dict[str, Any] | None = None
        self._state = _CONNECTED
        self._send = channel.out.append

    @property
    def state(self) -> State:
        """Where the dialogue stands."""
        return State(self._state)

    @property
    def role(self) -> Role:
        """What the listener is for."""
        return self.tables.role

    @property
    def keywords(self) -> frozenset[str]:
        """The keywords of the extensions that the listener has."""
        return self.tables.keywords

    @property
    def max_recipients(self) -> int:
        """How many recipients a message may have."""
        return self.tables.max_recipients

    @property
    def notes(self) -> dict[str, Any]:
        """What extensions keep about this connection."""
        if self._notes is None:
            self._notes = {}
        return self._notes

    @property
    def trusted(self) -> bool:
        """True if whoever gives the commands is one of ``settings.trusted_proxies``."""
        return self.tables.trusts(self.peer)

    @property
    def secure(self) -> bool:
        """True if TLS protects the dialogue; TLS that ended at a proxy counts if ``settings.trust_proxy_tls``."""
        tls = self.peer.tls
        return tls is not None and (not tls.proxied or self.settings.trust_proxy_tls)

    # Lines.

    def line_received(self, line: bytes) -> None:
        """
        Take a command line.

        :param line: without its CRLF; free of CR, LF and NUL.
        """
        if line and line[-1] in _WHITE:
            # RFC 5321 §4.1.1: white space at the end is let pass.
            line = line.rstrip(b" \t")
        name, _, argument = line.partition(b" ")
        verbs = self.tables.verbs
        verb = verbs.get(name) or verbs.get(name.upper())
        if verb is None:
            self._answer(None, replies.UNKNOWN_COMMAND)
            return
        if not self._state & verb.allowed:
            self._answer(verb, out_of_sequence(State(verb.allowed), State(self._state)))
            return
        try:
            value = verb.parse(argument)
        except SMTPError as error:
            self._answer(verb, error.reply)
            return
        except ValueError as problem:
            self._answer(verb, Reply(501, str(problem), "5.5.4"))
            return
        except Exception:
            # A stranger's parser: a mistake of its own, not of the client.
            self._answer(verb, self.failed(Failure(), verb.name))
            return
        try:
            outcome = verb.proceed(self, value)
        except SMTPError as error:
            outcome = error.reply
        except Exception:
            outcome = self.failed(Failure(), verb.name)
        if type(outcome) is Reply:
            self._answer(verb, outcome)
        else:
            self.settle(outcome, lambda value: self._settled(verb, value))

    def _settled(self, verb: Verb, value: Any) -> None:
        """What a verb's proceed has promised is there."""
        self._answer(verb, value if type(value) is Reply else self.judge(value, verb.name) or replies.OK)

    def refuse_line(self, reply: Reply) -> None:
        """Answer a line that is no command line: too long, or damaged."""
        if self.pending_prompt is None:
            self._answer(None, reply)
        else:
            self.end_prompt(reply)

    def _answer(self, verb: Verb | None, reply: Reply) -> None:
        """Send the reply to a command."""
        if self.mode is CLOSED:
            return
        self._send(reply.wire(self.enhanced and (verb is None or not verb.plain)))
        if reply.closes:
            self._close(reply)
        watch = self.factory.watch.replied
        if watch is not None:
            watch(self.peer, verb.name if verb is not None else "", reply)

    # What verbs and extensions use.

    def reply(self, reply: Reply) -> None:
        """Send a reply in its turn; a 221, 421 or 521 closes the connection after it."""
        self._answer(None, reply)
        self.channel.wake()

    # TLS.

    @property
    def tls(self) -> Any:
        """What STARTTLS begins with, or None if it is not offered."""
        return self.factory.tls

    def start_tls(self, creator: Any) -> bool:
        """Begin TLS when the reply that is given now has been sent; False if that cannot be."""
        if self.farewell is not None or not self.channel.start_tls(creator):
            return False
        self.mode = SECURING
        return True

    def channel_binding(self, kind: str) -> bytes | None:
        """Give what binds an exchange to the connection's TLS, or None."""
        return self.channel.channel_binding(kind)

    # Transactions.

    def now(self) -> float:
        """Tell the time of day, in seconds since the epoch."""
        return self.factory.wall_clock()

    def new_id(self) -> str:
        """Make an id for a transaction, unique for all time to come."""
        return self.factory.new_id()

    def greeted(self, name: str, extended: bool) -> None:
        """The session has taken the client's name: the dialogue begins anew."""
        self.peer.helo = name
        self.peer.extended = self.extended = extended
        self.enhanced = extended and self.tables.enhanced
        self.trace = None
        self._state = _GREETED

    def ungreeted(self) -> None:
        """The client has not said who it is: what came of it is forgotten."""
        self.extended = self.enhanced = False
        self.trace = None
        self._state = _CONNECTED

    def open_transaction(self, envelope: Envelope) -> None:
        """MAIL was taken."""
        self.envelope = envelope
        self._state = _MAIL
        if envelope.forwarded is not None:
            self.peer.forwarded = None
        if self.factory.watch.message is not None:
            self.began = self.factory.clock.seconds()

    def add_recipient(self, recipient: Recipient) -> None:
        """RCPT was taken."""
        assert self.envelope is not None
        self.envelope.recipients.append(recipient)
        self._state = _RCPT

    def begin_again(self, upgraded: bool = False) -> Deferred[None] | None:
        """
        End the transaction, if one is open, and tell the session (RFC 5321 §4.1.4).

        :returns: None, or a Deferred that fires when the session has taken note.
        """
        envelope, self.envelope = self.envelope, None
        self.peer.forwarded = None
        if upgraded:
            # RFC 3207 §4.2.
            self.logout()
            self.peer.helo = ""
            self.peer.extended = self.extended = self.enhanced = False
            self._state = _CONNECTED
        if self._state != _CONNECTED:
            self._state = _GREETED
        try:
            outcome = self.session.reset(envelope, upgraded)
        except Exception:
            self.failed(Failure(), self.session.reset)
            return None
        if outcome is None:
            return None
        deferred = deferred_of(outcome)
        return None if deferred is None else deferred.addErrback(self.discard)

    # Content.

    def answer_message(self, reply: Reply) -> None:
        """Send the reply to a message that has ended."""
        self._answer(self.tables.data, reply)

    def content_received(self, data: bytes, start: int) -> int:
        """
        Take content.

        :param data: what has been read; content from *start*.
        :returns: the offset up to which it was taken.
        """
        receiver = self.receiver
        assert receiver is not None
        return receiver.feed(data, start)

    def receive(self, receiver: Receiver) -> None:
        """What comes next is content, for *receiver*."""
        self.receiver = receiver
        self.mode = CONTENT if self.farewell is None else PARTING

    def received(self) -> None:
        """The content is over; command lines come next."""
        self.receiver = None
        self.mode = LINES if self.farewell is None else PARTING

    # The end.

    def close(self, reply: Reply) -> None:
        """Send a last reply when the replies before it are sent, and close."""
        if self.mode is CLOSED or self.farewell is not None:
            return
        if self.mode is SECURING:
            # In the middle of a handshake no reply can be sent.
            self.mode = CLOSED
        elif self.pending_prompt is not None:
            self._finish_prompt(reply)
        elif self.wait is not None:
            # A hook is being asked: its answer goes first.
            self.farewell = reply
        elif self.factory.reading is self.channel:
            self.farewell = reply
            if self.mode is LINES or self.mode is CONTENT:
                self.mode = PARTING
        else:
            self.finish(reply)
        self.channel.wake()

    def time_out(self) -> None:
        """The client has been silent for too long: say so at once, and close."""
        if self.mode is SECURING:
            self.mode = CLOSED
        elif self.pending_prompt is not None:
            self._finish_prompt(replies.TIMED_OUT)
        else:
            self.finish(self.farewell or replies.TIMED_OUT)
        self.channel.wake()

    def _finish_prompt(self, reply: Reply) -> None:
        # The last reply is that of the exchange, which ends behind it.
        prompt, self.pending_prompt = self.pending_prompt, None
        self.finish(reply)
        if prompt is not None:
            prompt.errback(Failure(SMTPError(reply if reply.code >= 400 else replies.NO_SESSION)))

    def part(self) -> None:
        """Say the farewell that waited for the reply to a command."""
        assert self.farewell is not None
        self.finish(self.farewell)

    def finish(self, reply: Reply) -> None:
        """Send a last reply now, and close."""
        if self.mode is CLOSED:
            return
        self._answer(None, reply)
        self._close(reply)

    def _close(self, reply: Reply) -> None:
        self.mode = CLOSED
        if self.receiver is not None:
            self._abort(Failure(SMTPError(replies.SHUTTING_DOWN if reply.positive else reply)))

    def pause(self) -> None:
        """Read nothing more of this client until :meth:`resume`; deadlines stand still."""
        self.channel.hold(BY_SESSION)

    def resume(self) -> None:
        """Read on after :meth:`pause`."""
        self.channel.release(BY_SESSION)

    def lost(self, reason: Failure) -> None:
        """The connection is gone: cancel, abort and close, once each."""
        self.mode = CLOSED
        wait, self.wait = self.wait, None
        if wait is not None:
            wait.abandon(wait.late or self.discard)
        self._abort(reason)
        prompt, self.pending_prompt = self.pending_prompt, None
        if prompt is not None:
            prompt.addErrback(lambda _: None)
            prompt.errback(reason)
        self.close_session(reason)
        watch = self.factory.watch.disconnected
        if watch is not None:
            watch(self.peer, reason)

    def _abort(self, reason: Failure) -> None:
        receiver, self.receiver = self.receiver, None
        if receiver is not None:
            receiver.abort(reason)
