"""
The service is killed under load, again and again, and nothing acknowledged is lost.

``python -m tests.killing --cycles 2000 --seed 7`` does the same for longer.
"""

from __future__ import annotations

import hashlib

from twisted.trial.unittest import SynchronousTestCase

from tests.killing import MARK, account, run

CYCLES = 20


class KillingTests(SynchronousTestCase):
    def test_nothing_is_lost(self) -> None:
        """After SIGKILL under load by DATA, BDAT and LMTP, each acknowledged message is there, whole and once."""
        result = run(CYCLES, seed=1)
        self.assertEqual(result.faults, [])
        self.assertEqual(result.cycles, CYCLES)
        self.assertEqual(sorted(result.acknowledged), ["BDAT", "DATA", "LMTP-BDAT", "LMTP-DATA"])

    def test_found_out(self) -> None:
        """A service that answers before it has kept the message would be found out."""
        # Seeds, since a lucky moment shows nothing.
        found = (run(1, seed, backend="python:tests.hasty.make").faults for seed in range(20))
        self.assertTrue(any("was acknowledged and is not there" in "".join(faults) for faults in found))


class AccountTests(SynchronousTestCase):
    """The accounting itself."""

    GOOD = MARK + b"a\r\n\r\ntext\r\n"

    def faults(self, *kept: bytes, acknowledged: tuple[str, ...] = ("a",)) -> list[str]:
        return account({"a": hashlib.sha256(self.GOOD).digest()}, acknowledged, kept)

    def test_good(self) -> None:
        """A message that is there, whole and once is good, whatever the service has put in front of it."""
        self.assertEqual(self.faults(b"Received: x\r\n" + self.GOOD), [])

    def test_unanswered(self) -> None:
        """One that was not acknowledged may be there, and may be missing."""
        self.assertEqual(self.faults(self.GOOD, acknowledged=()), [])
        self.assertEqual(self.faults(acknowledged=()), [])

    def test_faults(self) -> None:
        """What is missing, cut, damaged, unknown or there twice is a fault, acknowledged or not."""
        cases = {
            (): ["a was acknowledged and is not there"],
            (self.GOOD, self.GOOD): ["a is there 2 times"],
            (self.GOOD, self.GOOD[:-3]): ["'a' is in new/ and not whole (19 bytes)"],
            (self.GOOD, b""): ["b'' is in new/ and not whole (0 bytes)"],
            (self.GOOD, MARK + b"b\r\n"): ["'b' is in new/ and not whole (14 bytes)"],
        }
        for kept, faults in cases.items():
            self.assertEqual(self.faults(*kept), faults)
