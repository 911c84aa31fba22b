"""
The chain of policies: checks that stand in front of a backend.

The server knows of no policy. :func:`with_policies` makes a backend whose sessions and deliveries
ask the policies first and the backend's own hooks after them. What no policy checks is left as it
was: those hooks are the backend's own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, cast

from twisted.application.service import IService, MultiService
from zope.interface import implementedBy, implementer, providedBy

from smtpsvc.awaiting import settled
from smtpsvc.backends.spool import Budget
from smtpsvc.grammar.replies import Reply, SMTPError
from smtpsvc.interfaces import IBackend, IConnection, IDelivery, IPolicy, ISession, Outcome
from smtpsvc.policies.asking import Check, abort, first_refusal, go_on, refused, then, unless
from smtpsvc.policies.discarded import Nowhere, discarded
from smtpsvc.policies.endings import tidied_close, tidied_open, tidied_reset
from smtpsvc.policies.front import Front
from smtpsvc.policies.held import HeldMessage
from smtpsvc.policies.holding import HeldDelivery, Holding
from smtpsvc.policies.prepended import prepended, put_before
from smtpsvc.values import Envelope, Peer, Recipient

__all__ = ["Policy", "with_policies"]


@implementer(IPolicy)
class Policy:
    """
    A policy that refuses nothing; override the checks you need.

    A check answers as a hook does: None or a 2xx Reply to consent (the wording is the backend's), a
    4xx or 5xx Reply to refuse, or an awaitable of these. A raised
    :class:`~smtpsvc.grammar.replies.SMTPError` means the same as its reply; any other exception is
    answered 451 4.3.0 and logged. A check that is not overridden is never called.
    """

    __slots__ = ()

    #: What it is called in logs; "" for the name of its class.
    name: ClassVar[str] = ""
    #: True if it may call :func:`~smtpsvc.policies.prepended.prepend` or :func:`~smtpsvc.policies.discarded.discard`.
    prepends: ClassVar[bool] = False
    #: True if it may call :func:`~smtpsvc.policies.endings.at_end`.
    tidies: ClassVar[bool] = False

    def connect(self, peer: Peer) -> Outcome:
        """Let any client in."""
        return None

    def helo(self, peer: Peer, name: str) -> Outcome:
        """Take any name."""
        return None

    def mail(self, envelope: Envelope) -> Outcome:
        """Take any sender."""
        return None

    def rcpt(self, envelope: Envelope, recipient: Recipient) -> Outcome:
        """Take any recipient."""
        return None

    def data(self, envelope: Envelope) -> Outcome:
        """Let the content come."""
        return None

    def content(self, envelope: Envelope, content: bytes) -> Outcome:
        """Take any content."""
        return None

    def message(self, envelope: Envelope) -> Outcome:
        """Take any message."""
        return None

    def examine(self, envelope: Envelope, held: HeldMessage) -> Outcome:
        """Take any message as it is."""
        return None


def with_policies(backend: IBackend, *policies: IPolicy, reactor: Any = None) -> IBackend:
    """
    Put policies in front of a backend.

    At each hook the policies are asked in order and the first refusal is the answer: neither the
    policies behind it nor the backend hear of it. It is logged with who was refused what by whom, and the client
    hears it with the id of its transaction, or of its connection, at the end. Which checks a policy overrides is
    looked up here, once, and the hooks of a session once when it opens.

    A refusal in :meth:`Policy.content` is raised by the delivery's ``write``, so the server drops
    the rest and calls ``abort``. A refusal in :meth:`Policy.message` is the outcome of ``finish``;
    since the server never calls ``abort`` after ``finish``, the chain then calls the delivery's. With
    :meth:`Policy.examine` the backend's session is asked for its delivery only when all have consented.

    :param backend: may have policies in front of it already; they are asked after these.
    :param reactor: its thread pool writes and reads large messages that are held back for
        :meth:`Policy.examine`; None for the running one.
    :returns: a backend with all the other attributes and the interfaces of *backend* (``IService``,
        say), whose sessions and deliveries have those of the backend's too; or *backend* itself if
        no policy checks anything. It is a service if it or one of the policies is.
    :raises TypeError: if *backend* provides no :class:`~smtpsvc.interfaces.IBackend` or a policy no
        :class:`~smtpsvc.interfaces.IPolicy`; a class in the place of its instance does not.
    """
    if not IBackend.providedBy(backend):
        raise TypeError(f"{backend!r} is no backend: it does not provide IBackend")
    for policy in policies:
        if not IPolicy.providedBy(policy):
            raise TypeError(f"{policy!r} is no policy: it does not provide IPolicy")
    checks = _Checks.of(policies)
    services = [policy for policy in policies if IService.providedBy(policy) and cast("Any", policy).parent is None]
    if not checks.connect and not checks.in_session and not services:
        return backend
    holding = Holding(checks.content, checks.ends, Budget(), reactor) if checks.examine else None
    if not services:
        return cast("IBackend", _GuardedBackend(backend, policies, checks, holding))
    return cast("IBackend", _ServingBackend(backend, policies, checks, holding, services))


def overridden(policy: IPolicy, name: str) -> Check | None:
    """Give the check called *name* of a policy, or None if it is that of :class:`Policy`."""
    check: Check = getattr(policy, name)
    return None if getattr(check, "__func__", None) is getattr(Policy, name) else check


@dataclass(frozen=True, slots=True)
class _Checks:
    """What a chain asks at each hook, in order: bound methods, only those that a policy overrides."""

    connect: tuple[Check, ...]
    helo: tuple[Check, ...]
    mail: tuple[Check, ...]
    rcpt: tuple[Check, ...]
    data: tuple[Check, ...]
    content: tuple[Check, ...]
    message: tuple[Check, ...]
    examine: tuple[Check, ...]
    #: The checks of *message* and *examine* in the order of their policies, each with True if it examines.
    ends: tuple[tuple[Check, bool], ...]
    #: True if a policy may put header fields before the content, or discard it.
    prepends: bool
    #: True if a policy may want to know when clients are gone.
    tidies: bool

    @classmethod
    def of(cls, policies: Iterable[IPolicy]) -> _Checks:
        """Look up the checks of *policies*."""
        policies = tuple(policies)
        found = {
            name: tuple(check for policy in policies if (check := overridden(policy, name)) is not None)
            for name in CHECKS
        }
        ends = tuple(
            (check, name == "examine")
            for policy in policies
            for name in ("message", "examine")
            if (check := overridden(policy, name)) is not None
        )
        prepends, tidies = (any(getattr(each, name, False) for each in policies) for name in ("prepends", "tidies"))
        return cls(**found, ends=ends, prepends=prepends, tidies=tidies)

    @property
    def in_delivery(self) -> bool:
        """True if there is something to do while a message comes or at its end."""
        return bool(self.content or self.message or self.examine or self.prepends)

    @property
    def in_session(self) -> bool:
        """True if there is something to ask once a session is open."""
        return bool(self.helo or self.mail or self.rcpt or self.data or self.tidies) or self.in_delivery


#: The names of the checks, in the order in which they are asked.
CHECKS = ("connect", "helo", "mail", "rcpt", "data", "content", "message", "examine")


class _GuardedBackend(Front):
    """A backend that asks a chain before it lets a client in, and has its sessions ask it."""

    __slots__ = ("_checks", "_holding", "_in_session", "_known", "_policies")

    def __init__(
        self, backend: IBackend, policies: tuple[IPolicy, ...], checks: _Checks, holding: Holding | None
    ) -> None:
        self._behind = backend
        self._policies = policies
        self._checks = checks
        self._holding = holding
        self._in_session = checks.in_session
        # Classes of sessions; to ask each session whether it is one costs as much as to guard it.
        self._known: set[type] = set()

    def open_session(self, peer: Peer, connection: IConnection) -> Any:
        """Open the backend's session, unless the client is refused."""
        if self._checks.tidies:
            return tidied_open(peer, partial(self._let_in, peer, connection))
        return self._let_in(peer, connection)

    def _let_in(self, peer: Peer, connection: IConnection) -> Any:
        checks = self._checks.connect
        if checks:
            refusal = first_refusal(checks, peer)
            if refusal is not None:
                return unless(refusal, self._open, peer, connection)
        return self._open(peer, connection)

    def _open(self, peer: Peer, connection: IConnection) -> Any:
        session = self._behind.open_session(peer, connection)
        if type(session) in self._known:
            return _GuardedSession(session, peer, self._checks, self._holding)
        return then(session, partial(self._guard, peer))

    def _guard(self, peer: Peer, session: Any) -> Any:
        if isinstance(session, Reply) or not self._in_session:
            return session
        if not ISession.providedBy(session):
            raise TypeError(f"{self._behind!r} opened {session!r}, which does not provide ISession")
        if ISession.implementedBy(type(session)):
            self._known.add(type(session))
        return _GuardedSession(session, peer, self._checks, self._holding)

    def __repr__(self) -> str:
        return f"<{', '.join(map(repr, self._policies))} in front of {self._behind!r}>"


class _ServingBackend(_GuardedBackend, MultiService):
    """A guarded backend that starts and stops the services among its policies, and the backend behind them."""

    def __init__(
        self,
        backend: IBackend,
        policies: tuple[IPolicy, ...],
        checks: _Checks,
        holding: Holding | None,
        services: Iterable[Any],
    ) -> None:
        _GuardedBackend.__init__(self, backend, policies, checks, holding)
        MultiService.__init__(self)
        for service in services:
            service.setServiceParent(self)
        if IService.providedBy(backend) and cast("Any", backend).parent is None:
            cast("Any", backend).setServiceParent(self)

    @property
    def __providedBy__(self) -> Any:
        return providedBy(self._behind) + implementedBy(MultiService)  # type: ignore[no-untyped-call]


class _GuardedSession(Front):
    """A session that asks a chain before the hooks for which it has checks."""

    __slots__ = ("__providedBy__", "close", "data", "helo", "mail", "rcpt", "reset")

    def __init__(self, session: Any, peer: Peer, checks: _Checks, holding: Holding | None) -> None:
        self._behind = session
        # Asked several times for each session, of which the property of Front makes a call each.
        self.__providedBy__ = providedBy(session)  # type: ignore[misc]
        # Partials of functions and no methods of this class: an unchecked hook is then the session's own, at no
        # cost, and a checked one makes no reference cycle with the session.
        self.helo = partial(_helo, checks.helo, peer, session.helo) if checks.helo else session.helo
        self.mail = partial(_checked, checks.mail, session.mail) if checks.mail else session.mail
        self.rcpt = partial(_rcpt, checks.rcpt, session.rcpt) if checks.rcpt else session.rcpt
        if holding is not None:
            data = partial(_hold, holding, session)
        elif checks.in_delivery:
            data = partial(_begin, checks, session.data)
        else:
            data = session.data
        self.data = partial(_checked, checks.data, data) if checks.data else data
        self.reset = partial(tidied_reset, session.reset) if checks.tidies else session.reset
        self.close = partial(tidied_close, session.close, peer) if checks.tidies else session.close


class _GuardedDelivery(Front):
    """A delivery that asks a chain about the content and at its end."""

    __slots__ = ("finish", "write")

    def __init__(self, delivery: Any, envelope: Envelope, checks: _Checks) -> None:
        self._behind = delivery
        write = delivery.write
        before = prepended(envelope) if checks.prepends else b""
        if before:
            write = partial(_prepend, [before], write)
        self.write = partial(_write, checks.content, envelope, write) if checks.content else write
        self.finish = partial(_finish, checks.message, envelope, delivery) if checks.message else delivery.finish


def _hold(holding: Holding, session: Any, envelope: Envelope) -> HeldDelivery:
    return HeldDelivery(holding, session, envelope)


def _begin(checks: _Checks, data: Callable[[Envelope], Any], envelope: Envelope) -> Any:
    """Take the delivery from the session's hook *data* and put the chain in front of it."""
    if checks.prepends and discarded(envelope):
        return _GuardedDelivery(Nowhere(envelope), envelope, checks)

    def guard(delivery: Any) -> Any:
        if isinstance(delivery, Reply):
            return delivery
        if not IDelivery.providedBy(delivery):
            raise TypeError(f"{data!r} gave {delivery!r}, which does not provide IDelivery")
        return _GuardedDelivery(delivery, envelope, checks)

    return then(data(envelope), guard)


def _prepend(before: list[bytes], write: Callable[[bytes], Any], content: bytes) -> Any:
    """Put header fields before the first piece."""
    return write(put_before(before.pop(), content) if before else content)


def _write(checks: Iterable[Check], envelope: Envelope, write: Callable[[bytes], Any], content: bytes) -> Any:
    """Hand a piece to the delivery's *write* unless it is refused, which is raised."""
    refusal = first_refusal(checks, envelope, content)
    if refusal is None:
        return write(content)
    if isinstance(refusal, Reply):
        raise SMTPError(refusal)
    return _write_later(refusal, write, content)


async def _write_later(pending: Awaitable[Reply | None], write: Callable[[bytes], Any], content: bytes) -> None:
    refusal = await pending
    if refusal is not None:
        raise SMTPError(refusal)
    await settled(write(content))


def _finish(checks: Iterable[Check], envelope: Envelope, delivery: IDelivery) -> Any:
    """Finish the delivery, or abort it where the message is not taken for whatever reason."""
    try:
        refusal = first_refusal(checks, envelope)
    except Exception as error:
        abort(envelope, delivery, error)
        raise
    if refusal is None:
        return delivery.finish()
    if isinstance(refusal, Reply):
        abort(envelope, delivery, SMTPError(refusal))
        return refusal
    return _finish_later(refusal, envelope, delivery)


async def _finish_later(pending: Awaitable[Reply | None], envelope: Envelope, delivery: IDelivery) -> Any:
    try:
        refusal = await pending
    except BaseException as error:  # a check that was cancelled, by whatever framework, has not consented
        abort(envelope, delivery, error)
        raise
    if refusal is not None:
        abort(envelope, delivery, SMTPError(refusal))
        return refusal
    return await settled(delivery.finish())


# The next two are one but for their arguments. They ask checks that consent at once without a call more, and leave the
# rest to first_refusal(), which would cost a message some 3 us of its 30.


def _checked(checks: tuple[Check, ...], hook: Callable[[Envelope], Any], envelope: Envelope) -> Any:
    """Ask the checks, then the hook."""
    remaining = iter(checks)
    for check in remaining:
        try:
            outcome = check(envelope)
        except SMTPError as error:
            return refused(check, (envelope,), error.reply)
        if outcome is not None:
            return unless(go_on(check, outcome, remaining, (envelope,)), hook, envelope)
    return hook(envelope)


def _rcpt(
    checks: tuple[Check, ...], hook: Callable[[Envelope, Recipient], Any], envelope: Envelope, recipient: Recipient
) -> Any:
    """Ask the checks, then the hook."""
    remaining = iter(checks)
    for check in remaining:
        try:
            outcome = check(envelope, recipient)
        except SMTPError as error:
            return refused(check, (envelope, recipient), error.reply)
        if outcome is not None:
            return unless(go_on(check, outcome, remaining, (envelope, recipient)), hook, envelope, recipient)
    return hook(envelope, recipient)


def _helo(checks: Iterable[Check], peer: Peer, hook: Callable[[str], Any], name: str) -> Any:
    return unless(first_refusal(checks, peer, name), hook, name)
