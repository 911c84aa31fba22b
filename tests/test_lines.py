"""
Tests of smtpsvc.server.lines: command lines that came before are known, and mean the same.
"""

from __future__ import annotations

from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.grammar.replies import Reply
from smtpsvc.server.channel import GONE
from smtpsvc.testing import ScriptedBackend, Wire, clocked_factory

MAIL = b"MAIL FROM:<a@x.example>\r\n"
RCPT = b"RCPT TO:<b@y.example>\r\n"


class KnownLineTests(SynchronousTestCase):
    """A line is understood once, and done each time."""

    def setUp(self) -> None:
        self.backend = ScriptedBackend()
        self.factory, _ = clocked_factory(self.backend)
        self.known = self.factory.tables.commands

    def test_kept(self) -> None:
        """The lines of a message are kept with their CRLF; a lone NOOP, and what was refused, are not."""
        lines = "EHLO c.example", "MAIL FROM:<a@x.example>", "RCPT TO:<b@y.example>", "NOOP", "BAD", "RSET"
        Wire(self.factory).say(*lines)
        self.assertEqual(set(self.known), {b"EHLO c.example\r\n", MAIL, RCPT, b"RSET\r\n"})

    def test_parameters(self) -> None:
        """A line with a parameter is not kept: each has values of its own."""
        Wire(self.factory).greeted().say("MAIL FROM:<a@x.example> SIZE=10", "RCPT TO:<b@y.example> NOTIFY=NEVER")
        self.assertFalse([line for line in self.known if line.startswith((b"MAIL", b"RCPT"))])

    def test_bounded(self) -> None:
        """However many lines come, and however long, what is kept stays small."""
        wire = Wire(self.factory).greeted().say("MAIL FROM:<a@x.example>")
        for number in range(1500):
            wire.say(f"RCPT TO:<b{number}@y.example>")
        wire.say(f"RCPT TO:<{'b' * 64}@{'y.' * 120}example>" + " " * 60)
        self.assertLessEqual(len(self.known), 1024)
        self.assertLess(max(map(len, self.known)), 350)

    def test_chunks(self) -> None:
        """BDAT is known too, but however many sizes come, the lines that were known before stay."""
        wire = Wire(self.factory).greeted()
        for number in range(1500):
            wire.receive(MAIL + RCPT + b"BDAT %d LAST\r\n" % number + b"x" * number)
        self.assertEqual(set(wire.codes), {250})
        self.assertIn(b"BDAT 7 LAST\r\n", self.known)
        self.assertLessEqual(len(self.known), 512)
        self.assertTrue({MAIL, RCPT} <= set(self.known))

    def test_known_chunks(self) -> None:
        """A BDAT that is known takes its octets, alone or with what is around it, also where it is refused."""
        for _ in range(3):
            wire = Wire(self.factory).greeted()
            wire.receive(b"BDAT 6\r\n").receive(b"QUIT\r\n")
            wire.receive(MAIL + RCPT).receive(b"BDAT 6\r\n").receive(b"QUIT\r\n").receive(b"BDAT 0 LAST\r\n")
            wire.receive(MAIL + b"BDAT 6\r\nQUIT\r\n" + RCPT + b"BDAT 6\r\nQUIT\r\nBDAT 6 LAST\r\nQUIT\r\nNOOP\r\n")
            self.assertEqual(wire.codes, [503, 250, 250, 250, 250, 250, 503, 503, 503, 503, 250])

    def test_same(self) -> None:
        """A known line has the replies, and the refusals, that it had the first time: alone and in a group."""
        for _ in range(3):
            wire = Wire(self.factory).greeted()
            wire.receive(RCPT).receive(MAIL).receive(MAIL).receive(RCPT).receive(b"RSET\r\n")
            wire.receive(RCPT + MAIL + MAIL + RCPT + b"RSET\r\nQUIT\r\nNOOP\r\n")
            self.assertEqual(wire.codes, [503, 250, 503, 250, 250, 503, 250, 503, 250, 250, 221])
            self.assertTrue(wire.transport.disconnecting)

    def test_hooks(self) -> None:
        """Each has its hook called anew, whose answer counts."""
        backend = ScriptedBackend(rcpt=[None, Reply(550, "No", "5.1.1"), None])
        wire = Wire(clocked_factory(backend)[0]).greeted().say("MAIL FROM:<a@x.example>")
        wire.receive(RCPT).receive(RCPT + RCPT)
        self.assertEqual(wire.codes, [250, 250, 550, 250])

    def test_split(self) -> None:
        """A known line in two reads is one line, and what follows it in the same read is not lost."""
        wire = Wire(self.factory).greeted().receive(MAIL + b"RSET\r\n").forget()
        for cut in range(1, len(MAIL)):
            with self.subTest(cut):
                wire.receive(MAIL[:cut]).receive(MAIL[cut:]).receive(b"RSET\r\nNO").receive(b"OP\r\n")
                self.assertEqual(wire.codes, [250, 250, 250])
                wire.forget()

    def test_let_go(self) -> None:
        """A conversation whose connection is lost has no protocol any more."""
        wire = Wire(self.factory).greeted()
        conversation = wire.protocol.conversation
        wire.protocol.connectionLost(Failure(ConnectionLost()))
        self.assertIs(conversation.channel, GONE)
        conversation.channel.wake()
        self.assertEqual((conversation.channel.out, conversation.channel.unread), ([], False))
