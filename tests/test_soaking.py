"""
The service is kept busy by clients of every kind for some seconds, and nothing grows.

``python -m tests.soaking --minutes 10`` does the same for longer.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.soaking import CLIENTS, Result, run


class SoakingTests(SynchronousTestCase):
    def test_short(self) -> None:
        """After a crowd of every kind no descriptor is left, all mail is there, and the log has no traceback."""
        result = run(5, seed=1)
        self.assertEqual(result.faults, [])
        self.assertEqual(set(result.sessions), set(CLIENTS))

    def test_growth(self) -> None:
        """Memory that grows to the end is a fault; what the start takes is none."""
        for memory, faults in (([50, 90, 90, 91, 90, 92], 0), ([50, 60, 90, 120, 150, 180], 1)):
            result = Result(memory=[level << 20 for level in memory for _ in range(10)])
            result.judge()
            self.assertEqual(len(result.faults), faults)
