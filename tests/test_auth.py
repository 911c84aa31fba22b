"""
Tests of AUTH by transcript: what is offered, and every reply to the command.
"""

from __future__ import annotations

import hmac
from typing import Any

from twisted.cred.credentials import IAnonymous, IUsernamePassword
from twisted.cred.error import LoginDenied, UnauthorizedLogin
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.grammar.replies import Reply, TemporaryError
from smtpsvc.sasl import Challenge, Context, Done, Mechanism, Steps
from smtpsvc.sasl.credentials import IBearerToken, ITLSCertificate, PasswordLogin
from smtpsvc.server.factory import SMTPFactory
from smtpsvc.settings import Role
from smtpsvc.testing import ScriptedBackend, Wire, clocked_factory
from smtpsvc.values import TLSInfo
from tests.logins import (
    PASSWORD,
    AnswerChecker,
    CountingRealm,
    b64,
    challenge,
    offered,
    plain,
    wire_with,
)

GOOD = Reply(235, "Authentication succeeded", "2.7.0")
REFUSED = Reply(535, "Authentication credentials invalid", "5.7.8")


class OfferTests(SynchronousTestCase):
    def test_checkers(self) -> None:
        """What some checker can serve is offered, the strongest first, and nothing else."""
        certified = TLSInfo("TLSv1.3", "x", certificate=object())
        for interfaces, tls, expected in (
            ((IUsernamePassword,), None, []),
            ((IUsernamePassword,), certified, ["PLAIN", "LOGIN"]),
            ((IBearerToken,), certified, ["OAUTHBEARER", "XOAUTH2"]),
            ((IBearerToken,), None, []),
            ((ITLSCertificate,), certified, ["EXTERNAL"]),
            ((ITLSCertificate,), TLSInfo("TLSv1.3", "x"), []),
            ((IAnonymous,), certified, []),
            ((), certified, ["SCRAM-SHA-256", "SCRAM-SHA-1", "PLAIN", "LOGIN"]),
            ((), None, ["SCRAM-SHA-256", "SCRAM-SHA-1"]),
        ):
            with self.subTest(interfaces=interfaces, tls=tls):
                self.assertEqual(offered(wire_with(AnswerChecker(None, *interfaces), tls=tls)), expected)

    def test_insecure(self) -> None:
        """Where the operator says so, passwords may be sent without TLS."""
        self.assertEqual(offered(wire_with(tls=None, allow_insecure_auth=True))[-2:], ["PLAIN", "LOGIN"])

    def test_proxied_tls(self) -> None:
        """TLS that ended at a proxy counts where the operator trusts it."""
        tls = TLSInfo("TLSv1.3", "x", proxied=True)
        self.assertNotIn("PLAIN", offered(wire_with(tls=tls)))
        self.assertIn("PLAIN", offered(wire_with(tls=tls, trust_proxy_tls=True)))

    def test_channel_binding(self) -> None:
        """-PLUS is offered where TLS can be bound to."""
        wire = wire_with()
        wire.protocol.channel_binding = {"tls-exporter": b"E" * 32}.get
        self.assertEqual(offered(wire)[:2], ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-1-PLUS"])

    def test_on_request(self) -> None:
        """CRAM-MD5 and ANONYMOUS are offered where they are asked for by name."""
        enable = frozenset({"cram-md5", "ANONYMOUS"})
        self.assertIn("CRAM-MD5", offered(wire_with(enable=enable)))
        self.assertEqual(offered(wire_with(AnswerChecker((), IAnonymous), enable=enable)), ["ANONYMOUS"])

    def test_disable(self) -> None:
        """Any mechanism can be left out by name, and AUTH as a whole."""
        wire = wire_with(disable=frozenset({"LOGIN", "SCRAM-SHA-1"}))
        self.assertEqual(offered(wire), ["SCRAM-SHA-256", "PLAIN"])
        self.assertEqual(wire.forget().say("AUTH LOGIN").codes, [504])
        wire = wire_with(disable=frozenset({"AUTH"}))
        self.assertEqual(wire.say("AUTH PLAIN").codes, [500])

    def test_unknown_switch(self) -> None:
        """A mechanism that is not there cannot be enabled."""
        with self.assertRaisesRegex(ValueError, "--enable: there is no extension 'NTLM'"):
            wire_with(enable=frozenset({"NTLM"}))

    def test_none(self) -> None:
        """Without a portal AUTH is not offered and not known, nor is its parameter."""
        factory, _ = clocked_factory(ScriptedBackend())
        wire = Wire(factory)
        self.assertEqual(offered(wire), [])
        wire.forget().say("AUTH PLAIN", "MAIL FROM:<a@x.example> AUTH=<>")
        self.assertEqual(wire.codes, [500, 555])

    def test_built_once(self) -> None:
        """The reply to EHLO is built once for all clients who are offered the same."""
        wire = wire_with(greeted=False)
        tables, announced = wire.factory.tables, []
        usual = tables.announce
        self.patch(tables, "announce", lambda *args: announced.append(args) or usual(*args))
        for _ in range(5):
            wire.say("EHLO client.example")
        self.assertEqual(len(announced), 1)

    def test_after_login(self) -> None:
        """A client that has logged in still sees the mechanisms, to compare (RFC 4954 §4)."""
        wire = wire_with()
        before = offered(wire)
        wire.say(f"AUTH PLAIN {plain()}")
        self.assertEqual(offered(wire), before)

    def test_lmtp(self) -> None:
        """LMTP has AUTH too."""
        wire = wire_with(role=Role.LMTP)
        self.assertEqual(wire.say(f"AUTH PLAIN {plain()}").replies, [GOOD])

    def test_wrong_mechanism(self) -> None:
        """What is no mechanism is refused when the factory is made."""
        with self.assertRaises(Exception):  # noqa: B017 - zope's own
            SMTPFactory(ScriptedBackend(), portal=object(), mechanisms=[object()])  # type: ignore[list-item]


class CommandTests(SynchronousTestCase):
    def test_good(self) -> None:
        """Good credentials are answered 235 2.7.0, with an initial response and without."""
        self.assertEqual(wire_with().say(f"AUTH PLAIN {plain()}").replies, [GOOD])
        wire = wire_with().say("auth plain")
        self.assertEqual(wire.output, b"334 \r\n")
        self.assertEqual(wire.say(plain()).last_reply, GOOD)

    def test_login(self) -> None:
        """LOGIN asks for name and password."""
        wire = wire_with().say("AUTH LOGIN")
        self.assertEqual(wire.output, b"334 VXNlcm5hbWU6\r\n")
        wire.say(b64("joe"))
        self.assertEqual(challenge(wire), b"Password:")
        self.assertEqual(wire.say(b64(PASSWORD)).last_reply, GOOD)

    def test_cram(self) -> None:
        """CRAM-MD5 begins with the server's challenge."""
        wire = wire_with(enable=frozenset({"CRAM-MD5"})).say("AUTH CRAM-MD5")
        digest = hmac.new(PASSWORD.encode(), challenge(wire), "md5").hexdigest()
        self.assertEqual(wire.say(b64(f"joe {digest}")).last_reply, GOOD)

    def test_syntax(self) -> None:
        """An argument out of form is 501 5.5.4."""
        for line in ("AUTH", "AUTH PL*IN", f"AUTH {'X' * 21}", "AUTH PLAIN AA== AA==", "AUTH PLAIN  AA==", "AUTH P\tX"):
            with self.subTest(line=line):
                reply = wire_with().say(line).last_reply
                self.assertEqual((reply.code, reply.enhanced), (501, "5.5.4"))

    def test_sequence(self) -> None:
        """AUTH before EHLO, after HELO, in a transaction and for a second time is 503 5.5.1."""
        line = f"AUTH PLAIN {plain()}"
        for before, code in (
            ([], 503),
            (["HELO client.example"], 503),
            (["EHLO client.example", "MAIL FROM:<a@x.example>"], 503),
            (["EHLO client.example", "MAIL FROM:<a@x.example>", "RCPT TO:<b@x.example>"], 503),
            (["EHLO client.example", line], 503),
            (["EHLO client.example", line, "EHLO client.example"], 503),
            (["EHLO client.example", "MAIL FROM:<a@x.example>", "RSET"], 235),
        ):
            with self.subTest(before=before):
                wire = wire_with(greeted=False).say(*before).forget()
                self.assertEqual(wire.say(line).codes, [code])

    def test_once_more(self) -> None:
        """The second AUTH is told so with 5.5.1."""
        wire = wire_with().say(f"AUTH PLAIN {plain()}", "AUTH PLAIN")
        self.assertEqual(wire.last_reply, Reply(503, "Already authenticated", "5.5.1"))

    def test_not_offered(self) -> None:
        """A mechanism that is unknown or that no checker serves is 504 5.5.4."""
        for name in ("NTLM", "GSSAPI", "OAUTHBEARER", "CRAM-MD5", "ANONYMOUS", "EXTERNAL", "SCRAM-SHA-256-PLUS"):
            with self.subTest(name=name):
                reply = wire_with().say(f"AUTH {name}").last_reply
                self.assertEqual((reply.code, reply.enhanced), (504, "5.5.4"))

    def test_needs_tls(self) -> None:
        """A mechanism that only waits for TLS is 538 5.7.11."""
        reply = wire_with(tls=None).say(f"AUTH PLAIN {plain()}").last_reply
        self.assertEqual((reply.code, reply.enhanced), (538, "5.7.11"))

    def test_server_first(self) -> None:
        """An initial response where the server begins is 501 5.7.0."""
        for response in ("=", "AA=="):
            reply = wire_with(enable=frozenset({"CRAM-MD5"})).say(f"AUTH CRAM-MD5 {response}").last_reply
            self.assertEqual((reply.code, reply.enhanced), (501, "5.7.0"))

    def test_empty_response(self) -> None:
        """``=`` is an empty initial response, and an empty line is an empty response."""
        asked: list[Any] = []

        class Empty(Mechanism):
            name = "EMPTY"
            credentials = (IUsernamePassword,)

            def exchange(self, context: Context, response: bytes | None) -> Steps:
                asked.append(response)
                asked.append((yield Challenge(b"more")))
                return Done(PasswordLogin(b"joe", PASSWORD.encode()))

        self.assertEqual(wire_with(mechanisms=[Empty()]).say("AUTH EMPTY =", "").codes, [334, 235])
        self.assertEqual(asked, [b"", b""])

    def test_equals_sign_later(self) -> None:
        """``=`` is no response but the initial one (RFC 4954 §8)."""
        reply = wire_with().say("AUTH PLAIN", "=").last_reply
        self.assertEqual((reply.code, reply.enhanced), (501, "5.5.2"))

    def test_cancel(self) -> None:
        """``*`` ends the exchange with 501 5.7.0; the connection goes on."""
        wire = wire_with().say("AUTH LOGIN", b64("joe"), "*")
        self.assertEqual(wire.last_reply, Reply(501, "Authentication cancelled", "5.7.0"))
        self.assertEqual(wire.say("NOOP", f"AUTH PLAIN {plain()}").codes[-2:], [250, 235])

    def test_base64(self) -> None:
        """What is not base64 to the letter is 501 5.5.2, first and later; nothing of it reaches a checker."""
        checker = AnswerChecker(b"joe")
        good = plain()
        for bad in ("A", "AA", "AAA", "AA=", "=AAA", "AAA=BBB", "A===", "AA==AA==", good[:-1], f"{good}=", f"-{good}"):
            for lines in ([f"AUTH PLAIN {bad}"], ["AUTH PLAIN", bad]):
                with self.subTest(lines=lines):
                    reply = wire_with(checker).say(*lines).last_reply
                    self.assertEqual((reply.code, reply.enhanced), (501, "5.5.2"))
        for bad in (f"{good} ", f" {good}", f"{good}\t", "AA\x01=", "ÄÄ=="):
            with self.subTest(bad=bad):
                self.assertEqual(wire_with(checker).say("AUTH PLAIN", bad).codes, [334, 501])
        self.assertEqual(checker.asked, [])

    def test_malformed(self) -> None:
        """A response that makes no sense to the mechanism is 501 5.5.2."""
        reply = wire_with().say(f"AUTH PLAIN {b64('joe')}").last_reply
        self.assertEqual((reply.code, reply.enhanced), (501, "5.5.2"))

    def test_refused(self) -> None:
        """A wrong password and an unknown user get the same 535 5.7.8, as do other refusals of a checker."""
        self.assertEqual(wire_with().say(f"AUTH PLAIN {plain(password='x')}").replies, [REFUSED])
        self.assertEqual(wire_with().say(f"AUTH PLAIN {plain('jim')}").replies, [REFUSED])
        self.assertEqual(wire_with().say(f"AUTH PLAIN {plain(password='')}").replies, [REFUSED])
        for error in (UnauthorizedLogin(), LoginDenied()):
            self.assertEqual(wire_with(AnswerChecker(error)).say(f"AUTH PLAIN {plain()}").replies, [REFUSED])

    def test_again(self) -> None:
        """After a refusal the client may try again, with another mechanism too."""
        wire = wire_with().say(f"AUTH PLAIN {plain('jim')}", "AUTH LOGIN", b64("joe"), b64(PASSWORD))
        self.assertEqual(wire.codes, [535, 334, 334, 235])

    def test_checker_fails(self) -> None:
        """A checker that breaks is 454 4.7.0, and logged once with its traceback."""
        wire = wire_with(AnswerChecker(KeyError("the directory is down"))).say(f"AUTH PLAIN {plain()}")
        self.assertEqual((wire.last_reply.code, wire.last_reply.enhanced), (454, "4.7.0"))
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        self.assertEqual(wire.say("NOOP").codes[-1], 250)

    def test_checker_words_it(self) -> None:
        """A checker may word a refusal."""
        busy = TemporaryError("Too many logins at once", "4.7.0", 454)
        wire = wire_with(AnswerChecker(busy)).say(f"AUTH PLAIN {plain()}")
        self.assertEqual(wire.replies, [busy.reply])

    def test_wrong_avatar(self) -> None:
        """A realm that has no accounts is a fault of the server: 454 4.7.0."""

        class Realm(CountingRealm):
            def requestAvatar(self, avatarId: Any, mind: object, *interfaces: Any) -> Any:
                raise NotImplementedError

        self.assertEqual(wire_with(realm=Realm()).say(f"AUTH PLAIN {plain()}").codes, [454])
        self.assertEqual(len(self.flushLoggedErrors(NotImplementedError)), 1)
