"""
Let things go wrong in front of a backend, so that its clients can be tried.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from copy import copy
from functools import partial
from itertools import repeat
from typing import Any, ClassVar, Final, cast

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from smtpsvc.awaiting import settled
from smtpsvc.backends.chaosrules import Dice, Rule, Rules, parse_rules
from smtpsvc.current import current_reactor
from smtpsvc.grammar.replies import Reply, SMTPError
from smtpsvc.interfaces import IBackend, IConnection, IDelivery, ISession
from smtpsvc.policies.front import Front
from smtpsvc.session import Delivery
from smtpsvc.values import Envelope, Peer, Recipient

__all__ = ["with_chaos"]

_log = Logger()

#: The steps of a session's hooks.
_HOOKS: Final = ("helo", "mail", "rcpt")


def with_chaos(backend: IBackend, rules: str | Rules, *, clock: IReactorTime | None = None) -> IBackend:
    """
    Put chaos in front of a backend.

    A client that hears 250 for a message can rely on it as without chaos, but for the action ``lie``.

    :param rules: as on the command line, e.g. ``"rcpt:451:10%,end:drop:5%,seed=42"``; see :doc:`/backends`.
    :param clock: times the delays; the reactor of the thread that serves if None.
    :returns: a backend with all the other attributes and the interfaces of *backend*.
    :raises ValueError: with a sentence, if the rules are none.
    :raises zope.interface.Invalid: if *backend* is none.
    """
    verifyObject(IBackend, backend)
    return cast("IBackend", _Backend(backend, parse_rules(rules) if isinstance(rules, str) else rules, clock))


class _Backend(Front):
    """A backend whose clients meet chaos."""

    __slots__ = ("_clients", "_clock", "_counts", "_rules", "chaos")

    what: ClassVar[str] = "chaos"

    def __init__(self, backend: IBackend, rules: Rules, clock: IReactorTime | None) -> None:
        self._behind = backend
        self._clock = clock
        self._rules: dict[str, Sequence[Rule]] = {}
        for rule in rules.rules:
            self._rules[rule.step] = (*self._rules.get(rule.step, ()), rule)
        self._counts: dict[Rule, int] = {}
        self._clients = 0
        #: The rules, with the seed.
        self.chaos = rules

    @property
    def destination(self) -> str:
        """Where mail goes, for people, and what may happen to it before."""
        behind = getattr(self._behind, "destination", None) or type(self._behind).__name__
        return f"{behind}, if chaos lets it ({self.chaos})"

    def open_session(self, peer: Peer, connection: IConnection) -> Any:
        """Open the backend's session, unless something goes wrong."""
        self._clients += 1
        chance = random.Random(f"{self.chaos.seed}:{self._clients}")
        client = _Client(Dice(self._rules, chance, self._counts), peer, connection, self._clock)
        return client.meet("connect", self._open, client, peer, connection)

    def _open(self, client: _Client, peer: Peer, connection: IConnection) -> Any:
        return _then(self._behind.open_session(peer, connection), partial(_in_session, client))


def _in_session(client: _Client, session: Any) -> Any:
    return _Session(session, client) if ISession.providedBy(session) else session


class _Client:
    """What chaos knows of one connection."""

    __slots__ = ("_clock", "_peer", "connection", "dice")

    def __init__(self, dice: Dice, peer: Peer, connection: IConnection, clock: IReactorTime | None) -> None:
        self.dice = dice
        self._peer = peer
        self.connection = connection
        self._clock = clock

    def meet(self, step: str, proceed: Callable[..., Any], *args: Any) -> Any:
        """Do what comes at a step, unless something else happens; a Deferred if anything does."""
        rules = self.dice.roll(step)
        return self.strike(rules, proceed, *args) if rules else proceed(*args)

    def strike(self, rules: Sequence[Rule], proceed: Callable[..., Any], *args: Any) -> Deferred[Any]:
        """Let rules strike, and do what comes if things go on behind them."""
        return Deferred.fromCoroutine(self._strike(rules, proceed, args))

    async def _strike(self, rules: Sequence[Rule], proceed: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        for rule in rules:
            await self.suffer(rule)
        return await settled(proceed(*args))

    async def suffer(self, rule: Rule) -> None:
        """
        Let a rule strike; it returns if things go on behind it.

        :raises SMTPError: if the client is to be told so.
        """
        self.note(rule)
        if rule.action == "delay":
            await deferLater(self._clock or current_reactor(), rule.seconds)
        elif rule.reply is not None:
            raise SMTPError(rule.reply)
        elif rule.action == "stall":
            # The server's deadline cancels it.
            await Deferred(lambda _: self.connection.drop())
        else:
            self.connection.drop()
            # Nothing comes behind it; the connection's loss cancels this.
            await Deferred()

    def note(self, rule: Rule) -> None:
        """Log that a rule strikes."""
        _log.info("{peer_id}: chaos: {rule}", peer_id=self._peer.id, rule=rule.text)


class _Session(Front):
    """A session whose hooks meet chaos; those that no rule is for are the backend's own."""

    __slots__ = ("_client", "helo", "mail", "rcpt")

    what: ClassVar[str] = "chaos"

    def __init__(self, session: Any, client: _Client) -> None:
        self._behind = session
        self._client = client
        rules = client.dice.rules
        for name in _HOOKS:
            hook = getattr(session, name)
            setattr(self, name, partial(client.meet, name, hook) if name in rules else hook)

    def data(self, envelope: Envelope) -> Any:
        """Take the backend's delivery, unless something goes wrong, and let the message meet chaos."""
        return self._client.meet("data", self._data, envelope)

    def _data(self, envelope: Envelope) -> Any:
        client = self._client
        struck = _struck(client.dice, envelope)
        if not any(struck):
            return _then(self._behind.data(envelope), partial(_in_delivery, client, struck))
        lucky = [each for each, rules in zip(envelope.recipients, struck, strict=True) if not _refusal(rules)]
        if not lucky:
            return _Delivery(Delivery(), client, struck)
        return _then(self._behind.data(_for(envelope, lucky)), partial(_in_delivery, client, struck))


def _in_delivery(client: _Client, struck: Sequence[Sequence[Rule]], delivery: Any) -> Any:
    return _Delivery(delivery, client, struck) if IDelivery.providedBy(delivery) else delivery


def _struck(dice: Dice, envelope: Envelope) -> list[list[Rule]]:
    """Give what strikes each recipient; nothing where one reply stands for all."""
    if "each" not in dice.rules or not envelope.each_answered:
        return []
    return [dice.roll("each") for _ in envelope.recipients]


def _refusal(rules: Sequence[Rule]) -> Reply | None:
    return next((rule.reply for rule in rules if rule.reply is not None), None)


def _for(envelope: Envelope, recipients: list[Recipient]) -> Envelope:
    """Give the envelope of a message that some recipients do not get."""
    made = copy(envelope)
    made.recipients = recipients
    return made


class _Delivery(Front):
    """A delivery whose content and end meet chaos."""

    __slots__ = ("_client", "_due", "_seen", "_struck")

    what: ClassVar[str] = "chaos"

    def __init__(self, delivery: Any, client: _Client, struck: Sequence[Sequence[Rule]]) -> None:
        self._behind = delivery
        self._client = client
        self._struck = struck
        # What is to strike while content comes.
        self._due = client.dice.roll("content")
        self._seen = 0

    def write(self, content: bytes) -> Any:
        """Give the backend content, until something goes wrong."""
        if not self._due:
            return self._behind.write(content)
        self._seen += len(content)
        due = [rule for rule in self._due if rule.octets < self._seen]
        self._due = [rule for rule in self._due if rule not in due]
        return self._client.strike(due, self._behind.write, content) if due else self._behind.write(content)

    def finish(self) -> Any:
        """Let the backend keep the message, unless something goes wrong before or behind it."""
        rules = self._client.dice.roll("end")
        if not rules and not any(self._struck):
            return self._behind.finish()
        return self._finish(rules)

    async def _finish(self, rules: Sequence[Rule]) -> Any:
        # Until the backend is asked to keep the message it is not kept, whatever ends this.
        try:
            for rule in rules:
                if rule.action == "lie":
                    self._client.note(rule)
                    await self._abort(SMTPError(Reply(451, "Chaos")))
                    return None
                if rule.action != "unsaid":
                    await self._client.suffer(rule)
        except BaseException as error:
            await self._abort(error)
            raise
        outcome = self._for_each(await settled(self._behind.finish()))
        for rule in rules:
            if rule.action == "unsaid":
                if isinstance(outcome, list):
                    # It is kept when the last of them is there.
                    outcome = [await _ended(each) for each in outcome]
                self._client.note(rule)
                self._client.connection.drop()
        return outcome

    def _for_each(self, outcome: Any) -> Any:
        """Put what struck some recipients between the outcomes of the others."""
        if not any(self._struck):
            return outcome
        kept = iter(outcome) if isinstance(outcome, (list, tuple)) else repeat(outcome)
        return [self._for_one(rules, None if _refusal(rules) else next(kept)) for rules in self._struck]

    def _for_one(self, rules: Sequence[Rule], outcome: Any) -> Any:
        return self._client.strike(rules, lambda: outcome) if rules else outcome

    async def _abort(self, error: BaseException) -> None:
        try:
            await settled(self._behind.abort(Failure(error)))
        except Exception:
            _log.failure("a message that chaos has struck could not be aborted")


def _then(outcome: Any, proceed: Callable[[Any], Any]) -> Any:
    """Give ``proceed(outcome)``; a coroutine of it if the outcome is an awaitable."""
    if isinstance(outcome, Awaitable):
        return _then_later(outcome, proceed)
    return proceed(outcome)


async def _then_later(pending: Awaitable[Any], proceed: Callable[[Any], Any]) -> Any:
    return proceed(await settled(pending))


async def _ended(outcome: Any) -> Any:
    """Wait for an outcome; a refusal is one that has failed already."""
    try:
        return await settled(outcome)
    except Exception:
        return fail()
