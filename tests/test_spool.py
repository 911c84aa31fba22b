"""
Tests of smtpsvc.backends.spool: threads, and what stays in memory.
"""

from __future__ import annotations

import errno
import os
import threading
from queue import SimpleQueue
from typing import Any
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.logger import LogLevel, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.backends.spool import MOST_UNWRITTEN, PIECE, Budget, Spool, Threads, refusal
from smtpsvc.grammar.replies import Reply, TemporaryError
from tests.disk import ERRNOS, NO_SPACE, Disk, DiskThreads


class WaitingReactor:
    """Keeps what threads call until the test takes it."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[Any] = SimpleQueue()

    def callFromThread(self, function: Any, *args: Any) -> None:
        self._calls.put((function, args))

    def take(self) -> None:
        """Wait for one call of a thread, and make it."""
        function, args = self._calls.get(timeout=30)
        function(*args)


class ThreadsTests(SynchronousTestCase):
    """Threads are few, come when needed, and end when told."""

    def setUp(self) -> None:
        self.reactor = WaitingReactor()
        self.threads = Threads(2, self.reactor, "test")
        self.ended = False

    def tearDown(self) -> None:
        if not self.ended:
            self.stop()

    def stop(self) -> None:
        self.ended = True
        stopped = self.threads.stop()
        while not stopped.called:
            self.reactor.take()
        self.successResultOf(stopped)

    def running(self) -> int:
        return sum(thread.name.startswith("test ") for thread in threading.enumerate())

    def test_none_before_work(self) -> None:
        """No thread is started before there is a job."""
        self.assertEqual(self.running(), 0)

    def test_result(self) -> None:
        """The result of a job comes in the reactor's thread."""
        answer = self.threads.defer(lambda: threading.current_thread().name)
        self.assertNoResult(answer)
        self.reactor.take()
        self.assertEqual(self.successResultOf(answer), "test 1")

    def test_error(self) -> None:
        """The error of a job comes in the reactor's thread too."""
        answer = self.threads.defer(lambda: 1 // 0)
        self.reactor.take()
        self.failureResultOf(answer, ZeroDivisionError)

    def test_stray_error(self) -> None:
        """An error that nobody waits for is logged, and its thread goes on."""
        self.threads.run(lambda: 1 // 0)
        answer = self.threads.defer(lambda: "on")
        self.reactor.take()
        self.assertEqual(self.successResultOf(answer), "on")
        self.stop()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_idle_thread_is_used(self) -> None:
        """A second thread is started only while the first has work."""
        for _ in range(5):
            answer = self.threads.defer(lambda: None)
            self.reactor.take()
            self.successResultOf(answer)
            # The answer comes a moment before its thread counts as idle.
            deadline = 10_000_000
            while self.threads._unfinished and deadline:
                deadline -= 1
        self.assertEqual(self.running(), 1)

    def test_limit(self) -> None:
        """Jobs beyond the limit wait for a thread."""
        go = threading.Event()
        answers = [self.threads.defer(lambda: go.wait(30)) for _ in range(5)]
        self.assertEqual(self.running(), 2)
        go.set()
        for _ in answers:
            self.reactor.take()
        self.assertEqual([self.successResultOf(answer) for answer in answers], [True] * 5)

    def test_stop_waits(self) -> None:
        """To stop is to wait for what is under way, until no thread is left."""
        go = threading.Event()
        answer = self.threads.defer(lambda: go.wait(30))
        stopped = self.threads.stop()
        self.ended = True
        self.assertNoResult(stopped)
        go.set()
        self.reactor.take()
        self.reactor.take()
        self.successResultOf(stopped)
        self.assertTrue(self.successResultOf(answer))
        self.assertEqual(self.running(), 0)

    def test_stop_unused(self) -> None:
        """Where no thread was started, none is waited for."""
        self.ended = True
        self.successResultOf(self.threads.stop())

    def test_after_stop(self) -> None:
        """What comes after the end is done at once, so that nothing is lost."""
        self.stop()
        answer = self.threads.defer(lambda: "done")
        self.reactor.take()
        self.assertEqual(self.successResultOf(answer), "done")

    def test_no_thread_to_be_had(self) -> None:
        """Where the system grants no thread at all, a job is done at once."""
        with mock.patch.object(threading.Thread, "start", side_effect=RuntimeError("can't start new thread")):
            answer = self.threads.defer(lambda: "done")
        self.reactor.take()
        self.assertEqual(self.successResultOf(answer), "done")

    def test_no_second_thread_to_be_had(self) -> None:
        """Where the system grants no more threads, those that run do the work."""
        go = threading.Event()
        first = self.threads.defer(lambda: go.wait(30))
        with mock.patch.object(threading.Thread, "start", side_effect=RuntimeError("can't start new thread")):
            second = self.threads.defer(lambda: threading.current_thread().name)
        go.set()
        self.reactor.take()
        self.reactor.take()
        self.assertTrue(self.successResultOf(first))
        self.assertEqual(self.successResultOf(second), "test 1")


class RefusalTests(SynchronousTestCase):
    """What the client is told of an error of the disk, and what the log is."""

    def refused(self, error: Exception) -> tuple[Exception, list[Any]]:
        events: list[Any] = []
        globalLogPublisher.addObserver(events.append)
        try:
            return refusal(error, "m1"), events
        finally:
            globalLogPublisher.removeObserver(events.append)

    def test_replies(self) -> None:
        """No space is 452 4.3.1, anything else 451 4.3.0 without a word of the cause."""
        for number in ERRNOS:
            with self.subTest(errno.errorcode[number]):
                error, _ = self.refused(OSError(number, os.strerror(number), "/secret"))
                assert isinstance(error, TemporaryError)
                if number in NO_SPACE:
                    self.assertEqual(error.reply, Reply(452, "Insufficient system storage", "4.3.1"))
                else:
                    self.assertEqual(error.reply, Reply(451, "Local error in processing, try again later", "4.3.0"))

    def test_logged_once(self) -> None:
        """One event names the message, the error and its errno; there is no traceback."""
        _, events = self.refused(OSError(errno.EIO, "bad"))
        self.assertEqual([event["log_level"] for event in events], [LogLevel.error])
        self.assertEqual((events[0]["id"], events[0]["errno"]), ("m1", "EIO"))
        self.assertNotIn("log_failure", events[0])

    def test_foreign_error(self) -> None:
        """An error that is not the system's is left to the server, which logs its traceback."""
        error = ZeroDivisionError()
        self.assertEqual(self.refused(error), (error, []))


class SpoolTests(SynchronousTestCase):
    """A spool keeps little in memory, and writes the rest in order."""

    def setUp(self) -> None:
        self.disk = Disk()
        self.stored: list[bytes] = []
        self.budget = Budget()

    def spool(self, content: bytes = b"", threshold: int = 10) -> Spool:
        return Spool(self.store, DiskThreads(self.disk).defer, self.budget, threshold, "m1", content)

    def store(self, content: bytearray) -> None:
        self.stored.append(bytes(content))

    def fail(self, content: bytearray) -> None:
        raise OSError(errno.ENOSPC, "full")

    def test_small(self) -> None:
        """What is not larger than the threshold stays in memory."""
        spool = self.spool(b"12")
        self.assertIsNone(spool.write(b"345678"))
        self.assertIsNone(spool.write(b"90"))
        self.assertFalse(spool.spooled)
        self.assertEqual((spool.take(), spool.size), (b"1234567890", 10))
        self.assertFalse(self.disk.jobs)

    def test_continuation(self) -> None:
        """What would continue the fields in front of it comes behind an empty line; later pieces do not."""
        for fields, expected in ((b"A: b\r\n", b"A: b\r\n\r\n c d"), (b"", b" c d")):
            spool = self.spool(fields, threshold=100)
            for piece in (b" c", b" d"):
                spool.write(piece)
            self.assertEqual((spool.take(), spool.size), (expected, len(expected)))

    def test_large(self) -> None:
        """What is larger goes to the file, with all that came before."""
        spool = self.spool(b"12")
        for piece in (b"345678", b"90a", b"b"):
            self.assertIsNone(spool.write(piece))
        self.assertTrue(spool.spooled)
        ended = spool.end()
        self.assertNoResult(ended)
        self.disk.run()
        self.successResultOf(ended)
        self.assertEqual(b"".join(self.stored), b"1234567890ab")

    def test_pieces(self) -> None:
        """Small pieces of a large message are written together."""
        spool = self.spool()
        for _ in range(PIECE // 1024):
            spool.write(b"x" * 1024)
        self.disk.run()
        self.assertEqual([len(piece) for piece in self.stored], [PIECE])

    def test_one_job_at_a_time(self) -> None:
        """While one piece is written, the next waits, so that they stay in order."""
        spool = self.spool()
        spool.write(b"a" * PIECE)
        spool.write(b"b" * PIECE)
        self.assertEqual(len(self.disk.jobs), 1)
        self.disk.run()
        self.assertEqual([piece[:1] for piece in self.stored], [b"a", b"b"])

    def test_backpressure(self) -> None:
        """A client waits while more than the limit is unwritten, until all is written."""
        spool = self.spool()
        self.assertIsNone(spool.write(b"x" * MOST_UNWRITTEN))
        waiting = spool.write(b"y")
        assert waiting is not None
        self.disk.step()
        self.assertNoResult(waiting)
        self.disk.step()
        self.successResultOf(waiting)
        self.assertEqual(self.budget.used, 0)

    def test_cancelled_wait(self) -> None:
        """Whoever stops waiting stops nothing else."""
        spool = self.spool()
        waiting = spool.write(b"x" * (MOST_UNWRITTEN + 1))
        assert waiting is not None
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.disk.run()
        self.assertEqual(len(self.stored[0]), MOST_UNWRITTEN + 1)

    def test_error_while_waiting(self) -> None:
        """An error reaches the client that waits."""
        self.store = self.fail  # type: ignore[method-assign]
        spool = self.spool()
        waiting = spool.write(b"x" * (MOST_UNWRITTEN + 1))
        assert waiting is not None
        self.disk.run()
        self.assertEqual(self.failureResultOf(waiting, TemporaryError).value.reply.code, 452)
        self.assertEqual(self.budget.used, 0)

    def test_error_before_write(self) -> None:
        """An error that nobody waited for refuses the next piece."""
        self.store = self.fail  # type: ignore[method-assign]
        spool = self.spool()
        self.assertIsNone(spool.write(b"x" * PIECE))
        self.disk.run()
        self.assertEqual(self.assertRaises(TemporaryError, spool.write, b"y").reply.code, 452)

    def test_error_at_once(self) -> None:
        """An error in a piece that no thread could be had for refuses that piece."""
        self.store = self.fail  # type: ignore[method-assign]
        spool = Spool(self.store, maybeDeferred, self.budget, 10, "m1")
        self.assertRaises(TemporaryError, spool.write, b"x" * PIECE)

    def test_error_at_end(self) -> None:
        """An error in the last piece fails the end, and so does an earlier one."""
        self.store = self.fail  # type: ignore[method-assign]
        last, earlier = self.spool(), self.spool()
        last.write(b"x" * 11)
        earlier.write(b"x" * PIECE)
        self.disk.run()
        ends = [last.end(), earlier.end()]
        self.disk.run()
        for ended in ends:
            self.failureResultOf(ended, TemporaryError)

    def test_drop(self) -> None:
        """A dropped message is written no further, and its memory is given back when no thread has it."""
        spool = self.spool()
        spool.write(b"a" * PIECE)
        spool.write(b"b" * PIECE)
        idle = spool.drop()
        self.assertNoResult(idle)
        self.assertEqual(self.budget.used, 2 * PIECE)
        self.disk.run()
        self.successResultOf(idle)
        self.assertEqual((len(self.stored), self.budget.used), (1, 0))

    def test_drop_after_error(self) -> None:
        """A message whose file fails while it is dropped is dropped."""
        self.store = self.fail  # type: ignore[method-assign]
        spool = self.spool()
        spool.write(b"a" * PIECE)
        idle = spool.drop()
        self.disk.run()
        self.successResultOf(idle)
        self.assertEqual(self.budget.used, 0)

    def test_drop_small(self) -> None:
        """What is in memory alone is dropped at once."""
        spool = self.spool(b"abc")
        self.successResultOf(spool.drop())
        self.assertEqual(self.budget.used, 0)

    def test_release(self) -> None:
        """Memory counts until it is released, and is given back once."""
        spool = self.spool(b"abc")
        spool.take()
        self.assertEqual(self.budget.used, 3)
        spool.release()
        spool.release()
        self.assertEqual(self.budget.used, 0)

    def test_budget(self) -> None:
        """When all messages together hold too much, each piece goes to the disk, and its client waits."""
        self.budget.limit = 8
        other = self.spool(b"12345678")
        spool = self.spool()
        waiting = spool.write(b"x")
        self.assertIsInstance(waiting, Deferred)
        self.disk.run()
        self.successResultOf(waiting)  # type: ignore[arg-type]
        self.assertEqual((self.stored, self.budget.used, other.spooled), ([b"x"], 8, False))

    @given(st.lists(st.binary(min_size=1, max_size=40)), st.data())
    def test_any_cut(self, pieces: list[bytes], data: st.DataObject) -> None:
        """However a message is cut and the threads run, its file has all of it in order."""
        self.stored.clear()
        self.budget = Budget(30)
        spool = self.spool(b"head", 20)
        for piece in pieces:
            waiting = spool.write(piece)
            if waiting is not None:
                self.disk.run()
                self.successResultOf(waiting)
            elif self.disk.jobs and data.draw(st.booleans()):
                self.disk.step()
        if spool.spooled:
            ended = spool.end()
            self.disk.run()
            self.successResultOf(ended)
        else:
            self.stored.append(bytes(spool.take()))
            spool.release()
        self.assertEqual(b"".join(self.stored), b"head" + b"".join(pieces))
        self.assertEqual((self.budget.used, spool.size), (0, len(b"".join(self.stored))))
