"""
Tests of SCRAM, against the examples of its RFCs and a client by another hand.
"""

from __future__ import annotations

import sys
from base64 import b64decode
from typing import Any, ClassVar

from twisted.cred.credentials import IUsernameHashedPassword
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from smtpsvc.sasl import Challenge, Context, Done, SASLError
from smtpsvc.sasl.credentials import IScramCredentials, IScramSecrets, ScramParameters, ScramSecrets
from smtpsvc.sasl.scram import (
    Scram,
    ScramSHA1,
    ScramSHA1Plus,
    ScramSHA256,
    ScramSHA256Plus,
    derive,
)
from tests.logins import PASSWORD, Client, context, judge
from tests.support import given, st

#: Mechanism, password, and what client and server say.
VECTORS = (
    (
        ScramSHA1,  # RFC 5802 §5
        "pencil",
        "n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL",
        "r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
        "c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
        "v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
    ),
    (
        ScramSHA256,  # RFC 7677 §3
        "pencil",
        "n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
        "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
        "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
    ),
)


@implementer(IScramSecrets)
class Secrets:
    """A checker's knowledge of one user; awaitable, as that of a database would be."""

    def __init__(self, secrets: ScramSecrets, *hashes: str) -> None:
        self.secrets = secrets
        self.scram_hashes = frozenset(hashes)

    async def scram_parameters(self, username: bytes, hash: str) -> ScramParameters:
        """Give the user's."""
        return ScramParameters(self.secrets.salt, self.secrets.iterations, True)


class ScramTestCase(SynchronousTestCase):
    def step(self, exchange: Any, response: str | None) -> Any:
        """Send a response, and give what comes."""
        taken = exchange.step(None if response is None else response.encode())
        return self.successResultOf(Deferred.fromCoroutine(taken))

    def run_client(self, mechanism: Scram, client: Client, around: Context | None = None) -> Done:
        """Let a client converse with a mechanism, up to the end that the portal judges."""
        exchange = mechanism.start(around or context())
        first = self.step(exchange, client.first())
        done = self.step(exchange, client.final(first.data))
        assert isinstance(done, Done), done
        return done

    def fails(self, mechanism: Scram, response: bytes | str, around: Context | None = None) -> str:
        """Send a first response that makes no sense."""
        data = response.encode() if isinstance(response, str) else response
        failure = self.failureResultOf(
            Deferred.fromCoroutine(mechanism.start(around or context()).step(data)), SASLError
        )
        return str(failure.value)


class VectorTests(ScramTestCase):
    def test_rfc(self) -> None:
        """The examples of the RFCs are reproduced, octet by octet."""
        for kind, password, client_first, server_first, client_final, server_final in VECTORS:
            salt = _salt_in(server_first)
            client_nonce = client_first.rpartition("r=")[2]
            nonce = server_first.partition(",")[0].removeprefix(f"r={client_nonce}")
            mechanism = kind()
            mechanism.nonce = lambda nonce=nonce: nonce  # type: ignore[method-assign,misc]
            secrets = derive(kind.hash, password, salt, 4096)
            around = Context(checkers={IScramCredentials: Secrets(secrets, kind.hash)})
            with self.subTest(mechanism=kind.name):
                exchange = mechanism.start(around)
                self.assertEqual(self.step(exchange, client_first), Challenge(server_first.encode()))
                done = self.step(exchange, client_final)
                self.assertTrue(done.credentials.proves(secrets))
                self.assertEqual(done.proof(), server_final.encode())

    def test_checkers_with_passwords(self) -> None:
        """A checker that holds passwords as they are judges it too, and the server proves itself."""
        for kind in (ScramSHA1, ScramSHA256):
            with self.subTest(mechanism=kind.name):
                client = Client(kind.hash)
                done = self.run_client(kind(), client)
                verifyObject(IScramCredentials, done.credentials)
                self.assertTrue(IUsernameHashedPassword.providedBy(done.credentials))
                self.assertEqual(judge(done), "joe")
                assert done.proof is not None
                client.check(done.proof())

    def test_wrong(self) -> None:
        """A wrong password is refused, and so is a user who is not there, after the same steps."""
        for client in (Client("SHA-256", password="wrong"), Client("SHA-256", name="jim")):
            self.assertIsNone(judge(self.run_client(ScramSHA256(), client)))

    def test_asks(self) -> None:
        """Without an initial response the client is asked by an empty challenge."""
        self.assertEqual(self.step(ScramSHA256().start(context()), None), Challenge(b""))

    def test_names(self) -> None:
        """Names come unescaped and prepared (RFC 5802 §5.1, RFC 4013)."""
        for name, expected in (("a,b=c", b"a,b=c"), ("I\u00adX", b"IX"), ("jöe", "jöe".encode())):
            with self.subTest(name=name):
                done = self.run_client(ScramSHA256(), Client("SHA-256", name=name))
                self.assertEqual(done.credentials.username, expected)

    def test_identity(self) -> None:
        """Whom the client wants to act as is told apart from who it is."""
        done = self.run_client(ScramSHA256(), Client("SHA-256", header="n,a=the=2Cboss,"))
        self.assertEqual((done.identity, judge(done)), ("the,boss", "joe"))

    def test_identity_is_signed(self) -> None:
        """An identity that was put in on the way breaks the proof."""
        client = Client("SHA-256")
        exchange = ScramSHA256().start(context())
        first = self.step(exchange, client.first().replace("n,,", "n,a=boss,"))
        self.assertIsNone(judge(self.step(exchange, client.final(first.data))))

    def test_nonces(self) -> None:
        """No nonce of the server comes twice, and a reply with another nonce is refused."""
        client = Client("SHA-256")
        first = client.first()
        answers = {self.step(ScramSHA256().start(context()), first).data for _ in range(20)}
        self.assertEqual(len(answers), 20)
        exchange = ScramSHA256().start(context())
        self.step(exchange, first)
        self.assertIsNone(judge(self.step(exchange, client.final(answers.pop()))))

    def test_other_parameters(self) -> None:
        """Secrets with another salt than the client was told prove nothing."""
        done = self.run_client(ScramSHA256(), Client("SHA-256"))
        self.assertFalse(done.credentials.proves(derive("SHA-256", PASSWORD)))

    def test_password_that_none_may_have(self) -> None:
        """A checker's password that SASLprep refuses lets nobody in, and breaks nothing."""
        done = self.run_client(ScramSHA256(), Client("SHA-256"))
        for password in (b"\xff", b"a\x07b"):
            self.assertFalse(done.credentials.checkPassword(password))


class SaltTests(ScramTestCase):
    def test_stable(self) -> None:
        """A name has the same salt always, whether its user is there or not, and no two have one."""
        mechanism = ScramSHA256()

        def salt(name: str) -> bytes:
            data: bytes = self.step(mechanism.start(context()), f"n,,n={name},r=abc").data
            return data.rpartition(b",s=")[2]

        self.assertEqual(salt("joe"), salt("joe"))
        self.assertEqual(salt("nobody"), salt("nobody"))
        self.assertEqual(len({salt("joe"), salt("nobody"), salt("someone")}), 3)


class BindingTests(ScramTestCase):
    AROUND: ClassVar[dict[str, Any]] = {
        "channel_binding": {"tls-exporter": b"E" * 32, "tls-server-end-point": b"S" * 32}.get
    }

    def test_both_kinds(self) -> None:
        """Both kinds of channel binding are taken, by both hashes (RFC 9266, RFC 5929)."""
        for kind in (ScramSHA1Plus, ScramSHA256Plus):
            for name, data in (("tls-exporter", b"E" * 32), ("tls-server-end-point", b"S" * 32)):
                with self.subTest(mechanism=kind.name, binding=name):
                    client = Client(kind.hash, header=f"p={name},,", binding=data)
                    done = self.run_client(kind(), client, context(**self.AROUND))
                    self.assertEqual(judge(done), "joe")
                    assert done.proof is not None
                    client.check(done.proof())

    def test_other_channel(self) -> None:
        """A client that binds to another channel is refused: somebody is between."""
        client = Client("SHA-256", header="p=tls-exporter,,", binding=b"X" * 32)
        self.assertIsNone(judge(self.run_client(ScramSHA256Plus(), client, context(**self.AROUND))))

    def test_kinds_are_told_apart(self) -> None:
        """The data of one kind do not do for the other."""
        client = Client("SHA-256", header="p=tls-exporter,,", binding=b"S" * 32)
        self.assertIsNone(judge(self.run_client(ScramSHA256Plus(), client, context(**self.AROUND))))

    def test_not_to_be_had(self) -> None:
        """Kinds that are not known or not there are refused, as is binding where none was agreed."""
        around = context(channel_binding={"tls-exporter": b"E"}.get)
        bare = ",n=joe,r=abc"
        for mechanism, header in (
            (ScramSHA256Plus(), "p=tls-unique,"),
            (ScramSHA256Plus(), "p=tls-server-end-point,"),
            (ScramSHA256Plus(), "p=,"),
            (ScramSHA256Plus(), "n,"),
            (ScramSHA256Plus(), "y,"),
            (ScramSHA256(), "p=tls-exporter,"),
        ):
            with self.subTest(mechanism=mechanism.name, header=header):
                self.fails(mechanism, header + bare, around)

    def test_downgrade(self) -> None:
        """A client that could bind and did not see the offer is told so; without an offer it is right (RFC 5802 §6)."""
        around = context(**self.AROUND, offered=("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"))
        self.assertIn("did not see", self.fails(ScramSHA256(), "y,,n=joe,r=abc", around))
        around = context(**self.AROUND, offered=("SCRAM-SHA-256",))
        self.assertEqual(judge(self.run_client(ScramSHA256(), Client("SHA-256", header="y,,"), around)), "joe")

    def test_available(self) -> None:
        """-PLUS runs only where TLS can be bound to."""
        self.assertTrue(ScramSHA256Plus().available(context(**self.AROUND)))
        self.assertFalse(ScramSHA256Plus().available(context()))


class AvailableTests(ScramTestCase):
    def test_hashes(self) -> None:
        """A checker with secrets serves the hashes for which it has them."""
        secrets = derive("SHA-1", "x")
        around = Context(checkers={IScramCredentials: Secrets(secrets, "SHA-1")})
        self.assertTrue(ScramSHA1().available(around))
        self.assertFalse(ScramSHA256().available(around))

    def test_passwords(self) -> None:
        """A checker with passwords serves them all; without either there is none."""
        self.assertTrue(ScramSHA256().available(context()))
        self.assertFalse(ScramSHA256().available(Context()))

    def test_missing_library(self) -> None:
        """Without the library it is not available, and making secrets says what to install."""
        self.patch(sys, "modules", {**sys.modules, "scramp": None})
        self.assertFalse(ScramSHA256().available(context()))
        with self.assertRaisesRegex(ValueError, r"pip install 'smtpsvc\[auth\]'"):
            derive("SHA-256", "x")


class MalformedTests(ScramTestCase):
    def test_first(self) -> None:
        """A first message out of form is refused in words that do not repeat it."""
        for message in (
            "",
            "n",
            "n,,",
            "n=joe,r=abc",
            "z,,n=joe,r=abc",
            "n,x=y,n=joe,r=abc",
            "n,a=,n=joe,r=abc",
            "n,a=b=2D,n=joe,r=abc",
            "n,,n=,r=abc",
            "n,,n=joe",
            "n,,r=abc,n=joe",
            "n,,n=joe,r=",
            "n,,m=x,n=joe,r=abc",
            "n,,n=j=oe,r=abc",
            "n,,n=j\x07e,r=abc",
            "n,,n=joe,r=a\tc",
            b"n,,n=\xff,r=abc",
            b"n,,n=j\0e,r=abc",
        ):
            with self.subTest(message=message):
                self.assertNotIn("joe", self.fails(ScramSHA256(), message))

    def test_final(self) -> None:
        """A final message out of form is refused as a wrong password is."""
        for message in ("", "c=biws", "c=biws,r=abc,p=x", "p=AAAA", "c=!,r=abc,p=AAAA", "c=biws,r=abc,p=AAAA"):
            exchange = ScramSHA256().start(context())
            self.step(exchange, "n,,n=joe,r=abc")
            with self.subTest(message=message):
                self.assertIsNone(judge(self.step(exchange, message)))

    @given(st.one_of(st.binary(), st.text().map(str.encode), st.text("n=r,ypa-ab", max_size=20).map(str.encode)))
    def test_any_first(self, message: bytes) -> None:
        """Whatever comes first is answered by a challenge or refused."""
        found: list[object] = []
        Deferred.fromCoroutine(ScramSHA256().start(context()).step(message)).addBoth(found.append)
        self.assertTrue(isinstance(found[0], Challenge) or found[0].check(SASLError), found)  # type: ignore[attr-defined]

    @given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
    def test_any_final(self, message: str) -> None:
        """Whatever comes second lets nobody in."""
        exchange = ScramSHA256().start(context())
        self.step(exchange, "n,,n=joe,r=abc")
        self.assertIsNone(judge(self.step(exchange, message)))


def _salt_in(server_first: str) -> bytes:
    return b64decode(server_first.partition(",s=")[2].partition(",")[0])
