"""
The mail service: listeners and a backend that start and stop together.

It is a Twisted service like any other::

    mail = MailService(backend, Settings(hostname="mx.example.org"))
    mail.listen(endpoints.serverFromString(reactor, "tcp:25"))
    mail.setServiceParent(application)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from twisted.application.service import IService, MultiService
from twisted.internet.defer import CancelledError, Deferred, DeferredList, maybeDeferred
from twisted.internet.interfaces import (
    IDelayedCall,
    IListeningPort,
    ILoggingContext,
    IReactorTime,
    IStreamServerEndpoint,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from smtpsvc.interfaces import IBackend, IExtension, IMonitor, ISASLMechanism
from smtpsvc.listeners import ListenError, explain
from smtpsvc.server.factory import Connection, SMTPFactory
from smtpsvc.server.shared import Shared
from smtpsvc.settings import Role, Settings

#: A client that does not read its farewell is dropped after so many seconds.
FAREWELL = 10.0


@dataclass(slots=True, eq=False)
class Binding:
    """A listener of a service."""

    endpoint: Any
    role: Role
    implicit_tls: bool = False
    #: The open port, or None.
    port: IListeningPort | None = None
    #: What the endpoint's ``listen`` gave, until it has fired.
    pending: Deferred[Any] | None = None


class MailService(MultiService):
    """
    Serves mail on any number of endpoints.

    Ports are opened by ``privilegedStartService``, all of them or none, or else by
    ``startService``. A backend that provides ``IService`` is started after them and stopped after
    the last connection; one that has a parent already is left to it.

    :param backend: where mail goes.
    :param settings: how to behave; the defaults if None.
    :param extensions: all that are offered; :func:`smtpsvc.extensions.defaults` if None.
    :param portal: as for :class:`~smtpsvc.server.factory.SMTPFactory`, as are *mechanisms*.
    :param monitors: watch what happens.
    :param clock: as for :class:`~smtpsvc.server.factory.SMTPFactory`.
    :param tls: as for :class:`~smtpsvc.server.factory.SMTPFactory`; a service, such as a
        :class:`~smtpsvc.tls.CertificateStore`, is started before the ports are opened.
    :param shared: as for :class:`~smtpsvc.server.factory.SMTPFactory`.
    """

    log = Logger()

    def __init__(
        self,
        backend: IBackend,
        settings: Settings | None = None,
        *,
        extensions: Iterable[IExtension] | None = None,
        portal: Any = None,
        mechanisms: Iterable[ISASLMechanism] | None = None,
        monitors: Iterable[IMonitor] = (),
        clock: IReactorTime | None = None,
        tls: Any = None,
        shared: Shared | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.backend = backend
        self.settings = settings or Settings()
        self.bindings: list[Binding] = []
        self._extensions = None if extensions is None else tuple(extensions)
        self._portal = portal
        self._mechanisms = None if mechanisms is None else tuple(mechanisms)
        self._monitors = tuple(monitors)
        self._clock = clock
        self._tls = tls
        self._factories: dict[tuple[Role, bool], _Factory] = {}
        # Comes with the first of them, if it was not given.
        self._shared = shared
        # Who waits for the stop that is under way.
        self._stopping: list[Deferred[None]] = []
        for part in (tls, backend):
            if IService.providedBy(part) and part.parent is None:
                part.setServiceParent(self)

    if TYPE_CHECKING:

        def setServiceParent(self, parent: Any) -> None:
            """Become a part of *parent*: a service, or an application."""

    def listen(self, endpoint: IStreamServerEndpoint, role: Role = Role.SMTP, *, implicit_tls: bool = False) -> None:
        """
        Add a listener; it opens with the service, or now if that is running.

        :param endpoint: where.
        :param role: what its clients are.
        :param implicit_tls: TLS comes first (RFC 8314).
        :raises ListenError: if it should open now and cannot.
        :raises ValueError: with a sentence, if the extensions clash, or *implicit_tls* is without *tls*.
        """
        self.factory(role, implicit_tls=implicit_tls)
        binding = Binding(endpoint, role, implicit_tls)
        if self.running:
            self._open(binding)
        self.bindings.append(binding)

    def factory(self, role: Role = Role.SMTP, *, implicit_tls: bool = False) -> SMTPFactory:
        """
        Give the factory of all listeners that have a role, and have TLS first or not.

        :raises ValueError: with a sentence, if the extensions clash, or *implicit_tls* is without *tls*.
        """
        kind = (role, implicit_tls)
        if kind not in self._factories:
            self._factories[kind] = _Factory(
                self.backend,
                self.settings,
                role=role,
                extensions=self._extensions,
                portal=self._portal,
                mechanisms=self._mechanisms,
                monitors=self._monitors,
                clock=self._clock,
                tls=self._tls,
                implicit_tls=implicit_tls,
                shared=self._shared,
            )
            self._shared = self._factories[kind].shared
        return self._factories[kind]

    @property
    def shared(self) -> Shared | None:
        """What the factories share, such as the count of bytes in memory; None before there is one."""
        return self._shared

    @property
    def unfinished(self) -> int:
        """How many hooks still run although nobody waits for them any more."""
        return sum(len(factory.unfinished) for factory in self._factories.values())

    @property
    def ports(self) -> list[IListeningPort]:
        """The ports that are open, in the order of their :meth:`listen`."""
        return [binding.port for binding in self.bindings if binding.port is not None]

    def privilegedStartService(self) -> None:
        """
        Open the ports.

        :raises ListenError: if one cannot be opened; the others are closed again.
        """
        super().privilegedStartService()  # type: ignore[no-untyped-call]
        self._open_all()

    def startService(self) -> None:
        """
        Open the ports, unless that is done, and start the backend.

        :raises ListenError: if a port cannot be opened.
        :raises Exception: what the backend's ``startService`` raises; the ports are closed again.
        """
        self._open_all()
        try:
            super().startService()  # type: ignore[no-untyped-call]
        except BaseException:
            self.running = 0
            self._close_all()
            for service in self:
                if service.running:
                    service.stopService()
            raise

    def stopService(self) -> Deferred[None]:
        """
        Close the ports, let clients go, and stop the backend when the last is gone.

        A client without an open transaction hears 421 4.3.2 at once, one that has one hears it behind its
        end, or after ``limits.grace`` seconds. Whoever does not take it within :data:`FAREWELL` seconds is
        dropped.

        :returns: a Deferred that fires when all is closed and the backend has stopped. A further call gives another
            for the same stop.
        """
        self.running = 0
        stopped: Deferred[None] = Deferred()
        self._stopping.append(stopped)
        if len(self._stopping) == 1:
            Deferred.fromCoroutine(self._stop()).addBoth(self._stopped)
        return stopped

    def hurry(self) -> None:
        """
        Do not wait so long, if the service is being stopped.

        The first call breaks off the transactions that are open, each with 421 4.3.2; the second drops the
        clients; the third gives up hooks that have not ended.
        """
        if self._stopping:
            for factory in self._factories.values():
                factory.hurry()

    async def _stop(self) -> None:
        closed = self._close_all()
        parted = [factory.part() for factory in self._factories.values()]
        busy = sum(len(factory.connections) for factory in self._factories.values())
        if busy:
            grace = self.settings.limits.grace
            self.log.info("stopping; clients not done yet: {busy}; they have {grace:g} s", busy=busy, grace=grace)
        await closed
        await DeferredList(parted)
        await maybeDeferred(super().stopService)

    def _stopped(self, result: Any) -> None:
        stopping, self._stopping = self._stopping, []
        for stopped in stopping:
            stopped.callback(result)

    def _open_all(self) -> None:
        try:
            for binding in self.bindings:
                if binding.port is None and binding.pending is None:
                    self._open(binding)
        except ListenError:
            self._close_all()
            raise

    def _open(self, binding: Binding) -> None:
        """Open a port; an error that is known at once is raised, a later one is logged."""
        failures: list[Failure] = []
        waiting = False

        def opened(port: IListeningPort) -> None:
            binding.port, binding.pending = port, None

        def failed(failure: Failure) -> None:
            binding.pending = None
            if not waiting:
                failures.append(failure)
            elif not failure.check(CancelledError):
                self.log.critical("{problem}", problem=str(_listen_error(failure)))

        pending = maybeDeferred(binding.endpoint.listen, self.factory(binding.role, implicit_tls=binding.implicit_tls))
        binding.pending = pending
        pending.addCallbacks(opened, failed)
        waiting = True
        if failures:
            raise _listen_error(failures[0]) from failures[0].value

    def _close_all(self) -> Deferred[Any]:
        closing = []
        for binding in self.bindings:
            if binding.pending is not None:
                binding.pending.cancel()
            # An endpoint may have opened its port although it was cancelled.
            port, binding.port, binding.pending = binding.port, None, None
            if port is not None:
                closing.append(maybeDeferred(port.stopListening))
        return DeferredList(closing, consumeErrors=True)


@implementer(ILoggingContext)
class _Factory(SMTPFactory):
    """
    A factory that lets its clients go, and knows when the last has gone.

    That goes in steps: clients may end their transactions; they are told to go; they are dropped; hooks
    that have not ended are given up. Each has its time, or until :meth:`hurry`.
    """

    _parted: Deferred[None] | None = None
    _timer: IDelayedCall | None = None
    #: What comes when the time of a step is over.
    _steps: Sequence[Callable[[], None]] = ()

    def logPrefix(self) -> str:
        """Name the service in what Twisted logs of its ports."""
        return "smtpsvc"

    def part(self) -> Deferred[None]:
        """
        Let all clients go.

        :returns: a Deferred that fires when they are gone, and the hooks have ended that they left behind.
        """
        parted = self._parted = Deferred()
        self._steps = (self._break_off, self._drop, self._give_up)
        self._begin(self.settings.limits.grace)
        self.wind_down()
        if self.settings.limits.grace > FAREWELL:
            late = self.clock.callLater(FAREWELL, self._drop, over=True)
            parted.addCallback(lambda _: late.cancel() if late.active() else None)
        self._look()
        return parted

    def hurry(self) -> None:
        """Take the next step now."""
        if self._parted is not None:
            self._end_timer()
            self._step()

    def disconnected(self, protocol: Connection) -> None:
        """A protocol has lost its connection."""
        super().disconnected(protocol)
        self._look()

    def _ended(self, result: Any, hook: Deferred[Any]) -> Any:
        result = super()._ended(result, hook)
        self._look()
        return result

    def _look(self) -> None:
        """See whether all are gone."""
        parted = self._parted
        if parted is None or self.connections:
            return
        if not self.unfinished:
            self._end_timer()
            self._parted = None
            self.winding_down = False
            parted.callback(None)
        elif len(self._steps) > 1:
            # No client is left, so the steps that are for clients need no time.
            self._end_timer()
            self._steps = (self._give_up,)
            self._begin(FAREWELL)

    def _begin(self, seconds: float) -> None:
        self._timer = self.clock.callLater(seconds, self._step)

    def _end_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()

    def _step(self) -> None:
        step, *self._steps = self._steps
        if self._steps:
            self._begin(FAREWELL)
        step()

    def _break_off(self) -> None:
        for protocol in tuple(self.connections):
            protocol.cut_off()

    def _drop(self, *, over: bool = False) -> None:
        """
        Drop connections.

        :param over: those only whose clients have been told to go.
        """
        for protocol in tuple(self.connections):
            if protocol.over or not over:
                protocol.abort()

    def _give_up(self) -> None:
        if self.unfinished:
            self.log.warn(
                "{count} hooks of the backend have not ended in time; they are given up", count=len(self.unfinished)
            )
            self.unfinished.clear()
        for protocol in tuple(self.connections):
            # It was aborted, and its transport did not even say so.
            super().disconnected(protocol)
        self._look()


def _listen_error(failure: Failure) -> ListenError:
    error = failure.value
    return error if isinstance(error, ListenError) else ListenError(explain(failure))
