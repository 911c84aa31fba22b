"""
One message for several deliveries at once, and one dialogue for several sessions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred, DeferredList, fail
from twisted.logger import Logger
from twisted.python.failure import Failure

from smtpsvc.awaiting import deferred_of, settled
from smtpsvc.failures import shown_failure
from smtpsvc.grammar import replies
from smtpsvc.grammar.replies import Reply, SMTPError
from smtpsvc.session import Delivery
from smtpsvc.values import Envelope, Recipient

__all__ = ["Part", "SeveralDelivery", "in_background", "settle_all", "waits"]

_log = Logger()


def waits(outcome: object) -> bool:
    """Say whether an outcome is still to come."""
    return hasattr(type(outcome), "__await__")


def settle_all(calls: Iterable[Callable[[], Any]], then: Callable[[list[Any]], Any]) -> Any:
    """
    Call hooks side by side, and go on when all have answered.

    :param then: gets what each gave; of one that raised something, the reply: an error that is no refusal is
        logged, and is 451 4.3.0.
    :returns: what *then* gives, or an awaitable of it. To cancel that cancels all that are pending.
    """
    outcomes = [_called(call) for call in calls]
    if not any(map(waits, outcomes)):
        return then(outcomes)
    return _settle_later(outcomes, then)


async def _settle_later(outcomes: Sequence[Any], then: Callable[[list[Any]], Any]) -> Any:
    pending = [Deferred.fromCoroutine(_judged(each)) for each in outcomes]
    return await settled(then([value for _, value in await DeferredList(pending)]))


def _called(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:
        return _reply(error)


async def _judged(outcome: Any) -> Any:
    try:
        return await settled(outcome)
    except Exception as error:
        return _reply(error)


def _reply(error: Exception) -> Reply:
    if isinstance(error, SMTPError):
        return error.reply
    if not isinstance(error, CancelledError):
        _log.failure("a hook of a backend failed", shown_failure(Failure(error)))
    return replies.LOCAL_ERROR


def in_background(hook: Callable[..., Any], *args: Any) -> None:
    """Call a hook that nobody waits for; what it raises is logged."""

    async def call() -> None:
        await settled(hook(*args))

    Deferred.fromCoroutine(call()).addErrback(
        lambda failure: _log.failure("a hook of a backend failed", shown_failure(failure))
    )


class Part:
    """
    What one of several deliveries is to get.

    :param delivery: None if it is refused already.
    :param envelope: the transaction as its backend knows it.
    :param limit: the size that it takes, in bytes; None for any.
    :param refusal: why it is refused.
    """

    __slots__ = ("delivery", "envelope", "limit", "refusal", "size")

    def __init__(self, delivery: Any, envelope: Envelope, limit: int | None, refusal: Reply | None = None) -> None:
        self.delivery = delivery
        self.envelope = envelope
        self.limit = limit
        self.refusal: Reply | Failure | None = refusal
        self.size = 0

    def write(self, content: bytes) -> Any:
        """Give it a piece; an error is its own, and None comes back."""
        self.size += len(content)
        if self.limit is not None and self.size > self.limit:
            self.fail(Failure(SMTPError(replies.TOO_BIG)))
            return None
        try:
            return self.delivery.write(content)
        except Exception:
            self.fail(Failure())
            return None

    def fail(self, failure: Failure) -> None:
        """It takes no more: abort it, and remember why."""
        delivery, self.delivery = self.delivery, None
        if delivery is not None:
            self.refusal = failure.value.reply if isinstance(failure.value, SMTPError) else failure
            in_background(delivery.abort, failure)

    def finish(self) -> Any:
        """Finish it; what it raises is its outcome."""
        delivery, self.delivery = self.delivery, None
        if delivery is None:
            return self.refusal if isinstance(self.refusal, Reply) else fail(self.refusal)
        try:
            return delivery.finish()
        except Exception:
            return fail(Failure())


class SeveralDelivery(Delivery):
    """
    Gives one message to several deliveries, each for some of its recipients.

    One that fails does not keep the others from theirs. The client is paused until all have taken a piece.

    :param envelope: the whole transaction.
    :param parts: each with its own.
    :param part_of: says which of them has a recipient.
    """

    def __init__(self, envelope: Envelope, parts: Sequence[Part], part_of: Callable[[Recipient], Part | None]) -> None:
        self._envelope = envelope
        self._parts = parts
        self._part_of = part_of

    def write(self, content: bytes) -> Deferred[None] | None:
        """
        Take the next piece.

        :returns: None, or a Deferred that fires when all have taken it.
        :raises Exception: what the last one that was left has raised.
        """
        pending = []
        for part in self._parts:
            if part.delivery is not None:
                outcome = part.write(content)
                later = deferred_of(outcome)
                if later is not None:
                    pending.append(later.addErrback(part.fail))
        if pending:
            return DeferredList(pending).addCallback(lambda _: self._look())
        self._look()
        return None

    def _look(self) -> None:
        """Give up if nobody takes the message any more."""
        if any(part.delivery is not None for part in self._parts):
            return
        refusals: list[Reply] = []
        for part in self._parts:
            if isinstance(part.refusal, Failure):
                raise cast("Exception", part.refusal.value)
            refusals += [part.refusal] if part.refusal is not None else []
        raise SMTPError(next((each for each in refusals if each.code < 500), refusals[0]))

    def finish(self) -> Any:
        """
        Finish all.

        :returns: an outcome for each recipient, in the order of their RCPT.
        """
        recipients = self._envelope.recipients
        for part in self._parts:
            # What a policy has taken away meanwhile is not for the backend either.
            part.envelope.recipients[:] = [each for each in recipients if self._part_of(each) is part]
            if not part.envelope.recipients:
                part.fail(Failure(SMTPError(replies.NO_SUCH_USER)))
        wanted = [part for part in self._parts if part.envelope.recipients]
        outcomes = {part: _Outcomes(part.finish(), len(part.envelope.recipients)) for part in wanted}
        owners = map(self._part_of, recipients)
        found = [replies.LOCAL_ERROR if owner is None else outcomes[owner].next() for owner in owners]
        for each in outcomes.values():
            each.give_out()
        return found

    def abort(self, reason: Failure) -> Any:
        """
        Abort all that are left.

        :returns: None, or a Deferred that fires when they have.
        """
        pending = []
        for part in self._parts:
            delivery, part.delivery = part.delivery, None
            if delivery is not None:
                outcome = _called(lambda delivery=delivery: delivery.abort(reason))  # type: ignore[misc]
                if waits(outcome):
                    pending.append(Deferred.fromCoroutine(_judged(outcome)))
        return DeferredList(pending) if pending else None


class _Outcomes:
    """
    What a delivery's ``finish`` gave, dealt out to its recipients one by one.

    :param outcome: one for all, or a list, or an awaitable of either.
    :param count: of recipients.
    """

    def __init__(self, outcome: Any, count: int) -> None:
        self._outcome = outcome
        self._count = count
        self._given: list[_Given] = []
        self._place = 0
        self._pending = deferred_of(outcome)
        self._values: Sequence[Any] = () if self._pending is not None else self._spread(outcome)

    def next(self) -> Any:
        """Give the next recipient's."""
        if self._pending is None:
            self._place += 1
            return self._values[self._place - 1]
        given = _Given(self._pending)
        self._given.append(given)
        return given

    def give_out(self) -> None:
        """Have those who wait told; called once all have theirs."""
        if self._pending is not None:
            self._pending.addBoth(self._came)

    def _spread(self, value: Any) -> Sequence[Any]:
        if not isinstance(value, (list, tuple)):
            return [value] * self._count
        if len(value) != self._count:
            error = ValueError(f"finish() gave {len(value)} outcomes for {self._count} recipients")
            for later in map(deferred_of, value):
                if later is not None:
                    later.addErrback(lambda _: None)
            return [fail(error) for _ in range(self._count)]
        return value

    def _came(self, value: Any) -> None:
        for given, each in zip(self._given, self._spread(value), strict=True):
            if isinstance(each, Failure):
                given.errback(each)
            elif (later := deferred_of(each)) is not None:
                given.follow(later)
            else:
                given.callback(each)


class _Given(Deferred[Any]):
    """One recipient's outcome. To cancel it is a request to the delivery; what comes of that is waited for."""

    def __init__(self, source: Deferred[Any]) -> None:
        super().__init__()
        self._source = source

    def follow(self, source: Deferred[Any]) -> None:
        """It is this that will say it."""
        self._source = source
        source.addCallbacks(self.callback, self.errback)

    def cancel(self) -> None:
        """Ask whoever is to say it to stop."""
        if self.called:
            super().cancel()
        else:
            self._source.cancel()
