"""
Tests of what a client can make the server keep in memory, and of turns.
"""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.server.budget import Budget, Held
from smtpsvc.server.channel import BY_MEMORY
from smtpsvc.settings import KIB, MIB
from smtpsvc.testing import ScriptedBackend, Wire, clocked_factory
from tests.hooks import MAIL, RCPT, Late, in_data, lines
from tests.support import connect, settings_with, uncounted

NOOP = b"NOOP\r\n"
PIECE = b"x" * 70 + b"\r\n"


class Waiting:
    """Counts how often it is told that there is room."""

    def __init__(self) -> None:
        self.told = 0

    def remember(self) -> None:
        """Count."""
        self.told += 1


class BudgetTests(SynchronousTestCase):
    def test_full(self) -> None:
        """It is full past its limit, and until three quarters are left."""
        budget = Budget(100)
        budget.take(100)
        self.assertFalse(budget.full)
        budget.take(1)
        self.assertTrue(budget.full)
        budget.take(-25)
        self.assertTrue(budget.full)
        budget.take(-1)
        self.assertFalse(budget.full)

    def test_told(self) -> None:
        """Those who wait are told once when there is room, but for those who have left."""
        budget = Budget(100)
        stays, leaves = Waiting(), Waiting()
        budget.take(200)
        for waiting in (stays, leaves, stays):
            budget.wait(waiting)
        budget.leave(leaves)
        budget.leave(leaves)
        budget.take(-200)
        budget.take(200)
        budget.take(-200)
        self.assertEqual((stays.told, leaves.told), (1, 0))

    def test_held(self) -> None:
        """What is held is released once, however often it is said."""
        budget = Budget(100)
        held = Held(budget, 60)
        self.assertEqual(budget.used, 60)
        held.release()
        held.release()
        self.assertEqual(budget.used, 0)


class PausingTests(SynchronousTestCase):
    def busy(self, count: int, **limits: Any) -> tuple[list[Wire], Late, Any]:
        """Let the backend be busy with a piece of each of so many messages."""
        late = Late()
        factory, _ = clocked_factory(ScriptedBackend(write=late), settings_with(buffered=MIB, **limits))
        wires = [Wire(factory).greeted().say(MAIL, RCPT, "DATA").forget() for _ in range(count)]
        for wire in wires:
            wire.receive(PIECE * 900)
        return wires, late, factory.budget

    def test_counted(self) -> None:
        """Pieces that the backend is busy with are counted, and so is what comes meanwhile."""
        wires, late, budget = self.busy(2)
        # The end of a line may be that of the message, so it is held back.
        self.assertApproximates(budget.used, 2 * len(PIECE) * 900, 4)
        wires[0].receive(PIECE * 500)
        self.assertApproximates(budget.used, (2 * 900 + 500) * len(PIECE), 4)
        for wire in wires:
            wire.receive(b".\r\n")
        late.fire_all()
        self.assertEqual(([wire.codes for wire in wires], budget.used), ([[250], [250]], 0))

    def test_paused(self) -> None:
        """When there is too much, content is not read on, and nobody is refused; in the end all is taken."""
        wires, late, budget = self.busy(20)
        self.assertTrue(budget.full)
        for wire in wires:
            for _ in range(20):
                wire.receive(PIECE * 900)
            wire.receive(b".\r\n")
        self.assertEqual({wire.reading for wire in wires}, {False})
        self.assertLess(budget.used, 2 * 20 * 900 * len(PIECE) + 1)
        late.fire_all()
        self.assertEqual([wire.codes for wire in wires], [[250]] * 20)
        self.assertEqual((budget.used, budget.full), (0, False))

    def test_new_messages(self) -> None:
        """A message that begins then waits for its first piece, and its deadline stands still."""
        wires, late, _ = self.busy(20, data_timeout=20, command_timeout=20)
        clock = wires[0].factory.clock
        late_comer = Wire(wires[0].factory).greeted().say(MAIL, RCPT, "DATA").forget()
        self.assertTrue(late_comer.protocol.paused & BY_MEMORY)
        late_comer.receive(b"text\r\n.\r\n")
        clock.pump([1] * 60)
        self.assertEqual((late_comer.codes, late_comer.closed), ([], False))
        for wire in wires:
            wire.receive(b".\r\n")
        late.fire_all()
        self.assertEqual(late_comer.codes, [250])

    def test_commands(self) -> None:
        """Commands are served meanwhile."""
        wires, _, _ = self.busy(20)
        other = Wire(wires[0].factory).greeted().say(MAIL, RCPT, "RSET", "NOOP")
        self.assertEqual(other.codes, [250] * 4)

    def test_lost(self) -> None:
        """Clients that go leave nothing counted, wherever they are, once the backend has taken note."""
        wires, late, budget = self.busy(20)
        waiting = Wire(wires[0].factory).greeted().say(MAIL, RCPT, "DATA")
        for wire in [*wires[:10], waiting]:
            wire.receive(PIECE * 900).hang_up()
        for wire in wires[10:]:
            wire.hang_up()
        self.assertEqual((budget.used, budget.full, budget._waiting), (0, False, {}))
        self.assertGreaterEqual(late.cancelled, 20)

    def test_deadline(self) -> None:
        """A write that takes too long is counted until the deadline of hooks, and no longer."""
        wires, _, budget = self.busy(1, hook_timeout=20)
        wires[0].factory.clock.pump([1] * 25)
        self.assertEqual(budget.used, 0)

    def test_own(self) -> None:
        """What those who wait for memory hold themselves is not counted: they never wait for each other."""
        wires, late, budget = self.busy(20)
        chunk = PIECE * 900
        waiting = [Wire(wires[0].factory).greeted().say(MAIL, RCPT).forget() for _ in range(20)]
        for wire in waiting:
            wire.receive(b"BDAT %d LAST\r\n" % len(chunk) + chunk)
        self.assertEqual({wire.protocol.paused for wire in waiting}, {BY_MEMORY})
        for wire in wires:
            wire.receive(b".\r\n")
        late.fire_all()
        self.assertEqual([wire.codes for wire in waiting], [[250]] * 20)
        self.assertEqual((budget.used, budget.full), (0, False))

    def test_replies(self) -> None:
        """Replies that are not read are counted."""
        wire = connect(settings=uncounted()).stop_taking().receive(NOOP * 20_000)
        budget = wire.factory.budget
        self.assertGreaterEqual(budget.used, 64 * KIB)
        wire.take()
        self.assertEqual((len(wire.codes), budget.used), (20_000, 0))
        wire = connect(settings=uncounted()).stop_taking().receive(NOOP * 20_000)
        wire.hang_up()
        self.assertEqual(wire.factory.budget.used, 0)


class CostTests(SynchronousTestCase):
    def kept(self, wire: Wire) -> int:
        """Count what is kept of a client: what was read, and what it has not read, without the transport's own."""
        protocol = wire.protocol
        return len(protocol._buffer) + protocol._gathered_size + sum(map(len, protocol.out))

    def test_never_reads(self) -> None:
        """A client that sends commands and never reads a reply costs less than 128 KiB, one read included."""
        for command in (NOOP, b"HELP\r\n", lines(MAIL, "RSET"), lines(MAIL, RCPT, "DATA", ".")):
            with self.subTest(command=command):
                wire = connect(settings=uncounted()).greeted().stop_taking()
                sent = len(wire.transport.value())
                for _ in range(100):
                    wire.receive(command * (64 * KIB // len(command)))
                unread = len(wire.transport.value()) - sent
                self.assertFalse(wire.reading)
                # The transport in memory is pressed at 64 KiB; the one for TCP at 32.
                self.assertLess(self.kept(wire) + unread, (128 + 32) * KIB)

    def test_line_without_end(self) -> None:
        """A line without an end costs no more than line_length, however it comes and wherever."""
        for where in ((), ("EHLO x",), ("EHLO x", MAIL)):
            for size in (1, 100, 64 * KIB):
                with self.subTest(where=where, size=size):
                    wire = connect(settings=settings_with(line_length=1000)).say(*where)
                    most = 0
                    for _ in range(200):
                        wire.receive(b"x" * size)
                        most = max(most, self.kept(wire))
                    self.assertLessEqual(most, 1000)

    def test_content_line_without_end(self) -> None:
        """A line of content without an end costs nothing at all: it is handed on."""
        wire = in_data(ScriptedBackend())
        for _ in range(100):
            wire.receive(b"x" * 64 * KIB)
            self.assertEqual(self.kept(wire), 0)


class TurnTests(SynchronousTestCase):
    def test_slices(self) -> None:
        """So many commands in one read are taken in several turns, and others have theirs in between."""
        factory, _ = clocked_factory(ScriptedBackend(), uncounted())
        flooding, other = Wire(factory).greeted(), Wire(factory).greeted()
        flooding.protocol.dataReceived(NOOP * 2000)
        seen = []
        while factory.turns:
            other.protocol.dataReceived(NOOP)
            seen.append((flooding.transport.value().count(b"OK"), other.transport.value().count(b"OK")))
            factory.go_on()
        self.assertEqual(seen, [(256 * turn, turn) for turn in range(1, 8)])

    def test_same_replies(self) -> None:
        """The replies are the same, in order, each turn's in one write; the transport reads on behind the last."""
        wire = connect(settings=uncounted()).greeted()
        wire.receive((NOOP + b"NOPE\r\n") * 1000)
        self.assertEqual(wire.codes, [250, 500] * 1000)
        self.assertLess(wire.write_count, 12)
        self.assertTrue(wire.reading)

    def test_messages(self) -> None:
        """So it is with whole messages, and with content cut by a turn's end."""
        backend = ScriptedBackend()
        wire = connect(backend, uncounted(add_received=False)).greeted()
        wire.receive(lines(MAIL, RCPT, "DATA", "text", ".") * 500)
        self.assertEqual(wire.codes, [250, 250, 354, 250] * 500)
        self.assertEqual({message.content for message in backend.messages}, {b"text\r\n"})

    def test_gone_between(self) -> None:
        """A client that leaves between two turns leaves the reactor clean."""
        factory, clock = clocked_factory(ScriptedBackend(), uncounted())
        wire = Wire(factory)
        wire.protocol.dataReceived(NOOP * 2000)
        wire.hang_up()
        clock.advance(0)
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_half_closed_between(self) -> None:
        """One that has shut down its side is answered to the end."""
        wire = connect(settings=uncounted()).greeted()
        wire.protocol.dataReceived(NOOP * 2000 + b"QUIT\r\n")
        wire.shut_down_sending()
        self.assertEqual((wire.codes[-1], len(wire.codes), wire.closed), (221, 2001, True))

    def test_pending_hook(self) -> None:
        """A hook that is asked in a later turn waits as in the first."""
        late = Late()
        wire = connect(ScriptedBackend(mail=late), uncounted()).greeted()
        wire.receive(NOOP * 1000 + lines(MAIL, "NOOP"))
        self.assertEqual(len(wire.codes), 1000)
        late.fire()
        self.assertEqual((len(wire.codes), wire.reading), (1002, True))

    def test_shut_down_between(self) -> None:
        """When the service ends between two turns, 421 follows what was answered."""
        factory, _ = clocked_factory(ScriptedBackend(), uncounted())
        wire = Wire(factory).forget()
        wire.protocol.dataReceived(NOOP * 2000)
        factory.shut_down()
        self.assertEqual((wire.codes, wire.closed), ([250] * 256 + [421], True))
