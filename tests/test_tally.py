"""
Tests of smtpsvc.server.tally: connections that several processes count together.
"""

from __future__ import annotations

import os
import tempfile

from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.grammar import replies
from smtpsvc.server.admission import Admission
from smtpsvc.server.tally import Tally, size_for
from tests.support import settings_with

KEY = b"k" * 32


class TallyTestCase(SynchronousTestCase):
    """Three processes."""

    def setUp(self) -> None:
        """Share memory among three."""
        with tempfile.TemporaryFile() as file:
            os.ftruncate(file.fileno(), size_for(3))
            self.tallies = [Tally(file.fileno(), 3, column, KEY) for column in range(3)]


class TallyTests(TallyTestCase):
    def test_together(self) -> None:
        """Each sees what all have counted, of all clients and of one."""
        first, second, third = self.tallies
        first.enter("192.0.2.1")
        second.enter("192.0.2.1")
        second.enter("192.0.2.2")
        third.enter(None)
        for tally in self.tallies:
            self.assertEqual((tally.open, tally.of("192.0.2.1"), tally.of("192.0.2.2")), (4, 2, 1))
            self.assertEqual(tally.of("192.0.2.3"), 0)
        second.leave("192.0.2.1")
        third.leave(None)
        self.assertEqual((first.open, first.of("192.0.2.1")), (2, 1))

    def test_wiped(self) -> None:
        """What a process has counted that is gone is forgotten, and nothing else."""
        first, second, _ = self.tallies
        for tally in (first, second):
            tally.enter("192.0.2.1")
        first.wipe()
        self.assertEqual((second.open, second.of("192.0.2.1")), (1, 1))

    def test_ahead(self) -> None:
        """Ahead is who has a quarter and two more than another that takes connections, of whatever size."""
        first, second, third = self.tallies
        for _ in range(3):
            first.enter(None)
        self.assertFalse(first.ahead)
        second.ready = True
        self.assertTrue(first.ahead)
        second.enter(None)
        second.enter(None)
        self.assertFalse(first.ahead)
        self.assertFalse(second.ahead)
        for tally in (first, second):
            for _ in range(100):
                tally.enter(None)
        self.assertFalse(first.ahead)
        for _ in range(30):
            first.enter(None)
        self.assertTrue(first.ahead)
        second.ready = False
        self.assertFalse(first.ahead)
        third.ready = True
        third.wipe()
        self.assertFalse(first.ahead)

    def test_apart(self) -> None:
        """A thousand clients with a connection each are counted once each."""
        clients = [f"192.0.{number // 250}.{number % 250}" for number in range(1000)]
        for number, client in enumerate(clients):
            self.tallies[number % 3].enter(client)
        self.assertEqual({self.tallies[0].of(client) for client in clients}, {1})
        self.assertEqual(self.tallies[0].open, 1000)


class AdmissionTests(TallyTestCase):
    def admissions(self, **limits: int) -> list[Admission]:
        """Make the admission of each process."""
        return [Admission(settings_with(**limits), Clock(), tally) for tally in self.tallies]

    def test_all(self) -> None:
        """The limit of connections holds for all processes together, and so does what counts as stress."""
        first, second, third = self.admissions(connections=4)
        address = IPv4Address("TCP", "192.0.2.1", 1)
        for each in (first, second, third):
            each.enter(None)
        self.assertEqual((first.stressed, third.refusal(None, address)), (False, None))
        third.enter(None)
        self.assertTrue(first.stressed)
        for each in (first, second, third):
            self.assertEqual(each.refusal(None, address), replies.TOO_BUSY)
        second.leave(None)
        self.assertIsNone(first.refusal(None, address))

    def test_client(self) -> None:
        """So does that of one client's connections."""
        first, second, third = self.admissions(connections_per_client=2)
        address = IPv4Address("TCP", "192.0.2.1", 1)
        client = first.counts(address)
        first.enter(client)
        second.enter(client)
        self.assertEqual(third.refusal(client, address), replies.TOO_MANY_CONNECTIONS)
        self.assertIsNone(third.refusal("192.0.2.2", address))
        first.leave(client)
        self.assertIsNone(third.refusal(client, address))
