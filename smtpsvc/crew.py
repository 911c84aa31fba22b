"""
A few threads for work that takes long, with a short queue in front.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.failure import Failure

from smtpsvc.current import current_reactor
from smtpsvc.grammar.replies import Reply, TemporaryError

_Result = TypeVar("_Result")


class Crew:
    """
    Runs functions in threads of its own, so that a flood of one kind of work keeps nothing else waiting.

    :param threads: how many run at once.
    :param queue: how many may wait; more are turned away.
    :param busy: the reply that turns them away.
    :param name: of the threads.
    :param reactor: gets the results; the one of the calling thread if None.
    """

    def __init__(
        self, threads: int, queue: int, *, busy: Reply, name: str, reactor: IReactorFromThreads | None = None
    ) -> None:
        self._limit = threads + queue
        self._refusal = busy
        self._reactor = reactor
        # Starts a thread when there is something to do, and ends them with the process.
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=f"smtpsvc-{name}")
        self._busy = 0

    def run(self, function: Callable[..., _Result], *args: Any) -> Deferred[_Result]:
        """
        Run a function in a thread.

        :returns: a Deferred of what it gives or raises. Cancelling it gives up the place in the queue.
        :raises TemporaryError: if too many wait already.
        """
        if self._busy >= self._limit:
            raise TemporaryError(self._refusal.text, self._refusal.enhanced, self._refusal.code)
        reactor: Any = current_reactor() if self._reactor is None else self._reactor
        self._busy += 1
        future = self._executor.submit(function, *args)

        def give_up(_: Deferred[_Result]) -> None:
            future.cancel()

        done: Deferred[_Result] = Deferred(give_up)

        def finished(future: Future[_Result]) -> None:
            if future.cancelled():
                # In the reactor's thread already, and the Deferred fails by itself.
                self._busy -= 1
            else:
                reactor.callFromThread(self._finish, future, done)

        future.add_done_callback(finished)
        return done

    def _finish(self, future: Future[Any], done: Deferred[Any]) -> None:
        self._busy -= 1
        if done.called:
            return
        error = future.exception()
        if error is None:
            done.callback(future.result())
        else:
            done.errback(Failure(error))
