"""
Sessions: the part of a conversation that opens them, and closes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from smtpsvc.grammar import replies
from smtpsvc.grammar.replies import LastReply, Reply, SMTPError
from smtpsvc.interfaces import ISecured, ISession
from smtpsvc.server.channel import CLOSED, LINES
from smtpsvc.server.logins import Logins
from smtpsvc.server.secured import greet
from smtpsvc.values import Peer

if TYPE_CHECKING:
    from smtpsvc.server.tables import Tables
    from smtpsvc.server.verbs import Verb


class Opening(Logins):
    """The part of a conversation that opens its session, and another when XCLIENT comes."""

    __slots__ = ("_delay", "_reopening", "session")

    session: Any
    # True from XCLIENT to the greeting that answers it.
    _reopening: bool
    # Until the greeting is due.
    _delay: IDelayedCall | None

    if TYPE_CHECKING:
        tables: Tables

        def _answer(self, verb: Verb | None, reply: Reply) -> None: ...

        def ungreeted(self) -> None: ...

    def open(self) -> None:
        """The client is there: ask the backend for a session, then greet; all that after the delay, if there is one."""
        delay = self.factory.settings.limits.greet_delay
        if delay:
            self._delay = self.factory.clock.callLater(delay, self._turn, self._open_delayed)
        else:
            self._open()

    def _open_delayed(self) -> None:
        self._delay = None
        if self.mode is not CLOSED and not self._is_early():
            self.channel.since = self.factory.sweep.now
            self._open()
            self.channel.wake()

    def _open(self) -> None:
        if self.factory.winding_down:
            self.finish(replies.SHUTTING_DOWN)
            return
        try:
            session = self.factory.backend.open_session(self.peer, self)  # type: ignore[arg-type]
        except Exception:
            self._opened(Failure())
            return
        if type(session) in self.factory.sessions:
            self._opened(session)
        else:
            self.settle(session, self._opened, late=self._opened_late, hook="connect")

    def _opened(self, value: Any) -> None:
        reply = self._take_session(value)
        if self.session is None:
            self.finish(reply)
        elif self.mode is not CLOSED and not self._is_early():
            if self.channel.unread:
                self.peer.early = True
            self.mode = LINES
            if self.peer.tls is None:
                self._answer(None, reply)
            else:
                greet(self, reply)  # type: ignore[arg-type]

    def _is_early(self) -> bool:
        """Refuse a client that speaks before the greeting, where that is delayed to see who does (RFC 5321 §4.3.1)."""
        if not self.factory.settings.limits.greet_delay or not self.channel.unread:
            return False
        self.finish(replies.EARLY)
        self.channel.wake()
        return True

    def _take_session(self, value: Any) -> Reply:
        """
        Look at what ``open_session()`` gave, and keep it if it is a session.

        :returns: the greeting, or what to say instead of it before the connection is closed.
        """
        if type(value) in self.factory.sessions:
            self.session = value
            return self.tables.greeting
        if value is None or isinstance(value, (Reply, Failure)):
            if value is None:
                value = Failure(TypeError("open_session() gave None: an ISession or a Reply was expected"))
            reply = self.judge(value, "open_session") or replies.NO_SESSION
            if reply.positive or reply in (replies.LOCAL_ERROR, replies.HOOK_TIMED_OUT):
                return replies.NO_SESSION
            return reply
        try:
            self.factory.verify(ISession, value)
        except Exception:
            self.failed(Failure(), "open_session")
            return replies.NO_SESSION
        if not hasattr(value, "__await__"):
            self.factory.sessions.add(type(value))
        self.session = value
        return self.tables.greeting

    def _opened_late(self, value: Any) -> None:
        # The client did not wait for its session, which must learn that it is over all the same.
        if isinstance(value, Failure):
            self.discard(value)
        elif ISession.providedBy(value):
            self.session = value
            self.close_session(Failure(SMTPError(replies.NO_SESSION)))

    # XCLIENT.

    def replace_peer(self, peer: Peer) -> Reply | Deferred[Reply]:
        """
        Let *peer* take the place of the client: close the session, open another, and begin with the greeting.

        To the monitors one client goes and another comes.

        :returns: the greeting, or the refusal of a hook, after which the connection is closed; or a
            Deferred of either.
        """
        refusal = self.factory.recount(self.channel, peer.address)  # type: ignore[arg-type]
        if refusal is not None:
            return refusal
        reason = Failure(ConnectionDone("another client speaks on this connection"))
        self.close_session(reason)
        watch = self.factory.watch
        if watch.disconnected is not None:
            watch.disconnected(self.peer, reason)
        self.peer = peer
        self.faults = None
        self.ungreeted()
        self._reopening = True
        if watch.connected is not None:
            watch.connected(peer)
        reply = self.call(self._take_session, self.factory.backend.open_session, peer, self, late=self._opened_late)
        return self._secured(reply) if isinstance(reply, Reply) else reply.addCallback(self._secured)

    def _secured(self, greeting: Reply) -> Any:
        """The new session is there, or was refused: let it see the TLS that stays."""
        session = self.session
        if session is None or self.peer.tls is None or not ISecured.providedBy(session):
            return self._reopened(greeting)
        reply = self.ask(session.secured, self.peer.tls, reply=greeting)
        return self._reopened(reply) if isinstance(reply, Reply) else reply.addCallback(self._reopened)

    def _reopened(self, reply: Reply) -> Reply:
        self._reopening = False
        if self.session is None or not reply.positive:
            return LastReply(reply.code, reply.text, reply.enhanced)
        return self.tables.greeting

    def expire(self) -> None:
        """The hook that is waited for has taken too long: answer in its place, and ask it to stop."""
        if self._reopening and self.farewell is None:
            # There is no session that has seen this client and taken it.
            self.farewell = replies.NO_SESSION
        super().expire()

    def close_session(self, reason: Failure) -> None:
        """Tell the session that it is over, if there is one, and the account's realm."""
        delay, self._delay = self._delay, None
        if delay is not None:
            delay.cancel()
        session, self.session = self.session, None
        if session is not None:
            self.background(session.close, reason)
        self.leave()
