"""
Tests of the checkers by name, of several at once, of the realm, and of what checkers are made with.
"""

from __future__ import annotations

import datetime
import os
import threading
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import crypto
from twisted.cred.checkers import ANONYMOUS
from twisted.cred.credentials import IAnonymous, IUsernameHashedPassword, IUsernamePassword
from twisted.cred.error import LoginDenied, UnauthorizedLogin
from twisted.cred.strcred import ICheckerFactory
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import directlyProvides
from zope.interface.verify import verifyObject

from smtpsvc.checkers import AccountRealm, AnyOf, checker_factories, checker_factory, make_checker, make_portal
from smtpsvc.checkers.certificate import make, name_in
from smtpsvc.checkers.pool import Pool
from smtpsvc.grammar.replies import TemporaryError
from smtpsvc.interfaces import IAccount
from smtpsvc.sasl.credentials import (
    CertificateLogin,
    IBearerToken,
    IScramCredentials,
    IScramSecrets,
    PasswordLogin,
    ScramParameters,
)
from smtpsvc.values import Account
from smtpsvc.watched import WatchedFile
from tests.logins import PASSWORD, AnswerChecker, Client, joes, logged, offered, plain, wire_with
from tests.test_auth_exchange import go_to_proof


class RealmTests(SynchronousTestCase):
    def test_account(self) -> None:
        """Whoever a checker names gets an account of that name; a guest gets one without."""
        for avatar, name in ((b"joe", "joe"), ("joe", "joe"), ("jöe".encode(), "jöe"), (ANONYMOUS, "")):
            interface, account, logout = AccountRealm().requestAvatar(avatar, None, IAccount)
            self.assertEqual((interface, account), (IAccount, Account(name)))
            verifyObject(IAccount, account)
            self.assertIsNone(logout())

    def test_other_interfaces(self) -> None:
        """There is nothing else to be had."""
        self.assertRaises(NotImplementedError, AccountRealm().requestAvatar, b"joe", None, IUsernamePassword)

    def test_odd_names(self) -> None:
        """A name that could garble a log is denied."""
        for name in (b"", b"a\nb", "a\u2028b"):
            self.assertRaises(LoginDenied, AccountRealm().requestAvatar, name, None, IAccount)


class AnyOfTests(SynchronousTestCase):
    def ask(self, *checkers: Any, password: str = PASSWORD) -> Any:
        """Ask checkers about joe."""
        found: list[Any] = []
        AnyOf(checkers).requestAvatarId(PasswordLogin(b"joe", password.encode())).addBoth(found.append)
        return found[0]

    def test_first_that_knows(self) -> None:
        """They are asked in order, and the first consent stands."""
        stranger, last = AnswerChecker(UnauthorizedLogin()), AnswerChecker(b"jim")
        self.assertEqual(self.ask(stranger, joes(), last), b"joe")
        self.assertEqual((len(stranger.asked), last.asked), (1, []))

    def test_nobody(self) -> None:
        """Where all refuse, so does it."""
        self.assertIsNotNone(self.ask(joes(), joes(), password="x").check(UnauthorizedLogin))

    def test_broken(self) -> None:
        """One that breaks is not skipped: who it would have refused is not known."""
        self.assertIsNotNone(self.ask(AnswerChecker(KeyError("x")), joes()).check(KeyError))

    def test_others(self) -> None:
        """One that does not take the credentials is not asked."""
        other = AnswerChecker(b"x", IBearerToken)
        self.assertEqual(self.ask(other, joes()), b"joe")
        self.assertEqual(other.asked, [])

    def test_interfaces(self) -> None:
        """It takes what one of them takes."""
        both = AnyOf([joes(), AnswerChecker(b"x", IBearerToken, IUsernamePassword)])
        self.assertEqual(both.credentialInterfaces, (IUsernamePassword, IUsernameHashedPassword, IBearerToken))

    def test_unknown_user_costs_as_much(self) -> None:
        """A proof by a user whom nobody knows is computed too, for nothing."""
        login = _Proof(b"nobody")
        AnyOf([joes()]).requestAvatarId(login).addErrback(lambda failure: failure.trap(UnauthorizedLogin))
        self.assertEqual(login.computed, 1)

    def test_scram_hashes(self) -> None:
        """SCRAM is served only where it is for every user who has a password."""
        some, plaintext = _Secrets("SHA-256"), joes()
        for checkers, expected in (
            ([some], {"SHA-256"}),
            ([plaintext], {"SHA-1", "SHA-256"}),
            ([some, plaintext], {"SHA-256"}),
            ([some, AnswerChecker(None, IUsernamePassword)], set()),
            ([some, AnswerChecker(None, IBearerToken)], {"SHA-256"}),
        ):
            self.assertEqual(AnyOf(checkers).scram_hashes, expected)

    def test_scram_parameters(self) -> None:
        """A user's salt is that of the checker who knows the user; of nobody's the first makes one up."""
        one, two = _Secrets("SHA-256", jim=b"1" * 16), _Secrets("SHA-256", joe=b"2" * 16)
        verifyObject(IScramSecrets, AnyOf([one, two]))

        def salt(name: bytes) -> bytes:
            found = Deferred.fromCoroutine(AnyOf([one, two]).scram_parameters(name, "SHA-256"))
            return self.successResultOf(found).salt

        self.assertEqual([salt(b"jim"), salt(b"joe"), salt(b"x")], [b"1" * 16, b"2" * 16, one.made_up])

    def test_portal(self) -> None:
        """A portal of several serves them all over the wire."""
        portal = make_portal([joes(), AnswerChecker(b"jim", IBearerToken)])
        self.assertEqual(set(portal.listCredentialsInterfaces()), set(portal.checkers))
        wire = wire_with(AnyOf([joes(), AnswerChecker(b"jim", IBearerToken)]))
        self.assertEqual(offered(wire)[-4:], ["OAUTHBEARER", "XOAUTH2", "PLAIN", "LOGIN"])
        self.assertEqual(wire.forget().say(f"AUTH PLAIN {plain()}").codes, [235])

    def test_scram_of_passwords(self) -> None:
        """Over the wire, SCRAM works for a user of a checker that holds passwords."""
        for checkers in ([joes()], [_Secrets("SHA-256"), joes()]):
            wire, client = wire_with(AnyOf(checkers)), Client("SHA-256")
            go_to_proof(wire, client)
            self.assertEqual(wire.say("").last_reply.code, 235)


class _Proof:
    """A proof that counts how often it is computed."""

    def __init__(self, username: bytes) -> None:
        self.username = username
        self.computed = 0
        directlyProvides(self, IUsernameHashedPassword)

    def checkPassword(self, password: bytes) -> bool:
        self.computed += 1
        return False


class _Secrets:
    """A checker with SCRAM secrets, of which only the salts matter."""

    credentialInterfaces = (IUsernamePassword, IScramCredentials)

    def __init__(self, *hashes: str, **salts: bytes) -> None:
        self.scram_hashes = frozenset(hashes)
        self._salts = salts
        self.made_up = os.urandom(16)
        directlyProvides(self, IScramSecrets)

    def scram_parameters(self, username: bytes, hash: str) -> ScramParameters:
        salt = self._salts.get(username.decode())
        return ScramParameters(salt or self.made_up, 4096, salt is not None)

    def requestAvatarId(self, credentials: Any) -> Any:
        raise UnauthorizedLogin


class NameTests(SynchronousTestCase):
    def test_memory(self) -> None:
        """Names and passwords of ``memory:`` are those that come from the wire."""
        checker = make_checker("memory:jöe:pässwörd:jim:x")
        found: list[Any] = []
        checker.requestAvatarId(PasswordLogin("jöe".encode(), "pässwörd".encode())).addBoth(found.append)
        self.assertEqual(found, ["jöe".encode()])

    def test_file(self) -> None:
        """``file:`` works with names and passwords from the wire."""
        path = self.mktemp()
        with open(path, "w", encoding="utf-8") as file:
            file.write(f"joe:{PASSWORD}\n")
        wire = wire_with(AnyOf([make_checker(f"file:{path}")]))
        self.assertEqual(wire.say(f"AUTH PLAIN {plain('jim')}", f"AUTH PLAIN {plain()}").codes, [535, 235])

    def test_mistakes(self) -> None:
        """A mistake is one sentence that says what to do."""
        os.mkdir(directory := self.mktemp())
        for description, sentence in (
            ("file:/nowhere/at/all", "there is no file '/nowhere/at/all'"),
            (f"file:{directory}", "there is no file"),
            ("file:", "write file:PATH"),
            ("file", "write file:PATH"),
            ("memory:joe", "U:P"),
            ("htpaswd:x", "did you mean htpasswd"),
            ("nonsense", "there are anonymous, bearer, certificate, file, htpasswd, memory"),
            ("htpasswd:", "write htpasswd:FILE"),
            ("htpasswd:/nowhere/at/all", "No such file"),
            ("certificate:dn", "neither email nor cn"),
        ):
            with self.subTest(description=description):
                with self.assertRaisesRegex(ValueError, sentence) as raised:
                    make_checker(description)
                self.assertNotIn("\n", str(raised.exception))

    def test_factories(self) -> None:
        """Ours provide Twisted's interface, and those whose credentials nobody makes are left out."""
        found = checker_factories()
        self.assertLessEqual({"anonymous", "bearer", "certificate", "file", "htpasswd", "memory"}, set(found))
        self.assertNotIn("sshkey", found)
        for name in ("bearer", "certificate", "htpasswd"):
            verifyObject(ICheckerFactory, found[name])
            self.assertIn("\n", checker_factory(name).authHelp)

    def test_declared(self) -> None:
        """What a plugin says that its checker takes is what it takes."""
        path = self.mktemp()
        open(path, "w").close()
        for name, argument in (("htpasswd", path), ("certificate", "")):
            factory = checker_factory(name)
            checker = factory.generateChecker(argument)
            self.assertEqual(list(factory.credentialInterfaces), list(checker.credentialInterfaces))

    def test_anonymous(self) -> None:
        """Twisted's ``anonymous`` lets guests in."""
        wire = wire_with(AnyOf([make_checker("anonymous")]), enable=frozenset({"ANONYMOUS"}))
        self.assertEqual(wire.say("AUTH ANONYMOUS =").codes, [235])
        self.assertEqual(AnyOf([make_checker("anonymous")]).credentialInterfaces, (IAnonymous,))


class WatchedFileTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Watch a file whose content must be ASCII."""
        self.path = self.mktemp()
        self.reads = 0
        self.write(b"one")
        self.file = WatchedFile(self.path, self.read)

    def read(self, content: bytes) -> str:
        """Read the content."""
        self.reads += 1
        return content.decode("ascii")

    def write(self, content: bytes) -> None:
        """Put another file in the place."""
        with open(f"{self.path}.new", "wb") as file:
            file.write(content)
        os.rename(f"{self.path}.new", self.path)

    def test_unchanged(self) -> None:
        """It is read once as long as it does not change."""
        self.assertEqual([self.file.current() for _ in range(3)], ["one"] * 3)
        self.assertEqual(self.reads, 1)

    def test_changed(self) -> None:
        """It is read again when another is in its place, of the same size too, or when it is written to."""
        self.write(b"two")
        self.assertEqual(self.file.current(), "two")
        with open(self.path, "ab") as file:
            file.write(b"!")
        self.assertEqual(self.file.current(), "two!")

    def test_no_good(self) -> None:
        """A change that makes no sense, or a file that is gone, is logged once, and the old content stays."""
        for spoil in (lambda: self.write(b"\xff"), lambda: os.remove(self.path)):
            spoil()
            text = logged(lambda: self.assertEqual([self.file.current() for _ in range(3)], ["one"] * 3))
            self.assertEqual(text.count("what it said before stays"), 1)
            self.write(b"one")
            self.assertEqual(self.file.current(), "one")

    def test_start(self) -> None:
        """At the start a missing file or a bad one is an error with its name."""
        self.assertRaisesRegex(ValueError, "nowhere: No such file", WatchedFile, "/nowhere", self.read)
        self.write(b"\xff")
        self.assertRaises(ValueError, WatchedFile, self.path, self.read)


class PoolTests(TestCase):
    def test_results(self) -> Any:
        """What a function gives or raises comes back."""
        pool = Pool()
        good = pool.run(int, "12").addCallback(self.assertEqual, 12)
        return gatherResults([good, self.assertFailure(pool.run(int, "x"), ValueError)])

    async def test_full(self) -> None:
        """More than may wait are turned away with 454 4.7.0; there is room again when some are done."""
        pool, gate = Pool(threads=2, queue=3), threading.Event()
        running = [pool.run(gate.wait) for _ in range(5)]
        with self.assertRaises(TemporaryError) as raised:
            pool.run(gate.wait)
        self.assertEqual((raised.exception.reply.code, raised.exception.reply.enhanced), (454, "4.7.0"))
        gate.set()
        await gatherResults(running)
        self.assertEqual(await pool.run(int, "1"), 1)

    async def test_cancel(self) -> None:
        """Whoever gives up leaves the queue at once, or frees the thread's place when it is done."""
        pool, gate = Pool(threads=1, queue=1), threading.Event()
        running, waiting = pool.run(gate.wait), pool.run(gate.wait)
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        again = pool.run(gate.wait)
        running.cancel()
        self.failureResultOf(running, CancelledError)
        self.assertRaises(TemporaryError, pool.run, gate.wait)
        gate.set()
        await again
        self.assertEqual(await pool.run(int, "1"), 1)


def certificate(*names: str, email: str = "") -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name) for name in names])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
    )
    if email:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.RFC822Name(email)]), critical=False)
    return builder.sign(key, hashes.SHA256())


class CertificateTests(SynchronousTestCase):
    def test_names(self) -> None:
        """The mail address comes first, then the common name; which one, can be said."""
        both, plain_name = certificate("joe", email="joe@x.example"), certificate("joe")
        for shown, argument, name in (
            (both, "", b"joe@x.example"),
            (both, "cn", b"joe"),
            (both, "email", b"joe@x.example"),
            (plain_name, "", b"joe"),
            (plain_name, "email", None),
            (certificate("joe", "jim"), "", None),
            (certificate(), "", None),
            (crypto.X509.from_cryptography(plain_name), "", b"joe"),
        ):
            found: list[Any] = []
            login = make(argument).requestAvatarId(CertificateLogin(shown))
            login.addCallbacks(found.append, lambda failure: failure.trap(UnauthorizedLogin))
            with self.subTest(argument=argument, name=name):
                self.assertEqual(found, [name] if name else [])

    def test_text(self) -> None:
        """Names are text."""
        self.assertEqual(name_in(certificate("jöe"), "cn"), "jöe")
