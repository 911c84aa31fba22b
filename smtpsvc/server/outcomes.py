"""
Outcomes: what a hook returned, and what happens next.

A hook that answers at once costs a call and a type test. Only one that is pending makes the
conversation wait, and only then is an object made for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from smtpsvc.awaiting import deferred_of
from smtpsvc.failures import shown_failure
from smtpsvc.grammar.replies import Reply, SMTPError
from smtpsvc.interfaces import ILogged
from smtpsvc.values import Peer

log = Logger()

#: What a verb's ``proceed`` gives when it sends the reply itself, later.
LATER: Final = object()

#: Takes what a hook gave: None, a Reply, another value, or the Failure of what it raised.
Then = Callable[[Any], None]


def cancel(deferred: Deferred[Any]) -> None:
    """Ask a hook to stop; what its canceller raises is logged."""
    try:
        deferred.cancel()
    except Exception:
        log.failure("a hook of the backend could not be cancelled", shown_failure(Failure()))


class Wait:
    """
    Waits for one pending outcome, and takes its end exactly once.

    Whether a Deferred has fired is learnt from a callback that runs while it is added, and not
    from ``called``: it may be paused, or chained to another.

    :param deferred: the outcome; its result is taken over.
    """

    __slots__ = ("began", "deferred", "fired", "late", "then", "value")

    def __init__(self, deferred: Deferred[Any]) -> None:
        self.deferred = deferred
        #: True once the outcome is known.
        self.fired = False
        self.value: Any = None
        #: Called with the value when it comes.
        self.then: Then | None = None
        #: Called with the value instead, if it comes after :meth:`abandon`.
        self.late: Then | None = None
        #: Since when, if a monitor wants to know how long it takes.
        self.began: float | None = None
        deferred.addBoth(self._fire)

    def _fire(self, value: Any) -> None:
        self.fired = True
        then, self.then = self.then, None
        if then is not None:
            then(value)
        elif self.late is not None:
            self.late(value)
        else:
            self.value = value

    def abandon(self, late: Then) -> None:
        """
        Wait no longer: ask the hook to stop, which it may ignore.

        :param late: called with what still comes of it, perhaps at once.
        """
        self.then, self.late = None, late
        cancel(self.deferred)


def judge(value: Any, peer: Peer, failed: Callable[[Failure], Reply]) -> Reply | None:
    """
    Turn what a hook gave into an answer.

    :param value: None, a Reply, or a Failure; anything else is nonsense.
    :param failed: takes the failure of what is neither consent nor refusal.
    :returns: None for plain consent, else the reply.
    """
    if value is None:
        return None
    if isinstance(value, Reply) and value.code // 100 != 3:
        return value
    if isinstance(value, Failure):
        if isinstance(value.value, SMTPError):
            return value.value.reply
        return failed(value)
    return failed(Failure(TypeError(f"a hook gave {value!r:.80}: None or a 2xx, 4xx or 5xx Reply was expected")))


def fold(results: Sequence[Reply | None]) -> Reply | None:
    """
    Make one reply of the replies for each recipient: over SMTP one must stand for all.

    :returns: None if all consent; else the first 4xx, so that the client tries again, else the
        first 5xx.
    """
    refusals = [result for result in results if result is not None and not result.positive]
    for refusal in refusals:
        if refusal.code < 500:
            return refusal
    return refusals[0] if refusals else None


class _Gathered(Deferred[list[Any]]):
    """Waits for several Deferreds. To cancel it is a request to them; what they make of it is still waited for."""

    waits: Sequence[Wait | None] = ()
    cancelled = False

    def cancel(self) -> None:
        """Ask all that are pending to stop."""
        self.cancelled = True
        for wait in self.waits:
            if wait is not None:
                cancel(wait.deferred)


def gather(
    outcomes: Sequence[Any],
    each: Callable[[Any], Any] = lambda value: value,
    came: Callable[[int, Any], object] = lambda index, result: None,
) -> Deferred[list[Any]]:
    """
    Settle several outcomes side by side.

    :param each: turns a value or Failure into a result.
    :param came: told the place of each result, and the result, as soon as it is known; of none after a
        cancellation.
    :returns: a Deferred of the results, in order. Cancelling it cancels those that are pending, and
        it fires when all have ended.
    """
    waits = [Wait(deferred) if deferred is not None else None for deferred in map(deferred_of, outcomes)]
    results = [None if wait else each(outcome) for wait, outcome in zip(waits, outcomes, strict=True)]
    open_waits = {index for index, wait in enumerate(waits) if wait is not None}

    done = _Gathered()
    done.waits = waits

    def settled(index: int, value: Any) -> None:
        results[index] = each(value)
        open_waits.discard(index)
        if not done.cancelled:
            came(index, results[index])
        if not open_waits and not done.called:
            done.callback(results)

    for index, wait in enumerate(waits):
        if wait is None:
            came(index, results[index])
    for index in sorted(open_waits):
        wait = waits[index]
        assert wait is not None
        if wait.fired:
            settled(index, wait.value)
        else:
            wait.then = lambda value, index=index: settled(index, value)
    if not open_waits and not done.called:
        done.callback(results)
    return done


def report(failure: Failure, peer: Peer, what: str, session: object = None) -> None:
    """
    Log what a hook raised, once, with its traceback and the connection's id.

    :param session: of the connection; one that is :class:`~smtpsvc.interfaces.ILogged` brings the logger.
    """
    logger = session.logger if ILogged.providedBy(session) else log
    logger.failure("{what} of the backend failed for {peer_id}", shown_failure(failure), what=what, peer_id=peer.id)
