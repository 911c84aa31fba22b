"""Tests of the chaos backend: what its clients meet, and what is kept all the same."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from typing import Any

from twisted.application.service import IService
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import Invalid
from zope.interface.verify import verifyObject

from smtpsvc.backends.chaos import with_chaos
from smtpsvc.backends.maildir import MaildirBackend
from smtpsvc.backends.null import NullBackend
from smtpsvc.chaos import make
from smtpsvc.grammar.addresses import Address
from smtpsvc.grammar.replies import PermanentError, Reply
from smtpsvc.interfaces import IBackend, IDelivery, ISession, IVerifier
from smtpsvc.plugins import backend_help, find_backend
from smtpsvc.server.factory import SMTPFactory
from smtpsvc.settings import Role
from smtpsvc.testing import RecordingBackend, ScriptedBackend, ThreadedServer, Wire
from smtpsvc.values import Envelope, Peer
from tests.live import ROOT, Server
from tests.logins import logged
from tests.support import given, st, uncounted

#: The codes before each step of a dialogue.
BEFORE = {
    "connect": [],
    "helo": [220],
    "mail": [220, 250],
    "rcpt": [220, 250, 250],
    "data": [220, 250, 250, 250],
    "content": [220, 250, 250, 250, 354],
    "end": [220, 250, 250, 250, 354],
}
WHOLE = [220, 250, 250, 250, 354, 250]

RULES = st.sampled_from(
    [
        *("connect:554:10%", "connect:delay:1s:20%", "helo:451:10%", "helo:drop:5%", "mail:452:20%", "mail:drop:5%"),
        *("rcpt:451:20%", "rcpt:delay:1s:20%", "rcpt:stall:5%", "data:451:10%", "data:drop:5%", "content:drop:10%"),
        *("content:cut:9:20%", "content:452:10%", "content:stall:10%", "content:delay:1s:20%", "end:451:20%"),
        *("end:552:10%", "end:drop:20%", "end:stall:20%", "end:delay:2s:30%", "end:unsaid:30%", "each:450:40%"),
        *("each:delay:1s:30%", "end:451:/2", "end:unsaid:/3", "end:451:@1"),
    ]
)


class Slow(RecordingBackend):
    """Keeps messages after a while."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    def open_session(self, peer: Peer, connection: Any) -> Any:
        """Open a session later."""
        opened: Deferred[Any] = Deferred()
        self.clock.callLater(0.1, opened.callback, super().open_session(peer, connection))
        return opened


def serve(rules: str, backend: Any = None, role: Role = Role.SMTP, clock: Clock | None = None) -> tuple[Any, Clock]:
    """Make a factory with chaos in front of a backend."""
    clock = clock or Clock()
    chaotic = with_chaos(backend or RecordingBackend(), rules if "seed" in rules else f"{rules},seed=1", clock=clock)
    settings = uncounted(hook_timeout=30, add_received=False, enable={"PRDR"})
    return SMTPFactory(chaotic, settings, role=role, clock=clock, wall_clock=clock.seconds), clock


def talk(factory: Any, *recipients: str, content: bytes = b"one\r\ntwo\r\n", params: str = "") -> Wire:
    """Send a message in one dialogue, its content in pieces."""
    wire = Wire(factory)
    hello = "LHLO" if factory.role is Role.LMTP else "EHLO"
    wire.say(f"{hello} c.example", f"MAIL FROM:<a@x.example>{params}")
    wire.say(*(f"RCPT TO:<{name}@y.example>" for name in recipients or ("b",)), "DATA")
    for line in content.splitlines(keepends=True):
        wire.receive(line)
    return wire.receive(b".\r\n")


class HookTests(SynchronousTestCase):
    def test_code(self) -> None:
        """A code refuses, at every step, and nothing is kept."""
        for step, before in BEFORE.items():
            with self.subTest(step=step):
                backend = ScriptedBackend()
                wire = talk(serve(f"{step}:451", backend)[0])
                self.assertEqual(wire.codes[: len(before) + 1], [*before, 451])
                begun = [False] * (step in ("content", "end"))
                self.assertEqual([message.finished for message in backend.messages], begun)
                self.assertTrue(all(message.aborted for message in backend.messages))
        self.assertEqual(wire.last_reply, Reply(451, "Chaos", "4.0.0"))

    def test_drop(self) -> None:
        """A connection is dropped behind what was said, at every step, and nothing is kept."""
        for step, before in BEFORE.items():
            with self.subTest(step=step):
                backend = ScriptedBackend()
                wire = talk(serve(f"{step}:drop", backend)[0])
                self.assertEqual((wire.codes, wire.closed), (before, True))
                self.assertFalse(any(message.finished for message in backend.messages))
                self.assertTrue(all(message.aborted for message in backend.messages))
                self.assertEqual(backend.hooks.count("close"), 0 if step == "connect" else 1)

    def test_stall(self) -> None:
        """One that is stalled hears nothing more; at the deadline of hooks it is dropped, and nothing is kept."""
        for step, before in BEFORE.items():
            with self.subTest(step=step):
                backend = ScriptedBackend()
                factory, clock = serve(f"{step}:stall", backend)
                wire = talk(factory)
                self.assertEqual((wire.codes, wire.closed), (before, False))
                clock.pump([1] * 40)
                self.assertEqual((wire.receive(b"").codes, wire.closed), (before, True))
                self.assertTrue(all(message.aborted for message in backend.messages))

    def test_delay(self) -> None:
        """What is delayed goes on as without, later."""
        for step, before in BEFORE.items():
            with self.subTest(step=step):
                backend = RecordingBackend()
                factory, clock = serve(f"{step}:delay:2s", backend)
                wire = talk(factory)
                clock.advance(1.9)
                self.assertEqual(wire.codes, before)
                clock.advance(0.2)
                self.assertEqual(wire.codes, WHOLE)
                self.assertEqual(backend.messages[0].content, b"one\r\ntwo\r\n")

    def test_gone_meanwhile(self) -> None:
        """A message whose client leaves while its end is delayed is not kept."""
        backend = ScriptedBackend()
        factory, clock = serve("end:delay:2s", backend)
        talk(factory).hang_up()
        clock.advance(3)
        self.assertEqual([(one.finished, one.aborted is not None) for one in backend.messages], [(False, True)])

    def test_in_order(self) -> None:
        """Several rules at one step strike in their order."""
        factory, clock = serve("mail:delay:1s,mail:delay:1s,mail:451:@2,mail:452")
        wire = talk(factory)
        clock.pump([1, 0.9])
        self.assertEqual(wire.codes, [220, 250])
        clock.advance(0.2)
        self.assertEqual(wire.codes[2], 452)

    def test_cut(self) -> None:
        """A message is cut when more octets than that have come; a shorter one is not."""
        for size, codes in ((9, BEFORE["end"]), (10, WHOLE)):
            wire = talk(serve(f"content:cut:{size}")[0])
            self.assertEqual((wire.codes, wire.closed), (codes, size == 9))

    def test_backend_answers(self) -> None:
        """Where nothing strikes, and behind a delay, the answers are the backend's own, late ones too."""
        for rules in ("rcpt:451:@9", "helo:451:@9", "rcpt:delay:1s", "end:delay:1s"):
            with self.subTest(rules=rules):
                refusal = PermanentError("Own words", "5.1.1")
                backend = ScriptedBackend(rcpt=[refusal], finish=[succeed(Reply(552, "Full", "5.2.2"))])
                factory, clock = serve(rules, backend)
                wire = talk(factory, "b", "c")
                clock.pump([1] * 3)
                self.assertEqual(wire.replies[3], refusal.reply)
                self.assertEqual(wire.last_reply, Reply(552, "Full", "5.2.2"))

    def test_interfaces(self) -> None:
        """A session's optional interfaces, and the backend's attributes, are there as without chaos."""
        backend = ScriptedBackend(provides=[IVerifier], verify=[["b@y.example"]])
        chaotic: Any = with_chaos(backend, "mail:451", clock=Clock())
        self.assertTrue(verifyObject(IBackend, chaotic))
        self.assertIs(chaotic.answers, backend.answers)
        wire = Wire(SMTPFactory(chaotic, uncounted(), clock=Clock())).greeted().say("VRFY b")
        self.assertEqual(wire.last_reply.text, "b@y.example")
        session = chaotic.open_session(Peer(None, "c1"), None)
        self.assertTrue(verifyObject(ISession, session))
        envelope = Envelope("t1", Peer(None, "c1"), Address("a", "x.example"))
        self.assertTrue(verifyObject(IDelivery, session.data(envelope)))
        self.assertIn("chaos in front of", repr(chaotic))

    def test_costs_nothing(self) -> None:
        """A hook that no rule is for is the backend's own."""
        backend = ScriptedBackend()
        chaotic: Any = with_chaos(backend, "mail:451", clock=Clock())
        session = chaotic.open_session(Peer(None, "c1"), None)
        self.assertEqual((session.rcpt, session.helo), (backend.sessions[0].rcpt, backend.sessions[0].helo))


class EndTests(SynchronousTestCase):
    def test_unsaid(self) -> None:
        """A message is kept, and its client does not hear so."""
        for clock in (None, Clock()):
            backend = RecordingBackend() if clock is None else Slow(clock)
            factory, clock = serve("end:unsaid", backend, clock=clock)
            wire = Wire(factory)
            clock.advance(1)
            wire.say("EHLO c.example", "MAIL FROM:<>", "RCPT TO:<b@y.example>", "DATA", ".")
            self.assertEqual((wire.codes, wire.closed, len(backend.messages)), (BEFORE["end"], True, 1))

    def test_lie(self) -> None:
        """Only the action that is called so says 250 for what is not kept."""
        backend = ScriptedBackend()
        self.assertEqual(talk(serve("end:lie", backend)[0]).codes, WHOLE)
        self.assertEqual([one.finished for one in backend.messages], [False])
        self.assertIsNotNone(backend.messages[0].aborted)

    def test_each(self) -> None:
        """Over LMTP recipients are struck one by one, and the backend keeps the message for the others."""
        backend = RecordingBackend()
        factory, _ = serve("each:452:@2", backend, Role.LMTP)
        self.assertEqual(talk(factory, "a", "b", "c").codes[-3:], [250, 452, 250])
        self.assertEqual(backend.messages[0].recipients, ("a@y.example", "c@y.example"))
        self.assertEqual(talk(factory, "b").codes[-1], 250)

    def test_each_of_all(self) -> None:
        """Where all are struck the backend does not hear of it."""
        backend = ScriptedBackend()
        factory, _ = serve("each:452", backend, Role.LMTP)
        self.assertEqual(talk(factory, "a", "b").codes[-2:], [452, 452])
        self.assertEqual(backend.messages, [])

    def test_each_own_answers(self) -> None:
        """The others have the backend's answers, in their places; a delay is for one alone."""
        backend = ScriptedBackend(finish=lambda: [Reply(550, "No", "5.1.1"), None])
        factory, clock = serve("each:452:@2,each:delay:1s:@3", backend, Role.LMTP)
        wire = talk(factory, "a", "b", "c")
        self.assertEqual(wire.codes[-2:], [550, 452])
        clock.advance(1)
        self.assertEqual(wire.codes[-3:], [550, 452, 250])

    def test_each_over_smtp(self) -> None:
        """Where one reply stands for all, nobody is struck; where a client asked for PRDR, some may be."""
        self.assertEqual(talk(serve("each:452")[0], "a", "b").codes[-1], 250)
        factory, _ = serve("each:452:@2")
        self.assertEqual(talk(factory, "a", "b", params=" PRDR").codes[-4:], [353, 250, 452, 250])

    def test_unsaid_to_each(self) -> None:
        """Nobody of several hears of what is kept."""
        backend = ScriptedBackend(finish=lambda: [succeed(None), None])
        wire = talk(serve("end:unsaid", backend, Role.LMTP)[0], "a", "b")
        self.assertEqual((wire.codes, wire.closed), ([220, 250, 250, 250, 250, 354], True))
        self.assertTrue(backend.messages[0].finished)


class PromiseTests(SynchronousTestCase):
    @given(st.lists(RULES, min_size=1, max_size=6, unique=True), st.integers(0, 10**6), st.sampled_from(Role))
    def test_kept_once(self, rules: list[str], seed: int, role: Role) -> None:
        """Whatever goes wrong, what was answered 250 is kept once, and what was refused is not."""
        if role is Role.SUBMISSION:
            role = Role.SMTP
        clock = Clock()
        backend = Slow(clock) if seed % 2 else RecordingBackend()
        factory, clock = serve(",".join([*rules, f"seed={seed}"]), backend, role, clock)
        answers: dict[str, int] = {}
        for number in range(12):
            wire = Wire(factory)
            clock.pump([0.3] * 5)
            wire.say(f"{'LHLO' if role is Role.LMTP else 'EHLO'} c.example")
            lines = ["MAIL FROM:<a@x.example>", f"RCPT TO:<{number}a@y>", f"RCPT TO:<{number}b@y>", "DATA"]
            for line in [*lines, "some words", "."]:
                if wire.closed or (line == "some words" and wire.last_reply.code != 354):
                    break
                before = len(wire.codes)
                wire.say(line)
                clock.pump([0.6] * 6)
                if line.startswith("RCPT") and wire.codes[before:] == [250]:
                    answers[line[9:-3]] = 0
                if line == ".":
                    taken = [name for name in answers if name[:-1] == str(number)]
                    codes = wire.codes[before:] if role is Role.LMTP else wire.codes[before:] * len(taken)
                    answers.update(zip(taken, codes, strict=False))
            wire.hang_up()
        kept = Counter(each.partition("@")[0] for message in backend.messages for each in message.recipients)
        for name, code in answers.items():
            shown = f"{name} was answered {code} by {rules}, seed {seed}, {role}"
            if code == 250:
                self.assertEqual(kept[name], 1, shown)
            elif code:
                self.assertEqual(kept[name], 0, shown)
            else:
                self.assertLessEqual(kept[name], 1, shown)

    def test_seed(self) -> None:
        """With the same seed the same connections meet the same, whatever others do; with another seed others."""
        found = []
        for seed, order in ((5, range(20)), (5, reversed(range(20))), (6, range(20))):
            factory, _ = serve(f"rcpt:451:50%,seed={seed}")
            wires = [Wire(factory).greeted().say("MAIL FROM:<>") for _ in range(20)]
            for number in order:
                wires[number].say("RCPT TO:<b@y.example>")
            found.append([wire.last_reply.code for wire in wires])
        self.assertEqual(found[0], found[1])
        self.assertNotEqual(found[0], found[2])


class CommandLineTests(SynchronousTestCase):
    def test_make(self) -> None:
        """The backend behind is the rest of the words, a Maildir without, and where mail goes tells all of it."""
        for words, behind in (("", MaildirBackend), (",to=null:", NullBackend), (",to=maildir:a,b", MaildirBackend)):
            backend: Any = make(f"rcpt:451:10%,seed=7{words}", None)
            self.assertIsInstance(backend._behind, behind)
            self.assertTrue(backend.destination.endswith(", if chaos lets it (rcpt:451:10%,seed=7)"))
        self.assertIn("a,b", backend.destination)
        self.assertTrue(IService.providedBy(backend))
        twice: Any = find_backend("chaos:rcpt:451,seed=1,to=chaos:mail:451,seed=2,to=null:", None)
        self.assertEqual((str(twice.chaos), str(twice._behind.chaos)), ("rcpt:451,seed=1", "mail:451,seed=2"))

    def test_mistakes(self) -> None:
        """A mistake names the backend and what is wrong, of the backend behind too."""
        for words, sentence in (
            ("chaos:", "chaos: nothing is to go wrong; write such as rcpt:451:10%"),
            ("chaos:rcpt:451,to=", "chaos: to= needs a backend, such as to=null:"),
            ("chaos:rcpt:451,to=nil:", "chaos: there is no backend 'nil'"),
            ("chaos:to=null:", "chaos: nothing is to go wrong"),
        ):
            with self.subTest(words=words):
                error = self.assertRaises(ValueError, find_backend, words, None)
                self.assertTrue(str(error).startswith(sentence), str(error))
        self.assertRaises(Invalid, with_chaos, object(), "rcpt:451", clock=Clock())

    def test_help(self) -> None:
        """Its help has every step and action."""
        text = backend_help("chaos")
        for word in ("connect", "each", "delay:2s", "content:cut:10K", "end:unsaid", "end:lie", "seed=", "to=", "/3"):
            self.assertIn(word, text)

    def test_logged(self) -> None:
        """What strikes is in the log, with the client's id."""
        self.assertIn("'rule': 'mail:451'", logged(lambda: talk(serve("mail:451")[0])))

    def test_live(self) -> None:
        """It runs from the command line, tells its seed at the start, and a client meets it."""
        server = Server("--backend", "chaos:rcpt:451:@1,mail:delay:10ms,to=null:")
        self.addCleanup(server.close)
        self.assertRegex(server.log.read_text(), r"dropped, if chaos lets it \(rcpt:451:@1,mail:delay:10ms,seed=\d+\)")
        code = (
            "import smtplib\n"
            f"client = smtplib.SMTP('127.0.0.1', {server.port})\n"
            "print(list(client.sendmail('a@x.example', ['b@y.example', 'c@y.example'], 'x')))\n"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=60, check=True)
        self.assertEqual(done.stdout, b"['b@y.example']\n")

    def test_threaded(self) -> None:
        """In code it stands in front of any backend, for a test's own client."""
        with ThreadedServer(with_chaos(RecordingBackend(), "end:451:@1,mail:delay:10ms")) as server:
            with server.connect() as client:
                for _ in range(2):
                    client.mail("a@x.example")
                    client.rcpt("b@y.example")
                    code, _ = client.data("x")
            self.assertEqual((code, len(server.messages)), (250, 1))
