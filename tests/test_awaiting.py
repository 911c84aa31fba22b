"""
Tests of smtpsvc.awaiting: what may be waited for, and code of asyncio in hooks.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Coroutine, Generator
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc import PermanentError, Reply, asyncio_hook, on_message
from smtpsvc.awaiting import deferred_of, settled
from smtpsvc.testing import ScriptedBackend, Wire, clocked_factory
from tests.hooks import awaiting, coroutine
from tests.live import PATIENCE, ROOT

TAKEN = Reply(250, "Queued as 1", "2.0.0")


class DeferredOfTests(SynchronousTestCase):
    def test_plain(self) -> None:
        """Plain values have no Deferred behind them."""
        for value in (None, TAKEN, 7, "text", [succeed(None)], Failure(KeyError()), coroutine, object()):
            with self.subTest(value=value):
                self.assertIsNone(deferred_of(value))

    def test_deferred(self) -> None:
        """A Deferred is its own, a subclass's too."""
        for deferred in (Deferred(), type("Own", (Deferred,), {})()):
            self.assertIs(deferred_of(deferred), deferred)

    def test_coroutine(self) -> None:
        """A coroutine is started, and its Deferred has what it returns."""
        deferred = deferred_of(awaiting(TAKEN))
        assert deferred is not None
        self.assertIs(self.successResultOf(deferred), TAKEN)

    def test_failing_coroutine(self) -> None:
        """What a coroutine raises is the Deferred's failure."""
        deferred = deferred_of(coroutine(KeyError("x")))
        assert deferred is not None
        self.failureResultOf(deferred, KeyError)

    def test_coroutine_of_another_make(self) -> None:
        """Compiled and wrapped coroutines count: whatever provides the protocol of a coroutine."""
        deferred = deferred_of(_Wrapped(awaiting(TAKEN)))
        assert deferred is not None
        self.assertIs(self.successResultOf(deferred), TAKEN)


class _Wrapped(Coroutine[Any, Any, Any]):
    """A coroutine by its protocol, and not by its type."""

    def __init__(self, inner: Coroutine[Any, Any, Any]) -> None:
        self._inner = inner

    def send(self, value: Any) -> Any:
        return self._inner.send(value)

    def throw(self, *args: Any) -> Any:
        return self._inner.throw(*args)

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Any:
        return self._inner.__await__()


class FutureTests(SynchronousTestCase):
    """Futures of asyncio."""

    def test_pending(self) -> None:
        """What a Future gets, its Deferred gets."""

        async def check() -> None:
            future = asyncio.get_running_loop().create_future()
            deferred = deferred_of(future)
            assert deferred is not None
            self.assertNoResult(deferred)
            future.set_result(TAKEN)
            await asyncio.sleep(0)
            self.assertIs(self.successResultOf(deferred), TAKEN)

        asyncio.run(check())

    def test_done(self) -> None:
        """One that is done needs no loop."""
        loop = asyncio.new_event_loop()
        self.addCleanup(loop.close)
        done, failed, cancelled = (loop.create_future() for _ in range(3))
        done.set_result(TAKEN)
        failed.set_exception(KeyError("x"))
        cancelled.cancel()
        self.assertIs(self.successResultOf(_deferred(done)), TAKEN)
        self.failureResultOf(_deferred(failed), KeyError)
        self.failureResultOf(_deferred(cancelled), CancelledError)

    def test_no_loop(self) -> None:
        """One whose loop does not run here fails with a sentence, and is not waited for for ever."""
        loop = asyncio.new_event_loop()
        self.addCleanup(loop.close)
        failure = self.failureResultOf(_deferred(loop.create_future()), RuntimeError)
        self.assertIn("whose loop does not run here: start twistd with --reactor=asyncio", str(failure.value))

    def test_cancel(self) -> None:
        """To cancel the Deferred cancels the Future, and fails as Twisted's cancellations do."""

        async def check() -> None:
            future = asyncio.get_running_loop().create_future()
            deferred = _deferred(future)
            deferred.cancel()
            self.assertTrue(future.cancelled())
            await asyncio.sleep(0)
            self.failureResultOf(deferred, CancelledError)

        asyncio.run(check())

    def test_settled(self) -> None:
        """A coroutine of Twisted waits for a Future, for other awaitables, and for nothing else."""

        async def check() -> None:
            future = asyncio.get_running_loop().create_future()
            waiting = [Deferred.fromCoroutine(settled(each)) for each in (future, succeed(1), awaiting(2), Other(3), 4)]
            self.assertEqual([self.successResultOf(each) for each in waiting[1:]], [1, 2, 3, 4])
            future.set_result(0)
            await asyncio.sleep(0)
            self.assertEqual(self.successResultOf(waiting[0]), 0)

        asyncio.run(check())

    def test_other(self) -> None:
        """Whatever else can be awaited has a Deferred too."""
        self.assertEqual(self.successResultOf(_deferred(Other(3))), 3)


class Other:
    """Can be awaited, and is nothing else."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __await__(self) -> Generator[Any, Any, object]:
        return awaiting(self._value).__await__()


def _deferred(outcome: object) -> Deferred[Any]:
    deferred = deferred_of(outcome)
    assert deferred is not None
    return deferred


class HookTests(SynchronousTestCase):
    """Code of asyncio in hooks, on a loop that runs."""

    def wire(self, backend: Any) -> Wire:
        """Connect to a backend, and say EHLO."""
        factory, self.clock = clocked_factory(backend)
        return Wire(factory).greeted()

    async def until(self, claim: Any) -> None:
        """Let the loop run until a claim is true."""
        async with asyncio.timeout(PATIENCE):
            while not claim():
                await asyncio.sleep(0)

    def test_answers(self) -> None:
        """What the coroutine returns or raises is the answer; a mistake is 451, and is logged."""

        async def check() -> None:
            for expected, end in ((250, None), (250, TAKEN), (550, PermanentError("No")), (451, KeyError("x"))):
                with self.subTest(end=end):
                    wire = self.wire(ScriptedBackend(rcpt=asyncio_hook(lambda *_, end=end: sleepy(end))))
                    wire.say("MAIL FROM:<a@x.example>").forget().say("RCPT TO:<b@y.example>")
                    self.assertEqual(wire.codes, [])
                    await self.until(lambda wire=wire: wire.codes)
                    self.assertEqual(wire.codes, [expected])

        asyncio.run(check())
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)

    def test_lost(self) -> None:
        """The task is cancelled when the client is gone, with the tasks of its group; nothing is logged."""

        async def check() -> None:
            ended: list[str] = []

            async def part(name: str) -> None:
                try:
                    await asyncio.sleep(PATIENCE)
                finally:
                    ended.append(name)

            async def group(_: object) -> None:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(part("one"))
                    tasks.create_task(part("two"))

            wire = self.wire(ScriptedBackend(mail=asyncio_hook(group))).say("MAIL FROM:<a@x.example>")
            await asyncio.sleep(0.01)
            wire.hang_up()
            await self.until(lambda: len(ended) == 2)
            await self.until(lambda: len(asyncio.all_tasks()) == 1)

        asyncio.run(check())

    def test_timeout(self) -> None:
        """The task is cancelled when its time is over, and the client hears 451."""

        async def check() -> None:
            tasks: list[Any] = []

            async def hook(_: object) -> None:
                tasks.append(asyncio.current_task())
                await asyncio.sleep(PATIENCE)

            wire = self.wire(ScriptedBackend(mail=asyncio_hook(hook))).forget().say("MAIL FROM:<a@x.example>")
            await self.until(lambda: tasks)
            for _ in range(302):
                self.clock.advance(1)
            await self.until(tasks[0].done)
            self.assertTrue(tasks[0].cancelled())
            self.assertEqual(wire.codes, [451])

        asyncio.run(check())

    def test_function(self) -> None:
        """The function of on_message may be one, and so may its name and docstring."""

        @on_message
        @asyncio_hook
        async def backend(message: Any) -> Reply:
            """Takes mail."""
            await asyncio.sleep(0)
            return Reply(250, f"{message.size} bytes", "2.0.0")

        self.assertEqual(backend.__doc__, "Takes mail.")
        self.assertIn("test_function", backend.destination)

        async def check() -> None:
            wire = self.wire(backend).say("MAIL FROM:<a@x.example>", "RCPT TO:<b@y.example>", "DATA", "x", ".").forget()
            await self.until(lambda: wire.codes)
            self.assertRegex(wire.last_reply.text, r"^\d+ bytes$")

        asyncio.run(check())

    def test_other_reactor(self) -> None:
        """Without a loop it does not run: the client hears 451, and the log has a sentence, once."""
        ran: list[str] = []

        @asyncio_hook
        async def hook(_: object) -> None:
            ran.append("ran")

        wire = self.wire(ScriptedBackend(mail=hook)).forget().say("MAIL FROM:<a@x.example>")
        self.assertEqual(wire.codes, [451])
        self.assertEqual(ran, [])
        [failure] = self.flushLoggedErrors(RuntimeError)
        self.assertRegex(
            str(failure.value),
            r"hook is code of asyncio, and this reactor is not asyncio's: start twistd with --reactor=asyncio",
        )

    def test_undecorated(self) -> None:
        """Without the decorator, code of asyncio is a mistake like others, and no hang."""

        async def check() -> None:
            wire = self.wire(ScriptedBackend(mail=lambda _: sleepy(None))).forget().say("MAIL FROM:<a@x.example>")
            self.assertEqual(wire.codes, [451])

        asyncio.run(check())
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)


async def sleepy(end: object) -> Any:
    """Sleep as asyncio does; then return *end*, or raise it."""
    await asyncio.sleep(0.001)
    if isinstance(end, Exception):
        raise end
    return end


class ReactorTests(SynchronousTestCase):
    """The same on real reactors, in processes of their own."""

    def run_on(self, reactor: str) -> tuple[dict[str, Any], str]:
        """Run the program with a reactor, and give what it has seen, and its log."""
        done = subprocess.run(
            [sys.executable, "-m", "tests.onasyncio", reactor],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            timeout=PATIENCE,
        )
        return json.loads(done.stdout), done.stderr

    def test_asyncio(self) -> None:
        """With the reactor of asyncio, hooks of every kind may be code of asyncio."""
        seen, _ = self.run_on("asyncio")
        self.assertEqual(seen["codes"], [220, 250, 220, 250, 235, 250, 250, 250, 250, 354, 250, 221])
        expected = (
            *("connect", "open_session", "helo", "tls_context", "secured", "requestAvatarId", "authenticated"),
            *("verify", "expand", "mail", "rcpt", "examine", "message", "data", "write", "finish", "reset", "close"),
        )
        self.assertEqual(sorted(set(seen["ended"])), sorted(expected))

    def test_other(self) -> None:
        """With another the client is refused, and nothing hangs."""
        seen, _ = self.run_on("default")
        self.assertEqual((seen["codes"][0] // 100, seen["ended"]), (4, []))
