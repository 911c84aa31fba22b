"""
The factory: compiles settings, extensions and monitors once, and makes a protocol for each client.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import Interface
from zope.interface.verify import verifyObject

from smtpsvc.current import current_reactor
from smtpsvc.extensions import defaults
from smtpsvc.failures import shown_failure
from smtpsvc.grammar import replies
from smtpsvc.grammar.replies import Reply
from smtpsvc.interfaces import IAccount, IBackend, IExtension, IMonitor, ISASLMechanism
from smtpsvc.server.admission import Refused
from smtpsvc.server.channel import BY_TURN
from smtpsvc.server.deadlines import MonotonicClock, Sweep, Watched
from smtpsvc.server.protocol import SMTPProtocol
from smtpsvc.server.shared import Shared
from smtpsvc.server.tables import Tables
from smtpsvc.server.watch import Watch
from smtpsvc.session import Session
from smtpsvc.settings import Role, Settings
from smtpsvc.values import Peer, TLSInfo


class Connection(Watched, Protocol):
    """What a factory knows of each of its connections."""

    #: For whom it counts (see Admission), or None.
    client: str | None

    def shut_down(self) -> None:
        """The service ends: say so if that may be, and close."""

    def wind_down(self) -> None:
        """The service ends: say so and close, when no transaction is open any more."""

    def cut_off(self) -> None:
        """The service ends now: say so at once if that may be, and close."""

    def abort(self) -> None:
        """Drop the connection at once."""

    @property
    def over(self) -> bool:
        """True once it was closed from our side: at most its last octets are to be sent."""


class SMTPFactory(Factory):
    """
    Serves SMTP on whatever listens with it: ``endpoint.listen(SMTPFactory(backend))``.

    :param backend: where mail goes.
    :param settings: how to behave; the defaults if None.
    :param role: what the listener is for.
    :param extensions: all that are offered; :func:`smtpsvc.extensions.defaults` if None.
    :param portal: a portal of ``twisted.cred`` whose realm gives an :class:`~smtpsvc.interfaces.IAccount`;
        it adds AUTH to the extensions. None for no AUTH.
    :param mechanisms: for AUTH, the strongest first; those of smtpsvc if None.
    :param monitors: watch what happens.
    :param clock: schedules and measures deadlines, and must be monotonic; the reactor's timed calls
        with the system's monotonic clock if None.
    :param wall_clock: the time of day in seconds since the epoch, for ``Received:``.
    :param tls: what TLS begins with: a :class:`~smtpsvc.tls.CertificateStore`, a ``CertificateOptions``, or
        any ``IOpenSSLServerConnectionCreator``; without it STARTTLS is not offered.
    :param implicit_tls: TLS comes first, with *tls*; session and greeting wait for it (RFC 8314).
    :param shared: what it shares with other factories of the same process; its own if None.
    :raises ValueError: with a sentence, if the extensions clash, or there is no *tls* for *implicit_tls*.
    :raises zope.interface.Invalid: if *backend* or an extension does not provide its interface.
    """

    protocol: Any = SMTPProtocol
    log = Logger()
    noisy = False

    def __init__(
        self,
        backend: IBackend,
        settings: Settings | None = None,
        *,
        role: Role = Role.SMTP,
        extensions: Iterable[IExtension] | None = None,
        portal: Any = None,
        mechanisms: Iterable[ISASLMechanism] | None = None,
        monitors: Iterable[IMonitor] = (),
        clock: IReactorTime | None = None,
        wall_clock: Callable[[], float] = time.time,
        tls: Any = None,
        implicit_tls: bool = False,
        shared: Shared | None = None,
    ) -> None:
        verifyObject(IBackend, backend)
        settings = settings or Settings()
        limit = backend.max_message_size
        if limit and (not settings.limits.message_size or limit < settings.limits.message_size):
            settings = replace(settings, limits=replace(settings.limits, message_size=limit))
        if clock is None:
            clock = MonotonicClock(current_reactor())
        offered = list(defaults() if extensions is None else extensions)
        if portal is not None:
            from smtpsvc.extensions.auth import Auth

            offered.append(Auth(portal, mechanisms))
        for extension in offered:
            verifyObject(IExtension, extension)
        if implicit_tls and tls is None:
            raise ValueError("implicit TLS needs a certificate: give tls, such as a CertificateStore")
        self.tls = tls
        self.implicit_tls = implicit_tls
        self.backend = backend
        self.settings = settings
        self.role = role
        self.clock: IReactorTime = clock
        self.wall_clock = wall_clock
        self.shared = Shared(settings, clock) if shared is None else shared
        #: Says who is let in.
        self.admission = self.shared.admission
        self.budget = self.shared.budget
        self.tables = Tables(settings, backend, role, offered)
        if settings.require_auth and role is Role.SMTP and "AUTH" not in self.tables.keywords:
            raise ValueError("--require-auth needs --auth: without it nobody could log in")
        self.watch = Watch(monitors, role)
        #: The open connections.
        self.connections: set[Connection] = set()
        #: True while the service ends: who has no open transaction is told, and closed.
        self.winding_down = False
        #: Hooks whose client has gone, or was answered without them; most end soon.
        self.unfinished: set[Deferred[Any]] = set()
        limits = settings.limits
        shortest = min(
            limits.command_timeout,
            limits.data_timeout,
            limits.hook_timeout,
            limits.proxy_timeout,
            limits.handshake_timeout,
            limits.stress_timeout or limits.command_timeout,
        )
        self.sweep = Sweep(clock, self.connections, shortest)
        #: The protocol that is being read, or None.
        self.reading: SMTPProtocol | None = None
        #: True while a turn is being done.
        self.turning = False
        #: What is to be done after it.
        self.ready: deque[Callable[[], None]] = deque()
        #: Protocols that have more to read than they may at a time.
        self.turns: deque[SMTPProtocol] = deque()
        self._next_turn: IDelayedCall | None = None
        self._verified: set[tuple[Any, type]] = set()
        #: Classes of what was found to be a session, and no Deferred of one.
        self.sessions: set[type] = set()
        #: Classes of what was found to be a delivery, and no Deferred of one.
        self.deliveries: set[type] = set()
        #: Makes an id for a connection or a transaction, unique for all time to come.
        # Seconds keep ids in order and apart from earlier runs, chance from other processes.
        stamp = f"{int(time.time()):x}{secrets.token_hex(3)}"
        self.new_id: Callable[[], str] = map(f"{stamp}n%x".__mod__, count(1)).__next__

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Make the protocol for a client: one that refuses it, if it cannot be served."""
        client = self.admission.counts(addr)
        refusal = self.admission.refusal(client, addr)
        if refusal is not None:
            return self.refused(addr, refusal)
        protocol = self.protocol(self, Peer(addr, self.new_id()))
        if protocol is not None:
            protocol.client = client
        return protocol

    def refused(self, address: IAddress | None, refusal: Reply) -> Refused:
        """
        Make the protocol for a client that cannot be served.

        :param refusal: one of those that :class:`~smtpsvc.server.admission.Admission` gives.
        """
        self._tell_refused(address, refusal)
        # Where TLS comes first it could not be read without a handshake.
        return Refused(None if self.implicit_tls else refusal)

    def _tell_refused(self, address: IAddress | None, refusal: Reply) -> None:
        if self.watch.limited is not None:
            limit = "max-connections" if refusal is replies.TOO_BUSY else "max-connections-per-client"
            self.watch.limited(Peer(address, self.new_id()), limit)

    def connected(self, protocol: Connection) -> None:
        """A protocol has its connection."""
        self.connections.add(protocol)
        self.admission.enter(protocol.client)
        self.sweep.begin()

    def disconnected(self, protocol: Connection) -> None:
        """A protocol has lost its connection."""
        self.connections.discard(protocol)
        self.admission.leave(protocol.client)
        if not self.connections:
            self.sweep.end()

    def keep_track(self, hook: Deferred[Any]) -> None:
        """Have what nobody waits for any more in :attr:`unfinished` until it ends."""
        self.unfinished.add(hook)
        hook.addBoth(self._ended, hook)

    def _ended(self, result: Any, hook: Deferred[Any]) -> Any:
        self.unfinished.discard(hook)
        return result

    def recount(self, protocol: Connection, address: IAddress | None) -> Reply | None:
        """
        Count a connection for another client than before (XCLIENT).

        :returns: a refusal, if the client has too many.
        """
        admission = self.admission
        admission.leave(protocol.client)
        protocol.client = admission.counts(address)
        refusal = admission.refusal(protocol.client, address)
        admission.enter(protocol.client)
        if refusal is not None:
            self._tell_refused(address, refusal)
        return refusal

    def read(self, protocol: SMTPProtocol) -> None:
        """
        Let a protocol read what it has, never nested.

        One that is woken while another is being read has its turn after it: else many sessions
        behind one lock would be as many frames deep on the stack.
        """
        if self.turning:
            self.ready.append(partial(self._read, protocol))
            return
        self.turning = True
        try:
            self._read(protocol)
            while self.ready:
                self.ready.popleft()()
        finally:
            self.turning = False

    def go_on_later(self, protocol: SMTPProtocol) -> None:
        """Let a protocol read on when everybody else has had a turn."""
        self.turns.append(protocol)
        if self._next_turn is None:
            self._next_turn = self.clock.callLater(0, self.go_on)

    def go_on(self) -> None:
        """Let each protocol that has more to read have its turn."""
        call, self._next_turn = self._next_turn, None
        if call is not None and call.active():
            call.cancel()
        for _ in range(len(self.turns)):
            self.turns.popleft().release(BY_TURN)

    def turn(self, work: Callable[[], None]) -> None:
        """Do a piece of work that is no reading: now, or after what is being done."""
        self.ready.append(work)
        if self.turning:
            return
        self.turning = True
        try:
            while self.ready:
                self.ready.popleft()()
        finally:
            self.turning = False

    def _read(self, protocol: SMTPProtocol) -> None:
        self.reading = protocol
        try:
            protocol.read()
        except Exception:
            self.broken(protocol)
        self.reading = None

    def broken(self, protocol: SMTPProtocol) -> None:
        """Log that a protocol has failed, and drop its connection."""
        self.log.failure("{peer_id}: reading failed", shown_failure(Failure()), peer_id=protocol.conversation.peer.id)
        protocol.abort()

    def verify(self, interface: type[Interface], provider: object) -> None:
        """
        Check that something of the backend's provides its interface; once for each class.

        :raises zope.interface.Invalid: with what is missing.
        """
        known = (interface, type(provider))
        if known not in self._verified:
            verifyObject(interface, provider)
            self._verified.add(known)

    def preview(self, tls: TLSInfo | None = None, account: IAccount | None = None) -> list[str]:
        """
        Show what EHLO would answer a stranger.

        :param tls: the connection has this; a plain one has None.
        :param account: the stranger has logged in as this.
        :returns: the lines of the reply, without CRLF.
        """
        stranger = self.protocol(self, Peer(None, self.new_id())).conversation
        stranger.peer.tls = tls
        stranger.peer.account = account
        stranger.session = Session()
        stranger.extended = True
        return self.tables.welcome(stranger, True).wire(False).decode("ascii").splitlines()

    def shut_down(self) -> None:
        """Tell every client that the service ends (421 4.3.2), and close its connection."""
        for protocol in tuple(self.connections):
            protocol.shut_down()

    def wind_down(self) -> None:
        """Tell every client that the service ends (421 4.3.2), as soon as it has no transaction open."""
        self.winding_down = True
        for protocol in tuple(self.connections):
            protocol.wind_down()
