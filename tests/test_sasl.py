"""
Tests of the SASL mechanisms, without SMTP and without a portal but where one judges; SCRAM has tests of its own.
"""

from __future__ import annotations

import hmac
import json
from base64 import b64decode
from typing import Any

from twisted.cred.credentials import IAnonymous, IUsernameHashedPassword, IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from smtpsvc.interfaces import ISASLExchange, ISASLMechanism
from smtpsvc.plugins import find_mechanisms
from smtpsvc.sasl import Challenge, Context, Done, Mechanism, SASLError, Steps, default_mechanisms
from smtpsvc.sasl.anonymous import Anonymous
from smtpsvc.sasl.bearer import OAuthBearer, XOAuth2, unescape
from smtpsvc.sasl.cram import CramMD5
from smtpsvc.sasl.credentials import CramLogin, IBearerToken, ITLSCertificate, PasswordLogin
from smtpsvc.sasl.external import External
from smtpsvc.sasl.login import Login
from smtpsvc.sasl.plain import Plain
from smtpsvc.values import TLSInfo
from tests.logins import PASSWORD, AnswerChecker, judge
from tests.support import given, st

#: The token of RFC 7628 §4.
TOKEN = "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg=="


class ExchangeTestCase(SynchronousTestCase):
    """Takes the steps of an exchange."""

    def run_exchange(self, mechanism: Any, *responses: bytes | None, context: Context | None = None) -> list[Any]:
        """Send the responses one after another, and give what came for each."""
        exchange = mechanism.start(context or Context())
        verifyObject(ISASLExchange, exchange)
        return [self.successResultOf(_deferred(exchange.step(response))) for response in responses]

    def end(self, mechanism: Any, *responses: bytes | None, context: Context | None = None) -> Done:
        """Send the responses, and give the end of the exchange."""
        done = self.run_exchange(mechanism, *responses, context=context)[-1]
        assert isinstance(done, Done), done
        return done

    def fails(self, expected: type[Exception], mechanism: Any, *responses: bytes | None) -> Exception:
        """Send the responses, of which the last is refused."""
        exchange = mechanism.start(Context())
        for response in responses[:-1]:
            self.successResultOf(_deferred(exchange.step(response)))
        error = self.failureResultOf(_deferred(exchange.step(responses[-1])), expected).value
        assert isinstance(error, Exception)
        return error


def _deferred(coroutine: Any) -> Deferred[Any]:
    return Deferred.fromCoroutine(coroutine)


class PlainTests(ExchangeTestCase):
    def test_credentials(self) -> None:
        """The three parts are identity, name and password (RFC 4616 §2)."""
        done = self.end(Plain(), b"\0tim\0tanstaaftanstaaf")
        self.assertTrue(IUsernamePassword.providedBy(done.credentials))
        self.assertEqual((done.credentials.username, done.credentials.password), (b"tim", b"tanstaaftanstaaf"))
        self.assertEqual(done.identity, "")

    def test_identity(self) -> None:
        """Whom the client wants to act as is told apart from who it is (RFC 4616 §4)."""
        done = self.end(Plain(), b"Ursel\0Kurt\0xipj3plmq")
        self.assertEqual((done.identity, done.credentials.username), ("Ursel", b"Kurt"))

    def test_asks(self) -> None:
        """Without an initial response the client is asked by an empty challenge."""
        first, second = self.run_exchange(Plain(), None, "\0jöe\0päss".encode())
        self.assertEqual(first, Challenge(b""))
        self.assertEqual(second.credentials.password, "päss".encode())

    def test_malformed(self) -> None:
        """What is not two NULs between valid UTF-8 is malformed."""
        for response in (b"", b"joe", b"\0joe", b"\0joe\0x\0y", b"joe x", b"\0j\xff\0x", b"\0joe\0\xc3"):
            with self.subTest(response=response):
                self.fails(SASLError, Plain(), response)

    def test_empty(self) -> None:
        """An empty name or password is refused before any checker sees it."""
        for response in (b"\0\0", b"\0\0secret", b"\0joe\0", b"x\0\0"):
            with self.subTest(response=response):
                self.fails(UnauthorizedLogin, Plain(), response)

    @given(st.binary())
    def test_any_response(self, response: bytes) -> None:
        """Whatever comes ends in credentials or in one of the two errors."""
        exchange = Plain().start(Context())
        try:
            self.assertIsInstance(self.successResultOf(_deferred(exchange.step(response))), Done)
        except self.failureException as failure:
            self.assertRegex(str(failure), "SASLError|UnauthorizedLogin")


class LoginTests(ExchangeTestCase):
    def test_asks_for_both(self) -> None:
        """The name is asked for, then the password, in the words that clients compare."""
        name, password, done = self.run_exchange(Login(), None, b"joe", b"secret")
        self.assertEqual((name, password), (Challenge(b"Username:"), Challenge(b"Password:")))
        self.assertEqual((done.credentials.username, done.credentials.password), (b"joe", b"secret"))

    def test_name_first(self) -> None:
        """The name may come with the command."""
        password, done = self.run_exchange(Login(), b"joe", b"secret")
        self.assertEqual(password, Challenge(b"Password:"))
        self.assertEqual(done.credentials.username, b"joe")

    def test_empty(self) -> None:
        """An empty name or password is refused, both when all was said."""
        for responses in ((b"", b"secret"), (b"joe", b""), (None, b"", b"")):
            with self.subTest(responses=responses):
                self.fails(UnauthorizedLogin, Login(), *responses)

    def test_malformed(self) -> None:
        """NUL and octets that are not UTF-8 are malformed."""
        for responses in ((b"j\0e",), (b"\xff",), (b"joe", b"a\0b"), (b"joe", b"\xc3")):
            with self.subTest(responses=responses):
                self.fails(SASLError, Login(), *responses)


class CramTests(ExchangeTestCase):
    def test_vector(self) -> None:
        """The example of RFC 2195 §2 is good, and no other password is."""
        challenge, digest = b"<1896.697170952@postoffice.reston.mci.net>", b"b913a602c7eda7a495b4e6e7334d3890"
        login = CramLogin(b"tim", challenge, digest)
        self.assertTrue(login.checkPassword(b"tanstaaftanstaaf"))
        self.assertFalse(login.checkPassword(b"tanstaaftanstaaF"))

    def test_exchange(self) -> None:
        """A client that answers the challenge of this exchange is let in."""
        exchange = CramMD5().start(Context(hostname="mx.example"))
        sent = self.successResultOf(_deferred(exchange.step(None))).data
        self.assertRegex(sent, rb"\A<[0-9a-f]{32}\.\d+@mx\.example>\Z")
        digest = hmac.new(PASSWORD.encode(), sent, "md5").hexdigest()
        done = self.successResultOf(_deferred(exchange.step(f"joe {digest}".encode())))
        self.assertTrue(IUsernameHashedPassword.providedBy(done.credentials))
        self.assertEqual(judge(done), "joe")

    def test_challenges_differ(self) -> None:
        """No challenge comes twice."""
        sent = {self.run_exchange(CramMD5(), None)[0].data for _ in range(50)}
        self.assertEqual(len(sent), 50)

    def test_name_with_spaces(self) -> None:
        """The digest is what follows the last space."""
        done = self.end(CramMD5(), None, b"joe the user " + b"0" * 32)
        self.assertEqual(done.credentials.username, b"joe the user")

    def test_malformed(self) -> None:
        """What is no name and digest is malformed, as is a digest in capitals."""
        for response in (b"", b"joe", b"joe 12", b"joe " + b"A" * 32, b"0" * 32, b"joe  " + b"0" * 31):
            with self.subTest(response=response):
                self.fails(SASLError, CramMD5(), None, response)


class BearerTests(ExchangeTestCase):
    def test_vector(self) -> None:
        """The message of RFC 7628 §4.1 has the token and whom the client wants to act as."""
        message = b64decode(
            "bixhPXVzZXJAZXhhbXBsZS5jb20sAWhvc3Q9c2VydmVyLmV4YW1wbGUuY29tAXBvcnQ9MTQzAWF1dGg9QmVhcmVyIHZGOWRmdDRx"
            "bVRjMk52YjNSbGNrQmhiSFJoZG1semRHRXVZMjl0Q2c9PQEB"
        )
        done = self.end(OAuthBearer(), message)
        self.assertTrue(IBearerToken.providedBy(done.credentials))
        self.assertEqual((done.identity, done.credentials.token), ("user@example.com", TOKEN))

    def test_refusal(self) -> None:
        """Where a token is refused, the challenge to send is JSON that says so (RFC 7628 §3.2.2)."""
        for mechanism, message in (
            (OAuthBearer(), f"n,,\x01auth=Bearer {TOKEN}\x01\x01"),
            (XOAuth2(), f"user=joe\x01auth=Bearer {TOKEN}\x01\x01"),
        ):
            with self.subTest(mechanism=mechanism.name):
                refusal = self.end(mechanism, message.encode()).refusal
                self.assertEqual(json.loads(refusal or "")["schemes"], "bearer")

    def test_good(self) -> None:
        """No identity, other keys, the scheme in any case, and names with = and , in them are taken."""
        for message, identity in (
            (f"n,,\x01auth=Bearer {TOKEN}\x01\x01", ""),
            (f"y,,\x01auth=bEARER  {TOKEN}\x01\x01", ""),
            (f"n,a=a=2Cb=3D,\x01host=x\x01AUTH=Bearer {TOKEN}\x01mthd=POST\x01\x01", "a,b="),
        ):
            with self.subTest(message=message):
                done = self.end(OAuthBearer(), message.encode())
                self.assertEqual((done.identity, done.credentials.token), (identity, TOKEN))

    def test_malformed(self) -> None:
        """A message without a token, with two, or out of form is malformed."""
        for message in (
            "",
            "\x01",
            "n,,\x01\x01",
            f"n,,\x01auth=Bearer {TOKEN}\x01",
            f"n,,\x01auth=Basic {TOKEN}\x01\x01",
            "n,,\x01auth=Bearer \x01\x01",
            "n,,\x01auth=Bearer a b\x01\x01",
            f"p=tls-exporter,,\x01auth=Bearer {TOKEN}\x01\x01",
            f"x,,\x01auth=Bearer {TOKEN}\x01\x01",
            f"n,a=,\x01auth=Bearer {TOKEN}\x01\x01",
            f"n,a=x=2D,\x01auth=Bearer {TOKEN}\x01\x01",
            f"n,,\x01auth=Bearer {TOKEN}\x01auth=Bearer {TOKEN}\x01\x01",
            f"n,,auth=Bearer {TOKEN}\x01\x01",
            f"user=joe\x01auth=Bearer {TOKEN}\x01\x01",
        ):
            with self.subTest(message=message):
                self.fails(SASLError, OAuthBearer(), message.encode())

    def test_xoauth2(self) -> None:
        """XOAUTH2 has the user first."""
        first, done = self.run_exchange(XOAuth2(), None, f"user=joe@x.example\x01auth=Bearer {TOKEN}\x01\x01".encode())
        self.assertEqual(first, Challenge())
        self.assertEqual((done.identity, done.credentials.token), ("joe@x.example", TOKEN))

    def test_xoauth2_malformed(self) -> None:
        """What is not user and auth is malformed."""
        for message in ("", "user=joe", f"n,,\x01auth=Bearer {TOKEN}\x01\x01", f"user=j\x01auth=Bearer {TOKEN}\x01"):
            with self.subTest(message=message):
                self.fails(SASLError, XOAuth2(), message.encode())

    @given(st.text())
    def test_unescape(self, name: str) -> None:
        """Every name comes back from its escaped form."""
        self.assertEqual(unescape(name.replace("=", "=3D").replace(",", "=2C")), name)

    def test_no_token_shown(self) -> None:
        """Neither the end of an exchange nor its credentials show the token."""
        done = self.end(OAuthBearer(), f"n,,\x01auth=Bearer {TOKEN}\x01\x01".encode())
        self.assertNotIn(TOKEN, repr(done) + repr(done.credentials))


class ExternalTests(ExchangeTestCase):
    TLS = Context(tls=TLSInfo("TLSv1.3", "x", certificate="a certificate"))

    def test_available(self) -> None:
        """It runs where the client has shown a certificate, and nowhere else."""
        self.assertTrue(External().available(self.TLS))
        self.assertFalse(External().available(Context(tls=TLSInfo("TLSv1.3", "x"))))
        self.assertFalse(External().available(Context()))

    def test_credentials(self) -> None:
        """The credentials are the certificate; the response is whom the client wants to act as."""
        for responses, identity in (((b"",), ""), ((None, b""), ""), ((b"joe",), "joe"), ((None, b"joe"), "joe")):
            with self.subTest(responses=responses):
                done = self.end(External(), *responses, context=self.TLS)
                self.assertTrue(ITLSCertificate.providedBy(done.credentials))
                self.assertEqual((done.credentials.certificate, done.identity), ("a certificate", identity))


class AnonymousTests(ExchangeTestCase):
    def test_credentials(self) -> None:
        """Anybody is let in, whatever the trace says (RFC 4505 §2)."""
        for responses in ((b"",), (None, b"sirhc"), ("jöe@x.example".encode(),)):
            with self.subTest(responses=responses):
                done = self.end(Anonymous(), *responses)
                self.assertEqual(judge(done, AnswerChecker((), IAnonymous)), "")

    def test_long(self) -> None:
        """A trace has 255 characters at most."""
        self.end(Anonymous(), b"x" * 255)
        self.fails(SASLError, Anonymous(), b"x" * 256)


class MechanismTests(SynchronousTestCase):
    def test_provide(self) -> None:
        """Each mechanism provides its interface, and its name is one (RFC 4422 §3.1)."""
        for mechanism in default_mechanisms():
            with self.subTest(mechanism=mechanism.name):
                verifyObject(ISASLMechanism, mechanism)
                self.assertRegex(mechanism.name, r"\A[A-Z0-9_-]{1,20}\Z")

    def test_plugins(self) -> None:
        """The plugins are those that a factory has without them, in the same order."""
        expected = [mechanism.name for mechanism in default_mechanisms()]
        self.assertEqual([mechanism.name for mechanism in find_mechanisms()], expected)
        self.assertEqual([mechanism.name for mechanism in find_mechanisms(plugins=[])], expected)

    def test_plaintext(self) -> None:
        """Those that show a password or a token say so."""
        shown = {mechanism.name for mechanism in default_mechanisms() if mechanism.plaintext}
        self.assertEqual(shown, {"PLAIN", "LOGIN", "OAUTHBEARER", "XOAUTH2"})

    def test_on_request(self) -> None:
        """CRAM-MD5 and ANONYMOUS wait to be asked for."""
        waiting = {mechanism.name for mechanism in default_mechanisms() if mechanism.on_request}
        self.assertEqual(waiting, {"CRAM-MD5", "ANONYMOUS"})

    def test_own(self) -> None:
        """A mechanism of one's own is a name, credentials and a generator."""

        class Pin(Mechanism):
            name = "X-PIN"
            credentials = (IUsernamePassword,)

            def exchange(self, context: Context, response: bytes | None) -> Steps:
                if response is None:
                    response = yield Challenge(b"PIN?")
                name, _, pin = response.partition(b" ")
                return Done(PasswordLogin(name, pin))

        exchange = Pin().start(Context())
        self.assertEqual(self.successResultOf(_deferred(exchange.step(None))), Challenge(b"PIN?"))
        done = self.successResultOf(_deferred(exchange.step(f"joe {PASSWORD}".encode())))
        self.assertEqual(judge(done), "joe")


class CredentialsTests(SynchronousTestCase):
    def test_hidden(self) -> None:
        """A password is in no representation."""
        self.assertNotIn(PASSWORD, repr(PasswordLogin(b"joe", PASSWORD.encode())))
        self.assertNotIn("0" * 32, repr(CramLogin(b"joe", b"<1@x>", b"0" * 32)))

    def test_compare(self) -> None:
        """A password is compared with octets and with text."""
        login = PasswordLogin(b"joe", "päss".encode())
        self.assertTrue(login.checkPassword("päss".encode()))
        self.assertTrue(login.checkPassword("päss"))  # type: ignore[arg-type]
        self.assertFalse(login.checkPassword(b"pass"))
