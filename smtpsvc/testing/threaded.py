"""
A real server in a thread, for tests that block or that run in another framework's loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Any

from twisted.internet.defer import maybeDeferred
from twisted.python.failure import Failure

from smtpsvc.current import have_reactor
from smtpsvc.service import MailService
from smtpsvc.testing.reactors import PrivateReactor
from smtpsvc.testing.recording import RecordedMessage
from smtpsvc.testing.servers import AnyServer

__all__ = ["ThreadedServer"]

#: Seconds for what takes milliseconds, on a machine that is busy.
_PATIENCE = 60.0


class ThreadedServer(AnyServer):
    """
    A server in a thread of its own, with a reactor of its own; a context manager, for ``async with`` too.

    The process's reactor is neither used nor chosen, so it works in any test: plain, of asyncio, of threads,
    and beside ``twisted.trial``; any number at once, and one after another. The backend's hooks run in the
    server's thread: there ``smtpsvc`` finds this reactor by itself, but ``from twisted.internet import reactor``
    does not (use :attr:`reactor`).

    It takes the arguments of :class:`~smtpsvc.testing.servers.AnyServer`. A server that was stopped may be
    started again: it has the same backend then, and another port.
    """

    _thread: threading.Thread | None = None
    _service: MailService | None = None
    #: What runs it; None while it does not run.
    reactor: Any = None

    def start(self) -> ThreadedServer:
        """
        Start the thread, and wait until the port is open.

        :raises RuntimeError: if it runs already.
        :raises Exception: what the backend's ``startService`` raises.
        """
        if self._thread is not None:
            raise RuntimeError("the server runs already")
        reactor = self.reactor = PrivateReactor()
        started: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(reactor, started), name="smtpsvc-test-server", daemon=True
        )
        self._thread.start()
        try:
            started.result(_PATIENCE)
        except BaseException:
            self._end()
            raise
        return self

    def stop(self) -> None:
        """
        Close the port, drop the clients, stop the backend, and wait until the thread has ended.

        A further call does nothing.
        """
        if self._thread is None:
            return
        try:
            self.run(self._stopped)
        finally:
            self._end()

    def run(self, function: Callable[..., Any], *args: Any, timeout: float = _PATIENCE) -> Any:
        """
        Call a function in the server's thread, and wait for its result.

        :param function: may be plain, return a Deferred, or be a coroutine function of Twisted's kind.
        :param timeout: in seconds; then what it gave is cancelled.
        :raises TimeoutError: if it takes longer.
        :raises RuntimeError: if the server does not run, or this is its thread.
        """
        reactor = self.reactor
        if reactor is None:
            raise RuntimeError("the server is not started")
        if threading.current_thread() is self._thread:
            raise RuntimeError("this is the server's thread, which cannot wait for itself")
        future: Future[Any] = Future()
        waiting: list[Any] = []

        def call() -> None:
            waiting.append(maybeDeferred(function, *args).addCallbacks(succeed, fail))

        def succeed(value: Any) -> None:
            if not future.done():
                future.set_result(value)

        def fail(failure: Failure) -> None:
            if not future.done():
                future.set_exception(failure.value)

        reactor.callFromThread(call)
        try:
            return future.result(timeout)
        except TimeoutError:
            if not future.done():
                reactor.callFromThread(lambda: [each.cancel() for each in waiting])
            raise

    def wait_for(self, count: int = 1, timeout: float = 10.0) -> list[RecordedMessage]:
        """
        Wait until so many messages have come.

        :returns: all that are there then.
        :raises AssertionError: with what is there, if they have not come in time.
        """
        try:
            found: list[RecordedMessage] = self.run(self.backend.wait_for, count, timeout=timeout)
        except TimeoutError:
            raise AssertionError(f"{count} messages were to come in {timeout:g} s; there are {self.messages}") from None
        return found

    def __enter__(self) -> ThreadedServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> ThreadedServer:
        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)

    # In the thread.

    def _run(self, reactor: PrivateReactor, started: Future[None]) -> None:
        have_reactor(reactor)

        def start() -> None:
            try:
                self._service = self._open(reactor)
            except BaseException as error:
                started.set_exception(error)
            else:
                started.set_result(None)

        reactor.callWhenRunning(start)
        try:
            reactor.run(installSignalHandlers=False)
        finally:
            have_reactor(None)
            reactor.close()

    def _stopped(self) -> Any:
        service, self._service = self._service, None
        return None if service is None else self._close(service)

    # Outside.

    def _end(self) -> None:
        """Let the thread end, and wait for it."""
        reactor, thread = self.reactor, self._thread
        self.reactor = self._thread = None
        assert thread is not None
        reactor.callFromThread(reactor.stop)
        thread.join(_PATIENCE)
        if thread.is_alive():
            raise RuntimeError(f"the thread of {self!r} does not end: a hook of {self.backend!r} blocks it")
