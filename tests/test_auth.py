"""
Tests of AUTH by transcript: what is offered, and every reply to the command.
"""

from __future__ import annotations

import re
from base64 import b64decode
from typing import Any

from twisted.cred.credentials import IAnonymous, IUsernamePassword
from twisted.cred.error import LoginDenied, UnauthorizedLogin
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.extensions.auth import decode
from smtpsvc.grammar.replies import Reply, SMTPError, TemporaryError
from smtpsvc.sasl import Challenge, Context, Done, Mechanism, Steps
from smtpsvc.sasl.credentials import IBearerToken, ITLSCertificate, PasswordLogin
from smtpsvc.server.factory import SMTPFactory
from smtpsvc.settings import AUTH_LINE, Role
from smtpsvc.testing import ScriptedBackend, Wire, clocked_factory
from smtpsvc.values import TLSInfo
from tests.logins import (
    PASSWORD,
    AnswerChecker,
    Client,
    CountingRealm,
    b64,
    challenge,
    offered,
    plain,
    wire_with,
)
from tests.support import MESSAGE, given, st

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
        wire = wire_with(role=Role.LMTP, greeted=False).say("LHLO client.example").forget()
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
        import hmac

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


class LengthTests(SynchronousTestCase):
    # The most octets of base64 in a line with its CRLF, and their response.
    WHOLE = (AUTH_LINE - 2) // 4 * 4

    def test_longest(self) -> None:
        """A response may have 12,288 octets with its CRLF, in AUTH and after it."""
        checker = AnswerChecker(UnauthorizedLogin())
        response = b"\0joe\0".ljust(self.WHOLE // 4 * 3, b"x")
        self.assertEqual(len(b64(response)), self.WHOLE)
        self.assertEqual(wire_with(checker).say("AUTH PLAIN", b64(response)).codes, [334, 535])
        shorter = b64(response[: -3 * 3])
        self.assertEqual(wire_with(checker).say(f"AUTH PLAIN {shorter}").codes, [535])
        self.assertEqual(len(checker.asked), 2)

    def test_too_long(self) -> None:
        """A longer one is 500 5.5.6, whole or as it comes, and the connection goes on."""
        for line in (b"A" * AUTH_LINE + b"\r\n", b"A" * (AUTH_LINE + 70000) + b"\r\n"):
            wire = wire_with().say("AUTH PLAIN").forget()
            wire.receive(line[:AUTH_LINE]).receive(line[AUTH_LINE:]).say("NOOP")
            with self.subTest(length=len(line)):
                self.assertEqual(wire.replies[0].enhanced, "5.5.6")
                self.assertEqual(wire.codes, [500, 250])

    def test_long_challenge(self) -> None:
        """A challenge goes out in one line, however long it is."""

        class Long(Mechanism):
            name = "LONG"
            credentials = (IUsernamePassword,)

            def exchange(self, context: Context, response: bytes | None) -> Steps:
                yield Challenge(bytes(3000))
                raise UnauthorizedLogin

        wire = wire_with(mechanisms=[Long()]).say("AUTH LONG")
        self.assertEqual(wire.output, b"334 " + b"A" * 4000 + b"\r\n")

    @given(st.binary() | st.text("ABab+/=09 \t-_", max_size=12).map(str.encode))
    def test_strict(self, line: bytes) -> None:
        """Exactly what the grammar of RFC 4954 §8 has is decoded."""
        good = re.fullmatch(rb"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?", line)
        if good:
            self.assertEqual(decode(line), b64decode(line))
        else:
            self.assertRaises(SMTPError, decode, line)

    @given(st.binary())
    def test_round(self, data: bytes) -> None:
        """What was encoded is decoded."""
        self.assertEqual(decode(b64(data).encode()), data)


class ScramTests(SynchronousTestCase):
    def exchange(self, wire: Wire, client: Client, name: str = "SCRAM-SHA-256") -> None:
        """Go as far as the client's proof."""
        wire.forget().say(f"AUTH {name} {b64(client.first())}")
        wire.say(b64(client.final(challenge(wire))))

    def test_good(self) -> None:
        """The server's proof is a last challenge, and an empty line the answer to it."""
        wire, client = wire_with(), Client("SHA-256")
        self.exchange(wire, client)
        client.check(challenge(wire))
        self.assertIsNone(wire.protocol.conversation.peer.account)
        self.assertEqual(wire.say("").last_reply, GOOD)
        self.assertEqual(wire.protocol.conversation.peer.account.name, "joe")

    def test_refused(self) -> None:
        """A wrong proof is 535 5.7.8 after the same steps for a user who is there and one who is not."""
        for client in (Client("SHA-256", password="x"), Client("SHA-256", name="jim")):
            wire = wire_with()
            self.exchange(wire, client)
            self.assertEqual((wire.codes, wire.last_reply), ([334, 535], REFUSED))

    def test_last_answer(self) -> None:
        """Any other answer to the server's proof ends the exchange without a login."""
        for answer, code in (("*", 501), ("AA==", 501), ("x", 501)):
            realm = CountingRealm()
            wire, client = wire_with(realm=realm), Client("SHA-256")
            self.exchange(wire, client)
            with self.subTest(answer=answer):
                self.assertEqual(wire.say(answer).last_reply.code, code)
                self.assertIsNone(wire.protocol.conversation.peer.account)
                self.assertEqual(realm.logouts, ["joe"])

    def test_plus(self) -> None:
        """The exchange is bound to the connection's TLS."""
        for data, codes in ((b"E" * 32, [334, 334, 235]), (b"X" * 32, [334, 535, 500])):
            wire = wire_with()
            wire.protocol.channel_binding = {"tls-exporter": b"E" * 32}.get
            client = Client("SHA-256", header="p=tls-exporter,,", binding=data)
            self.exchange(wire, client, "SCRAM-SHA-256-PLUS")
            self.assertEqual(wire.say("").codes, codes)


class BearerTests(SynchronousTestCase):
    def test_refused(self) -> None:
        """A token that is refused is explained in a challenge; whatever the client answers, 535 follows."""
        for name, response in (
            ("OAUTHBEARER", "n,,\x01auth=Bearer abc\x01\x01"),
            ("XOAUTH2", "user=joe\x01auth=Bearer abc\x01\x01"),
        ):
            for answer in ("AQ==", "", "*", "?"):
                wire = wire_with(AnswerChecker(UnauthorizedLogin(), IBearerToken))
                wire.say(f"AUTH {name} {b64(response)}")
                with self.subTest(name=name, answer=answer):
                    self.assertIn(b'"schemes": "bearer"', challenge(wire))
                    self.assertEqual(wire.say(answer).last_reply, REFUSED)
                    self.assertEqual(wire.say("NOOP").last_reply.code, 250)

    def test_good(self) -> None:
        """A good token is 235; the name it is for must be the one that the client gives, if it gives one."""
        for name, code in (("joe", 235), ("", 235), ("boss", 535)):
            wire = wire_with(AnswerChecker(b"joe", IBearerToken))
            response = f"user={name}\x01auth=Bearer abc\x01\x01"
            self.assertEqual(wire.say(f"AUTH XOAUTH2 {b64(response)}").codes, [code])


class WaitingTests(SynchronousTestCase):
    def waiting(self, **options: Any) -> tuple[Wire, Deferred[Any], CountingRealm]:
        """Log in to a checker that takes its time."""
        pending: Deferred[Any] = Deferred()
        realm = CountingRealm()
        wire = wire_with(AnswerChecker(lambda _: pending), realm=realm, **options)
        return wire, pending, realm

    def test_pipelined(self) -> None:
        """What the client sends behind AUTH waits until the checker has answered."""
        wire, pending, _ = self.waiting(require_auth=True)
        wire.receive(b"AUTH PLAIN " + plain().encode() + b"\r\n" + MESSAGE)
        self.assertEqual(wire.codes, [])
        pending.callback(b"joe")
        self.assertEqual(wire.codes, [235, 250, 250, 354, 250])

    def test_pipelined_responses(self) -> None:
        """Responses may come before they are asked for."""
        wire = wire_with()
        wire.receive(f"AUTH LOGIN\r\n{b64('joe')}\r\n{b64(PASSWORD)}\r\nNOOP\r\n".encode())
        self.assertEqual(wire.codes, [334, 334, 235, 250])

    def test_lost(self) -> None:
        """A connection that is lost meanwhile cancels the checker, and nothing is logged."""
        wire, pending, _ = self.waiting()
        wire.say(f"AUTH PLAIN {plain()}").hang_up()
        self.failureResultOf(pending.addErrback(lambda failure: failure), CancelledError)

    def test_lost_in_exchange(self) -> None:
        """A connection that is lost while a response is waited for ends quietly."""
        wire_with().say("AUTH LOGIN").hang_up()
        realm = CountingRealm()
        wire, client = wire_with(realm=realm), Client("SHA-256")
        ScramTests.exchange(ScramTests(), wire, client)
        wire.hang_up()
        self.assertEqual(realm.logouts, ["joe"])

    def test_slow_checker(self) -> None:
        """A checker that takes too long is cancelled and answered 451 4.3.0."""
        clock: list[Any] = []
        wire, _, _ = self.waiting(clock=clock, hook_timeout=5.0)
        wire.say(f"AUTH PLAIN {plain()}")
        clock[0].pump([1] * 8)
        self.assertEqual((wire.codes, wire.last_reply.enhanced), ([451], "4.3.0"))

    def test_slow_client(self) -> None:
        """A client that does not answer a challenge is told 421 4.4.2."""
        clock: list[Any] = []
        wire = wire_with(clock=clock, command_timeout=5.0).say("AUTH LOGIN")
        clock[0].pump([1] * 8)
        self.assertEqual((wire.codes, wire.closed), ([334, 421], True))

    def test_shut_down(self) -> None:
        """When the service ends in the middle of an exchange, the client is told 421."""
        wire = wire_with().say("AUTH LOGIN")
        wire.factory.shut_down()
        self.assertEqual((wire.codes, wire.closed), ([334, 421], True))
