"""
Tests of smtpsvc.server.protocol: who is read when, and what goes out before the end.
"""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.grammar import replies
from smtpsvc.testing import ScriptedBackend, Wire, clocked_factory
from tests.hooks import CODES, DIALOGUE, HOOKS, MAIL, PLACES, RCPT, Late, connect, in_data, lines, usual
from tests.support import uncounted

KIB = 1024
NOOP = b"NOOP\r\n"


class ReadAheadTests(SynchronousTestCase):
    def waiting(self, size: int, **settings: Any) -> tuple[Wire, Late]:
        """Let *size* octets of NOOPs come behind a pending MAIL."""
        late = Late()
        wire = connect(ScriptedBackend(mail=late), **settings).say(MAIL)
        wire.receive((NOOP * (size // len(NOOP) + 1))[:size])
        return wire, late

    def test_short_waits(self) -> None:
        """Up to read_ahead octets gather without a pause: most hooks take but a moment."""
        for size, reading in ((64 * KIB, True), (64 * KIB + 1, False)):
            with self.subTest(size=size):
                self.assertEqual(self.waiting(size)[0].reading, reading)

    def test_together(self) -> None:
        """Octets of several reads are counted together."""
        wire, _ = self.waiting(3 * KIB, read_ahead=4 * KIB)
        self.assertTrue(wire.reading)
        self.assertFalse(wire.receive(b"x" * 2 * KIB).reading)

    def test_read_on(self) -> None:
        """When the hook has answered, what has gathered is taken, and the client is read again."""
        wire, late = self.waiting(100 * KIB // 6 * 6)
        late.fire()
        self.assertEqual((len(wire.codes), wire.reading), (1 + 100 * KIB // 6, True))

    def test_packets_behind(self) -> None:
        """What the transport has kept back meanwhile comes behind it, in order, however large its packets."""
        for size in (100, 5000, 200_000):
            with self.subTest(size=size):
                late = Late()
                wire = connect(ScriptedBackend(mail=late), read_ahead=4 * KIB).receive(lines(MAIL))
                data = NOOP * 50_000
                for start in range(0, len(data), size):
                    wire.receive(data[start : start + size])
                late.fire()
                self.assertEqual((len(wire.codes), wire.reading), (50_001, True))

    def test_next_hook(self) -> None:
        """Where the next hook is pending too and too much is left, the client stays paused; none of it is lost."""
        late = Late()
        wire = connect(ScriptedBackend(rcpt=late), read_ahead=4 * KIB).say(MAIL).forget()
        wire.receive(lines(RCPT)).receive(lines(*[RCPT] * 19) + NOOP * 2000)
        for fired in range(20):
            self.assertEqual((len(wire.codes), wire.reading), (fired, False))
            late.fire()
        self.assertEqual((len(wire.codes), wire.reading), (2020, True))

    def test_content(self) -> None:
        """A pending write() pauses the client when read_ahead is full, and its content comes whole."""
        late = Late()
        backend = ScriptedBackend(write=late)
        wire = in_data(backend, read_ahead=4 * KIB, add_received=False)
        content = bytes(range(32, 127)) * 1000 + b"\r\n"
        for start in range(0, len(content), 1000):
            wire.receive(content[start : start + 1000])
        self.assertFalse(wire.reading)
        wire.receive(b".\r\n")
        late.fire_all()
        self.assertEqual((wire.codes, wire.reading), ([250], True))
        self.assertEqual(backend.messages[0].content, content)

    def test_bounded(self) -> None:
        """What has gathered is never much more than read_ahead and one read."""
        late = Late()
        wire = in_data(ScriptedBackend(write=late), read_ahead=4 * KIB)
        for _ in range(100):
            wire.receive(b"x" * KIB)
        protocol = wire.protocol
        self.assertLessEqual(protocol._gathered_size + len(protocol._buffer), 6 * KIB)

    def test_one_reads_within_another(self) -> None:
        """What comes for one client while another's hook runs is taken in its turn, even if it is much."""
        backend = ScriptedBackend()
        factory, _ = clocked_factory(backend, uncounted(read_ahead=4 * KIB))
        first, second = Wire(factory).greeted(), Wire(factory).greeted()
        backend.answers["mail"] = lambda envelope: second.receive(NOOP * 5000) and None
        first.receive(lines(MAIL, "NOOP"))
        self.assertEqual((first.codes, len(second.codes), second.reading), ([250, 250], 5000, True))

    def test_pausing_costs_nothing_at_once(self) -> None:
        """Hooks that answer at once never pause the transport."""
        wire = connect(ScriptedBackend(), read_ahead=4 * KIB)
        pauses: list[None] = []
        wire.transport.pauseProducing = lambda: pauses.append(None)  # type: ignore[method-assign]
        for _ in range(40):
            wire.receive(NOOP * 250)
        self.assertEqual((pauses, len(wire.codes)), ([], 10_000))


class RepliesNotReadTests(SynchronousTestCase):
    def test_not_read(self) -> None:
        """A client that does not read its replies is not read; what we owe it stays bounded."""
        wire = connect(ScriptedBackend()).stop_taking().receive(NOOP * 200_000)
        self.assertFalse(wire.reading)
        self.assertLess(len(wire.output), 256 * KIB)
        owed = len(wire.output)
        wire.receive(NOOP * 1000)
        self.assertEqual(len(wire.output), owed)

    def test_read_on(self) -> None:
        """When it reads again all its commands are answered, each once."""
        wire = connect(ScriptedBackend()).stop_taking().receive(NOOP * 20_000)
        while not wire.reading:
            wire.take().stop_taking()
        wire.take()
        self.assertEqual(len(wire.codes), 20_000)

    def test_hooks_wait_too(self) -> None:
        """While it does not read no hook is called."""
        backend = ScriptedBackend()
        wire = connect(backend).stop_taking().receive(NOOP * 20_000 + lines(MAIL))
        self.assertNotIn("mail", backend.hooks)
        while not wire.reading:
            wire.take().stop_taking()
        self.assertIn("mail", backend.hooks)

    def test_with_pending_hook(self) -> None:
        """A hook that answers meanwhile has its reply sent; the commands behind wait for the client."""
        late = Late()
        wire = connect(ScriptedBackend(mail=[late])).stop_taking().receive(NOOP * 2000)
        wire.receive(lines(MAIL))
        wire.protocol.pauseProducing()
        wire.receive(lines(RCPT, "NOOP"))
        late.fire()
        self.assertEqual((wire.codes[-1], len(wire.codes)), (250, 2001))
        wire.protocol.resumeProducing()
        self.assertEqual(len(wire.codes), 2003)

    def test_closed_producer(self) -> None:
        """The producer is unregistered before the connection is closed: TLS waits for that."""
        wire = connect(ScriptedBackend())
        transport = wire.transport
        self.assertIs(transport.producer, wire.protocol)
        found: list[object] = []
        lose = transport.loseConnection
        transport.loseConnection = lambda: (found.append(transport.producer), lose())  # type: ignore[assignment]
        wire.say("QUIT")
        self.assertEqual(found, [None])


class HalfCloseTests(SynchronousTestCase):
    def test_all_answered(self) -> None:
        """A client that shuts down its side behind its commands gets every reply, and then the end."""
        wire = connect(ScriptedBackend()).receive(lines(MAIL, RCPT, "DATA", "text", ".", "NOOP")).shut_down_sending()
        self.assertEqual((wire.codes, wire.closed), ([250, 250, 354, 250, 250], True))

    def test_pending_hooks(self) -> None:
        """Whatever hook is pending when it shuts down, every reply still goes out, then the end."""
        for hook in HOOKS:
            with self.subTest(hook=hook):
                backend = ScriptedBackend()
                late = Late(lambda *args, h=hook, b=backend: usual(b, h, *args))
                backend.answers[hook] = late
                wire = Wire(clocked_factory(backend, uncounted())[0])
                wire.receive(DIALOGUE.removesuffix(b"QUIT\r\n")).shut_down_sending()
                self.assertEqual((wire.codes, wire.closed), (CODES[: PLACES[hook]], False))
                late.fire_all()
                self.assertEqual(wire.codes, CODES[:-1])
                self.assertTrue(wire.transport.disconnecting)

    def test_every_hook_pending(self) -> None:
        """The same where every hook waits."""
        backend = ScriptedBackend()
        lates = {hook: Late(lambda *args, h=hook: usual(backend, h, *args)) for hook in HOOKS}
        backend.answers.update(lates)
        wire = Wire(clocked_factory(backend, uncounted())[0]).receive(DIALOGUE).shut_down_sending()
        while any(late.waiting for late in lates.values()):
            for late in lates.values():
                late.fire_all()
        self.assertEqual((wire.codes, wire.transport.disconnecting), (CODES, True))

    def test_message_cut_off(self) -> None:
        """A message whose end will not come is aborted."""
        backend = ScriptedBackend()
        wire = in_data(backend).receive(b"text\r\n").shut_down_sending()
        self.assertEqual((wire.codes, wire.closed, backend.hooks[-2:]), ([], True, ["abort", "close"]))

    def test_line_cut_off(self) -> None:
        """A line without its end is no command."""
        wire = connect(ScriptedBackend()).receive(b"NOOP\r\nNOOP").shut_down_sending()
        self.assertEqual((wire.codes, wire.closed), ([250], True))

    def test_at_once(self) -> None:
        """A client that shuts down before it has said anything is greeted, and closed."""
        wire = Wire(clocked_factory(ScriptedBackend(), uncounted())[0]).shut_down_sending()
        self.assertEqual((wire.codes, wire.closed), ([220], True))

    def test_replies_not_read(self) -> None:
        """One that shuts down and then reads slowly gets all its replies too."""
        wire = connect(ScriptedBackend()).stop_taking().receive(NOOP * 20_000).shut_down_sending()
        while not wire.closed:
            wire.take().stop_taking()
        self.assertEqual(len(wire.codes), 20_000)

    def test_behind_read_ahead(self) -> None:
        """So does one whose commands were too many to be read ahead."""
        late = Late()
        wire = connect(ScriptedBackend(mail=late), read_ahead=4 * KIB).receive(lines(MAIL) + NOOP * 5000)
        wire.receive(NOOP).shut_down_sending()
        late.fire()
        wire._settle()
        self.assertEqual((len(wire.codes), wire.closed), (5002, True))

    def test_not_twice(self) -> None:
        """The end behind a QUIT closes once."""
        wire = connect(ScriptedBackend())
        ends: list[None] = []
        lose = wire.transport.loseConnection
        wire.transport.loseConnection = lambda: (ends.append(None), lose())  # type: ignore[assignment]
        wire.receive(lines("QUIT"))
        wire.protocol.readConnectionLost()
        self.assertEqual((wire.replies, len(ends)), ([replies.BYE], 1))

    def test_write_side(self) -> None:
        """A client that takes no more replies is closed."""
        wire = connect(ScriptedBackend())
        wire.protocol.writeConnectionLost()
        self.assertTrue(wire.closed)
