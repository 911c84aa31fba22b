"""
How a chain asks: checks in order, at once where nothing waits, and what becomes of a refusal.

Nothing here makes an awaitable unless it is given one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, TypeAlias

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from smtpsvc.awaiting import settled
from smtpsvc.failures import shown_failure
from smtpsvc.grammar.replies import Reply, SMTPError
from smtpsvc.interfaces import IDelivery, Outcome
from smtpsvc.values import Envelope, Peer, Recipient

#: A check of a policy.
Check: TypeAlias = Callable[..., Outcome]

log = Logger()


def name_of(policy: object) -> str:
    """Name a policy for people: its ``name``, or that of its class."""
    name = getattr(policy, "name", "")
    return name if isinstance(name, str) and name else type(policy).__name__


def subject(args: tuple[Any, ...]) -> dict[str, Any]:
    """
    Say what a check was asked about, as the fields of a log event.

    :param args: of the check.
    """
    first = args[0]
    envelope = first if isinstance(first, Envelope) else None
    peer: Peer = first.peer if envelope is not None else first
    fields: dict[str, Any] = {"peer_id": peer.id, "client": peer.host or "local", "helo": peer.helo}
    if envelope is None:
        if len(args) > 1:
            fields["helo"] = args[1]
        about = f"{fields['client']} ({fields['helo']!r})" if fields["helo"] else fields["client"]
        return {**fields, "id": "", "sender": "", "recipient": "", "about": about}
    recipient = str(args[1]) if len(args) > 1 and isinstance(args[1], Recipient) else ""
    sender = str(envelope.sender)
    to = f" to {recipient!r}" if recipient else ""
    about = f"{fields['client']} ({peer.helo!r}), from {sender!r}{to}"
    return {**fields, "id": envelope.id, "sender": sender, "recipient": recipient, "about": about}


def refused(check: Check, args: tuple[Any, ...], reply: Reply) -> Reply:
    """
    Log a refusal, and put the id of the transaction, or of the connection, at the end of its text.

    :returns: the reply for the client; a 3xx, which is no refusal, as it is: the server judges it.
    """
    if reply.code < 400:
        return reply
    fields = subject(args)
    told = with_id(reply, fields["id"] or fields["peer_id"])
    log.info(
        "{peer_id}: {policy} has refused {stage} of {about}: {code} {enhanced} {text!r}",
        policy=name_of(getattr(check, "__self__", check)),
        stage=getattr(check, "__name__", ""),
        code=reply.code,
        enhanced=reply.enhanced,
        text=told.text,
        **fields,
    )
    return told


def with_id(reply: Reply, id: str) -> Reply:
    """Put an id at the end of a reply's text."""
    kind, (code, text, enhanced) = reply.__reduce__()
    return kind(code, f"{text} ({id})", enhanced)


def first_refusal(checks: Iterable[Check], *args: Any) -> Reply | None | Awaitable[Reply | None]:
    """
    Ask the checks in order.

    :returns: the first refusal, raised or returned, as the client hears it, or None; a coroutine of these
        once a check waits.
    :raises TypeError: if a check gives what is no Outcome: False, say, must not pass for consent.
    """
    remaining = iter(checks)
    for check in remaining:
        try:
            outcome = check(*args)
        except SMTPError as error:
            return refused(check, args, error.reply)
        if outcome is not None:
            return go_on(check, outcome, remaining, args)
    return None


def go_on(
    check: Check, outcome: object, remaining: Iterator[Check], args: tuple[Any, ...]
) -> Reply | None | Awaitable[Reply | None]:
    """
    Go on with what a check gave, if that is not None.

    :param remaining: the checks behind it.
    :returns: as :func:`first_refusal`.
    """
    if not isinstance(outcome, Reply):
        return _first_refusal_later(check, outcome, remaining, args)
    if outcome.code >= 300:
        return refused(check, args, outcome)
    return first_refusal(remaining, *args)


async def _first_refusal_later(
    check: Check, given: object, remaining: Iterator[Check], args: tuple[Any, ...]
) -> Reply | None:
    while True:
        try:
            outcome = await settled(given)
        except SMTPError as error:
            return refused(check, args, error.reply)
        if outcome is not None and not isinstance(outcome, Reply):
            raise TypeError(f"a check gave {outcome!r}, which is neither None nor a Reply")
        if outcome is not None and outcome.code >= 300:
            return refused(check, args, outcome)
        following = next(remaining, None)
        if following is None:
            return None
        check = following
        try:
            given = check(*args)
        except SMTPError as error:
            return refused(check, args, error.reply)


def unless(refusal: Reply | None | Awaitable[Reply | None], proceed: Callable[..., Any], *args: Any) -> Any:
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
    return await settled(proceed(*args))


def then(outcome: Any, proceed: Callable[[Any], Any]) -> Any:
    """Give ``proceed(outcome)``; a coroutine of it if the outcome is an awaitable."""
    # Not isinstance: Awaitable is an ABC, which makes that slow for all that is none.
    if hasattr(type(outcome), "__await__"):
        return _then_later(outcome, proceed)
    return proceed(outcome)


async def _then_later(pending: Awaitable[Any], proceed: Callable[[Any], Any]) -> Any:
    return proceed(await settled(pending))


def abort(envelope: Envelope, delivery: IDelivery, error: BaseException) -> None:
    """Abort a delivery in the background; the client's answer is settled, so a mistake is only logged."""

    async def wait() -> None:
        await settled(delivery.abort(Failure(error)))

    def failed(failure: Failure) -> None:
        log.failure("the refused message {id} could not be aborted", shown_failure(failure), id=envelope.id)

    Deferred.fromCoroutine(wait()).addErrback(failed)
