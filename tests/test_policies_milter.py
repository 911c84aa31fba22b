"""
Tests of smtpsvc.policies.milter and milters: what filters are told, octet by octet, and what becomes of their answers.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.grammar.replies import Reply
from smtpsvc.policies.arguments import Arguments
from smtpsvc.policies.chain import Policy, with_policies
from smtpsvc.policies.milter import make, milter
from smtpsvc.policies.milters.dialogue import read_reply
from smtpsvc.policies.milters.wire import LONGEST
from smtpsvc.policies.modified import modified
from smtpsvc.policies.reaching import ProgramFailed
from smtpsvc.testing import ScriptedBackend, Wire, clocked_factory
from smtpsvc.values import Quarantine, TLSInfo
from tests.filters import Filter, frame, offer
from tests.logins import PASSWORD, wire_with
from tests.support import given, settings_with, st

MAIL = ("MAIL FROM:<a@x.example>", "RCPT TO:<b@y.example>")
LETTER = (*MAIL, "DATA", "Subject: x", "X-Long: 1", " 2", "", "Hello", ".")
CONTENT = b"Subject: x\r\nX-Long: 1\r\n 2\r\n\r\nHello\r\n"


class Served:
    """A server with a policy that asks a filter in memory, and a client of it."""

    def __init__(
        self, filter: Filter, *others: Policy, address: Any = None, received: bool = False, **settings: Any
    ) -> None:
        self.filter = filter
        self.backend = ScriptedBackend(**settings.pop("answers", {}))
        self.clock = Clock()
        self.policy = milter(filter, self.clock, hostname="mx.example", **settings)
        chain = with_policies(self.backend, self.policy, *others, reactor=self.clock)
        self.factory, self.server_clock = clocked_factory(chain, settings_with(add_received=received))
        self.wire = Wire(self.factory, address)

    def say(self, *lines: str) -> Reply:
        """Say lines, and give the last reply, without an id."""
        reply = self.wire.say(*lines).last_reply
        return Reply(reply.code, reply.text.partition(" (")[0], reply.enhanced)

    @property
    def content(self) -> bytes:
        """What the backend has got."""
        return bytes(self.backend.messages[-1].content)


def serve(answers: dict[str, list[Any]] | None = None, options: bytes | None = None, **settings: Any) -> Served:
    """Serve a client that has said EHLO."""
    served = Served(Filter(answers, offer() if options is None else options), **settings)
    served.wire.say("EHLO client.example")
    return served


class DialogueTests(SynchronousTestCase):
    def test_whole(self) -> None:
        """A filter is told of all stages in order, octet by octet, and of the end of the client."""
        served = serve()
        self.assertEqual(served.say(*LETTER).code, 250)
        served.wire.hang_up()
        self.assertEqual(
            served.filter.heard,
            [
                b"O\0\0\0\x06\0\0\x01\xff\0\x1f\xf7\xff",
                b"C[192.0.2.1]\x004\xc3P192.0.2.1\0",
                b"Hclient.example\0",
                b"M<a@x.example>\0",
                b"R<b@y.example>\0",
                b"T",
                b"LSubject\0 x\0".replace(b" ", b""),
                b"LX-Long\x001\n 2\0",
                b"N",
                b"BHello\r\n",
                b"E",
                b"Q",
            ],
        )
        self.assertEqual(served.content, CONTENT)

    def test_macros(self) -> None:
        """Each stage has its macros before it."""
        served = serve()
        served.wire.pretend_tls(TLSInfo("TLSv1.3", "AES"))
        served.wire.say("EHLO client.example")
        served.say(*LETTER)
        told = {each[1:2]: each[2:].split(b"\0") for each in served.filter.macros}
        id = served.backend.messages[0].envelope.id.encode()
        names = [b"j", b"mx.example", b"{daemon_name}", b"smtpsvc", b"{client_addr}", b"192.0.2.1"]
        self.assertEqual(told[b"C"][:6], names)
        self.assertEqual(told[b"H"], [b"{tls_version}", b"TLSv1.3", b"{cipher}", b"AES", b""])
        self.assertEqual(told[b"M"][:4], [b"i", id, b"{mail_addr}", b"a@x.example"])
        self.assertEqual(told[b"R"][:4], [b"i", id, b"{rcpt_addr}", b"b@y.example"])
        self.assertEqual(told[b"E"], [b"i", id, b""])

    def test_wanted_macros(self) -> None:
        """A filter that says which macros it wants gets those, whatever the stage."""
        served = serve(options=offer(macros=b"\0\0\0\x02{client_addr} x\0"))
        served.say(*LETTER)
        self.assertIn(b"DM{client_addr}\x00192.0.2.1\0", served.filter.macros)

    def test_login(self) -> None:
        """Who has logged in, and how, is told with the sender."""
        filter = Filter()
        wire = wire_with(backend=with_policies(ScriptedBackend(), milter(filter, Clock()), reactor=Clock()))
        wire.log_in("joe", PASSWORD).say(*MAIL)
        (told,) = [each for each in filter.macros if each[1:2] == b"M"]
        self.assertIn(b"{auth_type}\0PLAIN\0{auth_authen}\0joe\0", told)

    def test_ipv6(self) -> None:
        """A client of IPv6 is told as one."""
        served = Served(Filter(), address=IPv6Address("TCP", "2001:db8::1", 25))
        self.assertEqual(served.filter.heard[1], b"C[2001:db8::1]\x006\0\x192001:db8::1\0")

    def test_unwanted(self) -> None:
        """What a filter does not want to be told it is not told."""
        served = serve(options=offer(options=0x1 | 0x2 | 0x10 | 0x20 | 0x200))
        self.assertEqual(served.say(*LETTER).code, 250)
        self.assertEqual(served.filter.letters, "OMRNE")

    def test_unanswered(self) -> None:
        """What a filter does not want to answer is not waited for."""
        options = offer(options=0x1000 | 0x2000 | 0x4000 | 0x8000 | 0x10000 | 0x40000 | 0x80000 | 0x80)
        served = serve({each: [None] for each in "CHMRTLNB"}, options)
        self.assertEqual(served.say(*LETTER).code, 250)
        self.assertEqual(served.filter.letters, "OCHMRTLLNBE")

    def test_leading_space(self) -> None:
        """A filter that wants the blank behind a colon gets it, and brings its own."""
        served = serve({"E": [[b"hX-A\0  1\0", b"c"]]}, offer(options=0x100000))
        served.say(*LETTER)
        self.assertIn(b"LSubject\0 x\0", served.filter.heard)
        self.assertTrue(served.content.startswith(CONTENT.partition(b"\r\n\r\n")[0] + b"\r\nX-A:  1\r\n\r\n"))

    def test_skip(self) -> None:
        """A filter that has seen enough of a body gets no more of it."""
        served = serve({"B": [b"s"]}, offer(options=0x400))
        served.wire.say(*MAIL, "DATA", "", *["x" * 900] * 200, ".")
        self.assertEqual((served.wire.last_reply.code, served.filter.letters.count("B")), (250, 1))

    def test_chunks(self) -> None:
        """A body comes in pieces of 65535 octets at most, and is whole."""
        served = serve()
        served.wire.say(*MAIL, "DATA", "", *["x" * 900] * 200, ".")
        pieces = [each[1:] for each in served.filter.heard if each[:1] == b"B"]
        self.assertEqual([len(each) for each in pieces], [65535, 65535, 49330])
        self.assertEqual(b"".join(pieces), b"x" * 900 + (b"\r\n" + b"x" * 900) * 199 + b"\r\n")

    def test_long_field(self) -> None:
        """Of a field that libmilter could not read the beginning is told; the message stays whole."""
        served = serve()
        lines = [" " + "x" * 900] * 100
        served.wire.say(*MAIL, "DATA", "Subject: x", *lines, "", ".")
        self.assertEqual(max(map(len, served.filter.heard)), 60_000 + len(b"LSubject\0\0"))
        self.assertEqual(len(served.content), len("\r\n".join(["Subject: x", *lines])) + 4)

    def test_many_fields(self) -> None:
        """Between many fields that a filter does not answer others have their turn."""
        served = serve({"L": [None]}, offer(options=0x80))
        served.wire.say(*MAIL, "DATA", *["a:"] * 1200, "", ".")
        self.assertEqual(served.filter.letters.count("L"), 500)
        served.clock.pump([0, 0, 0])
        self.assertEqual((served.filter.letters.count("L"), served.wire.last_reply.code), (1200, 250))

    def test_own_received(self) -> None:
        """A filter does not see the Received field of this server, whose place counts all the same."""
        served = serve({"E": [[b"i\0\0\0\x01X-A\x001\0", b"c"]]}, received=True)
        served.say(*LETTER)
        self.assertEqual([each for each in served.filter.heard if each.startswith(b"LReceived")], [])
        self.assertRegex(served.content, rb"(?s)^Received: .*\r\nX-A: 1\r\nSubject: x\r\n")

    def test_transactions(self) -> None:
        """One connection serves all messages of a client; one that is broken off is aborted."""
        served = serve()
        served.wire.say(*LETTER, *MAIL, "RSET", *LETTER)
        self.assertEqual(served.filter.letters, "OCHMRTLLNBE" + "MRA" + "MRTLLNBE")

    def test_refused_recipients(self) -> None:
        """A filter that was told of recipients whom others refuse hears the transaction anew without them."""
        served = Served(Filter(), answers={"rcpt": [None, Reply(550, "No", "5.1.1")]})
        served.wire.say("EHLO client.example", *MAIL, "RCPT TO:<c@y.example>", *LETTER[2:])
        self.assertEqual(served.filter.letters, "OCHMRRAMRTLLNBE")
        self.assertEqual(served.wire.codes[-4:], [250, 550, 354, 250])

    def test_octets(self) -> None:
        """Names and addresses beyond ASCII reach the filter in UTF-8, and those that are odd as they are."""
        served = serve()
        served.wire.say("EHLO a..b_" + "c" * 70, "MAIL FROM:<ü@x.example> SMTPUTF8 SIZE=7")
        self.assertIn(b"Ha..b_" + b"c" * 70 + b"\0", served.filter.heard)
        self.assertEqual(served.filter.heard[-1], "M<ü@x.example>\0SMTPUTF8\0SIZE=7\0".encode())


class VerdictTests(SynchronousTestCase):
    def test_table(self) -> None:
        """Each answer is a refusal, or none, at each stage."""
        own = b"y451 4.7.9 Later%% \x1b[1m\0"
        cases: list[tuple[str, bytes, int, str]] = [
            ("C", b"r", 554, ""),
            ("C", b"t", 421, ""),
            ("H", b"r", 550, ""),
            ("M", b"r", 550, "5.7.1"),
            ("M", b"t", 451, "4.7.1"),
            ("M", own, 451, "4.7.9"),
            ("R", own, 451, "4.7.9"),
            ("T", b"r", 550, "5.7.1"),
            ("L", b"t", 451, "4.7.1"),
            ("N", own, 451, "4.7.9"),
            ("B", b"r", 550, "5.7.1"),
            ("E", own, 451, "4.7.9"),
            ("M", b"4", 421, "4.7.0"),
            ("R", b"a", 250, "2.0.0"),
        ]
        for letter, answer, code, enhanced in cases:
            with self.subTest(letter=letter, answer=answer):
                served = Served(Filter({letter: [answer]}))
                for line in ("EHLO client.example", *MAIL, "DATA", "\r\n".join(LETTER[3:])):
                    if served.wire.last_reply.code < 400:
                        served.wire.say(line)
                reply = served.wire.last_reply
                self.assertEqual((reply.code, reply.enhanced), (code, enhanced))
                self.assertEqual(len(served.backend.messages), int(code == 250))
                if answer == own:
                    self.assertIn("Later% \\x1b[1m", reply.text)

    def test_recipient(self) -> None:
        """Of two recipients one may be refused."""
        served = serve({"R": [b"r", b"c"]})
        served.wire.say(*MAIL, "RCPT TO:<c@y.example>", *LETTER[2:])
        self.assertEqual(served.wire.codes[-4:], [550, 250, 354, 250])

    def test_client(self) -> None:
        """What is said of the client holds for all that it does: it is not told of more, or refused all."""
        served = serve({"H": [b"a"]})
        served.wire.say(*LETTER)
        self.assertEqual((served.wire.last_reply.code, served.filter.letters), (250, "OCH"))
        served = serve({"H": [b"t"]})
        self.assertEqual(served.say("EHLO other.example").code, 451)

    def test_discard(self) -> None:
        """A message that is discarded at any stage is answered as if it were taken."""
        for letter in "MRTLNBE":
            served = serve({letter: [b"d"]})
            self.assertEqual((served.say(*LETTER).code, served.backend.messages), (250, []), letter)

    def test_reply(self) -> None:
        """Several lines make one reply; what is no refusal is none."""
        self.assertEqual(read_reply(b"550-5.1.0 a\r\n550 5.1.0 b\0"), Reply(550, "a\nb", "5.1.0"))
        self.assertEqual(read_reply(b"450"), Reply(450, "A filter of this server has refused it", "4.7.1"))
        self.assertEqual(read_reply(b"550 4.1.0 a"), Reply(550, "a", "5.7.1"))
        for wrong in (b"", b"250 OK", b"hello", b"550 a\r\nQUIT"):
            self.assertRaises(ProgramFailed, read_reply, wrong)

    @given(st.binary(max_size=60))
    def test_any_reply(self, content: bytes) -> None:
        """Whatever is said makes a refusal in printable words, or none at all."""
        try:
            reply = read_reply(b"5" + content)
        except ProgramFailed:
            return
        self.assertTrue(400 <= reply.code < 600 and reply.text.replace("\n", "").isprintable())


class EditTests(SynchronousTestCase):
    def change(self, *edits: bytes) -> Served:
        """Have a filter change the message."""
        served = serve({"E": [[*edits, b"c"]]})
        self.assertEqual(served.say(*LETTER).code, 250)
        return served

    def test_header(self) -> None:
        """Fields are added at the end, inserted, changed and removed; all others stay octet by octet."""
        body = b"\r\nHello\r\n"
        for edit, header in {
            b"hX-A\x001\n\t2\0": b"Subject: x\r\nX-Long: 1\r\n 2\r\nX-A: 1\r\n\t2\r\n",
            b"i\0\0\0\0X-A\x001\0": b"X-A: 1\r\nSubject: x\r\nX-Long: 1\r\n 2\r\n",
            b"i\0\0\0\x02X-A\x001\0": b"Subject: x\r\nX-A: 1\r\nX-Long: 1\r\n 2\r\n",
            b"m\0\0\0\x01subject\0y\0": b"subject: y\r\nX-Long: 1\r\n 2\r\n",
            b"m\0\0\0\x02Subject\0y\0": b"Subject: x\r\nX-Long: 1\r\n 2\r\nSubject: y\r\n",
            b"m\0\0\0\x01X-Long\0\0": b"Subject: x\r\n",
            # Nothing begins another field.
            b"hX-A\x001\nBcc: z\0": b"Subject: x\r\nX-Long: 1\r\n 2\r\nX-A: 1\r\n\tBcc: z\r\n",
        }.items():
            self.assertEqual(self.change(edit).content, header + body, edit)

    def test_body(self) -> None:
        """A body that is replaced comes in pieces, and its lines end in CRLF."""
        header = CONTENT.partition(b"\r\n\r\n")[0]
        self.assertEqual(self.change(b"ba\nb", b"bc\r\n").content, header + b"\r\n\r\na\r\nbc\r\n")

    def test_envelope(self) -> None:
        """Sender and recipients are changed for the backend."""
        envelope = self.change(
            b"e<>\0", b"+<c@y.example>\0", b"2d@y.example\0NOTIFY=NEVER\0", b"-<b@y.example>\0"
        ).backend.messages[0].envelope
        self.assertTrue(envelope.sender.is_null)
        self.assertEqual([str(each) for each in envelope.recipients], ["c@y.example", "d@y.example"])

    def test_quarantine(self) -> None:
        """A message to be kept apart is marked, in words that can be printed."""
        envelope = self.change(b"qbad\x1b\0").backend.messages[0].envelope
        self.assertEqual(envelope.results.get(Quarantine), Quarantine("bad\\x1b"))

    def test_refused(self) -> None:
        """What a filter changes before it refuses is forgotten."""
        served = serve({"E": [[b"hX-A\x001\0", b"r"]]})
        self.assertEqual((served.say(*LETTER).code, served.backend.messages), (550, []))


class FailureTests(SynchronousTestCase):
    def test_table(self) -> None:
        """A filter that says what it may not has failed: the message is refused for now, and not kept."""
        for answers, options in [
            ({"E": [[b"hno name\x001\0", b"c"]]}, offer()),
            ({"E": [[b"+<no address\0", b"c"]]}, offer()),
            ({"E": [[b"hX\x001\0", b"c"]]}, offer(actions=0)),
            ({"E": [[b"hX\x001\0"] * 1001 + [b"c"]]}, offer()),
            ({"E": [[b"b" + b"x" * 900_000] * 2 + [b"c"]]}, offer()),
            ({"E": [[b"m", b"c"]]}, offer()),
            ({"E": [[b"q\xff\0", b"c"]]}, offer()),
            ({"E": [b"Z"]}, offer()),
            ({"E": [[b"hX\x001\0"]]}, offer()),
            ({"M": [b"s"]}, offer()),
            ({"M": [[b"c", b"c"]]}, offer()),
            ({"M": [b"c" + b"x" * LONGEST]}, offer()),
            ({"M": [b"y250 OK\0"]}, offer()),
            ({}, offer(version=7)),
            ({}, offer(options=0x10000000)),
            ({}, b"c"),
        ]:
            with self.subTest(answers=str(answers)[:60], options=options):
                served = serve(answers, options)
                served.wire.say(*LETTER)
                served.clock.advance(300)
                self.assertIn(451, served.wire.codes[2:])
                self.assertEqual(served.backend.messages, [])
                self.assertTrue(served.filter.links[0].lost)

    def test_down(self) -> None:
        """While a filter cannot be had mail is refused for now, and nobody waits for another try."""
        filter = Filter()
        filter.refuse()
        served = Served(filter)
        served.wire.say("EHLO client.example", *MAIL, "DATA")
        self.assertEqual(served.wire.codes, [220, 250, 451, 503, 503])
        self.assertEqual(filter.tries, 1)
        filter.down = None
        served.clock.advance(6)
        self.assertEqual(served.say(*LETTER).code, 250)

    def test_accept(self) -> None:
        """By on-failure=accept mail passes then."""
        filter = Filter()
        filter.refuse()
        served = Served(filter, on_failure=None)
        served.wire.say("EHLO client.example", *LETTER)
        self.assertEqual(served.wire.codes[-1], 250)

    def test_logged_once(self) -> None:
        """That a filter cannot be had is one line in the log, and that it can again."""
        lines: list[str] = []

        def observe(event: dict[str, Any]) -> None:
            if event.get("log_namespace") == "smtpsvc.policies.reaching":
                lines.append(event["log_format"].format(**event))

        from twisted.logger import globalLogPublisher

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        filter = Filter()
        filter.refuse()
        served = Served(filter)
        served.wire.say("EHLO client.example", *MAIL, *MAIL, "QUIT")
        filter.down = None
        served.clock.advance(6)
        Wire(served.factory).greeted().say(*LETTER)
        self.assertEqual(
            lines, ["milter cannot be asked: Connection was refused by other side.", "milter can be asked again"]
        )

    def test_late(self) -> None:
        """A filter that is silent has its time, and the rest of the transaction is refused too."""
        served = serve({"R": [None, b"c"]}, timeout=10.0)
        served.wire.say(*MAIL)
        served.clock.advance(9.9)
        self.assertEqual(served.wire.codes[-1], 250)
        served.clock.advance(0.2)
        self.assertEqual(served.wire.codes[-1], 451)
        self.assertEqual(served.say("RCPT TO:<c@y.example>").code, 451)
        self.assertEqual(served.say("RSET", *LETTER).code, 250)

    def test_progress(self) -> None:
        """Time begins anew when a filter says that it is busy."""
        served = serve({"E": [None]}, end_timeout=10.0)
        served.wire.say(*LETTER)
        for _ in range(3):
            served.clock.advance(9)
            served.filter.links[0].deliver(frame(b"p"))
        self.assertEqual(served.wire.codes[-1], 354)
        served.filter.links[0].deliver(frame(b"c"))
        self.assertEqual(served.wire.codes[-1], 250)

    def test_dribble(self) -> None:
        """Octets alone do not make time begin anew."""
        served = serve({"E": [None]}, end_timeout=10.0)
        served.wire.say(*LETTER)
        for octet in (b"\0", b"\0", b"\0"):
            served.clock.advance(4)
            if not served.filter.links[0].lost:
                served.filter.links[0].deliver(octet)
        self.assertEqual(served.wire.codes[-1], 451)

    def test_connecting(self) -> None:
        """A connection that does not come has its time."""
        filter = Filter()
        filter.down = Deferred
        served = Served(filter)
        served.wire.say("EHLO client.example")
        self.assertEqual(served.wire.codes, [])
        served.clock.advance(5)
        self.assertEqual(served.wire.codes, [220, 250])

    def test_gone(self) -> None:
        """A client that goes while a filter is asked leaves no connection; so does one that is refused."""
        served = serve({"M": [None]})
        served.wire.say(MAIL[0]).hang_up()
        self.assertTrue(served.filter.links[0].lost)
        served = Served(Filter({"C": [b"r"]}))
        self.assertTrue(served.filter.links[0].lost)

    def test_deadline(self) -> None:
        """The deadline of any policy holds for it too, and the transaction stays refused."""
        filter = Filter({"M": [None]})
        clock = Clock()
        policy = modified(milter(filter, clock), deadline=5, clock=clock)
        factory, _ = clocked_factory(with_policies(ScriptedBackend(), policy))
        wire = Wire(factory).greeted().say(MAIL[0])
        clock.advance(5)
        self.assertEqual(wire.last_reply.code, 451)
        self.assertTrue(filter.links[0].lost)

    @given(st.binary(max_size=200))
    def test_any_octets(self, octets: bytes) -> None:
        """Whatever a filter sends, the client gets a reply and the backend whole messages only."""
        served = serve({"E": [None]})
        served.wire.say(*LETTER)
        served.filter.links[0].deliver(octets)
        served.clock.advance(300)
        self.assertIn(served.wire.last_reply.code, (250, 421, 451, *range(400, 600)))
        self.assertTrue(all(each.finished for each in served.backend.messages))


class RecordedTests(SynchronousTestCase):
    """What clamav-milter 1.4.6 has said, which looks for what it does not know from the internet only."""

    options = b"O\0\0\0\x06\0\0\0\x31\0\0\x03\x42"
    scanned = b"hX-Virus-Scanned\0clamav-milter 1.4.6 at vm\0"

    def test_clean(self) -> None:
        """A clean message gets the fields that say so."""
        served = serve({"E": [[self.scanned, b"hX-Virus-Status\0Clean\0", b"a"]]}, self.options)
        self.assertEqual(served.say(*LETTER).code, 250)
        self.assertEqual(served.filter.letters, "OCMRLLBE")
        fields = b"X-Virus-Scanned: clamav-milter 1.4.6 at vm\r\nX-Virus-Status: Clean\r\n"
        self.assertEqual(served.content, CONTENT.replace(b"\r\n\r\n", b"\r\n" + fields + b"\r\n"))

    def test_infected(self) -> None:
        """One with a virus is refused in its words."""
        status = b"hX-Virus-Status\0Infected (Test.Mark.UNOFFICIAL)\0"
        served = serve({"E": [[self.scanned, status, b"y550 5.7.1 Infected: Test.Mark.UNOFFICIAL\0"]]}, self.options)
        self.assertEqual(served.say(*LETTER), Reply(550, "Infected: Test.Mark.UNOFFICIAL", "5.7.1"))
        self.assertEqual(served.backend.messages, [])


class ReuseTests(SynchronousTestCase):
    def test_reuse(self) -> None:
        """One connection serves one client after the other, and is closed when nobody comes."""
        served = serve(reuse=True)
        served.wire.say(*LETTER, "QUIT").hang_up()
        second = Wire(served.factory).greeted().say(*LETTER)
        self.assertEqual(second.last_reply.code, 250)
        second.hang_up()
        self.assertEqual(served.filter.letters, "OCHMRTLLNBEK" + "CHMRTLLNBEK")
        served.clock.advance(60)
        self.assertEqual(served.filter.letters[-2:], "KQ")

    def test_stop(self) -> None:
        """With the service what is kept is closed."""
        served = serve(reuse=True)
        served.wire.hang_up()
        served.policy.startService()
        served.policy.stopService()
        self.assertTrue(served.filter.links[0].lost)
        self.assertEqual(served.clock.getDelayedCalls(), [])


class ArgumentTests(SynchronousTestCase):
    def test_arguments(self) -> None:
        """What is typed is understood, and what makes no sense is a sentence."""
        for text in ("inet:127.0.0.1:1", "inet:1@127.0.0.1", "tcp:[::1]:1", "unix:/run/x", "tls:mx.example:1"):
            self.assertIn(text, make(Arguments(text + ",timeout=5s,reuse=yes,on-failure=accept"), Clock()).name)
        for text, sentence in {
            "": "place of the filter is missing",
            "inet:127.0.0.1:99999": "99999 is no port",
            "nonsense": "'nonsense' is no place of a program",
            "inet:x:1,on-failure=550": "'550' is not one of 451, accept",
        }.items():
            with self.assertRaisesRegex(ValueError, sentence):
                make(Arguments(text), Clock())
