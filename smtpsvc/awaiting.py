"""
What hooks may give to be waited for: Deferreds, coroutines, Futures of asyncio, and whatever else can be awaited.

A hook that is a coroutine is run by Twisted and awaits Deferreds. One that awaits what asyncio has is
decorated with :func:`asyncio_hook`; it needs a reactor that runs on a loop of asyncio.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.python.failure import Failure

P = ParamSpec("P")
T = TypeVar("T")

_ADVICE = "start twistd with --reactor=asyncio, or call twisted.internet.asyncioreactor.install() before all else"


def deferred_of(outcome: object) -> Deferred[Any] | None:
    """
    Give the Deferred behind an outcome.

    :returns: the Deferred itself, or that of another awaitable, which is started; None for a plain value. That of
        a Future whose loop does not run here has failed with a sentence.
    """
    # A Deferred's class is an ABC, which makes isinstance slow for all that is none.
    if not hasattr(type(outcome), "__await__"):
        return None
    if isinstance(outcome, Deferred):
        return outcome
    if isinstance(outcome, Coroutine):
        return Deferred.fromCoroutine(outcome)
    if isinstance(outcome, asyncio.Future):
        return _of_future(outcome)
    return Deferred.fromCoroutine(settled(outcome))


async def settled(outcome: Any) -> Any:
    """
    Wait for an outcome, if it is an awaitable.

    :returns: the plain value.
    """
    if isinstance(outcome, asyncio.Future):
        # Coroutines that Twisted runs cannot await one as it is.
        return await _of_future(outcome)
    return await outcome if hasattr(type(outcome), "__await__") else outcome


def asyncio_hook(function: Callable[P, Awaitable[T]]) -> Callable[P, Deferred[T]]:
    """
    Let a hook be code of asyncio: it runs as a task of the loop, and may await what asyncio has.

    A decorator for coroutines of every kind: hooks of sessions, deliveries and policies, what
    :func:`~smtpsvc.on_message` takes, checkers. When the hook is not wanted any more, since its client is gone or
    its time is over, the task is cancelled. A Deferred is awaited in it by ``await
    deferred.asFuture(asyncio.get_running_loop())``.

    :returns: a function that gives a Deferred of what the coroutine gives. Where no loop runs, since the reactor is
        another, that fails with :exc:`RuntimeError` and says what to do: the client is answered 451 4.3.0.
    """

    @functools.wraps(function)
    def hook(*args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        if _running_loop() is None:
            name = getattr(function, "__qualname__", repr(function))
            return fail(RuntimeError(f"{name} is code of asyncio, and this reactor is not asyncio's: {_ADVICE}"))
        return _of_future(asyncio.ensure_future(function(*args, **kwargs)))

    return hook


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _of_future(future: asyncio.Future[T]) -> Deferred[T]:
    """Make a Deferred of a Future. To cancel it is to ask the Future to stop, and what comes of that is waited for."""
    if future.done():
        try:
            return succeed(future.result())
        except (Exception, asyncio.CancelledError):
            return fail(_translated(Failure()))
    if future.get_loop() is not _running_loop():
        # It would never fire, or in a thread that is not ours.
        return fail(RuntimeError(f"a hook gave a Future of asyncio, whose loop does not run here: {_ADVICE}"))
    return Deferred.fromFuture(future).addErrback(_translated)


def _translated(failure: Failure) -> Failure:
    """Make a cancellation of asyncio, which is no Exception, one of Twisted."""
    return Failure(CancelledError()) if failure.check(asyncio.CancelledError) else failure
