"""
A relay and the server behind it are killed at each step of the dialogue, and nothing acknowledged is lost.

``python -m tests.relaying --cycles 300 --seed 7`` does the same for longer, over LMTP too.
"""

from __future__ import annotations

from collections import Counter

from twisted.trial.unittest import SynchronousTestCase

from tests.relaying import STEPS, VICTIMS, Result, run


class RelayingTests(SynchronousTestCase):
    def test_nothing_is_lost(self) -> None:
        """Each message is there, whole; twice only where its end was sent and no 250 came."""
        result = run(len(STEPS) * len(VICTIMS), seed=1)
        self.assertEqual(result.faults, [])
        self.assertEqual(len(result.kills), len(STEPS) * len(VICTIMS))

    def test_found_out(self) -> None:
        """A relay that answers before the next server has would be found out."""
        hasty = "python:tests.hastyrelay.make"
        found = (run(2, seed, relay=hasty, victim="next server").faults for seed in range(10))
        self.assertTrue(any("was acknowledged and is not there" in "".join(faults) for faults in found))


class AccountTests(SynchronousTestCase):
    """The accounting itself."""

    def faults(self, kept: dict[str, int], unknown: dict[str, int]) -> list[str]:
        result = Result(acknowledged={"a"}, kept=Counter(kept), unknown=Counter(unknown))
        result.judge()
        return result.faults

    def test_good(self) -> None:
        """Once is good, and twice where the first end was lost."""
        self.assertEqual(self.faults({"a": 1}, {}), [])
        self.assertEqual(self.faults({"a": 2}, {"a": 1}), [])

    def test_faults(self) -> None:
        """What is missing, or there once too often, is found out."""
        self.assertEqual(self.faults({}, {"a": 1}), ["a was acknowledged and is not there"])
        self.assertEqual(self.faults({"a": 2}, {}), ["a is there 2 times, and its end was lost 0 times"])
