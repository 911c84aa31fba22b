"""
Tests of smtpsvc.policies.reaching: how long a program is waited for, and what is no fault of its own.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from smtpsvc.policies.reaching import ProgramFailed, Reach, in_time


class InTimeTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()

    def wait(self, pending: Deferred[Any]) -> Deferred[Any]:
        """Wait for something for five seconds."""
        return Deferred.fromCoroutine(in_time(pending, 5, self.clock, "answer"))

    def test_comes(self) -> None:
        """What comes in time is given, or raised."""
        pending: Deferred[Any] = Deferred()
        waiting = self.wait(pending)
        pending.callback("it")
        self.assertEqual(self.successResultOf(waiting), "it")
        pending = Deferred()
        waiting = self.wait(pending)
        pending.errback(KeyError())
        self.failureResultOf(waiting, KeyError)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_late(self) -> None:
        """What does not is cancelled, and has failed."""
        cancelled: list[Any] = []
        waiting = self.wait(Deferred(cancelled.append))
        self.clock.advance(5)
        self.assertIn("no answer within 5 s", str(self.failureResultOf(waiting, ProgramFailed).value))
        self.assertEqual(len(cancelled), 1)

    def test_cancelled(self) -> None:
        """To be cancelled is no failure of the program, by whatever error that shows."""
        for error in (KeyError(), ConnectingCancelledError(None), ProgramFailed("closed"), None):
            with self.subTest(error=error):
                cancel = (lambda pending, error=error: pending.errback(error)) if error is not None else None
                waiting = self.wait(Deferred(cancel))
                waiting.cancel()
                self.failureResultOf(waiting, CancelledError)
                self.assertEqual(self.clock.getDelayedCalls(), [])


@implementer(IStreamClientEndpoint)
class Endpoint:
    """Connects never; cancelled, it says so as Twisted's do."""

    def connect(self, factory: Any) -> Deferred[Any]:
        """Begin."""
        return Deferred(lambda pending: pending.errback(ConnectingCancelledError(None)))


class ReachTests(SynchronousTestCase):
    def test_client_gone(self) -> None:
        """A client that goes while we connect does not have the program taken for one that cannot be had."""
        clock = Clock()
        reach = Reach(Endpoint(), "filter", clock=clock)
        connecting = Deferred.fromCoroutine(reach.connect(Factory()))
        connecting.cancel()
        self.failureResultOf(connecting, CancelledError)
        self.assertEqual(reach._down_until, 0.0)

    def test_late(self) -> None:
        """One that cannot be connected to in time is left alone for a while."""
        clock = Clock()
        reach = Reach(Endpoint(), "filter", clock=clock, seconds=3)
        connecting = Deferred.fromCoroutine(reach.connect(Factory()))
        clock.advance(3)
        reach.failed(self.failureResultOf(connecting, ProgramFailed).value)
        self.assertRaises(ProgramFailed, reach.ready)
        self.flushLoggedErrors()
