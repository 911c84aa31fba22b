"""
Tests of smtpsvc.server.deadlines: who is late, and what follows.
"""

from __future__ import annotations

import time
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.grammar import replies
from smtpsvc.server.deadlines import MonotonicClock, Sweep
from smtpsvc.testing import ScriptedBackend, Wire, clocked_factory
from tests.hooks import HOOKS, MAIL, RCPT, Late, lines
from tests.support import uncounted

#: What brings a client to the place where each hook is called.
WAYS: dict[str, bytes] = {
    "helo": lines("EHLO x"),
    "mail": lines("EHLO x", MAIL),
    "rcpt": lines("EHLO x", MAIL, RCPT),
    "data": lines("EHLO x", MAIL, RCPT, "DATA"),
    "write": lines("EHLO x", MAIL, RCPT, "DATA", "text", "."),
    "finish": lines("EHLO x", MAIL, RCPT, "DATA", "."),
    "reset": lines("EHLO x", "RSET"),
}


def connected(backend: ScriptedBackend | None = None, **limits: Any) -> tuple[Wire, Clock]:
    """Connect to a factory; give the wire, greeted by EHLO, and the clock."""
    factory, clock = clocked_factory(backend or ScriptedBackend(), uncounted(**limits))
    return Wire(factory).greeted(), clock


def wait(clock: Clock, seconds: float) -> None:
    """Let time pass, a quarter of a second at a time."""
    clock.pump([0.25] * int(seconds * 4))


class CommandTests(SynchronousTestCase):
    def test_silent(self) -> None:
        """A client that says nothing for command_timeout hears 421 4.4.2 and is closed: not before, and soon after."""
        for said in ((), (MAIL,), (MAIL, RCPT), (MAIL, RCPT, "DATA", ".")):
            with self.subTest(said=said):
                wire, clock = connected(command_timeout=100, data_timeout=50, hook_timeout=50)
                wire.say(*said).forget()
                wait(clock, 100)
                self.assertEqual((wire.codes, wire.closed), ([], False))
                wait(clock, 2.25)
                self.assertEqual((wire.replies, wire.closed), ([replies.TIMED_OUT], True))

    def test_never_greeted(self) -> None:
        """The same holds for one that never says EHLO."""
        factory, clock = clocked_factory(ScriptedBackend(), uncounted(command_timeout=100))
        wire = Wire(factory).forget()
        wait(clock, 102.25)
        self.assertEqual((wire.codes, wire.closed), ([421], True))

    def test_busy(self) -> None:
        """A whole line, whatever it is, begins the time anew."""
        wire, clock = connected(command_timeout=20)
        for line in ("NOOP", "", "NONSENSE", MAIL, "RSET", "MAIL FROM:<", "\0"):
            wait(clock, 19)
            wire.say(line)
        self.assertFalse(wire.closed)

    def test_trickle(self) -> None:
        """An octet now and then is no progress."""
        wire, clock = connected(command_timeout=20)
        for _ in range(30):
            wire.receive(b"N")
            wait(clock, 1)
        self.assertEqual((wire.codes, wire.closed), ([421], True))

    def test_trickle_behind_a_refused_line(self) -> None:
        """Neither is the rest of a line that was refused."""
        wire, clock = connected(command_timeout=20)
        wire.receive(b"N" * 3000).forget()
        for _ in range(30):
            wire.receive(b"N" * 100)
            wait(clock, 1)
        self.assertEqual((wire.codes, wire.closed), ([421], True))

    def test_replies_not_read(self) -> None:
        """One that does not read its replies for so long is dropped, since it would not read a 421 either."""
        wire, clock = connected(command_timeout=20)
        wire.stop_taking().receive(b"NOOP\r\n" * 20_000)
        wait(clock, 20)
        self.assertFalse(wire.transport.disconnected)
        wait(clock, 2.25)
        self.assertTrue(wire.transport.disconnected)

    def test_reading_slowly(self) -> None:
        """One that reads its replies now and then is not dropped."""
        wire, clock = connected(command_timeout=20)
        wire.stop_taking().receive(b"NOOP\r\n" * 50_000)
        while not wire.reading:
            wait(clock, 15)
            wire.take().stop_taking()
        self.assertEqual(len(wire.codes), 50_000)

    def test_farewell_not_taken(self) -> None:
        """A connection that was closed and does not end, since its client does not read, is dropped; paused or not."""
        for pause in (False, True):
            with self.subTest(pause=pause):
                backend = ScriptedBackend()
                wire, clock = connected(backend, command_timeout=20)
                if pause:
                    backend.sessions[0].connection.pause()
                backend.sessions[0].connection.close(replies.SHUTTING_DOWN)
                self.assertFalse(wire.transport.disconnected)
                wait(clock, 25)
                self.assertTrue(wire.transport.disconnected)


class ContentTests(SynchronousTestCase):
    def content(self, backend: ScriptedBackend | None = None, **limits: Any) -> tuple[Wire, Clock]:
        """Go on until the 354."""
        wire, clock = connected(backend, **{"data_timeout": 20, "command_timeout": 1000, **limits})
        return wire.say(MAIL, RCPT, "DATA").forget(), clock

    def test_silent(self) -> None:
        """In a message data_timeout holds; the delivery is aborted with the reply."""
        backend = ScriptedBackend()
        wire, clock = self.content(backend)
        wait(clock, 20)
        self.assertEqual(wire.codes, [])
        wait(clock, 2.25)
        self.assertEqual((wire.replies, wire.closed), ([replies.TIMED_OUT], True))
        aborted = backend.messages[0].aborted
        assert aborted is not None
        self.assertEqual(aborted.value.reply, replies.TIMED_OUT)

    def test_trickle(self) -> None:
        """An octet now and then is no progress, whatever the delivery does with it."""
        for answer in ("plain", "late"):
            with self.subTest(answer=answer):
                late = Late()
                wire, clock = self.content(ScriptedBackend({} if answer == "plain" else {"write": late}))
                for _ in range(30):
                    wire.receive(b"x")
                    late.fire_all()
                    wait(clock, 1)
                self.assertEqual((wire.codes, wire.closed), ([421], True))

    def test_trickle_of_a_refused_message(self) -> None:
        """Neither is it in a message that is refused already."""
        wire, clock = self.content(message_size=10)
        wire.receive(b"x" * 100)
        for _ in range(30):
            wire.receive(b"x")
            wait(clock, 1)
        self.assertEqual((wire.codes, wire.closed), ([421], True))

    def test_lines(self) -> None:
        """A line a second is never cut, and neither is a long line that really comes."""
        for piece in (b"x\r\n", b"\r\n", b"x" * 600):
            with self.subTest(piece=piece[:10]):
                wire, clock = self.content()
                for _ in range(100):
                    wire.receive(piece)
                    wait(clock, 1)
                self.assertEqual(wire.receive(b"\r\n.\r\n").codes, [250])

    def test_a_line_in_pieces(self) -> None:
        """A line each 19 seconds, however its octets come, is progress."""
        wire, clock = self.content()
        for _ in range(5):
            for octet in b"0123456789\r\n":
                wire.receive(bytes([octet]))
                wait(clock, 1.5)
        self.assertEqual(wire.say(".").codes, [250])

    def test_slow_delivery(self) -> None:
        """Time that the delivery takes is not the client's."""
        late = Late()
        wire, clock = self.content(ScriptedBackend(write=late), hook_timeout=1000)
        for _ in range(5):
            wait(clock, 15)
            wire.receive(b"text\r\n")
            wait(clock, 100)
            late.fire_all()
        self.assertEqual((wire.codes, wire.closed), ([], False))

    def test_command_timeout_behind_it(self) -> None:
        """Behind the message command_timeout holds again."""
        wire, clock = self.content()
        wire.say(".").forget()
        wait(clock, 100)
        self.assertFalse(wire.closed)


class HookTests(SynchronousTestCase):
    def test_answered_instead(self) -> None:
        """A hook that takes hook_timeout is cancelled, 451 4.3.0 is its answer, and the client goes on."""
        for hook, way in WAYS.items():
            with self.subTest(hook=hook):
                late = Late()
                factory, clock = clocked_factory(ScriptedBackend({hook: late}), uncounted(hook_timeout=20))
                wire = Wire(factory).receive(way)
                before = len(wire.codes)
                wait(clock, 20)
                self.assertEqual((len(wire.codes), late.cancelled), (before, 0))
                wait(clock, 2.25)
                self.assertEqual((wire.codes[before:], late.cancelled), ([451], 1))
                self.assertEqual(wire.say("NOOP").codes[before:], [451, 250])

    def test_open_session(self) -> None:
        """Where it is open_session the greeting is 421 4.3.0, and the connection is closed."""
        late = Late()
        factory, clock = clocked_factory(ScriptedBackend(open_session=late), uncounted(hook_timeout=20))
        wire = Wire(factory)
        wait(clock, 25)
        self.assertEqual((wire.codes, wire.closed, late.cancelled), ([421], True, 1))
        self.assertEqual(wire.last_reply.text, replies.NO_SESSION.text)

    def test_reset_behind_a_message(self) -> None:
        """Where it is the reset behind a message, that has its own answer."""
        factory, clock = clocked_factory(ScriptedBackend(reset=Late()), uncounted(hook_timeout=20))
        wire = Wire(factory).receive(WAYS["finish"])
        wait(clock, 25)
        self.assertEqual(wire.codes[-2:], [354, 250])

    def test_transaction(self) -> None:
        """A MAIL that was answered in its place opens nothing, even if the hook consents later."""
        late = Late()
        wire, clock = connected(ScriptedBackend(mail=late), hook_timeout=20)
        wire.say(MAIL, RCPT)
        wait(clock, 25)
        self.assertEqual(wire.replies, [replies.HOOK_TIMED_OUT, replies.SAY_MAIL])

    def test_write(self) -> None:
        """A write() that takes too long refuses the message; abort follows, and the rest is dropped."""
        backend = ScriptedBackend(write=[Late()])
        wire, clock = connected(backend, hook_timeout=20)
        wire.say(MAIL, RCPT, "DATA", "text").forget()
        wait(clock, 25)
        self.assertEqual((wire.codes, backend.hooks[-1]), ([], "abort"))
        self.assertEqual(wire.say("more", ".").replies, [replies.HOOK_TIMED_OUT])

    def test_never_early(self) -> None:
        """The time of a hook begins when it is asked, however long the client was silent before."""
        late = Late()
        wire, clock = connected(ScriptedBackend(write=late), data_timeout=20, hook_timeout=30)
        wire.say(MAIL, RCPT, "DATA").forget()
        wait(clock, 19)
        wire.receive(b"x")
        wait(clock, 29)
        self.assertEqual(late.cancelled, 0)

    def test_each_hook_its_own(self) -> None:
        """Hooks that follow each other have their time each."""
        late = Late()
        wire, clock = connected(ScriptedBackend(mail=late, rcpt=late, data=[None]), hook_timeout=20)
        wire.receive(lines(MAIL, RCPT, "DATA"))
        for _ in range(2):
            wait(clock, 18)
            late.fire()
        self.assertEqual(wire.codes, [250, 250, 354])

    def test_command_timeout_stands_still(self) -> None:
        """A client whose hook is pending is not late itself."""
        late = Late()
        wire, clock = connected(ScriptedBackend(mail=late), command_timeout=20, hook_timeout=200)
        wire.say(MAIL)
        wait(clock, 100)
        late.fire()
        wait(clock, 15)
        self.assertEqual((wire.codes, wire.closed), ([250], False))


class SweepTests(SynchronousTestCase):
    def test_ends_with_the_last(self) -> None:
        """There is one sweep while there are connections, and none behind the last: the reactor is clean."""
        factory, clock = clocked_factory(ScriptedBackend(), uncounted())
        self.assertEqual(clock.getDelayedCalls(), [])
        wires = [Wire(factory) for _ in range(3)]
        for wire in wires:
            self.assertEqual(len(clock.getDelayedCalls()), 1)
            wait(clock, 5)
            wire.hang_up()
        self.assertEqual(clock.getDelayedCalls(), [])
        Wire(factory)
        self.assertEqual(len(clock.getDelayedCalls()), 1)

    def test_ends_whatever_happened(self) -> None:
        """So it does wherever the loss comes, and where the sweep itself ends the last connection."""
        for hook in (None, *HOOKS):
            with self.subTest(hook=hook):
                backend = ScriptedBackend({hook: Late()} if hook else {})
                factory, clock = clocked_factory(backend, uncounted(hook_timeout=5, command_timeout=20))
                wire = Wire(factory).receive(WAYS.get(hook or "", WAYS["finish"]))
                wire.hang_up()
                self.assertEqual(clock.getDelayedCalls(), [])
                wire = Wire(factory)
                while not wire.closed:
                    wait(clock, 1)
                wire.hang_up()
                self.assertEqual(clock.getDelayedCalls(), [])

    def test_interval(self) -> None:
        """It comes every second, or four times within the shortest deadline."""
        for limits, interval in (({}, 1.0), ({"data_timeout": 2}, 0.5), ({"hook_timeout": 0.1}, 0.025)):
            with self.subTest(limits=limits):
                factory, clock = clocked_factory(ScriptedBackend(), uncounted(**limits))
                Wire(factory)
                self.assertEqual(clock.getDelayedCalls()[0].getTime(), interval)

    def test_all_are_looked_at(self) -> None:
        """All that are late are closed in one sweep, while others go on."""
        factory, clock = clocked_factory(ScriptedBackend(), uncounted(command_timeout=20))
        late = [Wire(factory) for _ in range(50)]
        wait(clock, 15)
        early = [Wire(factory) for _ in range(50)]
        wait(clock, 8)
        self.assertEqual(({wire.closed for wire in late}, {wire.closed for wire in early}), ({True}, {False}))

    def test_connections_leave_meanwhile(self) -> None:
        """Connections that go, or come, while it looks at others do no harm."""
        seen: list[object] = []

        class Watched:
            def check_deadline(self, now: float) -> None:
                """Leave, and let another come."""
                seen.append(self)
                watched.discard(self)
                watched.add(Watched())

        watched: set[Any] = {Watched(), Watched()}
        clock = Clock()
        sweep = Sweep(clock, watched, 300)
        sweep.begin()
        sweep.begin()
        clock.advance(1)
        self.assertEqual((len(seen), len(watched), len(clock.getDelayedCalls())), (2, 2, 1))
        sweep.end()
        sweep.end()
        self.assertEqual(clock.getDelayedCalls(), [])


class MonotonicClockTests(SynchronousTestCase):
    def test_reactor(self) -> None:
        """Its calls are the reactor's; its time is the system's monotonic clock, never the wall's."""
        reactor = Clock()
        clock = MonotonicClock(reactor)
        called: list[int] = []
        clock.callLater(2, called.append, 1)
        self.assertEqual(len(clock.getDelayedCalls()), 1)
        reactor.advance(2)
        self.assertEqual(called, [1])
        before = time.monotonic()
        self.assertTrue(before <= clock.seconds() <= time.monotonic())
