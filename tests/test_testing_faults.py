"""Tests of smtpsvc.testing.faults: what a scripted backend may do instead of answering well."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.grammar.replies import PermanentError, Reply
from smtpsvc.settings import Role
from smtpsvc.testing import (
    ScriptedBackend,
    Wire,
    clocked_factory,
    cut,
    drop,
    each,
    nth,
    raw,
    say,
    slow,
    sometimes,
    stall,
)
from tests.support import MESSAGE, settings_with

RCPT = "RCPT TO:<b@y.example>"
HOOKS = ("helo", "mail", "rcpt", "data", "write", "finish")


def dialogue(role: Role = Role.SMTP, **answers: Any) -> tuple[Wire, Clock, ScriptedBackend]:
    """Connect to a script, and say hello."""
    backend = ScriptedBackend(**answers)
    factory, clock = clocked_factory(backend, settings_with(hook_timeout=30, add_received=False), role=role)
    return Wire(factory).forget().say("LHLO c.example" if role is Role.LMTP else "EHLO c.example"), clock, backend


def sent(wire: Wire) -> list[int]:
    """Send a message to two recipients in one packet, and give the codes of its replies so far."""
    return wire.forget().receive(MESSAGE.replace(b"RCPT", b"RCPT TO:<a@y.example>\r\nRCPT", 1)).codes


class AnswerTests(SynchronousTestCase):
    def test_code(self) -> None:
        """A number is a reply with that code."""
        wire, _, _ = dialogue(rcpt=[None, 451])
        self.assertEqual(sent(wire), [250, 250, 451, 354, 250])

    def test_nth(self) -> None:
        """The n-th call is answered, over all connections or on each."""
        for each_connection, second in ((False, 250), (True, 451)):
            with self.subTest(each_connection=each_connection):
                wire, _, _ = dialogue(rcpt=nth(2, 451, each_connection=each_connection))
                other = Wire(wire.factory).greeted().say("MAIL FROM:<>")
                wire.say("MAIL FROM:<>", RCPT, RCPT, RCPT)
                self.assertEqual(wire.codes[2:], [250, 451, 250])
                self.assertEqual(other.say(RCPT, RCPT).codes, [250, 250, second])

    def test_sometimes(self) -> None:
        """By chance some calls are answered; with the same seed the same."""
        found = []
        for seed in (1, 1, 2):
            wire, _, _ = dialogue(mail=sometimes(0.5, 451, seed=seed))
            found.append(wire.forget().say(*["MAIL FROM:<>", "RSET"] * 8).codes[::2])
        self.assertEqual(found[0], found[1])
        self.assertNotEqual(found[0], found[2])
        self.assertEqual(set(found[0]), {250, 451})
        self.assertEqual({*dialogue(mail=sometimes(0, 451, seed=1))[0].say("MAIL FROM:<>").codes}, {250})

    def test_shown(self) -> None:
        """A fault is shown as it is written."""
        faults = (nth(2, slow(3, 451)), each(250, drop()), say(b"x", stall()), cut(4), sometimes(0.5, 451, seed=7))
        self.assertEqual(
            [repr(fault) for fault in faults],
            [
                "nth(2, slow(3, 451))",
                "each(250, drop())",
                "say(b'x', stall())",
                "cut(4)",
                "sometimes(0.5, 451, seed=7)",
            ],
        )


class WaitTests(SynchronousTestCase):
    def test_stall(self) -> None:
        """A hook that stalls says nothing; at its deadline the connection is closed without a word."""
        for hook in HOOKS:
            with self.subTest(hook=hook):
                wire, clock, backend = dialogue(**{hook: stall()})
                before = (sent(wire), wire.closed)
                self.assertFalse(before[1])
                clock.pump([1] * 40)
                self.assertEqual((wire.receive(b"").codes, wire.closed), (before[0], True))
                self.assertEqual(backend.hooks.count("close"), 1)

    def test_stalled_client_leaves(self) -> None:
        """A client that does not wait is gone at once."""
        wire, _, backend = dialogue(mail=stall())
        sent(wire)
        wire.hang_up()
        self.assertEqual(backend.hooks[-1], "close")

    def test_slow(self) -> None:
        """An answer comes after its time, whatever it is."""
        for hook in HOOKS:
            with self.subTest(hook=hook):
                wire, clock, backend = dialogue(**{hook: [slow(2)]})
                wire.say("EHLO again.example")
                sent(wire)
                clock.advance(1.9)
                self.assertLess(len(wire.codes), 5)
                clock.advance(0.2)
                self.assertEqual(wire.codes[-5:], [250, 250, 250, 354, 250])
                self.assertTrue(backend.messages[0].finished)
        for then in (451, PermanentError("No", "5.0.0")):
            wire, clock, _ = dialogue(mail=slow(1, then))
            wire.say("MAIL FROM:<>")
            clock.advance(1)
            self.assertIn(wire.last_reply.code, (451, 550))


class CloseTests(SynchronousTestCase):
    def test_drop(self) -> None:
        """A connection is closed in place of an answer, behind the replies before it."""
        expected = {"helo": None, "mail": [], "rcpt": [250], "data": [250] * 3, "write": [250] * 3 + [354]}
        for hook in HOOKS:
            with self.subTest(hook=hook):
                wire, _, backend = dialogue(**{hook: drop()})
                if hook != "helo":
                    self.assertEqual(sent(wire), expected.get(hook, [250, 250, 250, 354]))
                self.assertTrue(wire.closed)
                self.assertEqual(backend.hooks.count("close"), 1)
                finished = {"write": [False], "finish": [True]}.get(hook, [])
                self.assertEqual([one.finished for one in backend.messages], finished)

    def test_cut(self) -> None:
        """A message is cut when more octets than that have come."""
        for after, whole in ((20, True), (19, False)):
            with self.subTest(after=after):
                wire, _, backend = dialogue(write=cut(after))
                self.assertEqual(sent(wire), [250, 250, 250, 354, 250][: 5 if whole else 4])
                self.assertEqual((len(backend.messages[0].content), wire.closed), (20, not whole))

    def test_cut_later(self) -> None:
        """What comes before that is taken."""
        wire, _, backend = dialogue(write=cut(20))
        wire.say("MAIL FROM:<>", RCPT, "DATA", "0123456789", "0123456789")
        self.assertTrue(wire.closed)
        self.assertEqual(len(backend.called("write")), 2)


class WireTests(SynchronousTestCase):
    def test_partial_greeting(self) -> None:
        """A greeting may stop in the middle, and never end, or end with the connection."""
        for then, closed in ((stall(), False), (drop(), True)):
            factory, _ = clocked_factory(ScriptedBackend(open_session=say(b"220 mx.exam", then)))
            wire = Wire(factory)
            self.assertEqual((wire.output, wire.closed), (b"220 mx.exam", closed))

    def test_say(self) -> None:
        """Octets may come in front of any answer, in their turn."""
        wire, _, _ = dialogue(rcpt=[say(b"250-Wait\r\n", Reply(250, "OK", "2.0.0"))])
        wire.forget().receive(b"MAIL FROM:<>\r\nRCPT TO:<b@y.example>\r\nNOOP\r\n")
        self.assertEqual([reply.text for reply in wire.replies][1], "Wait\n2.0.0 OK")

    def test_raw(self) -> None:
        """A reply may be anything on the wire, while the server takes it for what it says."""
        wire, _, backend = dialogue(mail=raw(b"999 What\r\n"), rcpt=raw(b"25O OK\n", 451), finish=raw(b"\0"))
        self.assertEqual(wire.forget().say("MAIL FROM:<>", RCPT, "DATA").output[:17], b"999 What\r\n25O OK\n")
        self.assertTrue(wire.output.endswith(b"\n503 5.5.1 No recipient was accepted, send RCPT first\r\n"))
        backend.answers["rcpt"] = None
        self.assertTrue(wire.forget().say(RCPT, "DATA", ".").output.endswith(b"\0"))


class EachTests(SynchronousTestCase):
    def lmtp(self, *answers: Any) -> tuple[Wire, Clock, ScriptedBackend]:
        """Send a message to two recipients, who are answered so, and forget the replies before its content."""
        wire, clock, backend = dialogue(Role.LMTP, finish=each(*answers))
        wire.say("MAIL FROM:<>", RCPT, RCPT, "DATA").forget().say("text", ".")
        return wire, clock, backend

    def test_codes(self) -> None:
        """Each recipient has its own answer."""
        wire, _, _ = self.lmtp(None, 452)
        self.assertEqual(wire.codes, [250, 452])
        wire, _, _ = self.lmtp(PermanentError("No", "5.0.0"), Reply(250, "Yes", "2.0.0"))
        self.assertEqual(wire.codes, [550, 250])

    def test_too_few(self) -> None:
        """With answers missing, the connection is closed behind those there are."""
        wire, clock, _ = self.lmtp(250)
        clock.advance(0)
        self.assertEqual((wire.codes, wire.closed), ([250], True))

    def test_too_many(self) -> None:
        """Replies may come that belong to nobody."""
        wire, _, _ = self.lmtp(None, 451, 250, Reply(550, "What"))
        self.assertEqual(wire.codes, [250, 451, 250, 550])
        self.assertEqual(wire.forget().say("NOOP").codes, [250])

    def test_in_turn(self) -> None:
        """A fault strikes when those before it have been answered."""
        wire, clock, _ = self.lmtp(slow(2), stall())
        clock.advance(0)
        self.assertEqual(wire.codes, [])
        clock.advance(2)
        self.assertEqual(wire.codes, [250])
        clock.pump([1] * 40)
        self.assertEqual((wire.codes[:1], wire.closed), ([250], True))

    def test_smtp(self) -> None:
        """Where one reply stands for all, the answers make one."""
        wire, _, _ = dialogue(finish=each(None, 452))
        self.assertEqual(sent(wire)[-1], 452)
