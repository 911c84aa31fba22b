"""
A thread for what may wait, with a queue in front that does not grow without end.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure


class TooMany(Exception):
    """So many wait for the thread that no more can."""


class Thread:
    """
    Runs functions one after the other, in a thread that begins with the first.

    :param queue: how many may wait, with the one that runs.
    :param name: of the thread.
    """

    def __init__(self, queue: int, name: str) -> None:
        self._queue = queue
        self._name = name
        self._executor: ThreadPoolExecutor | None = None
        self._busy = 0

    def run(self, reactor: Any, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        """
        Run a function in the thread.

        :param reactor: gets the result.
        :returns: what it gives or raises; fails with :exc:`TooMany` if too many wait. Cancelling it gives up the
            place in the queue.
        """

        def give_up(_: Deferred[Any]) -> None:
            future.cancel()

        done: Deferred[Any] = Deferred(give_up)
        if self._busy >= self._queue:
            done.errback(TooMany(f"{self._busy} wait already"))
            return done
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, thread_name_prefix=self._name)
        self._busy += 1
        future = self._executor.submit(function, *args)

        def finish() -> None:
            self._busy -= 1
            if not done.called and not future.cancelled():
                error = future.exception()
                done.callback(Failure(error) if error is not None else future.result())

        def finished(_: Future[Any]) -> None:
            # In this thread if it was cancelled, and else in the other.
            reactor.callFromThread(finish)

        future.add_done_callback(finished)
        return done

    def end(self, reactor: Any, function: Callable[[], Any]) -> Deferred[Any]:
        """Run a last function, and end the thread; a later one begins another."""
        # However many wait.
        self._queue += 1
        done = self.run(reactor, function)
        self._queue -= 1
        executor, self._executor = self._executor, None
        assert executor is not None, "run() has made it"
        executor.shutdown(wait=False)
        return done
