"""
Tests of smtpsvc.policies.policyd, policyserver and policyattributes: Postfix's policy delegation.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXClientEndpoint, serverFromString
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.protocols.basic import LineOnlyReceiver
from twisted.trial.unittest import SynchronousTestCase, TestCase

from smtpsvc.grammar.replies import Reply
from smtpsvc.policies.arguments import Arguments
from smtpsvc.policies.chain import with_policies
from smtpsvc.policies.policyattributes import attributes_of_peer
from smtpsvc.policies.policyd import Policyd, make
from smtpsvc.policies.policyserver import LONGEST, PolicyServer, read_answer, written
from smtpsvc.policies.reaching import ProgramFailed, Reach
from smtpsvc.testing import ScriptedBackend, Wire, clocked_factory
from smtpsvc.values import Peer, Quarantine, TLSInfo
from tests.filters import Program
from tests.logins import PASSWORD, wire_with
from tests.support import given, settings_with, st

MAIL = ("MAIL FROM:<a@x.example> SIZE=77", "RCPT TO:<b@y.example>")
LETTER = (*MAIL, "DATA", "Subject: x", "", "Hello", ".")


class Answers(Program):
    """A policy server in memory; answers are given in order, and the last one stays. None is silence."""

    def __init__(self, *answers: bytes | None) -> None:
        super().__init__(lambda: self._answer)
        self.answers = list(answers) or [b"action=DUNNO\n\n"]
        self.questions: list[dict[str, str]] = []
        self.octets = b""

    def _answer(self, data: bytes) -> bytes | None:
        self.octets += data
        self.questions.append(dict(line.split("=", 1) for line in data.decode().splitlines() if line))
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class Served:
    """A server with the policy, and a client that has said EHLO."""

    def __init__(self, program: Answers, *stages: str, greeted: bool = True, **settings: Any) -> None:
        self.clock = Clock()
        self.program = program
        self.backend = ScriptedBackend()
        server = PolicyServer(Reach(program, "policyd", clock=self.clock), clock=self.clock, seconds=10)
        self.policy = Policyd(server, stages or ("rcpt",), **settings)
        chain = with_policies(self.backend, self.policy, reactor=self.clock)
        self.factory, _ = clocked_factory(chain, settings_with(add_received=False))
        self.wire = Wire(self.factory)
        if greeted:
            self.wire.say("EHLO client.example")

    def say(self, *lines: str) -> Reply:
        """Say lines, and give the last reply without an id."""
        reply = self.wire.say(*lines).last_reply
        return Reply(reply.code, reply.text.partition(" (")[0], reply.enhanced)


def answering(action: str, *stages: str, **settings: Any) -> Served:
    """Serve a client with a policy server that always says the same."""
    return Served(Answers(f"action={action}\n\n".encode()), *stages, **settings)


class QuestionTests(SynchronousTestCase):
    def test_octets(self) -> None:
        """A question is lines of names and values, and an empty line."""
        served = Served(Answers())
        served.say(*MAIL)
        self.assertTrue(served.program.octets.startswith(b"request=smtpd_access_policy\nprotocol_state=RCPT\n"))
        self.assertTrue(served.program.octets.endswith(b"\n\n"))
        self.assertEqual(served.program.octets.count(b"\n\n"), 1)

    def test_attributes(self) -> None:
        """All that is known is told at RCPT."""
        served = Served(Answers(), context="here")
        served.wire.pretend_tls(TLSInfo("TLSv1.3", "AES"))
        served.wire.say("EHLO client.example")
        served.say(*MAIL)
        (told,) = served.program.questions
        for name, value in {
            "protocol_name": "ESMTP",
            "client_address": "192.0.2.1",
            "client_name": "unknown",
            "helo_name": "client.example",
            "sender": "a@x.example",
            "recipient": "b@y.example",
            "recipient_count": "0",
            "size": "77",
            "encryption_protocol": "TLSv1.3",
            "encryption_cipher": "AES",
            "policy_context": "here",
            "sasl_username": "",
        }.items():
            self.assertEqual(told[name], value, name)
        self.assertIn(told["queue_id"], told["instance"])

    def test_stages(self) -> None:
        """Each stage that is asked for is told, and no other."""
        served = Served(Answers(), "connect", "helo", "mail", "rcpt", "data", "end")
        served.say(*LETTER)
        told = [(each["protocol_state"], each["recipient_count"], each["size"]) for each in served.program.questions]
        self.assertEqual(
            told,
            [
                ("CONNECT", "0", "0"),
                ("EHLO", "0", "0"),
                ("MAIL", "0", "77"),
                ("RCPT", "0", "77"),
                ("DATA", "1", "77"),
                ("END-OF-MESSAGE", "1", "21"),
            ],
        )
        served = Served(Answers(), "data")
        served.say(*LETTER)
        self.assertEqual([each["protocol_state"] for each in served.program.questions], ["DATA"])

    def test_not_held(self) -> None:
        """Without the end of a message none is held back."""
        served = Served(Answers())
        served.wire.say(*MAIL, "DATA")
        self.assertIn("data", served.backend.hooks)

    def test_login(self) -> None:
        """Who has logged in, and how, is told."""
        program = Answers()
        server = PolicyServer(Reach(program, "policyd", clock=Clock()), clock=Clock(), seconds=10)
        wire = wire_with(backend=with_policies(ScriptedBackend(), Policyd(server)))
        wire.log_in("joe", PASSWORD).say(*MAIL)
        self.assertEqual((program.questions[0]["sasl_username"], program.questions[0]["sasl_method"]), ("joe", "PLAIN"))

    @given(st.text())
    def test_any_value(self, value: str) -> None:
        """No value is a line of its own."""
        self.assertEqual(written({"a": value}).count(b"\n"), 2)


class AnswerTests(SynchronousTestCase):
    def test_refusals(self) -> None:
        """Each action that refuses does, with its text."""
        for action, reply in {
            "REJECT": Reply(554, "Access denied", "5.7.1"),
            "reject 5.1.1 Nobody": Reply(554, "Nobody", "5.1.1"),
            "DEFER": Reply(450, "Access denied for now, try again later", "4.7.1"),
            "DEFER_IF_PERMIT Greylisted": Reply(450, "Greylisted", "4.7.1"),
            "450 4.2.1 Full": Reply(450, "Full", "4.2.1"),
            "550 4.2.1 Full": Reply(550, "4.2.1 Full", "5.7.1"),
            "521": Reply(521, "Access denied", "5.7.1"),
            "REJECT \x1b[1m\u202e": Reply(554, "\\x1b[1m\\u202e", "5.7.1"),
        }.items():
            self.assertEqual(answering(action).say(*MAIL), reply, action)

    def test_consent(self) -> None:
        """What consents lets the next decide."""
        for action in ("OK", "DUNNO", "dunno", "1234567890", "DEFER_IF_REJECT x", "", "INFO hello", "WARN"):
            self.assertEqual(answering(action).say(*MAIL).code, 250, action)

    def test_mistakes(self) -> None:
        """What cannot be done is answered as a mistake of ours, and is in the log."""
        for action in ("FILTER smtp:x", "REDIRECT a@b", "BCC a@b", "PREPEND nothing", "PREPEND a b: c", "nonsense"):
            self.assertEqual(answering(action).say(*MAIL), Reply(451, "Server configuration error", "4.3.5"), action)
        self.assertEqual(answering("HOLD", "helo").wire.last_reply.code, 451)

    def test_greeting(self) -> None:
        """A refusal of the connection stands in the place of the greeting."""
        self.assertEqual(answering("REJECT no", "connect", greeted=False).wire.codes, [554])
        self.assertEqual(answering("DEFER no", "connect", greeted=False).wire.codes, [421])

    def test_prepend(self) -> None:
        """A header field is put before the message, also at its end."""
        for stage in ("mail", "rcpt", "data", "end"):
            served = answering("PREPEND X-A: b", stage)
            self.assertEqual(served.say(*LETTER).code, 250)
            self.assertEqual(served.backend.messages[0].content, b"X-A: b\r\nSubject: x\r\n\r\nHello\r\n", stage)

    def test_discard(self) -> None:
        """A message that is discarded is answered as if it were taken."""
        for stage in ("mail", "rcpt", "data", "end"):
            served = answering("DISCARD", stage)
            self.assertEqual((served.say(*LETTER).code, served.backend.messages), (250, []), stage)

    def test_hold(self) -> None:
        """A message to be kept apart is marked."""
        served = answering("HOLD for review")
        served.say(*LETTER)
        found = served.backend.messages[0].envelope.results.get(Quarantine)
        self.assertEqual(found, Quarantine("for review"))

    def test_read(self) -> None:
        """Of several actions the last counts; without one it is no answer."""
        self.assertEqual(read_answer(b"x=1\naction=OK\naction=REJECT a=b"), "REJECT a=b")
        self.assertRaises(ProgramFailed, read_answer, b"OK")

    @given(st.binary(max_size=80))
    def test_any_answer(self, answer: bytes) -> None:
        """Whatever is answered, the client gets a reply of one kind or another."""
        served = Served(Answers(b"action=" + answer + b"\n\n"))
        self.assertIn(served.say(*MAIL).code, range(250, 600))


class ConnectionTests(SynchronousTestCase):
    def test_kept(self) -> None:
        """One connection serves many questions, and is closed after a while."""
        served = Served(Answers())
        served.say(*MAIL, "RCPT TO:<c@y.example>")
        self.assertEqual((served.program.tries, len(served.program.questions)), (1, 2))
        served.clock.advance(60)
        self.assertTrue(served.program.links[0].lost)

    def test_closed(self) -> None:
        """A kept connection that the server closes is replaced."""
        served = Served(Answers())
        served.say(*MAIL)
        served.program.links[0].end()
        self.assertEqual(served.say("RCPT TO:<c@y.example>").code, 250)
        self.assertEqual(served.program.tries, 2)

    def test_closed_late(self) -> None:
        """One that is closed on the question is too."""
        served = Served(Answers())
        served.say(*MAIL)
        link = served.program.links[0]
        link.answer = lambda data: link.end()
        self.assertEqual(served.say("RCPT TO:<c@y.example>").code, 250)

    def test_failures(self) -> None:
        """A server that is silent, babbles or talks nonsense has failed, and the verdict for that is given."""
        for answer in (None, b"x" * (LONGEST + 1), b"OK\n\n", b"action=OK\n\naction=OK\n\n", b"action=OK\n"):
            for verdict, code in ((None, 250), (Reply(451, "Later", "4.7.1"), 451)):
                with self.subTest(answer=str(answer)[:20], code=code):
                    served = Served(Answers(answer), on_failure=verdict)
                    served.wire.say(*MAIL)
                    served.clock.advance(10)
                    self.assertEqual(served.wire.last_reply.code, code)
                    self.assertTrue(served.program.links[0].lost)

    def test_down(self) -> None:
        """A server that cannot be reached is not tried again for a while."""
        program = Answers()
        program.refuse()
        served = Served(program)
        self.assertEqual(served.say(*MAIL, "RCPT TO:<c@y.example>").code, 451)
        self.assertEqual(program.tries, 1)
        program.down = None
        served.clock.advance(5)
        self.assertEqual(served.say("RCPT TO:<c@y.example>").code, 250)

    def test_gone(self) -> None:
        """A question of a client that goes closes its connection, and is no failure of the server."""
        served = Served(Answers(None))
        served.wire.say(*MAIL).hang_up()
        self.assertTrue(served.program.links[0].lost)
        self.assertEqual(served.clock.getDelayedCalls(), [])

    def test_stop(self) -> None:
        """With the service its connections are closed."""
        served = Served(Answers())
        served.say(*MAIL)
        served.policy.startService()
        served.policy.stopService()
        self.assertTrue(served.program.links[0].lost)

    def test_arguments(self) -> None:
        """What is typed is understood, and what makes no sense is a sentence."""
        made = make(Arguments("unix:/run/postgrey,at=rcpt,at=end,timeout=5s,context=x,on-failure=accept"), Clock())
        self.assertEqual(made.name, "policyd unix:/run/postgrey")
        for text, sentence in {"inet:x:1,at=never": "'never' is not one of", "": "place of the policy server"}.items():
            with self.assertRaisesRegex(ValueError, sentence):
                make(Arguments(text), Clock())

    def test_peer(self) -> None:
        """A client of a unix socket has no address."""
        self.assertEqual(attributes_of_peer("connect", Peer(None, "c1"), "")["client_address"], "")


class SocketTests(TestCase):
    async def test_unix(self) -> None:
        """A policy server on a unix socket is asked."""
        from twisted.internet import reactor

        class Server(LineOnlyReceiver):
            delimiter = b"\n"

            def lineReceived(self, line: bytes) -> None:
                if not line:
                    self.transport.write(b"action=REJECT no\n\n")

        path = self.mktemp()
        port = await serverFromString(reactor, f"unix:{path}").listen(Factory.forProtocol(Server))
        self.addCleanup(port.stopListening)
        reach = Reach(UNIXClientEndpoint(reactor, path), "policyd", clock=reactor)
        server = PolicyServer(reach, clock=reactor, seconds=30)
        self.assertEqual(await server.ask({"request": "x"}), "REJECT no")
        done: Deferred[None] = Deferred()
        server.stop()
        reactor.callLater(0, done.callback, None)
        await done
