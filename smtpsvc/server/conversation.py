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

from smtpsvc.awaiting import deferred_of
from smtpsvc.grammar import replies
from smtpsvc.grammar.replies import Reply, SMTPError
from smtpsvc.grammar.states import State
from smtpsvc.interfaces import IConversation
from smtpsvc.server.channel import BY_SESSION, CLOSED, CONTENT, LINES, PARTING, SECURING, WAITING, Channel, Mode
from smtpsvc.server.lines import Lines
from smtpsvc.server.results import tell_broken
from smtpsvc.server.secured import Securable
from smtpsvc.settings import Role, Settings
from smtpsvc.values import Abandoned, Envelope, Peer, Recipient

if TYPE_CHECKING:
    from smtpsvc.server.factory import SMTPFactory
    from smtpsvc.server.tables import Tables


_CONNECTED: Final = State.CONNECTED.value
_GREETED: Final = State.GREETED.value
_MAIL: Final = State.MAIL.value
_RCPT: Final = State.RCPT.value


@implementer(IConversation)
class Conversation(Securable, Lines):
    """
    One client's dialogue.

    :param channel: carries it.
    :param factory: has the backend, the settings and the tables.
    :param peer: who is there.
    """

    __slots__ = (
        "_notes", "began", "envelope", "extended", "settings",
    )  # fmt: skip

    def __init__(self, channel: Channel, factory: SMTPFactory, peer: Peer) -> None:
        # All in one place: five calls, one for each part, would take longer than a command does.
        self.channel = channel
        self.factory = factory
        self.peer = peer
        self.settings: Settings = factory.settings
        self.tables: Tables = factory.tables
        self.mode: Mode = WAITING
        self.wait = self.pending_prompt = self.farewell = None
        self.asked = 0.0
        self.trace = self.faults = self._leave = None
        self.session = self._delay = None
        self._reopening = False
        self.receiver = None
        self.envelope: Envelope | None = None
        self.extended = False
        #: True if replies carry enhanced codes.
        self.enhanced = False
        #: When the transaction was opened, by the factory's clock; kept only for monitors.
        self.began = 0.0
        self._notes: dict[str, Any] | None = None
        self._state = _CONNECTED

    @property
    def host(self) -> Any:
        """Where the client has connected to."""
        transport = getattr(self.channel, "transport", None)
        return None if transport is None else transport.getHost()

    @property
    def state(self) -> State:
        """Where the dialogue stands."""
        return State(self._state)

    @property
    def was_greeted(self) -> bool:
        """True if the client has said who it is."""
        return self._state != _CONNECTED

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

    # What verbs and extensions use.

    def reply(self, reply: Reply) -> None:
        """Send a reply in its turn; a 221, 421 or 521 closes the connection after it."""
        self._answer(None, reply)
        self.channel.wake()

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
        if self.factory.winding_down:
            # The reply to the command that has ended it goes first.
            self.close(replies.SHUTTING_DOWN)
        if self.receiver is not None:
            # Between two chunks.
            self._abort(Failure(Abandoned("the client has begun anew")))
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

    def drop(self) -> None:
        """Close without a word, behind the replies that were given before."""
        self.mode = CLOSED
        self.channel.wake()

    def wind_down(self) -> None:
        """The service ends: say so (421 4.3.2) and close, when no transaction is open any more."""
        if self.envelope is None:
            self.close(replies.SHUTTING_DOWN)

    def time_out(self) -> None:
        """The client has been silent for too long: say so at once, and close."""
        self.cut_off(self.farewell or replies.TIMED_OUT)

    def cut_off(self, reply: Reply) -> None:
        """Send a last reply at once, also in place of one that is waited for, and close."""
        if self.mode is SECURING:
            # In the middle of a handshake no reply can be sent.
            self.mode = CLOSED
        elif self.pending_prompt is not None:
            self._finish_prompt(reply)
        else:
            self.finish(reply)
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

    def hang_up(self, reply: Reply) -> None:
        """Close behind what was sent, of which *reply* is the reason."""
        if self.mode is not CLOSED:
            self._close(reply)

    def _close(self, reply: Reply) -> None:
        if self.envelope is not None and not reply.positive and self.mode is not CLOSED:
            tell_broken(self, reply)
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
        if self.envelope is not None and self.mode is not CLOSED:
            tell_broken(self, reason)
        self.mode = CLOSED
        wait, self.wait = self.wait, None
        if wait is not None:
            wait.abandon(wait.late or self.discard)
            self.factory.keep_track(wait.deferred)
        self._abort(reason)
        prompt, self.pending_prompt = self.pending_prompt, None
        if prompt is not None:
            prompt.addErrback(lambda _: None)
            prompt.errback(reason)
        self.close_session(reason)
        watch = self.factory.watch.disconnected
        if watch is not None:
            watch(self.peer, reason)
