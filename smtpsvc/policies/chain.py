"""
The chain of policies: checks that stand in front of a backend.

The server knows of no policy. :func:`with_policies` makes a backend whose sessions and deliveries
ask the policies first and the backend's own hooks after them. What no policy checks is left as it
was: those hooks are the backend's own.
"""

from __future__ import annotations

from asyncio import isfuture
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, TypeAlias, cast

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from smtpsvc.grammar.replies import Reply, SMTPError
from smtpsvc.interfaces import IBackend, IConnection, IDelivery, IPolicy, ISession, Outcome
from smtpsvc.policies.front import Front
from smtpsvc.values import Envelope, Peer, Recipient

__all__ = ["Policy", "with_policies"]

_Check: TypeAlias = Callable[..., Outcome]

log = Logger()


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


def with_policies(backend: IBackend, *policies: IPolicy) -> IBackend:
    """
    Put policies in front of a backend.

    At each hook the policies are asked in order and the first refusal is the answer: neither the
    policies behind it nor the backend hear of it. Which checks a policy overrides is looked up
    here, once, and the hooks of a session once when it opens.

    A refusal in :meth:`Policy.content` is raised by the delivery's ``write``, so the server drops
    the rest and calls ``abort``. A refusal in :meth:`Policy.message` is the outcome of ``finish``;
    since the server never calls ``abort`` after ``finish``, the chain then calls the delivery's.

    :param backend: may have policies in front of it already; they are asked after these.
    :returns: a backend with all the other attributes and the interfaces of *backend* (``IService``,
        say), whose sessions and deliveries have those of the backend's too; or *backend* itself if
        no policy checks anything.
    :raises TypeError: if *backend* provides no :class:`~smtpsvc.interfaces.IBackend` or a policy no
        :class:`~smtpsvc.interfaces.IPolicy`; a class in the place of its instance does not.
    """
    if not IBackend.providedBy(backend):
        raise TypeError(f"{backend!r} is no backend: it does not provide IBackend")
    for policy in policies:
        if not IPolicy.providedBy(policy):
            raise TypeError(f"{policy!r} is no policy: it does not provide IPolicy")
    checks = _Checks.of(policies)
    if not checks.connect and not checks.in_session:
        return backend
    return cast("IBackend", _GuardedBackend(backend, policies, checks))


@dataclass(frozen=True, slots=True)
class _Checks:
    """What a chain asks at each hook, in order: bound methods, only those that a policy overrides."""

    connect: tuple[_Check, ...]
    helo: tuple[_Check, ...]
    mail: tuple[_Check, ...]
    rcpt: tuple[_Check, ...]
    data: tuple[_Check, ...]
    content: tuple[_Check, ...]
    message: tuple[_Check, ...]

    @classmethod
    def of(cls, policies: Iterable[IPolicy]) -> _Checks:
        """Look up the checks of *policies*."""
        return cls(**{name: tuple(_overridden(policies, name)) for name in cls.__slots__})

    @property
    def in_delivery(self) -> bool:
        """True if there is something to ask while a message comes or at its end."""
        return bool(self.content or self.message)

    @property
    def in_session(self) -> bool:
        """True if there is something to ask once a session is open."""
        return bool(self.helo or self.mail or self.rcpt or self.data) or self.in_delivery


def _overridden(policies: Iterable[IPolicy], name: str) -> Iterable[_Check]:
    """Give the checks called *name* that are not the ones of :class:`Policy`."""
    default = getattr(Policy, name)
    for policy in policies:
        check = getattr(policy, name)
        if getattr(check, "__func__", None) is not default:
            yield check


class _GuardedBackend(Front):
    """A backend that asks a chain before it lets a client in, and has its sessions ask it."""

    __slots__ = ("_checks", "_policies")

    def __init__(self, backend: IBackend, policies: tuple[IPolicy, ...], checks: _Checks) -> None:
        self._behind = backend
        self._policies = policies
        self._checks = checks

    def open_session(self, peer: Peer, connection: IConnection) -> Any:
        """Open the backend's session, unless the client is refused."""
        return _unless(_first_refusal(self._checks.connect, peer), self._open, peer, connection)

    def _open(self, peer: Peer, connection: IConnection) -> Any:
        return _then(self._behind.open_session(peer, connection), partial(self._guard, peer))

    def _guard(self, peer: Peer, session: Any) -> Any:
        if isinstance(session, Reply) or not self._checks.in_session:
            return session
        if not ISession.providedBy(session):
            raise TypeError(f"{self._behind!r} opened {session!r}, which does not provide ISession")
        return _GuardedSession(session, peer, self._checks)

    def __repr__(self) -> str:
        return f"<{', '.join(map(repr, self._policies))} in front of {self._behind!r}>"


class _GuardedSession(Front):
    """A session that asks a chain before the hooks for which it has checks."""

    __slots__ = ("close", "data", "helo", "mail", "rcpt", "reset")

    def __init__(self, session: Any, peer: Peer, checks: _Checks) -> None:
        self._behind = session
        # Partials of functions and no methods of this class: an unchecked hook is then the session's own, at no
        # cost, and a checked one makes no reference cycle with the session.
        self.helo = _behind_checks([partial(check, peer) for check in checks.helo], session.helo)
        self.mail = _behind_checks(checks.mail, session.mail)
        self.rcpt = _behind_checks(checks.rcpt, session.rcpt)
        data = partial(_begin, checks, session.data) if checks.in_delivery else session.data
        self.data = _behind_checks(checks.data, data)
        self.reset = session.reset
        self.close = session.close


class _GuardedDelivery(Front):
    """A delivery that asks a chain about the content and at its end."""

    __slots__ = ("finish", "write")

    def __init__(self, delivery: Any, envelope: Envelope, checks: _Checks) -> None:
        self._behind = delivery
        self.write = partial(_write, checks.content, envelope, delivery.write) if checks.content else delivery.write
        self.finish = partial(_finish, checks.message, envelope, delivery) if checks.message else delivery.finish


def _begin(checks: _Checks, data: Callable[[Envelope], Any], envelope: Envelope) -> Any:
    """Take the delivery from the session's hook *data* and put the chain in front of it."""

    def guard(delivery: Any) -> Any:
        if isinstance(delivery, Reply):
            return delivery
        if not IDelivery.providedBy(delivery):
            raise TypeError(f"{data!r} gave {delivery!r}, which does not provide IDelivery")
        return _GuardedDelivery(delivery, envelope, checks)

    return _then(data(envelope), guard)


def _write(checks: Iterable[_Check], envelope: Envelope, write: Callable[[bytes], Any], content: bytes) -> Any:
    """Hand a piece to the delivery's *write* unless it is refused, which is raised."""
    refusal = _first_refusal(checks, envelope, content)
    if refusal is None:
        return write(content)
    if isinstance(refusal, Reply):
        raise SMTPError(refusal)
    return _write_later(refusal, write, content)


async def _write_later(pending: Awaitable[Reply | None], write: Callable[[bytes], Any], content: bytes) -> None:
    refusal = await pending
    if refusal is not None:
        raise SMTPError(refusal)
    await _settled(write(content))


def _finish(checks: Iterable[_Check], envelope: Envelope, delivery: IDelivery) -> Any:
    """Finish the delivery, or abort it where the message is not taken for whatever reason."""
    try:
        refusal = _first_refusal(checks, envelope)
    except Exception as error:
        _abort(envelope, delivery, error)
        raise
    if refusal is None:
        return delivery.finish()
    if isinstance(refusal, Reply):
        _abort(envelope, delivery, SMTPError(refusal))
        return refusal
    return _finish_later(refusal, envelope, delivery)


async def _finish_later(pending: Awaitable[Reply | None], envelope: Envelope, delivery: IDelivery) -> Any:
    try:
        refusal = await pending
    except BaseException as error:  # a check that was cancelled, by whatever framework, has not consented
        _abort(envelope, delivery, error)
        raise
    if refusal is not None:
        _abort(envelope, delivery, SMTPError(refusal))
        return refusal
    return await _settled(delivery.finish())


def _abort(envelope: Envelope, delivery: IDelivery, error: BaseException) -> None:
    """Abort a delivery in the background; the client's answer is settled, so a mistake is only logged."""

    async def abort() -> None:
        await _settled(delivery.abort(Failure(error)))

    def failed(failure: Failure) -> None:
        log.failure("the refused message {id} could not be aborted", failure, id=envelope.id)

    Deferred.fromCoroutine(abort()).addErrback(failed)


def _behind_checks(checks: Iterable[_Check], hook: Callable[..., Any]) -> Callable[..., Any]:
    """Give a hook that asks *checks* first, with its own arguments; *hook* itself if there are none."""
    return partial(_checked, checks, hook) if checks else hook


def _checked(checks: Iterable[_Check], hook: Callable[..., Any], *args: Any) -> Any:
    return _unless(_first_refusal(checks, *args), hook, *args)


def _first_refusal(checks: Iterable[_Check], *args: Any) -> Reply | None | Awaitable[Reply | None]:
    """
    Ask the checks in order.

    :returns: the first refusal, raised or returned, or None; a coroutine of these once a check waits.
    :raises TypeError: if a check gives what is no Outcome: False, say, must not pass for consent.
    """
    remaining = iter(checks)
    try:
        for check in remaining:
            outcome = check(*args)
            if outcome is None:
                continue
            if not isinstance(outcome, Reply):
                return _first_refusal_later(outcome, remaining, args)
            if outcome.code >= 300:  # a 3xx is no answer to a hook: handed on, so that the server judges it
                return outcome
    except SMTPError as error:
        return error.reply
    return None


async def _first_refusal_later(first: object, remaining: Iterable[_Check], args: tuple[Any, ...]) -> Reply | None:
    try:
        for given in chain([first], (check(*args) for check in remaining)):
            outcome = await _settled(given)
            if outcome is None:
                continue
            if not isinstance(outcome, Reply):
                raise TypeError(f"a check gave {outcome!r}, which is neither None nor a Reply")
            if outcome.code >= 300:
                return outcome
    except SMTPError as error:
        return error.reply
    return None


def _unless(refusal: Reply | None | Awaitable[Reply | None], proceed: Callable[..., Any], *args: Any) -> Any:
    """Give the refusal, or what ``proceed(*args)`` gives if there is none; a coroutine while that is open."""
    if refusal is None:
        return proceed(*args)
    if isinstance(refusal, Reply):
        return refusal
    return _unless_later(refusal, proceed, args)


async def _unless_later(pending: Awaitable[Reply | None], proceed: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    refusal = await pending
    if refusal is not None:
        return refusal
    return await _settled(proceed(*args))


def _then(outcome: Any, proceed: Callable[[Any], Any]) -> Any:
    """Give ``proceed(outcome)``; a coroutine of it if the outcome is an awaitable."""
    if isinstance(outcome, Awaitable):
        return _then_later(outcome, proceed)
    return proceed(outcome)


async def _then_later(pending: Awaitable[Any], proceed: Callable[[Any], Any]) -> Any:
    return proceed(await _settled(pending))


async def _settled(outcome: Any) -> Any:
    """Wait for an outcome if it is an awaitable; Twisted's coroutines cannot await an asyncio Future as it is."""
    if isfuture(outcome):
        return await Deferred.fromFuture(outcome)
    if isinstance(outcome, Awaitable):
        return await outcome
    return outcome
