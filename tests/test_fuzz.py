"""
Any lines and chunks in any order, cut anywhere, to hooks that answer at any time; and the fuzz script itself.
"""

from __future__ import annotations

import subprocess
import sys
from random import Random
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.portal import Portal
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.grammar.states import TRANSACTION, State
from smtpsvc.server.channel import CLOSED, CONTENT, WAITING
from smtpsvc.settings import KIB, Role
from smtpsvc.testing import Wire, clocked_factory, parse_replies
from tests.dialogues import KINDS, make
from tests.fuzz import check_replies
from tests.live import ROOT
from tests.logins import CountingRealm, b64, plain
from tests.support import settings_with, without_ids
from tests.test_dialogues import Moody

READ_AHEAD = 4 * KIB

LINES = (
    b"MAIL FROM:<a@x.example>", b"MAIL FROM:<> SIZE=10", b"MAIL FROM:<no@x.example>",
    b"MAIL FROM:<a@x.example> BODY=BINARYMIME",
    b"MAIL FROM:<", b"MAIL FROM:<a@x.example> PRDR", b"RCPT TO:<b@y.example>", b"RCPT TO:<b@y.example>",
    b"RCPT TO:<no@y.example>",
    b"RCPT TO:<error@y.example>", b"DATA", b"DATA x", b".", b"..", b"", b"text", b"x" * 80, b"y" * 3000,
    b"a\nb", b"a\0b", b"\r",
    b"RSET", b"NOOP", b"VRFY b", b"EXPN b", b"HELP", b"TURN", b"NONSENSE", b"STARTTLS", b"BDAT", b"BDAT 0",
    b"BDAT 0 LAST",
    b"BDAT 1 x", b"AUTH PLAIN " + plain().encode(), b"AUTH PLAIN", b"AUTH LOGIN", b64("joe").encode(), b"*",
    b"EHLO no.example",
    b"EHLO client.example", b"HELO client.example", b"LHLO client.example",
)  # fmt: skip
pieces = st.sampled_from((b"\r\n.\r\n", b"\r\n", b"\n", b"\r", b".", b"\0", b"text", b"z" * 200, b"MAIL FROM:<"))
roles = st.sampled_from(list(Role))
forms = st.lists(st.sampled_from(["plain", "fired", "coroutine", "pending"]), max_size=6)


class AnyConversation(RuleBasedStateMachine):
    """
    One client; what it sends waits until :meth:`deliver` takes some of it.

    At the end another client sends the same in one piece, to hooks that answer at once.
    """

    @initialize(role=roles, forms=forms, greeted=st.booleans())
    def begin(self, role: Role, forms: list[str], greeted: bool) -> None:
        """Connect."""
        self.role = role
        self.moody = Moody(forms)
        self.wire = self.connect(self.moody)
        self.stream = self.unsent = b""
        if greeted:
            self.say(b"LHLO client.example" if role is Role.LMTP else b"EHLO client.example")

    def connect(self, backend: Moody) -> Wire:
        """Connect to a factory of a backend."""
        portal = Portal(CountingRealm(), [InMemoryUsernamePasswordDatabaseDontUse(joe=b"open sesame")])
        settings = settings_with(
            message_size=400, add_received=False, read_ahead=READ_AHEAD, allow_insecure_auth=True,
            enable=frozenset({"PRDR"}),
        )  # fmt: skip
        return Wire(clocked_factory(backend, settings, role=self.role, portal=portal)[0])

    def send(self, octets: bytes) -> None:
        """Have octets wait to be delivered."""
        self.stream += octets
        self.unsent += octets

    @rule(line=st.sampled_from(LINES))
    def say(self, line: bytes) -> None:
        """Send a line."""
        self.send(line + b"\r\n")

    @rule(octets=pieces)
    def mutter(self, octets: bytes) -> None:
        """Send octets that are no whole line."""
        self.send(octets)

    @rule(content=st.lists(pieces, max_size=5).map(b"".join), last=st.booleans())
    def chunk(self, content: bytes, last: bool) -> None:
        """Send a chunk."""
        self.send(b"BDAT %d%b\r\n%b" % (len(content), b" LAST" if last else b"", content))

    @rule(recipients=st.integers(1, 3), chunked=st.booleans())
    def message(self, recipients: int, chunked: bool) -> None:
        """Send a whole message, pipelined."""
        self.say(LINES[0])
        for _ in range(recipients):
            self.say(b"RCPT TO:<b@y.example>")
        self.send(b"BDAT 6 LAST\r\ntext\r\n" if chunked else b"DATA\r\n..text\r\n.\r\n")

    @precondition(lambda self: self.unsent)
    @rule(size=st.integers(1, 300) | st.just(1))
    def deliver(self, size: int) -> None:
        """Let the server read a packet."""
        self.wire.receive(self.unsent[:size])
        self.unsent = self.unsent[size:]

    @precondition(lambda self: self.moody.pending)
    @rule()
    def answer(self) -> None:
        """Let a pending hook answer."""
        self.moody.fire()

    @invariant()
    def in_a_state(self) -> None:
        """The conversation is in one state, and what it has fits to it."""
        conversation = self.wire.protocol.conversation
        state = conversation.state
        assert state in list(State), state
        if conversation.mode is CLOSED:
            assert self.wire.closed
            return
        assert (conversation.envelope is not None) == bool(state & TRANSACTION), (state, conversation.envelope)
        if state is State.RCPT:
            assert conversation.envelope.recipients
        if state is State.CHUNKS and conversation.mode is not WAITING:
            assert conversation.receiver is not None
        if conversation.mode is CONTENT:
            assert conversation.receiver is not None
        if conversation.mode is WAITING:
            assert conversation.wait is not None or conversation.session is None

    @invariant()
    def well_formed(self) -> None:
        """Replies are whole, and none is held back."""
        parse_replies(self.wire.transport.value())
        assert not self.wire.protocol.out

    @invariant()
    def bounded(self) -> None:
        """What is read ahead is bounded."""
        protocol = self.wire.protocol
        assert len(protocol._buffer) + sum(map(len, protocol._gathered)) <= READ_AHEAD + 3400

    def teardown(self) -> None:
        """Deliver the rest, and compare."""
        if not hasattr(self, "moody"):
            return
        while self.unsent:
            self.deliver(100)
            self.moody.fire()
        while self.moody.fire():
            pass
        self.in_a_state()
        plain = Moody([])
        expected = self.connect(plain).receive(self.stream)
        assert without_ids(self.wire.output) == without_ids(expected.output)
        assert [h for h in self.moody.calls if h != "write"] == [h for h in plain.calls if h != "write"]
        ours, theirs = self.wire.protocol.conversation, expected.protocol.conversation
        assert (ours.state, ours.mode) == (theirs.state, theirs.mode)
        assert self.wire.closed == expected.closed


class AnyConversationTests(SynchronousTestCase):
    def test_same(self) -> None:
        """Replies, hooks and state are those of the same octets in one piece, and the state table holds always."""
        test = AnyConversation.TestCase("runTest")
        test.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
        test.runTest()
        self.flushLoggedErrors(KeyError)


class DialoguesTests(SynchronousTestCase):
    def test_cut(self) -> None:
        """The dialogues of the fuzz, octet by octet and as they are cut there, have the same replies as whole ones."""
        for seed in range(300):
            dialogue: Any = make(Random(seed), KINDS[seed % 3])
            stream = b"".join(dialogue.packets)[:3000]
            outputs = []
            for packets in ([stream], dialogue.packets, [stream[n : n + 1] for n in range(len(stream))]):
                role = {"smtp": Role.SMTP, "submission": Role.SUBMISSION, "lmtp": Role.LMTP}[KINDS[seed % 3]]
                wire = Wire(clocked_factory(Moody([]), settings_with(message_size=4000), role=role)[0])
                left = len(stream)
                for packet in packets:
                    wire.receive(packet[:left])
                    left = max(0, left - len(packet))
                outputs.append(without_ids(wire.output))
            self.flushLoggedErrors(KeyError)
            with self.subTest(seed):
                self.assertEqual(outputs, [outputs[0]] * 3)

    def test_seed(self) -> None:
        """A seed gives the same dialogue again."""
        for kind in KINDS:
            self.assertEqual(make(Random("7"), kind), make(Random("7"), kind))


class ScriptTests(SynchronousTestCase):
    def test_runs(self) -> None:
        """The script runs against a service of its own for a second, finds nothing, and says what it did."""
        done = subprocess.run(
            [sys.executable, "-m", "tests.fuzz", "--seconds", "1", "--seed", "7", "--clients", "4"],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        self.assertEqual((done.returncode, done.stderr), (0, ""), done.stdout)
        self.assertRegex(done.stdout, r"(?s)seed 7\n1 s: \d+ connections .* 0 faults\n")

    def test_replies(self) -> None:
        """What is no well-formed reply is found, and one that was cut off is not."""
        good = (b"", b"220 x\r\n", b"250-a\r\n250 b\r\n", "252 \u00fc\r\n".encode(), b"334 " + b"A" * 9000 + b"\r\n")
        for output in good:
            check_replies(output, False)
        for output in (b"220 x", b"250-a\r\n", b"2", b"250-a\r\n250"):
            self.assertRaises(ValueError, check_replies, output, False)
            check_replies(output, True)
        long = b"250 " + b"x" * 600 + b"\r\n"
        for output in (b"250-a\r\n251 b\r\n", b"99 x\r\n", b"250 a\x1b\r\n", b"250 a\nb\r\n", long, b"\r\n"):
            self.assertRaises(ValueError, check_replies, output, True)
