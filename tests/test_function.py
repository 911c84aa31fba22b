"""
Tests of smtpsvc.backends.function: a function as a backend.
"""

from __future__ import annotations

import asyncio
import errno
import io
import os
import tempfile
from collections.abc import Callable, Generator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from smtpsvc.backends.function import FunctionBackend, FunctionDelivery, Message, on_message
from smtpsvc.grammar.replies import PermanentError, Reply, TemporaryError
from smtpsvc.interfaces import IBackend, IDelivery, ISession
from smtpsvc.settings import MIB
from tests.disk import ERRNOS, NO_SPACE, Reactor, envelope


class Pool:
    """A thread pool whose jobs run when the test says so."""

    def __init__(self) -> None:
        self.jobs: list[Callable[[], object]] = []

    def callInThreadWithCallback(self, done: Any, function: Any, *args: Any) -> None:
        def job() -> None:
            try:
                result = function(*args)
            except Exception:
                done(False, Failure())
            else:
                done(True, result)

        self.jobs.append(job)

    def run(self) -> None:
        while self.jobs:
            self.jobs.pop(0)()


class PoolReactor(Reactor):
    """A reactor with that pool."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = Pool()

    def getThreadPool(self) -> Pool:
        return self.pool


class FunctionTestCase(SynchronousTestCase):
    """A backend around :meth:`function`, with threads that run when told."""

    def setUp(self) -> None:
        self.reactor = PoolReactor()
        self.pool = self.reactor.pool
        self.messages: list[Message] = []
        self.contents: list[bytes] = []
        self.outcome: Any = None
        self.backend = FunctionBackend(self.function, spool_at=10, reactor=self.reactor)
        self.files: list[Any] = []
        make = tempfile.TemporaryFile

        def temporary_file(**kwargs: Any) -> Any:
            self.files.append(make(**kwargs))
            return self.files[-1]

        self.patch(tempfile, "TemporaryFile", temporary_file)

    def function(self, message: Message) -> Any:
        self.messages.append(message)
        self.contents.append(message.content)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    def delivery(self, *pieces: bytes) -> FunctionDelivery:
        made = envelope()
        delivery = self.backend.open_session(made.peer, None).data(made)
        for piece in pieces:
            waiting = delivery.write(piece)
            self.pool.run()
            if waiting is not None:
                self.successResultOf(waiting)
        return delivery

    def assertGone(self) -> None:
        """The message is closed, and nothing of it is in memory or on the disk."""
        self.pool.run()
        self.assertEqual([file.closed for file in self.files], [True] * len(self.files))
        self.assertEqual(self.backend.budget.used, 0)
        for message in self.messages:
            self.assertRaises(ValueError, message.open)
            with self.assertRaises(ValueError):
                message.content  # noqa: B018, reading it is the test


class MessageTests(FunctionTestCase):
    """What the function gets."""

    def test_envelope(self) -> None:
        """A message has sender, recipients, size, envelope and peer."""
        made = envelope("m1", "b@y.example", "c@y.example")
        message = Message(made, b"12345")
        self.assertEqual(
            " ".join(map(str, (message.sender, *message.recipients))), "a@x.example b@y.example c@y.example"
        )
        self.assertEqual((message.size, message.envelope, message.peer), (5, made, made.peer))
        self.assertIn("m1", repr(message))

    def test_small(self) -> None:
        """A small message stays in memory."""
        self.assertIsNone(self.delivery(b"12345", b"67890").finish())
        self.assertEqual((self.contents, self.messages[0].size), ([b"1234567890"], 10))
        self.assertEqual((self.files, self.pool.jobs), ([], []))

    def test_large(self) -> None:
        """A message that is larger than spool_at goes to a temporary file."""
        answer = self.delivery(b"12345", b"67890", b"a").finish()
        self.assertEqual(self.contents, [])
        self.pool.run()
        self.assertIsNone(self.successResultOf(answer))  # type: ignore[arg-type]
        self.assertEqual((self.contents, self.messages[0].size, len(self.files)), ([b"1234567890a"], 11, 1))

    def test_spool_at(self) -> None:
        """Without a word on it, a message may have 1 MiB in memory."""
        self.assertEqual(on_message(self.function).spool_at, MIB)

    def test_files(self) -> None:
        """Each file that is opened begins at the start, can be sought in, and cannot be written to."""

        def read(message: Message) -> None:
            first, second = message.open(), message.open()
            self.assertEqual((first.read(4), first.readline(), first.tell()), (b"line", b" 1\n", 7))
            self.assertEqual((second.seek(-3, io.SEEK_END), second.read(), second.read()), (11, b" 2\n", b""))
            self.assertEqual((second.seek(5), second.seek(1, io.SEEK_CUR), second.read(1)), (5, 6, b"\n"))
            self.assertEqual(list(message.open()), [b"line 1\n", b"line 2\n"])
            self.assertFalse(first.writable())
            self.assertRaises(OSError, first.write, b"x")
            self.assertRaises((OSError, ValueError), second.seek, -1)
            sizes.append(message.size)

        sizes: list[int] = []
        for spool_at in (10, 100):
            with self.subTest(spool_at=spool_at):
                self.backend = FunctionBackend(read, spool_at=spool_at, reactor=self.reactor)
                answer = self.delivery(b"line 1\nline 2\n").finish()
                self.pool.run()
                if answer is not None:
                    self.successResultOf(answer)  # type: ignore[arg-type]
        self.assertEqual(sizes, [14, 14])

    def test_file_after_the_end(self) -> None:
        """A file of a large message that is kept open cannot be read after the end."""
        kept: list[Any] = []
        self.backend = FunctionBackend(lambda m: kept.append(m.open()), spool_at=10, reactor=self.reactor)
        self.delivery(b"x" * 11).finish()
        self.pool.run()
        self.assertRaises(ValueError, kept[0].read)

    @given(st.binary(max_size=60), st.lists(st.integers(1, 20)), st.integers(0, 30))
    def test_any_cut(self, content: bytes, cuts: list[int], spool_at: int) -> None:
        """However a message is cut and wherever it is kept, the function gets all of it."""
        self.contents.clear()
        self.backend = FunctionBackend(self.function, spool_at=spool_at, reactor=self.reactor)
        rest, pieces = content, []
        for cut in cuts:
            pieces.append(rest[:cut])
            rest = rest[cut:]
        answer = self.delivery(*filter(None, [*pieces, rest])).finish()
        self.pool.run()
        if answer is not None:
            self.successResultOf(answer)  # type: ignore[arg-type]
        self.assertEqual(self.contents, [content])
        self.assertGone()


class OutcomeTests(FunctionTestCase):
    """What comes of the function's outcome, for small and large messages."""

    def finish(self, content: bytes) -> Deferred[Any]:
        """Finish a message, and give its outcome as a Deferred, whatever it is."""
        answer: Deferred[Any] = Deferred()
        try:
            outcome = self.delivery(content).finish()
        except Exception:
            answer.errback(Failure())
            return answer
        self.pool.run()
        if isinstance(outcome, Deferred):
            return outcome
        answer.callback(outcome)
        return answer

    def each(self) -> Generator[bytes]:
        for content in (b"small", b"x" * 11):
            with self.subTest(size=len(content)):
                self.setUp()
                yield content
                self.assertGone()

    def test_plain(self) -> None:
        """None and a Reply are given on, also what makes no sense, for the server to judge."""
        for outcome in (None, Reply(250, "Queued as 7"), Reply(550, "No"), "nonsense"):
            for content in self.each():
                self.outcome = outcome
                self.assertEqual(self.successResultOf(self.finish(content)), outcome)

    def test_raised(self) -> None:
        """An error is given on."""
        for error in (PermanentError("No"), ZeroDivisionError()):
            for content in self.each():
                self.outcome = error
                self.assertIs(self.failureResultOf(self.finish(content)).value, error)

    def test_deferred(self) -> None:
        """A Deferred is waited for, and the content is there so long."""
        for content in self.each():
            self.outcome = Deferred()
            answer = self.finish(content)
            self.assertNoResult(answer)
            self.pool.run()
            self.assertEqual(self.messages[0].content, content)
            self.outcome.callback(None)
            self.assertIsNone(self.successResultOf(answer))

    def test_deferred_error(self) -> None:
        """A Deferred's error is given on."""
        for content in self.each():
            self.outcome = Deferred()
            answer = self.finish(content)
            self.outcome.errback(PermanentError("No"))
            self.failureResultOf(answer, PermanentError)

    def test_coroutine(self) -> None:
        """A coroutine is run, and the content is there until it ends."""
        for content in self.each():
            waiting: Deferred[None] = Deferred()
            read: list[bytes] = []
            self.backend.function = lambda message, w=waiting, r=read: self.read_later(message, w, r)  # type: ignore[misc]
            answer = self.finish(content)
            self.assertNoResult(answer)
            waiting.callback(None)
            self.assertEqual(self.successResultOf(answer), Reply(250, "Read"))
            self.assertEqual(read, [content])

    async def read_later(self, message: Message, waiting: Deferred[None], read: list[bytes]) -> Reply:
        self.messages.append(message)
        await waiting
        read.append(message.content)
        return Reply(250, "Read")

    def test_future(self) -> None:
        """A future of asyncio is waited for."""

        async def check() -> None:
            for content in self.each():
                self.outcome = asyncio.get_running_loop().create_future()
                answer = self.finish(content)
                self.assertNoResult(answer)
                self.outcome.set_result(None)
                await asyncio.sleep(0)
                self.assertIsNone(self.successResultOf(answer))

        asyncio.run(check())

    def test_other_awaitable(self) -> None:
        """Anything else that can be awaited is."""

        class Later:
            def __await__(self) -> Generator[Any, Any, Reply]:
                return inner.__await__()

        for content in self.each():
            inner: Deferred[Reply] = Deferred()
            self.outcome = Later()
            answer = self.finish(content)
            self.assertNoResult(answer)
            inner.callback(Reply(250, "Later"))
            self.assertEqual(self.successResultOf(answer), Reply(250, "Later"))

    def test_cancelled(self) -> None:
        """To cancel reaches what the function waits for."""
        for content in self.each():
            self.outcome = Deferred()
            answer = self.finish(content)
            answer.cancel()
            self.failureResultOf(answer, CancelledError)
            self.failureResultOf(self.outcome.addBoth(lambda _: Failure(CancelledError())), CancelledError)

    def test_cancelled_before_the_call(self) -> None:
        """A message that is cancelled while its rest is written is not given to the function."""
        self.pool.run()
        answer: Any = self.delivery(b"x" * 11).finish()
        answer.cancel()
        self.failureResultOf(answer, CancelledError)
        self.assertGone()
        self.assertEqual(self.messages, [])


class DiskTests(FunctionTestCase):
    """The temporary file."""

    def test_backpressure(self) -> None:
        """A client waits while much of its message is unwritten."""
        made = envelope()
        delivery = self.backend.open_session(made.peer, None).data(made)
        waiting = delivery.write(b"x" * (MIB + 1))
        assert isinstance(waiting, Deferred)
        self.assertNoResult(waiting)
        self.pool.run()
        self.successResultOf(waiting)

    def test_no_write_in_the_reactor_thread(self) -> None:
        """The file is made, written and closed in threads."""
        made = envelope()
        delivery = self.backend.open_session(made.peer, None).data(made)
        delivery.write(b"x" * MIB)
        delivery.finish()
        self.assertEqual(self.files, [])
        self.pool.run()
        self.assertEqual(len(self.files), 1)

    def test_no_name(self) -> None:
        """The file has no name that would stay behind after a crash."""
        directory = self.mktemp()
        os.mkdir(directory)
        self.patch(tempfile, "tempdir", directory)
        self.outcome = Deferred()
        self.delivery(b"x" * 11).finish()
        self.pool.run()
        self.assertEqual((len(self.messages), os.listdir(directory)), (1, []))

    def test_errors(self) -> None:
        """No space is 452 4.3.1, another error 451 4.3.0, and nothing stays."""
        for number in ERRNOS:
            with self.subTest(errno=errno.errorcode[number]):
                self.setUp()

                def fail(number: int = number, **_: Any) -> Any:
                    raise OSError(number, os.strerror(number))

                self.patch(tempfile, "TemporaryFile", fail)
                answer: Any = self.delivery(b"x" * 11).finish()
                self.pool.run()
                reply = self.failureResultOf(answer, TemporaryError).value.reply
                expected = (452, "4.3.1") if number in NO_SPACE else (451, "4.3.0")
                self.assertEqual((reply.code, reply.enhanced), expected)
                self.assertGone()
                self.assertEqual(self.messages, [])

    def test_budget(self) -> None:
        """When much is in memory, small messages go to the disk too."""
        self.backend = FunctionBackend(self.function, spool_at=100, reactor=self.reactor, memory=20)
        held = self.delivery(b"x" * 20)
        answer: Any = self.delivery(b"y").finish()
        self.pool.run()
        self.successResultOf(answer)
        self.assertEqual(len(self.files), 1)
        held.abort(Failure(ConnectionLost()))
        self.assertGone()


class AbortTests(FunctionTestCase):
    """A message that does not come whole is not given to the function."""

    def test_small(self) -> None:
        """What is in memory is forgotten."""
        self.assertIsNone(self.delivery(b"x").abort(Failure(ConnectionLost())))
        self.assertGone()
        self.assertEqual(self.messages, [])

    def test_large(self) -> None:
        """The temporary file is closed, also while a thread writes to it."""
        for early in (True, False):
            with self.subTest(early=early):
                made = envelope()
                delivery = self.backend.open_session(made.peer, None).data(made)
                delivery.write(b"x" * MIB)
                if not early:
                    self.pool.run()
                gone = delivery.abort(Failure(ConnectionLost()))
                assert gone is not None
                self.pool.run()
                self.successResultOf(gone)
                self.assertGone()
        self.assertEqual(self.messages, [])


class DecoratorTests(SynchronousTestCase):
    """What the decorator makes."""

    def test_interfaces(self) -> None:
        """It makes a backend, whose sessions and deliveries provide their interfaces."""

        @on_message
        async def backend(message: Message) -> None:
            """Take it."""

        made = envelope()
        session = backend.open_session(made.peer, None)
        verifyObject(IBackend, backend)
        verifyObject(ISession, session)
        verifyObject(IDelivery, session.data(made))

    def test_callable(self) -> None:
        """It can be called as the function can, and has its name and docstring."""

        @on_message
        def backend(message: Message) -> Reply:
            """Say the size."""
            return Reply(250, str(message.size))

        self.assertEqual(backend(Message(envelope(), b"123")), Reply(250, "3"))
        self.assertEqual((backend.__name__, backend.__doc__), ("backend", "Say the size."))  # type: ignore[attr-defined]
        self.assertIn("backend", backend.destination)
        self.assertIn("backend", repr(backend))

    def test_arguments(self) -> None:
        """It takes spool_at, as a decorator and in a call."""
        self.assertEqual(on_message(spool_at=5)(lambda message: None).spool_at, 5)
        self.assertEqual(on_message(lambda message: None, spool_at=6).spool_at, 6)


class RealTests(TestCase):
    """With the reactor and its threads."""

    def test_large(self) -> None:
        """A large message goes through the reactor's threads and arrives whole."""
        contents: list[bytes] = []

        @on_message(spool_at=100_000)
        async def backend(message: Message) -> Reply:
            contents.append(message.content)
            return Reply(250, "Taken")

        async def send() -> None:
            made = envelope()
            delivery = backend.open_session(made.peer, None).data(made)
            for number in range(60):
                waiting = delivery.write(bytes([number]) * 65536)
                if waiting is not None:
                    await waiting
            self.assertEqual(await delivery.finish(), Reply(250, "Taken"))  # type: ignore[misc]
            self.assertEqual(contents, [b"".join(bytes([number]) * 65536 for number in range(60))])

        return Deferred.fromCoroutine(send())  # type: ignore[return-value]
