"""Tests of smtpsvc.current: which reactor runs in a thread."""

from __future__ import annotations

import threading

from twisted.internet import reactor
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.current import current_reactor, have_reactor


class CurrentTests(SynchronousTestCase):
    def test_process(self) -> None:
        """A thread has the reactor of the process."""
        self.assertIs(current_reactor(), reactor)

    def test_own(self) -> None:
        """A thread may have one of its own, and other threads do not see it."""
        own, seen = object(), []

        def look() -> None:
            have_reactor(own)
            seen.append(current_reactor())
            have_reactor(None)
            seen.append(current_reactor())

        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        self.assertEqual([each is own for each in seen], [True, False])
        self.assertIs(current_reactor(), reactor)
