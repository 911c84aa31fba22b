"""Tests of smtpsvc.server.verbs: what each verb answers, and what it leads to."""

from __future__ import annotations

from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.extensions.smtputf8 import SMTPUTF8
from smtpsvc.grammar import replies
from smtpsvc.grammar.addresses import Address
from smtpsvc.grammar.replies import PermanentError, Reply
from smtpsvc.grammar.states import ALLOWED, NOT_SERVED, State
from smtpsvc.interfaces import IVerifier
from smtpsvc.testing import ScriptedBackend, Wire
from tests.support import HOST, basics, connect, settings_with

#: What brings a fresh connection into each state.
WAY = {
    State.CONNECTED: [],
    State.GREETED: ["EHLO client.example"],
    State.MAIL: ["EHLO client.example", "MAIL FROM:<a@x.example>"],
    State.RCPT: ["EHLO client.example", "MAIL FROM:<a@x.example>", "RCPT TO:<b@y.example>"],
}


def wire_in(state: State, backend: Any = None, **options: Any) -> Wire:
    """Connect and go to a state; replies start afresh."""
    wire = connect(backend, **options).say(*WAY[state])
    assert wire.protocol.conversation.state is state
    return wire.forget()


def answer(line: str | bytes, state: State = State.GREETED, **options: Any) -> Reply:
    """Say one line in a state, and give the reply."""
    return wire_in(state, **options).say(line).last_reply


class ServiceTests(SynchronousTestCase):
    def test_unknown(self) -> None:
        """An unknown verb is 500 5.5.1, in every state."""
        lines = (b"FOO", b"FOO bar", b"", b" ", b" NOOP", b"NOOP\tx", b"NOOPX", b"MAILFROM:<>", b"\xff\xfe", b"LHLO x")
        for state in WAY:
            for line in lines:
                with self.subTest(state=state, line=line):
                    reply = answer(line, state)
                    self.assertEqual((reply.code, reply.text), (500, replies.UNKNOWN_COMMAND.text))
                    self.assertEqual(reply.enhanced, "" if state is State.CONNECTED else "5.5.1")

    def test_not_served(self) -> None:
        """SEND, SOML, SAML, TURN and ETRN are known and not served: 502 5.5.1, in every state."""
        for state in WAY:
            for name in ("SEND", "SOML", "SAML", "TURN", "ETRN"):
                with self.subTest(state=state, name=name):
                    self.assertEqual(answer(f"{name} FROM:<a@x.example>", state).code, 502)
        self.assertEqual(answer("TURN"), replies.NOT_IMPLEMENTED)

    def test_case(self) -> None:
        """Verbs are taken in any case (RFC 5321 §2.4)."""
        wire = connect().say("ehlo client.example", "mAiL fRoM:<a@x.example>", "Rcpt to:<b@y.example>", "rSet", "nOOp")
        self.assertEqual(wire.codes, [250, 250, 250, 250, 250])

    def test_white_space_at_the_end(self) -> None:
        """White space at the end of a line is let pass (RFC 5321 §4.1.1)."""
        wire = connect()
        wire.say("EHLO client.example \t", "MAIL FROM:<a@x.example> ", "RCPT TO:<b@y.example>\t", "RSET ", "QUIT \t ")
        self.assertEqual(wire.codes, [250, 250, 250, 250, 221])

    def test_no_argument(self) -> None:
        """RSET, DATA and QUIT take no argument: 501 5.5.4, and nothing has happened."""
        for line in ("RSET x", "DATA x", "QUIT x", "DATA .", "RSET RSET"):
            with self.subTest(line=line):
                backend = ScriptedBackend()
                wire = wire_in(State.RCPT, backend)
                before = list(backend.hooks)
                self.assertEqual(wire.say(line).replies, [replies.NO_ARGUMENT])
                self.assertEqual(backend.hooks, before)
                self.assertIs(wire.protocol.conversation.state, State.RCPT)
                self.assertFalse(wire.closed)

    def test_noop(self) -> None:
        """NOOP is 250 2.0.0 with any argument, in every state, which it leaves."""
        for state in WAY:
            for line in (b"NOOP", b"NOOP x y", "NOOP ä".encode(), b"NOOP \xff"):
                with self.subTest(state=state, line=line):
                    wire = wire_in(state).say(line)
                    self.assertEqual(wire.codes, [250])
                    self.assertIs(wire.protocol.conversation.state, state)

    def test_control_characters(self) -> None:
        """Control characters in the text behind a verb are 501 5.5.4."""
        for verb in (b"NOOP", b"HELP", b"VRFY", b"EXPN"):
            for octet in (b"\x01", b"\t", b"\x1b", b"\x7f"):
                with self.subTest(verb=verb, octet=octet):
                    self.assertEqual(answer(verb + b" a" + octet + b"b"), replies.BAD_ARGUMENT)

    def test_help(self) -> None:
        """HELP is 214 2.0.0 and names what is served, and nothing that is not."""
        for line in ("HELP", "HELP MAIL"):
            with self.subTest(line=line):
                reply = answer(line)
                self.assertEqual((reply.code, reply.enhanced), (214, "2.0.0"))
                named = reply.text.splitlines()[0].split()[1:]
                self.assertEqual(named, "DATA EHLO EXPN HELO HELP MAIL NOOP QUIT RCPT RSET VRFY".split())
                self.assertFalse(set(named) & set(NOT_SERVED))

    def test_nothing_comes_back(self) -> None:
        """Nothing that the client sends stands in a reply, good or bad."""
        wire = connect().greeted()
        arguments = ("", "FROM:", "FROM:<", "FROM:<a@", "FROM:<a@x.example> ", "FROM:<> SIZE=", "FROM:<> BODY=", "TO:<")
        for verb in (*ALLOWED, *NOT_SERVED, "", "FOO"):
            for argument in arguments:
                wire.say(f"{verb} {argument}ZqZq", f"{verb} {argument}ZqZq>", f"{verb} {argument}ZqZq ZqZq=1")
        self.assertFalse(b"ZQZQ" in wire.output.upper())

    def test_quit(self) -> None:
        """QUIT is 221 2.0.0, closes the connection, and nothing behind it is answered."""
        backend = ScriptedBackend()
        wire = wire_in(State.RCPT, backend).receive(b"QUIT\r\nNOOP\r\nDATA\r\n")
        self.assertEqual(wire.replies, [replies.BYE])
        self.assertTrue(wire.closed)
        ((reason,),) = backend.called("close")
        self.assertTrue(reason.check(ConnectionDone))

    def test_quit_before_hello(self) -> None:
        """QUIT is taken before EHLO."""
        wire = connect().say("QUIT")
        self.assertEqual((wire.codes, wire.closed), ([221], True))


class HelloTests(SynchronousTestCase):
    def test_greeting(self) -> None:
        """The greeting is 220 with the host name and the banner, without an enhanced code."""
        wire = connect(settings=settings_with(banner="ESMTP here"))
        self.assertEqual(wire.transport.value(), b"220 mx.example ESMTP here\r\n")

    def test_greeting_without_banner(self) -> None:
        """Without a banner the greeting is the host name alone."""
        self.assertEqual(connect(settings=settings_with(banner="")).transport.value(), b"220 mx.example\r\n")

    def test_ehlo(self) -> None:
        """EHLO answers with the host name and a line for each extension (RFC 5321 §4.1.1.1)."""
        wire = connect().say("EHLO client.example")
        expected = f"250-{HOST}\r\n250-PIPELINING\r\n250-SIZE 33554432\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n"
        self.assertEqual(wire.output, expected.encode() + b"250 ENHANCEDSTATUSCODES\r\n")

    def test_helo(self) -> None:
        """HELO answers with the host name alone, and replies after it have no enhanced codes (RFC 2034 §4)."""
        wire = connect().say("HELO client.example", "MAIL FROM:<a@x.example>", "RCPT TO:<>", "FOO", "QUIT")
        self.assertEqual(wire.output.splitlines()[0], b"250 mx.example")
        self.assertEqual([reply.enhanced for reply in wire.replies], [""] * 5)
        self.assertEqual(wire.codes, [250, 250, 501, 500, 221])

    def test_helo_after_ehlo(self) -> None:
        """HELO after EHLO ends the extensions: no enhanced codes, no parameters."""
        wire = connect().greeted().say("HELO client.example", "MAIL FROM:<a@x.example> SIZE=1", "NOOP")
        self.assertEqual(wire.output.splitlines()[1:], [b"555 Parameters need EHLO", b"250 OK"])

    def test_ehlo_after_helo(self) -> None:
        """EHLO after HELO brings the extensions back."""
        wire = connect().say("HELO client.example", "EHLO client.example", "MAIL FROM:<a@x.example> SIZE=1")
        self.assertEqual(wire.last_reply, replies.SENDER_OK)

    def test_names(self) -> None:
        """Any 1 to 255 octets without control characters are a name (RFC 5321 §4.1.4)."""
        cases: dict[bytes, str] = {
            b"client.example": "client.example",
            b"[192.0.2.1]": "[192.0.2.1]",
            b"MY_PC": "MY_PC",
            b"-": "-",
            b"a b": "a b",
            b"  a": "a",
            b"(x) \\ <y>": "(x) \\ <y>",
            b"x" * 255: "x" * 255,
            "bücher.example".encode(): "bücher.example",
            b"\xff\xfe": "\\xff\\xfe",
            "a\u00a0b".encode(): "a\u00a0b",
            "\U0001f600".encode(): "\U0001f600",
        }
        for verb in (b"EHLO ", b"HELO "):
            for name, shown in cases.items():
                with self.subTest(verb=verb, name=name):
                    backend = ScriptedBackend()
                    wire = connect(backend).say(verb + name)
                    self.assertEqual(wire.codes, [250])
                    self.assertEqual(backend.called("helo"), [(shown,)])
                    self.assertEqual(wire.protocol.conversation.peer.helo, shown)

    def test_bad_names(self) -> None:
        """No name, one of more than 255 octets, or control characters are 501."""
        names = (b"", b" ", b"  ", b" x\x01", b" \x1b[2J", b" a\tb", b" \x7f", b" " + b"x" * 256)
        names += (" a\x85b".encode(), " \x9b2J".encode(), b" " + "ä".encode() * 128)
        for verb in (b"EHLO", b"HELO"):
            for name in names:
                with self.subTest(verb=verb, name=name):
                    self.assertEqual(connect().say(verb + name).codes, [501])

    def test_bad_name_keeps_transaction(self) -> None:
        """A name that is refused leaves the transaction as it was (RFC 5321 §4.1.4)."""
        for line in (b"EHLO", b"HELO", b"EHLO \x01"):
            with self.subTest(line=line):
                backend = ScriptedBackend()
                wire = wire_in(State.RCPT, backend).say(line, "RCPT TO:<c@y.example>", "DATA", ".")
                self.assertEqual(wire.codes, [501, 250, 354, 250])
                self.assertEqual(len(backend.messages[0].recipients), 2)
                self.assertEqual(backend.called("helo"), [("client.example",)])

    def test_refused_by_hook(self) -> None:
        """A name that the session refuses leaves everything as it was, with the session's reply."""
        refusal = Reply(550, "Not you", "5.7.1")
        backend = ScriptedBackend(helo=[None, refusal])
        wire = wire_in(State.RCPT, backend).say("HELO liar.example", "DATA")
        self.assertEqual(wire.output.splitlines()[0], b"550 Not you")
        self.assertEqual(wire.codes, [550, 354])
        peer = wire.protocol.conversation.peer
        self.assertEqual((peer.helo, peer.extended), ("client.example", True))
        self.assertNotIn("reset", backend.hooks)

    def test_first_refused_by_hook(self) -> None:
        """After a first EHLO that the session refuses, the client must still say hello."""
        wire = connect(ScriptedBackend(helo=PermanentError("No"))).say("EHLO x", "MAIL FROM:<>")
        self.assertEqual(wire.codes, [550, 503])

    def test_consent_is_not_worded(self) -> None:
        """A 2xx Reply of the helo hook is consent; the answer is the server's."""
        wire = connect(ScriptedBackend(helo=Reply(250, "Welcome"))).say("EHLO x")
        self.assertEqual(wire.last_reply.text.splitlines()[0], HOST)

    def test_name_in_hook(self) -> None:
        """While the session is asked about a name, the peer still has the name before."""
        seen = []
        backend = ScriptedBackend(helo=lambda name: seen.append(backend.sessions[0].peer.helo))
        connect(backend).say("EHLO one", "EHLO two")
        self.assertEqual(seen, ["", "one"])

    def test_again(self) -> None:
        """A further EHLO ends the transaction and tells the session so; the first one tells it nothing."""
        backend = ScriptedBackend()
        wire = wire_in(State.RCPT, backend)
        envelope = wire.protocol.conversation.envelope
        self.assertEqual(backend.called("reset"), [])
        self.assertEqual(wire.say("EHLO again", "DATA").codes, [250, 503])
        self.assertEqual(backend.called("reset"), [(envelope, False)])


class ResetTests(SynchronousTestCase):
    def test_transaction(self) -> None:
        """RSET ends the transaction, tells the session which, and the next one begins empty."""
        backend = ScriptedBackend()
        wire = wire_in(State.RCPT, backend)
        envelope = wire.protocol.conversation.envelope
        self.assertEqual(wire.say("RSET", "RCPT TO:<b@y.example>", "DATA").codes, [250, 503, 503])
        self.assertEqual(backend.called("reset"), [(envelope, False)])
        wire.forget().say("MAIL FROM:<>", "RCPT TO:<c@y.example>", "DATA", ".")
        self.assertEqual(backend.messages[0].recipients, [Address("c", "y.example")])

    def test_without_transaction(self) -> None:
        """RSET is 250 in every state, and leaves the client greeted or not as it was."""
        for state in (State.CONNECTED, State.GREETED):
            with self.subTest(state=state):
                wire = wire_in(state).say("RSET")
                self.assertEqual((wire.codes, wire.protocol.conversation.state), ([250], state))


class VerifyTests(SynchronousTestCase):
    def ask(self, line: str | bytes, **answers: Any) -> Reply:
        """Ask a session that verifies; an answer that is a list stands in a list of answers."""
        return wire_in(State.GREETED, ScriptedBackend(answers, provides=[IVerifier])).say(line).last_reply

    def test_without_hook(self) -> None:
        """Without an IVerifier VRFY is 252 2.5.0 and EXPN 502 5.5.1, in every state."""
        for state in WAY:
            with self.subTest(state=state):
                self.assertEqual(wire_in(state).say("VRFY user", "EXPN list").codes, [252, 502])
        self.assertEqual(answer("VRFY user"), replies.CANNOT_VERIFY)
        self.assertEqual(answer("EXPN list"), replies.NO_EXPANSION)

    def test_no_argument(self) -> None:
        """VRFY and EXPN without an argument are 501 5.5.4, hook or none."""
        for line in ("VRFY", "EXPN", "VRFY  ", "VRFY   SMTPUTF8"):
            with self.subTest(line=line):
                self.assertEqual(answer(line), replies.NEED_ARGUMENT)
                self.assertEqual(self.ask(line), replies.NEED_ARGUMENT)

    def test_list(self) -> None:
        """A list of str is sent with 250 2.1.5, a line for each."""
        found = ["A <a@y.example>", "B <b@y.example>"]
        self.assertEqual(self.ask("VRFY a", verify=[found]), Reply(250, "\n".join(found), "2.1.5"))
        self.assertEqual(self.ask("EXPN a", expand=[found]), Reply(250, "\n".join(found), "2.1.5"))

    def test_line_breaks_in_list(self) -> None:
        """Line breaks in an item do not make another."""
        self.assertEqual(self.ask("EXPN a", expand=[["a\r\n550 b", "c"]]).text, "a  550 b\nc")

    def test_nothing(self) -> None:
        """Nothing found is 252 for VRFY, and 550 5.1.1 for EXPN."""
        for nothing in ([[]], None):
            with self.subTest(nothing=nothing):
                self.assertEqual(self.ask("VRFY a", verify=nothing), replies.CANNOT_VERIFY)
                self.assertEqual(self.ask("EXPN a", expand=nothing), replies.NO_SUCH_USER)

    def test_reply(self) -> None:
        """A Reply returned or raised is the answer."""
        refusal = Reply(550, "Nobody", "5.1.1")
        self.assertEqual(self.ask("VRFY a", verify=refusal), refusal)
        self.assertEqual(self.ask("EXPN a", expand=PermanentError("Secret", "5.7.2")), Reply(550, "Secret", "5.7.2"))

    def test_failure(self) -> None:
        """Any other exception, or nonsense, is 451 4.3.0 with one logged traceback."""
        cases = ((ValueError("secret"), ValueError), (KeyError("x"), KeyError), ([[1]], TypeError), (7, TypeError))
        for wrong, kind in cases:
            with self.subTest(wrong=wrong):
                self.assertEqual(self.ask("VRFY a", verify=wrong), replies.LOCAL_ERROR)
                self.assertEqual(len(self.flushLoggedErrors(kind)), 1)

    def test_query(self) -> None:
        """The hook gets the text behind the verb, without a trailing SMTPUTF8 (RFC 6531 §3.7.4.2)."""
        cases: dict[bytes, str] = {
            b"a": "a",
            b"  Fred  Foo": "Fred  Foo",
            b"<a@y.example>": "<a@y.example>",
            "jörg SMTPUTF8".encode(): "jörg",
            b"jo smtputf8": "jo",
            b"xSMTPUTF8": "xSMTPUTF8",
            b"SMTPUTF8": "SMTPUTF8",
            b"\xff": "\\xff",
        }
        for octets, query in cases.items():
            with self.subTest(octets=octets):
                backend = ScriptedBackend(provides=[IVerifier])
                wire_in(State.GREETED, backend).say(b"VRFY " + octets)
                self.assertEqual(backend.called("verify"), [(query,)])

    def test_announced(self) -> None:
        """EXPN is announced where there is a hook (RFC 5321 §3.5.2)."""
        self.assertIn("EXPN", self.ask("EHLO x").text.splitlines())
        self.assertNotIn("EXPN", answer("EHLO x").text)


class InternationalTests(SynchronousTestCase):
    def test_sender(self) -> None:
        """A sender that is not ASCII is 550 5.6.7 without SMTPUTF8, and taken with it (RFC 6531 §3.5)."""
        for path in ("<jörg@x.example>", "<a@bücher.example>", "<@bücher.example:a@x.example>"):
            with self.subTest(path=path):
                self.assertEqual(answer(f"MAIL FROM:{path}"), replies.SENDER_NOT_ASCII)
                self.assertEqual(answer(f"MAIL FROM:{path} SMTPUTF8"), replies.SENDER_OK)

    def test_recipient(self) -> None:
        """A recipient that is not ASCII is 553 5.6.7 unless MAIL had SMTPUTF8."""
        for path in ("<jörg@y.example>", "<a@bücher.example>"):
            with self.subTest(path=path):
                wire = connect().greeted().say("MAIL FROM:<>", f"RCPT TO:{path}", "RSET", "MAIL FROM:<> SMTPUTF8")
                self.assertEqual(wire.replies[1], replies.RECIPIENT_NOT_ASCII)
                self.assertEqual(wire.say(f"RCPT TO:{path}").last_reply, replies.RECIPIENT_OK)

    def test_invalid(self) -> None:
        """Octets that are no UTF-8, and labels that are no U-labels, are 501 even with SMTPUTF8."""
        paths = (b"<\xff@x.example>", b"<\xc0\xaf@x.example>", b"<a@\xed\xa0\x80.example>", "<a@☃-.example>".encode())
        for path in paths:
            with self.subTest(path=path):
                self.assertEqual(answer(b"MAIL FROM:" + path + b" SMTPUTF8").code, 501)

    def test_after_helo(self) -> None:
        """After HELO there is no SMTPUTF8: 555 for the parameter, 550 for the address."""
        wire = connect().say("HELO x", "MAIL FROM:<jörg@x.example> SMTPUTF8", "MAIL FROM:<jörg@x.example>")
        self.assertEqual(wire.codes, [250, 555, 550])

    def test_not_offered(self) -> None:
        """Where the extension is not offered, its parameter is unknown."""
        others = [extension for extension in basics() if not isinstance(extension, SMTPUTF8)]
        wire = connect(extensions=others).greeted()
        wire.say("MAIL FROM:<jörg@x.example> SMTPUTF8", "MAIL FROM:<jörg@x.example>")
        self.assertEqual(wire.replies, [replies.UNKNOWN_PARAMETER, replies.SENDER_NOT_ASCII])
