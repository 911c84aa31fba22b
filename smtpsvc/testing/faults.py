"""
Faults: what a :class:`~smtpsvc.testing.ScriptedBackend` may do instead of answering well.

Each function here gives an answer for a script. Answers are put together: ``nth(3, slow(2, 451))`` answers
the third call after two seconds with 451.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from smtpsvc.awaiting import settled
from smtpsvc.grammar.replies import Reply

__all__ = ["Call", "Fault", "cut", "drop", "each", "nth", "raw", "say", "slow", "sometimes", "stall"]


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One call of a hook, as a fault sees it."""

    #: The hook's, e.g. ``rcpt``.
    name: str
    args: tuple[Any, ...]
    #: Gives what the hook gives without a script.
    usual: Callable[[], Any]
    #: The client's; None if it is not known.
    connection: Any = None
    #: What has come of the message, in ``write``, ``finish`` and ``abort``: a :class:`~smtpsvc.testing.Message`.
    message: Any = None

    @property
    def clock(self) -> IReactorTime:
        """The server's clock."""
        clock: IReactorTime = self.connection.factory.clock
        return clock

    def give(self, answer: Any) -> Any:
        """
        Do what an answer of a script says.

        :param answer: a :class:`Fault`; a code for a Reply without many words; an exception, or its class, to
            raise; a function of the hook's arguments; None for what is usual; anything else as it is.
        :returns: the hook's outcome.
        """
        if callable(answer) and not isinstance(answer, (type, Fault)):
            answer = answer(*self.args)
        if isinstance(answer, Fault):
            return answer.strike(self)
        if isinstance(answer, BaseException) or (isinstance(answer, type) and issubclass(answer, BaseException)):
            raise answer
        if isinstance(answer, int) and 200 <= answer <= 599:
            return Reply(answer, "The script says so")
        return self.usual() if answer is None else answer

    async def wait(self, answer: Any) -> Any:
        """Do as :meth:`give`, and wait for what comes of it."""
        return await settled(self.give(answer))


class Fault:
    """
    An answer that is more than a value.

    :param name: how it was written.
    :param strike: does it: called with a :class:`Call`, gives the hook's outcome.
    """

    def __init__(self, name: str, strike: Callable[[Call], Any]) -> None:
        self._name = name
        self.strike = strike

    def __repr__(self) -> str:
        return self._name


def stall() -> Fault:
    """
    Never answer.

    The client waits until it gives up, or until ``limits.hook_timeout``: then its connection is closed without
    a word.
    """
    return Fault("stall()", _never)


def drop() -> Fault:
    """Close the connection in place of an answer."""

    def strike(call: Call) -> Any:
        call.connection.drop()
        return _never(call)

    return Fault("drop()", strike)


def cut(after: int) -> Fault:
    """
    Close the connection in the middle of a message; an answer for ``write``.

    :param after: when more octets of content than this have come.
    """

    def strike(call: Call) -> Any:
        whole = call.message is None or len(call.message.content) <= after
        return call.usual() if whole else drop().strike(call)

    return Fault(f"cut({after})", strike)


def slow(seconds: float, then: Any = None) -> Fault:
    """
    Take time, on the server's clock.

    :param then: the answer after it; what is usual if None.
    """

    async def wait(call: Call) -> Any:
        await deferLater(call.clock, seconds)
        return await call.wait(then)

    return Fault(f"slow({seconds:g}, {then!r})", lambda call: Deferred.fromCoroutine(wait(call)))


def say(octets: bytes, then: Any = None) -> Fault:
    """
    Send octets as they are, in front of the answer.

    :param octets: a part of a reply, say: ``open_session=say(b"220 mx.exam", stall())`` is a greeting that does
        not end.
    :param then: the answer after it.
    """

    def strike(call: Call) -> Any:
        channel = call.connection.channel
        channel.out.append(octets)
        channel.wake()
        return call.give(then)

    return Fault(f"say({octets!r}, {then!r})", strike)


class _Raw(Reply):
    """A reply that is other octets on the wire."""

    __slots__ = ("octets",)

    octets: Callable[[bool], bytes]

    def wire(self, extended: bool) -> bytes:
        """Give the octets."""
        return self.octets(extended)


def _raw(octets: Callable[[bool], bytes], code: int) -> Reply:
    reply = _Raw(code, "")
    object.__setattr__(reply, "octets", octets)
    return reply


def raw(octets: bytes, code: int = 250) -> Reply:
    r"""
    Make a reply that is something else on the wire.

    :param octets: are sent in its place, e.g. ``b"25O OK\r\n"`` or ``b"999 What\r\n"``.
    :param code: what the server takes it for.
    """
    return _raw(lambda extended: octets, code)


def each(*answers: Any) -> Fault:
    """
    Answer for each recipient; an answer for ``finish`` (RFC 2033 §4.2).

    An answer strikes when those before it have been given. With fewer answers than recipients the connection is
    closed behind the last; with more, the others are sent too, as replies too many.

    :param answers: in the order of the recipients: codes, Replies, faults, and None for what is usual.
    """

    def strike(call: Call) -> Any:
        assert call.message is not None, "each() is an answer for finish"
        wanted = len(call.message.recipients)
        given: list[Any] = [*answers[:wanted], *[drop()] * (wanted - len(answers))]
        if answers[wanted:]:
            given[-1] = _followed(call, given[-1], answers[wanted:])
        if not any(callable(answer) or isinstance(answer, Fault) for answer in given):
            return [_value(call, answer) for answer in given]
        return _one_by_one(call, given)

    return Fault(f"each{answers!r}", strike)


def _followed(call: Call, last: Any, more: Sequence[Any]) -> Reply:
    """Give the last reply, with those behind it that nobody waits for."""
    replies = [answer if isinstance(answer, Reply) else Reply(answer or 250, "One") for answer in (last, *more)]
    return _raw(lambda extended: b"".join(reply.wire(extended) for reply in replies), replies[0].code)


def _value(call: Call, answer: Any) -> Any:
    try:
        return call.give(answer)
    except Exception:
        failed: Deferred[Any] = Deferred()
        failed.errback(Failure())
        return failed


def _one_by_one(call: Call, answers: Sequence[Any]) -> list[Deferred[Any]]:
    """Let each answer strike when the server has taken those before it, which is in a later turn."""
    running: list[Deferred[None]] = []

    def cancel(_: Deferred[Any]) -> None:
        for one in running:
            one.cancel()

    outcomes: list[Deferred[Any]] = [Deferred(cancel) for _ in answers]

    async def run() -> None:
        for answer, outcome in zip(answers, outcomes, strict=True):
            try:
                value = await call.wait(answer)
            except Exception:
                value = Failure()
            # In a cancelled one, whatever comes is for nobody.
            outcome.callback(value)

    def start() -> None:
        running.append(Deferred.fromCoroutine(run()))
        running[0].addErrback(lambda failure: failure.trap(CancelledError))

    call.clock.callLater(0, start)
    return outcomes


def nth(number: int, answer: Any, *, each_connection: bool = False) -> Fault:
    """
    Answer one call, and let the others be as usual.

    :param number: of the call, from 1; calls of all connections are counted together.
    :param each_connection: count those of each connection for itself.
    """
    counts: dict[Any, int] = {}

    def strike(call: Call) -> Any:
        key = call.connection.peer.id if each_connection else None
        counts[key] = counts.get(key, 0) + 1
        return call.give(answer if counts[key] == number else None)

    return Fault(f"nth({number}, {answer!r})", strike)


def sometimes(chance: float, answer: Any, *, seed: int | str) -> Fault:
    """
    Answer by chance, and let the other calls be as usual.

    :param chance: from 0 to 1.
    :param seed: with the same one and the same calls the same of them are struck.
    """
    dice = random.Random(seed)

    def strike(call: Call) -> Any:
        return call.give(answer if dice.random() < chance else None)

    return Fault(f"sometimes({chance:g}, {answer!r}, seed={seed!r})", strike)


def _never(call: Call) -> Deferred[Any]:
    """Give what never fires; cancelled, it closes the connection."""

    return Deferred(lambda _: call.connection.drop())
