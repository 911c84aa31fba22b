"""
Tests of smtpsvc.server.outcomes.
"""

from __future__ import annotations

import itertools
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail, maybeDeferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from smtpsvc.grammar import replies
from smtpsvc.grammar.replies import PermanentError, Reply, SMTPError, TemporaryError
from smtpsvc.interfaces import ILogged
from smtpsvc.server.outcomes import Wait, fold, gather, judge, report
from smtpsvc.values import Peer
from tests.hooks import coroutine
from tests.support import given, st

PEER = Peer(None, "c1")  # type: ignore[arg-type]

TAKEN = Reply(250, "Queued as 1", "2.0.0")
LATER = Reply(450, "Not now", "4.7.1")
FULL = Reply(452, "Full", "4.2.2")
NO = Reply(550, "Never", "5.7.1")
GONE = Reply(551, "Gone", "5.1.6")

outcomes = st.lists(st.sampled_from([None, TAKEN, LATER, FULL, NO, GONE]), max_size=8)


class WaitTests(SynchronousTestCase):
    def test_fired(self) -> None:
        """The outcome of a fired Deferred is known at once."""
        wait = Wait(succeed(TAKEN))
        self.assertEqual((wait.fired, wait.value), (True, TAKEN))

    def test_failed(self) -> None:
        """A failure is an outcome too, and is logged by nobody here."""
        wait = Wait(fail(KeyError("x")))
        self.assertIsInstance(wait.value, Failure)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_pending(self) -> None:
        """The outcome of a pending one is given to ``then`` when it comes, once."""
        deferred: Deferred[Any] = Deferred()
        wait = Wait(deferred)
        came: list[Any] = []
        wait.then = came.append
        self.assertFalse(wait.fired)
        deferred.callback(TAKEN)
        self.assertEqual(came, [TAKEN])

    def test_paused(self) -> None:
        """A Deferred that was called and is paused is pending."""
        deferred = succeed(TAKEN)
        deferred.pause()
        wait = Wait(deferred)
        came: list[Any] = []
        wait.then = came.append
        self.assertTrue(deferred.called and not wait.fired)
        deferred.unpause()
        self.assertEqual(came, [TAKEN])

    def test_chained(self) -> None:
        """A Deferred that was called and waits for another is pending."""
        inner: Deferred[Any] = Deferred()
        outer = succeed(None).addCallback(lambda _: inner)
        wait = Wait(outer)
        self.assertTrue(outer.called and not wait.fired)
        inner.callback(TAKEN)
        self.assertEqual((wait.fired, wait.value), (True, TAKEN))

    def test_abandoned(self) -> None:
        """An abandoned wait cancels, and gives what comes to ``late`` alone."""
        cancelled: list[Deferred[Any]] = []
        deferred: Deferred[Any] = Deferred(cancelled.append)
        wait = Wait(deferred)
        came: list[Any] = []
        late: list[Any] = []
        wait.then = came.append
        wait.abandon(late.append)
        self.assertEqual((came, cancelled), ([], [deferred]))
        self.assertIsInstance(late[0].value, CancelledError)

    def test_late(self) -> None:
        """A hook that ignores its cancellation is heard by ``late`` when it ends."""
        second: Deferred[Any] = Deferred()

        async def stubborn() -> Reply:
            try:
                await Deferred()
            except CancelledError:
                await second
            return TAKEN

        wait = Wait(Deferred.fromCoroutine(stubborn()))
        late: list[Any] = []
        wait.then = self.fail
        wait.abandon(late.append)
        self.assertEqual(late, [])
        second.callback(None)
        self.assertEqual(late, [TAKEN])


class JudgeTests(SynchronousTestCase):
    def judged(self, value: Any) -> tuple[Reply | None, list[Failure]]:
        """Judge *value*; give the answer and the failures that were reported."""
        found: list[Failure] = []

        def failed(failure: Failure) -> Reply:
            found.append(failure)
            return replies.LOCAL_ERROR

        return judge(value, PEER, failed), found

    def test_consent(self) -> None:
        """None is plain consent."""
        self.assertEqual(self.judged(None), (None, []))

    def test_replies(self) -> None:
        """A 2xx, 4xx or 5xx Reply is the answer."""
        for reply in (TAKEN, LATER, NO, Reply(221, "Bye"), Reply(599, "")):
            self.assertEqual(self.judged(reply), (reply, []))

    def test_refusals(self) -> None:
        """An SMTPError's reply is the answer, and nothing is reported."""
        for error in (SMTPError(NO), PermanentError("x"), TemporaryError("x", "4.7.1", 450)):
            self.assertEqual(self.judged(Failure(error)), (error.reply, []))

    def test_failures(self) -> None:
        """Any other exception is reported as it is."""
        failure = Failure(KeyError("secret"))
        self.assertEqual(self.judged(failure), (replies.LOCAL_ERROR, [failure]))

    def test_nonsense(self) -> None:
        """Anything else, and a 3xx Reply, is reported as a TypeError that shows a little of it."""
        for value in (0, "", False, True, "250 OK", b"", [], (), Reply(354, "Go"), KeyError("x"), object, "x" * 10_000):
            with self.subTest(value=value):
                reply, found = self.judged(value)
                self.assertEqual((reply, len(found)), (replies.LOCAL_ERROR, 1))
                self.assertIsInstance(found[0].value, TypeError)
                self.assertLess(len(str(found[0].value)), 200)


class FoldTests(SynchronousTestCase):
    def test_cases(self) -> None:
        """All taken is consent; else the first 4xx, so that the client tries again; else the first 5xx."""
        cases: list[tuple[list[Reply | None], Reply | None]] = [
            ([], None),
            ([None], None),
            ([None, TAKEN], None),
            ([None, NO], NO),
            ([NO, LATER], LATER),
            ([NO, GONE], NO),
            ([GONE, FULL, LATER, NO], FULL),
            ([LATER, None, FULL], LATER),
        ]
        for results, reply in cases:
            with self.subTest(results=results):
                self.assertEqual(fold(results), reply)

    @given(outcomes)
    def test_worst(self, results: list[Reply | None]) -> None:
        """The fold is a refusal if and only if one of the results is, and a 4xx if one of them is."""
        codes = {result.code // 100 for result in results if result is not None and not result.positive}
        folded = fold(results)
        self.assertEqual(None if folded is None else folded.code // 100, min(codes, default=None))
        self.assertIn(folded, [None, *results])


class GatherTests(SynchronousTestCase):
    def each(self, value: Any) -> Reply | None:
        """Judge; what is reported is kept."""
        return judge(value, PEER, self.report)

    def report(self, failure: Failure) -> Reply:
        """Keep a reported failure."""
        self.reported.append(failure)
        return replies.LOCAL_ERROR

    def setUp(self) -> None:
        """Nothing is reported yet."""
        self.reported: list[Failure] = []

    def test_at_once(self) -> None:
        """Plain values, fired Deferreds and coroutines are there at once, in order."""
        given = [None, TAKEN, succeed(NO), coroutine(LATER), coroutine(PermanentError("x")), fail(KeyError())]
        expected = [None, TAKEN, NO, LATER, PermanentError("x").reply, replies.LOCAL_ERROR]
        self.assertEqual(self.successResultOf(gather(given, self.each)), expected)
        self.assertEqual(len(self.reported), 1)

    def test_nothing(self) -> None:
        """Nothing to wait for gives an empty list."""
        self.assertEqual(self.successResultOf(gather([], self.each)), [])

    def test_any_order(self) -> None:
        """The results keep the order of the outcomes, whatever the order in which they come."""
        for order in itertools.permutations(range(3)):
            deferreds: list[Deferred[Any]] = [Deferred() for _ in range(3)]
            done = gather([deferreds[0], TAKEN, deferreds[1], deferreds[2]], self.each)
            for place in order:
                self.assertNoResult(done)
                deferreds[place].callback([LATER, NO, None][place])
            self.assertEqual(self.successResultOf(done), [LATER, TAKEN, NO, None])

    def test_cancelled(self) -> None:
        """Cancelling cancels those that are pending, and them alone."""
        fired: Deferred[Any] = Deferred(self.fail)
        pending: list[Deferred[Any]] = [Deferred(), Deferred()]
        done = gather([fired, *pending], self.each)
        fired.callback(None)
        done.addErrback(lambda _: None).cancel()
        self.assertTrue(all(deferred.called for deferred in pending))

    def test_cancelled_in_vain(self) -> None:
        """Outcomes that ignore the cancellation are still waited for: what became of the message is not lost."""
        second: Deferred[Any] = Deferred()

        async def stubborn() -> Reply:
            try:
                await Deferred()
            except CancelledError:
                await second
            return TAKEN

        done = gather([stubborn(), None], self.each)
        done.cancel()
        came: list[Any] = []
        done.addBoth(came.append)
        second.callback(None)
        self.assertEqual(came, [[TAKEN, None]])

    def test_like_deferreds(self) -> None:
        """What gather takes is the same that a hook may give: maybeDeferred's too."""
        self.assertEqual(self.successResultOf(gather([maybeDeferred(lambda: NO)], self.each)), [NO])


class ReportTests(SynchronousTestCase):
    def test_logged_once(self) -> None:
        """A failure is logged once, with its traceback."""
        report(Failure(KeyError("x")), PEER, "mail")
        (logged,) = self.flushLoggedErrors(KeyError)
        self.assertIsInstance(logged.value, KeyError)

    def test_own_logger(self) -> None:
        """A session that is ILogged brings the logger for it."""
        events: list[Any] = []

        @implementer(ILogged)
        class Logged:
            logger = Logger(observer=events.append)

        report(Failure(KeyError("x")), PEER, "mail", Logged())
        [event] = events
        self.assertEqual(event["log_namespace"], "tests.test_outcomes.Logged")
        self.assertEqual((event["peer_id"], event["what"]), ("c1", "mail"))
