"""
Tests of the limits that are about time: early talkers, slow messages, and shorter waits under stress.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.grammar import replies
from smtpsvc.testing import ScriptedBackend, Wire, clocked_factory
from tests.hooks import MAIL, RCPT, Late
from tests.support import MESSAGE, settings_with


def delayed(backend: ScriptedBackend | None = None, **limits: Any) -> tuple[Wire, Clock]:
    """Connect to a server that waits 5 seconds before its greeting."""
    factory, clock = clocked_factory(backend or ScriptedBackend(), settings_with(greet_delay=5, **limits))
    return Wire(factory), clock


def wait(clock: Clock, seconds: float) -> None:
    """Let time pass, a quarter of a second at a time."""
    clock.pump([0.25] * int(seconds * 4))


class GreetDelayTests(SynchronousTestCase):
    def test_patient(self) -> None:
        """A client that waits is greeted after the delay, and no session is opened before."""
        backend = ScriptedBackend()
        wire, clock = delayed(backend)
        wait(clock, 4.75)
        self.assertEqual((wire.codes, backend.hooks), ([], []))
        wait(clock, 0.25)
        self.assertEqual((wire.codes, backend.hooks), ([220], ["open_session"]))
        self.assertEqual(wire.receive(b"EHLO x\r\n" + MESSAGE).codes[-1], 250)

    def test_early(self) -> None:
        """One that speaks before hears 554 5.5.0 and is closed; no session was opened for it."""
        for said in (b"E", b"EHLO x\r\nMAIL FROM:<>\r\n", b"\r\n"):
            with self.subTest(said=said):
                backend = ScriptedBackend()
                wire, clock = delayed(backend)
                wire.receive(said)
                wait(clock, 5)
                self.assertEqual((wire.replies, wire.closed), ([replies.EARLY], True))
                self.assertEqual(backend.hooks, [])

    def test_early_for_a_session(self) -> None:
        """So does one that speaks while open_session takes its time; the session is closed."""
        late = Late()
        backend = ScriptedBackend(open_session=late)
        wire, clock = delayed(backend)
        wait(clock, 5)
        wire.receive(b"EHLO x\r\n")
        late.fire(backend.new_session(wire.protocol.conversation.peer, wire.protocol.conversation))
        self.assertEqual((wire.replies, wire.closed), ([replies.EARLY], True))
        wire.hang_up()
        self.assertEqual(backend.hooks, ["open_session", "close"])

    def test_without_delay(self) -> None:
        """Without a delay what comes before the greeting is served in its order."""
        late = Late()
        backend = ScriptedBackend(open_session=late)
        factory, _ = clocked_factory(backend, settings_with())
        wire = Wire(factory).receive(b"EHLO x\r\n" + MESSAGE)
        self.assertEqual(wire.codes, [])
        late.fire(backend.new_session(wire.protocol.conversation.peer, wire.protocol.conversation))
        self.assertEqual(wire.codes, [220, 250, 250, 250, 354, 250])

    def test_gone(self) -> None:
        """A client that leaves meanwhile, or hears that the service ends, leaves the reactor clean."""
        wire, clock = delayed()
        wire.hang_up()
        self.assertEqual(clock.getDelayedCalls(), [])
        wire, clock = delayed()
        wire.factory.shut_down()
        wire.hang_up()
        self.assertEqual((wire.codes, clock.getDelayedCalls()), ([421], []))

    def test_never_through_a_deadline(self) -> None:
        """The delay is no silence of the client."""
        wire, clock = delayed(command_timeout=2, hook_timeout=2)
        wait(clock, 5)
        self.assertEqual(wire.codes, [220])


class DataRateTests(SynchronousTestCase):
    def content(self, backend: ScriptedBackend | None = None, **limits: Any) -> tuple[Wire, Clock]:
        """Go on until the 354."""
        factory, clock = clocked_factory(backend or ScriptedBackend(), settings_with(**limits))
        return Wire(factory).greeted().say(MAIL, RCPT, "DATA").forget(), clock

    def send(self, wire: Wire, clock: Clock, size: int, seconds: int) -> None:
        """Send a line of *size* octets each second."""
        for _ in range(seconds):
            wire.receive(b"x" * (size - 2) + b"\r\n")
            wait(clock, 1)

    def test_too_slow(self) -> None:
        """A message that comes slower than data_rate is cut with 421 4.4.2 after half a minute."""
        wire, clock = self.content(data_rate=100)
        self.send(wire, clock, 90, 29)
        self.assertFalse(wire.closed)
        self.send(wire, clock, 90, 4)
        self.assertEqual((wire.replies, wire.closed), ([replies.TIMED_OUT], True))

    def test_fast_enough(self) -> None:
        """One that comes as fast is not, however long it takes."""
        wire, clock = self.content(data_rate=100)
        self.send(wire, clock, 110, 300)
        self.assertEqual(wire.say(".").codes, [250])

    def test_slower_later(self) -> None:
        """What came fast before does not help."""
        wire, clock = self.content(data_rate=100)
        self.send(wire, clock, 10_000, 60)
        self.send(wire, clock, 90, 62)
        self.assertTrue(wire.closed)

    def test_off(self) -> None:
        """Without it a line a second is never cut."""
        wire, clock = self.content()
        self.send(wire, clock, 3, 1000)
        self.assertEqual(wire.say(".").codes, [250])

    def test_delivery(self) -> None:
        """The time that the delivery takes is not the client's."""
        late = Late()
        wire, clock = self.content(ScriptedBackend(write=late), data_rate=100)
        for _ in range(5):
            wire.receive(b"x" * 98 + b"\r\n")
            wait(clock, 40)
            late.fire_all()
        self.assertFalse(wire.closed)

    def test_between_messages(self) -> None:
        """Neither is that between messages."""
        wire, clock = self.content(data_rate=100)
        for _ in range(3):
            wire.say(".")
            wait(clock, 100)
            wire.say(MAIL, RCPT, "DATA")
        self.assertFalse(wire.closed)


class StressTests(SynchronousTestCase):
    def crowd(self, count: int, **limits: Any) -> tuple[list[Wire], Clock]:
        """Connect so many clients of 10."""
        settings = settings_with(connections=10, connections_per_client=0, **limits)
        factory, clock = clocked_factory(ScriptedBackend(), settings)
        return [Wire(factory).greeted() for _ in range(count)], clock

    def closed_after(self, count: int, seconds: float, **limits: Any) -> bool:
        """Say whether the first of so many silent clients has been closed."""
        wires, clock = self.crowd(count, **limits)
        wait(clock, seconds)
        return wires[0].closed

    def test_shorter(self) -> None:
        """While 80 % of the connections are in use, clients have 10 seconds for a command, and not 300."""
        self.assertTrue(self.closed_after(8, 13))
        self.assertFalse(self.closed_after(7, 290))
        self.assertFalse(self.closed_after(8, 9))

    def test_content(self) -> None:
        """So they have for the next piece of a message; one that sends a line a second is not cut."""
        wires, clock = self.crowd(9)
        quick, silent = wires[:2]
        for wire in (quick, silent):
            wire.say(MAIL, RCPT, "DATA").forget()
        for _ in range(60):
            for wire in wires[2:]:
                wire.say("NOOP")
            quick.say("text")
            wait(clock, 1)
        self.assertEqual((silent.codes, quick.say(".").codes), ([421], [250]))

    def test_over(self) -> None:
        """When some have left, the others have their usual time again."""
        wires, clock = self.crowd(8)
        wires.pop().hang_up()
        wait(clock, 200)
        self.assertFalse(wires[0].closed)

    def test_off(self) -> None:
        """With 0, or without a limit to connections, nothing changes."""
        self.assertFalse(self.closed_after(10, 290, stress_timeout=0))

    def test_never_longer(self) -> None:
        """A wait that is shorter already stays so."""
        self.assertTrue(self.closed_after(8, 7, command_timeout=5))
