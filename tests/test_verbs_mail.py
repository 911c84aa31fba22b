"""Tests of smtpsvc.server.verbs: MAIL and RCPT, from the line to the envelope."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.grammar import replies
from smtpsvc.grammar.addresses import NULL, Address
from smtpsvc.grammar.replies import PermanentError, Reply, TemporaryError
from smtpsvc.settings import Role
from smtpsvc.testing import ScriptedBackend, Wire
from smtpsvc.values import Body, Envelope
from tests.support import connect, settings_with, uncounted

LITERALS = {
    "<a@[192.0.2.1]>": Address("a", "[192.0.2.1]"),
    "<a@[IPv6:2001:db8::1]>": Address("a", "[IPv6:2001:db8::1]"),
}
PATHS = {
    "<a@x.example>": Address("a", "x.example"),
    "<a@localhost>": Address("a", "localhost"),
    '<"a b"@x.example>': Address('"a b"', "x.example"),
    '<"a\\"@b"@x.example>': Address('"a\\"@b"', "x.example"),
    "<a+b=c@X.Example>": Address("a+b=c", "X.Example"),
    f"<{'l' * 64}@x.example>": Address("l" * 64, "x.example"),
    "<@relay.example,@other.example:a@x.example>": Address("a", "x.example"),
    **LITERALS,
}
BAD_PATHS = (
    *("", "<", "<>x", "<a>", "<a@>", "<@x.example>", "a@x.example", "<a@x.example", "a@x.example>", "<a b@x.example>"),
    *("<a..b@x.example>", "<.a@x.example>", "<a.@x.example>", "<a@x..example>", "<a@-x.example>", "<a@x.example.>"),
    *('<"a@x.example>', "<a@[300.0.0.1]>", "<a@[IPv6:::1::]>", "<a@[192.0.2.1>", f"<{'l' * 65}@x.example>"),
    *(f"<a@{'x' * 64}.example>", f"<a@{'x.' * 127}example>", "<a@x_y.example>", "<a@x.example>SIZE=1"),
    *("<a@x.example\x01>", "<@relay.example a@x.example>"),
)


class MailTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.backend = ScriptedBackend()
        self.wire = connect(self.backend, uncounted()).greeted()

    @property
    def envelope(self) -> Envelope:
        """The open transaction."""
        envelope = self.wire.protocol.conversation.envelope
        assert envelope is not None
        return envelope

    def test_paths(self) -> None:
        """A sender is taken as it was written, a source route dropped: 250 2.1.0."""
        for path, address in PATHS.items():
            with self.subTest(path=path):
                self.assertEqual(self.wire.say(f"MAIL FROM:{path}").last_reply, replies.SENDER_OK)
                self.assertEqual(self.envelope.sender, address)
                self.wire.say("RSET")

    def test_null(self) -> None:
        """The null sender opens a transaction like any other (RFC 5321 §4.5.5)."""
        self.wire.say("MAIL FROM:<>", "MAIL FROM:<>", "RCPT TO:<b@y.example>", "DATA", ".")
        self.assertEqual(self.wire.codes, [250, 503, 250, 354, 250])
        self.assertEqual(self.backend.messages[0].sender, NULL)

    def test_bad_paths(self) -> None:
        """A sender against the grammar is 501 5.1.7, and opens nothing."""
        for path in (*BAD_PATHS, "<postmaster>"):
            with self.subTest(path=path):
                reply = self.wire.say(f"MAIL FROM:{path}").last_reply
                self.assertEqual((reply.code, reply.enhanced), (501, "5.1.7"))
        self.assertNotIn("mail", self.backend.hooks)

    def test_no_path(self) -> None:
        """MAIL without FROM: is 501 5.5.4."""
        for line in ("MAIL", "MAIL <a@x.example>", "MAIL FROM", "MAIL FROM <a@x.example>", "MAIL TO:<a@x.example>"):
            with self.subTest(line=line):
                reply = self.wire.say(line).last_reply
                self.assertEqual((reply.code, reply.enhanced), (501, "5.5.4"))

    def test_space(self) -> None:
        """One space behind the colon is let pass, as Outlook sends it; two are not."""
        self.wire.say("MAIL FROM:  <a@x.example>", "MAIL FROM: <a@x.example>", "RCPT TO:  <b@y.example>")
        self.wire.say("RCPT TO: <b@y.example>")
        self.assertEqual(self.wire.codes, [501, 250, 501, 250])

    def test_parameters(self) -> None:
        """Parameters reach the hook parsed, by upper-case name."""
        self.wire.say("MAIL FROM:<a@x.example> size=1000 Body=8bitmime SMTPUTF8")
        ((envelope,),) = self.backend.called("mail")
        self.assertEqual(dict(envelope.mail_params), {"SIZE": 1000, "BODY": Body.EIGHT_BIT_MIME, "SMTPUTF8": True})

    def test_unknown_parameter(self) -> None:
        """An unknown parameter is 555 5.5.4 (RFC 5321 §4.1.1.11)."""
        for params in ("FOO", "FOO=1", "SIZE=1 FOO", "SIZE=nine FOO", "AUTH=<>", "RET=HDRS", "NOTIFY=NEVER"):
            with self.subTest(params=params):
                self.assertEqual(self.wire.say(f"MAIL FROM:<> {params}").last_reply, replies.UNKNOWN_PARAMETER)

    def test_malformed_parameter(self) -> None:
        """A malformed or doubled parameter, or a wrong value, is 501 5.5.4."""
        for params in ("=", "=1", "SIZE=", "SIZE==1", "-X", "SIZE=1\x01", "SIZE=1 SIZE=1", "FOO FOO", "SIZE=1 size=2"):
            with self.subTest(params=params):
                reply = self.wire.say(f"MAIL FROM:<> {params}").last_reply
                self.assertEqual((reply.code, reply.enhanced), (501, "5.5.4"))

    def test_parameter_after_helo(self) -> None:
        """After HELO any parameter of MAIL or RCPT is 555, known or not."""
        wire = connect().say("HELO x", "MAIL FROM:<> SIZE=1", "MAIL FROM:<> FOO", "MAIL FROM:<> BODY=8BITMIME")
        self.assertEqual(wire.codes, [250, 555, 555, 555])
        self.assertEqual(wire.say("MAIL FROM:<>", "RCPT TO:<b@y.example> FOO").codes[-2:], [250, 555])

    def test_refused(self) -> None:
        """A sender that the session refuses opens no transaction."""
        self.backend.answers["mail"] = [PermanentError("No"), Reply(450, "Later", "4.7.1"), TemporaryError("Hm")]
        self.wire.say(*["MAIL FROM:<a@x.example>", "RCPT TO:<b@y.example>"] * 3)
        self.assertEqual(self.wire.codes, [550, 503, 450, 503, 451, 503])
        self.assertIsNone(self.wire.protocol.conversation.envelope)
        self.wire.say("MAIL FROM:<a@x.example>")
        self.assertEqual(self.wire.last_reply, replies.SENDER_OK)

    def test_worded(self) -> None:
        """A 2xx Reply of the session words the answer."""
        worded = Reply(250, "Dear sender", "2.1.0")
        self.backend.answers["mail"] = worded
        self.assertEqual(self.wire.say("MAIL FROM:<>", "RCPT TO:<b@y.example>").replies, [worded, replies.RECIPIENT_OK])

    def test_envelope(self) -> None:
        """A hook gets an envelope with an id of its own, its peer and role, and no recipients yet."""
        seen: list[Any] = []
        self.backend.answers["mail"] = lambda envelope: seen.append((envelope.id, list(envelope.recipients)))
        self.wire.say("MAIL FROM:<>", "RSET", "MAIL FROM:<>")
        self.assertEqual([recipients for _, recipients in seen], [[], []])
        self.assertEqual(len({id for id, _ in seen} | {self.envelope.peer.id}), 3)
        self.assertIs(self.envelope.role, Role.SMTP)


class RcptTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.backend = ScriptedBackend()
        self.wire = self.begun()

    def begun(self, **options: Any) -> Wire:
        """Open a transaction."""
        options.setdefault("settings", uncounted())
        return connect(self.backend, **options).greeted().say("MAIL FROM:<a@x.example>").forget()

    def recipients(self) -> list[Address]:
        """The recipients that were taken."""
        envelope = self.wire.protocol.conversation.envelope
        assert envelope is not None
        return [recipient.address for recipient in envelope.recipients]

    def test_paths(self) -> None:
        """Recipients are taken as they were written and in their order: 250 2.1.5."""
        self.wire.say(*(f"RCPT TO:{path}" for path in PATHS))
        self.assertEqual(self.wire.replies, [replies.RECIPIENT_OK] * len(PATHS))
        self.assertEqual(self.recipients(), list(PATHS.values()))

    def test_duplicate(self) -> None:
        """A recipient named twice is there twice."""
        self.wire.say("RCPT TO:<b@y.example>", "RCPT TO:<b@y.example>")
        self.assertEqual(self.recipients(), [Address("b", "y.example")] * 2)

    def test_bad_paths(self) -> None:
        """A recipient against the grammar is 501 5.1.3; the transaction stays open."""
        for path in (*BAD_PATHS, "<>", "<postmaster2>", "<@r.example:postmaster@>"):
            with self.subTest(path=path):
                reply = self.wire.say(f"RCPT TO:{path}").last_reply
                self.assertEqual((reply.code, reply.enhanced), (501, "5.1.3"))
        self.assertNotIn("rcpt", self.backend.hooks)
        self.assertEqual(self.wire.say("RCPT TO:<b@y.example>").last_reply, replies.RECIPIENT_OK)

    def test_no_path(self) -> None:
        """RCPT without TO: is 501 5.5.4."""
        for line in ("RCPT", "RCPT <a@x.example>", "RCPT TO", "RCPT TO <a@x.example>", "RCPT FROM:<a@x.example>"):
            with self.subTest(line=line):
                reply = self.wire.say(line).last_reply
                self.assertEqual((reply.code, reply.enhanced), (501, "5.5.4"))

    def test_postmaster(self) -> None:
        """<postmaster> is taken in any case without a domain (RFC 5321 §4.5.1)."""
        for word in ("postmaster", "Postmaster", "POSTMASTER"):
            self.wire.say(f"RCPT TO:<{word}>")
        self.assertEqual(self.recipients(), [Address(word) for word in ("postmaster", "Postmaster", "POSTMASTER")])

    def test_parameters(self) -> None:
        """An unknown parameter is 555 5.5.4, a malformed or doubled one 501 5.5.4."""
        cases = (("FOO", 555), ("NOTIFY=NEVER", 555), ("SIZE=1", 555), ("=", 501), ("A A", 501), ("A=", 501))
        for params, code in cases:
            with self.subTest(params=params):
                reply = self.wire.say(f"RCPT TO:<b@y.example> {params}").last_reply
                self.assertEqual((reply.code, reply.enhanced), (code, "5.5.4"))
        self.assertEqual(self.recipients(), [])

    def test_refused(self) -> None:
        """A refused recipient is not in the envelope; the others are."""
        self.backend.answers["rcpt"] = [None, PermanentError("No", "5.1.1"), Reply(450, "Busy"), None]
        self.wire.say(*(f"RCPT TO:<{name}@y.example>" for name in "bcde"))
        self.assertEqual(self.wire.codes, [250, 550, 450, 250])
        self.assertEqual([address.local for address in self.recipients()], ["b", "e"])

    def test_all_refused(self) -> None:
        """With all recipients refused DATA is 503, and the transaction is still open."""
        self.backend.answers["rcpt"] = [PermanentError("No"), PermanentError("No")]
        self.wire.receive(b"RCPT TO:<b@y.example>\r\nRCPT TO:<c@y.example>\r\nDATA\r\n")
        self.wire.receive(b"RCPT TO:<d@y.example>\r\nDATA\r\n")
        self.assertEqual(self.wire.codes, [550, 550, 503, 250, 354])

    def test_before_the_hook(self) -> None:
        """While the session is asked about a recipient, the envelope has only those before it."""
        seen: list[int] = []
        self.backend.answers["rcpt"] = lambda envelope, recipient: seen.append(len(envelope.recipients))
        self.wire.say("RCPT TO:<b@y.example>", "RCPT TO:<c@y.example>")
        self.assertEqual(seen, [0, 1])

    def test_too_many(self) -> None:
        """A recipient past the limit is 452 4.5.3 (RFC 5321 §4.5.3.1.10), and the session is not asked."""
        self.wire = self.begun(settings=settings_with(recipients=2))
        self.wire.say(*(f"RCPT TO:<{name}@y.example>" for name in "bcde"))
        self.assertEqual(self.wire.replies[2:], [replies.TOO_MANY_RECIPIENTS] * 2)
        self.assertEqual(len(self.backend.called("rcpt")), 2)

    def test_refused_do_not_count(self) -> None:
        """Refused recipients do not count against the limit."""
        self.backend.answers["rcpt"] = [PermanentError("No"), PermanentError("No")]
        self.wire = self.begun(settings=settings_with(recipients=1))
        self.wire.say(*(f"RCPT TO:<{name}@y.example>" for name in "bcde"))
        self.assertEqual(self.wire.codes, [550, 550, 250, 452])

    def test_default_limit(self) -> None:
        """A hundred recipients are taken without any setting (RFC 5321 §4.5.3.1.8)."""
        self.wire.receive(b"".join(b"RCPT TO:<b%d@y.example>\r\n" % n for n in range(101)))
        self.assertEqual(self.wire.codes, [250] * 100 + [452])

    def test_counted_anew(self) -> None:
        """The next transaction may have as many again."""
        self.wire = self.begun(settings=settings_with(recipients=1))
        self.wire.say("RCPT TO:<b@y.example>", "RSET", "MAIL FROM:<>", "RCPT TO:<b@y.example>")
        self.assertEqual(self.wire.codes, [250] * 4)


class LenientTests(SynchronousTestCase):
    LENIENT = ("<a..b@x.example>", "<.a@x.example>", "<a.@x.example>", "a@x.example", "a..b@x.example")

    def lenient(self) -> Wire:
        """Connect to a server that lets odd paths pass."""
        return connect(settings=settings_with(lenient_paths=True)).greeted()

    def test_taken(self) -> None:
        """With lenient paths, odd dots and missing angle brackets are let pass."""
        for path in self.LENIENT:
            with self.subTest(path=path):
                self.assertEqual(self.lenient().say(f"MAIL FROM:{path}", f"RCPT TO:{path}").codes, [250, 250])

    def test_kept(self) -> None:
        """An odd local part is kept as it was written."""
        conversation = self.lenient().say("MAIL FROM:a..b@x.example SIZE=7").protocol.conversation
        self.assertEqual((conversation.envelope.sender, conversation.envelope.size), (Address("a..b", "x.example"), 7))

    def test_still_refused(self) -> None:
        """All else is refused as strictly as ever."""
        paths = ("", "<a@>", "<a@x..example>", "a", "<a b@x.example>", "<a@x.example", "a@x.example>", "<..@x.example>")
        for path in paths:
            with self.subTest(path=path):
                self.assertEqual(self.lenient().say(f"MAIL FROM:{path}").codes, [501])
