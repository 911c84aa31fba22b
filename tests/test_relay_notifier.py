"""Tests of smtpsvc.backends.notifier: one reply for recipients of whom some have got the message, and some have not."""

from __future__ import annotations

import email
import email.policy
from typing import Any

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.backends.notifier import MOST_KEPT, HeaderKeeper
from smtpsvc.backends.relay import make_lmtp, make_smtp
from smtpsvc.grammar.replies import PermanentError, Reply, TemporaryError
from smtpsvc.settings import Role
from smtpsvc.testing import ScriptedBackend
from tests.relays import MAIL, RCPT, TEXT, Relayed, meeting, refused

FULL = Reply(552, "mailbox full", "5.2.2")
BUSY = Reply(451, "try later", "4.2.0")
ANN = RCPT.replace("b@", "ann@")


class MixedTests(SynchronousTestCase):
    def relayed(self, *ends: Reply | None, notify: Any = None, role: Role = Role.SMTP) -> Relayed:
        """Make a relay to an LMTP server that says *ends* of the recipients of a message."""
        self.postmaster = ScriptedBackend()
        back = meeting(ScriptedBackend(finish=[list(ends)]), role=Role.LMTP)
        return Relayed(back, lmtp=True, notify=notify or meeting(self.postmaster), role=role)

    def test_all_taken(self) -> None:
        """If all have it the client hears 250, and nobody is notified."""
        relayed = self.relayed(None, None).say(MAIL, RCPT, ANN, "DATA", TEXT)
        self.assertEqual(relayed.codes, [250, 250, 250, 354, 250])
        self.assertEqual(self.postmaster.messages, [])

    def test_none_taken(self) -> None:
        """If nobody has it the client hears why: of a 4xx and a 5xx the 4xx."""
        for ends, code in (((FULL, FULL), 552), ((FULL, BUSY), 451)):
            self.assertEqual(self.relayed(*ends).say(MAIL, RCPT, ANN, "DATA", TEXT).codes[-1], code)
            self.assertEqual(self.postmaster.messages, [])

    def test_mixed(self) -> None:
        """If some have it the client hears 250 when the notification of the others was taken."""
        for end in (FULL, BUSY):
            relayed = self.relayed(None, end).say(MAIL, RCPT, ANN, "DATA", TEXT)
            self.assertEqual(relayed.codes[-1], 250)
            (message,) = self.postmaster.messages
            self.assertTrue(message.sender.is_null)
            self.assertEqual([str(each) for each in message.recipients], ["a@x.example"])
            parsed: Any = email.message_from_bytes(message.content, policy=email.policy.SMTP)
            _, status, header = parsed.iter_parts()
            self.assertEqual(status.get_payload()[1]["Final-Recipient"], "rfc822; ann@y.example")
            self.assertEqual(status.get_payload()[1]["Status"], end.enhanced)
            self.assertEqual(status.get_payload()[1]["Remote-MTA"], "dns; mx.example")
            self.assertIn("Subject: x", header.get_payload())
            self.assertNotIn("b@y.example", message.content.decode())

    def test_not_wanted(self) -> None:
        """Who has said NOTIFY=NEVER, and the null sender, get none."""
        for mail, rcpt in ((MAIL, f"{ANN} NOTIFY=NEVER"), ("MAIL FROM:<>", ANN)):
            self.assertEqual(self.relayed(None, FULL).say(mail, RCPT, rcpt, "DATA", TEXT).codes[-1], 250)
            self.assertEqual(self.postmaster.messages, [])

    def test_cannot_tell(self) -> None:
        """If the notification is not taken now the client hears 451, and the message comes again."""
        for notify in (refused, meeting(ScriptedBackend(finish=TemporaryError("later", "4.3.0")))):
            relayed = self.relayed(None, FULL, notify=notify).say(MAIL, RCPT, ANN, "DATA", TEXT)
            self.assertEqual((relayed.codes[-1], relayed.wire.replies[-1].enhanced), (451, "4.3.0"))

    def test_never_taken(self) -> None:
        """If it is refused for good nobody can be told, and it is 250."""
        notify = meeting(ScriptedBackend(rcpt=PermanentError("no such sender", "5.1.1")))
        self.assertEqual(self.relayed(None, FULL, notify=notify).say(MAIL, RCPT, ANN, "DATA", TEXT).codes[-1], 250)

    def test_cannot_be_written(self) -> None:
        """If it cannot be written nobody can be told, and the connection for it is free again."""
        relayed = self.relayed(None, FULL)
        relayed.backend._notifier._reporter = "no name\n"
        self.assertEqual(relayed.say(MAIL, RCPT, ANN, "DATA", TEXT).codes[-1], 250)
        self.assertEqual(len(relayed.hops[-1].hop._idle), 1)

    def test_each_answered(self) -> None:
        """Where each recipient has a reply, nobody needs a notification."""
        relayed = self.relayed(None, FULL, role=Role.LMTP).say(MAIL, RCPT, ANN, "DATA", TEXT)
        self.assertEqual(relayed.codes[-2:], [250, 552])
        self.assertEqual(self.postmaster.messages, [])

    def test_stopped(self) -> None:
        """The connection to the server of notifications is closed with the others."""
        relayed = self.relayed(None, FULL).say(MAIL, RCPT, ANN, "DATA", TEXT)
        relayed.backend.startService()
        stopped = relayed.backend.stopService()
        relayed.settle()
        self.successResultOf(stopped)
        self.assertEqual([hops.made[0].lost for hops in relayed.hops], [True, True])

    def test_option(self) -> None:
        """``notify=`` lets clients name several recipients; it is for LMTP."""
        self.assertFalse(make_lmtp("unix:/x,notify=127.0.0.1:25", MemoryReactorClock()).per_recipient)
        self.assertRaises(ValueError, make_smtp, "127.0.0.1,notify=127.0.0.1:25", MemoryReactorClock())


class HeaderKeeperTests(SynchronousTestCase):
    def kept(self, content: bytes, size: int) -> bytes:
        """Let content go by in pieces."""
        keeper = HeaderKeeper()
        for place in range(0, len(content), size):
            keeper.write(content[place : place + size])
        return keeper.header

    def test_cuts(self) -> None:
        """It keeps the header, however it is cut, and nothing behind it."""
        for size in range(1, 20):
            self.assertEqual(self.kept(b"a: b\r\nc: d\r\n\r\nbody\r\n\r\n", size), b"a: b\r\nc: d\r\n\r\n", size)

    def test_bounded(self) -> None:
        """Of a header without an end it keeps so much."""
        self.assertEqual(len(self.kept(b"a: b\r\n" * MOST_KEPT, 4096)), MOST_KEPT)
