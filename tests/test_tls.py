"""
Tests of smtpsvc.tls: certificates, the choice among them, and their renewal.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from OpenSSL import SSL
from twisted.application.service import IService
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from smtpsvc.tls import INTERVAL, TICKETS, CertificateError, CertificateStore
from smtpsvc.tlstesting import Authority, certificate, client_context
from tests.certificates import AUTHORITY, TLSTestCase, pair


class Handshake:
    """
    A client and a server in memory, as far as they come.

    :ivar client: the client's side.
    :ivar error: what ended the handshake, or None.
    """

    def __init__(self, store: CertificateStore, context: SSL.Context | None = None, sni: bytes = b"") -> None:
        self.client = SSL.Connection(context or client_context(), None)
        if sni:
            self.client.set_tlsext_host_name(sni)
        self.client.set_connect_state()
        self.server = store.serverConnectionForTLS(None)
        self.server.set_accept_state()
        self.error: SSL.Error | None = None
        self.talk()

    def talk(self) -> None:
        """Carry bytes until both sides are silent."""
        for _ in range(20):
            for here, there in ((self.client, self.server), (self.server, self.client)):
                try:
                    here.do_handshake()
                except SSL.WantReadError:
                    pass
                except SSL.Error as error:
                    self.error = self.error or error
                try:
                    there.bio_write(here.bio_read(1 << 16))
                except SSL.WantReadError:
                    pass

    @property
    def name(self) -> str:
        """The subject of the certificate that the client sees."""
        shown = self.client.get_peer_certificate(as_cryptography=True)
        assert shown is not None
        return shown.subject.rfc4514_string()

    @property
    def reason(self) -> str:
        """What OpenSSL says of the failure."""
        return str(self.error.args[0][-1][-1]) if self.error is not None else ""


class StoreTestCase(TLSTestCase):
    """Makes files."""

    def setUp(self) -> None:
        """Make a directory."""
        super().setUp()
        self.home = Path(self.mktemp())
        self.home.mkdir(parents=True)

    def put(self, name: str, *contents: bytes) -> str:
        """Write a file, and give its path."""
        path = self.home / name
        path.write_bytes(b"".join(contents))
        return str(path)

    def store(self, *names: str, **options: Any) -> CertificateStore:
        """Make a store of a certificate for each name, and load it."""
        paths = [self.put(f"{number}.pem", *pair(name)) for number, name in enumerate(names)]
        made = CertificateStore(paths, **options)
        made.load()
        return made


class ChoiceTests(StoreTestCase):
    """Clients get the certificate for the name that they ask for."""

    def test_names(self) -> None:
        """By exact name, by wildcard for one label, without regard to case; else the first."""
        one, two, three = (
            self.put("one", *AUTHORITY.issue("mx.example")),
            self.put("two", *AUTHORITY.issue("*.two.example", "two.example")),
            self.put("three", *AUTHORITY.issue("a.two.example")),
        )
        store = CertificateStore([one, two, three])
        store.load()
        cases = [
            ("", "mx.example"),
            ("mx.example", "mx.example"),
            ("other.example", "mx.example"),
            ("two.example", "*.two.example"),
            ("TWO.Example", "*.two.example"),
            ("b.two.example", "*.two.example"),
            ("a.two.example", "a.two.example"),
            ("a.b.two.example", "mx.example"),
            ("example", "mx.example"),
        ]
        for sni, expected in cases:
            with self.subTest(sni):
                self.assertEqual(Handshake(store, sni=sni.encode()).name, f"CN={expected}")

    def test_all_names(self) -> None:
        """The store tells all names, in order."""
        self.assertEqual(self.store("b.example", "a.example").names, ["b.example", "a.example"])

    def test_common_name(self) -> None:
        """A certificate without alternative names is for its common name."""
        old = self.put("b", *AUTHORITY.issue(common_name="Old.example"))
        store = CertificateStore([self.put("a", *pair("x.example")), old])
        store.load()
        self.assertEqual(Handshake(store, sni=b"old.example").name, "CN=Old.example")

    def test_same_name(self) -> None:
        """Of two certificates for one name the first is used."""
        paths = [self.put(name, *AUTHORITY.issue("x.example", common_name=name)) for name in ("one", "two")]
        store = CertificateStore(paths)
        store.load()
        self.assertEqual(Handshake(store, sni=b"x.example").name, "CN=one")


class KeyTests(StoreTestCase):
    """Keys are found by what they fit."""

    def test_places(self) -> None:
        """A key may be in its certificate's file, or in any --tls-key file, in any order."""
        (c1, k1), (c2, k2) = pair("one.example"), pair("two.example")
        cases: list[tuple[list[str], list[str]]] = [
            ([self.put("a", c1, k1), self.put("b", c2, k2)], []),
            ([self.put("c", k1, c1), self.put("d", c2)], [self.put("e", k2)]),
            ([self.put("f", c1), self.put("g", c2)], [self.put("h", k2), self.put("i", k1)]),
            ([self.put("j", c1, k1), self.put("k", c2)], [self.put("l", k1), self.put("m", k2)]),
        ]
        for certificates, keys in cases:
            with self.subTest(keys=len(keys)):
                store = CertificateStore(certificates, keys)
                store.load()
                self.assertEqual(Handshake(store, sni=b"two.example").name, "CN=two.example")

    def test_kinds(self) -> None:
        """RSA, elliptic curves and Ed25519 will do."""
        kinds = {
            "rsa": rsa.generate_private_key(65537, 2048),
            "p-384": ec.generate_private_key(ec.SECP384R1()),
            "ed25519": ed25519.Ed25519PrivateKey.generate(),
        }
        for name, key in kinds.items():
            with self.subTest(name):
                store = CertificateStore([self.put(name, *AUTHORITY.issue("x.example", key=key))])
                store.load()
                self.assertIsNone(Handshake(store).error)

    def test_issuers(self) -> None:
        """The certificates of issuers in the file are sent too."""
        certificate, key = pair("x.example")
        store = CertificateStore([self.put("a", certificate, AUTHORITY.pem, key)])
        store.load()
        chain = Handshake(store).client.get_peer_cert_chain(as_cryptography=True)
        assert chain is not None
        self.assertEqual([each.subject.rfc4514_string() for each in chain], ["CN=x.example", "CN=Test Authority"])


class SentenceTests(StoreTestCase):
    """What is wrong with a file is told in a sentence with its option."""

    def sentence(self, *arguments: Any, **options: Any) -> str:
        """Give the sentence with which a store refuses to load."""
        store = CertificateStore(*arguments, **options)
        error = self.assertRaises(CertificateError, store.load)
        self.assertEqual(str(self.assertRaises(CertificateError, store.check)), str(error))
        return str(error).replace(f"{self.home}{os.sep}", "")

    def test_sentences(self) -> None:
        """Each mistake has its own."""
        good, key = pair("x.example")
        other = pair("other.example")[1]
        private: Any = serialization.load_pem_private_key(key, None)
        locked = private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
        ended, begins = AUTHORITY.issue("x.example", days=-1), AUTHORITY.issue("x.example", begin=3)
        end = x509.load_pem_x509_certificate(ended[0]).not_valid_after_utc
        begin = x509.load_pem_x509_certificate(begins[0]).not_valid_before_utc
        no_certificate = "no certificate can be read in it; a PEM file with BEGIN CERTIFICATE is needed"
        first = "the certificate that has the key must be the first in the file, those of its issuers behind it"
        # The contents of the files c and k, if they are there, and the sentence behind the option.
        cases: list[tuple[bytes | None, bytes | None, str]] = [
            (None, None, "--tls-certificate c: it cannot be read: No such file or directory"),
            (b"", None, f"--tls-certificate c: {no_certificate}"),
            (good[:200], None, f"--tls-certificate c: {no_certificate}"),
            (good, None, "--tls-certificate c: there is no key for it; give --tls-key FILE"),
            (good, other, "--tls-certificate c: its key is not in k; give the --tls-key that belongs to it"),
            (
                good,
                b"no key",
                "--tls-key k: no private key can be read in it; a PEM file with BEGIN PRIVATE KEY is needed",
            ),
            (
                good,
                locked,
                "--tls-key k: its key has a passphrase; take it off with: openssl pkey -in FILE -out FILE",
            ),
            (
                good + key,
                other,
                "--tls-key k: it is the key of none of the certificates; give its certificate",
            ),
            (
                AUTHORITY.pem + good,
                key,
                f"--tls-certificate c: {first}",
            ),
            (b"".join(ended), None, f"--tls-certificate c: it ended on {end:%Y-%m-%d}; renew it"),
            (
                b"".join(begins),
                None,
                f"--tls-certificate c: it begins on {begin:%Y-%m-%d} only; is the clock right?",
            ),
        ]
        for c, k, expected in cases:
            with self.subTest(expected):
                path = str(self.home / "c") if c is None else self.put("c", c)
                keys = [] if k is None else [self.put("k", k)]
                self.assertEqual(self.sentence([path], keys), expected)

    def test_no_key_file(self) -> None:
        """A key that is not there is told by its option."""
        self.assertEqual(
            self.sentence([self.put("c", *pair("x.example"))], [str(self.home / "k")]),
            "--tls-key k: it cannot be read: No such file or directory",
        )

    def test_weak(self) -> None:
        """A key that OpenSSL thinks too weak is told in its words."""
        weak = AUTHORITY.issue("x.example", key=rsa.generate_private_key(65537, 1024))
        self.assertEqual(
            self.sentence([self.put("c", *weak)]), "--tls-certificate c: OpenSSL does not take it: ee key too small"
        )

    def test_client_ca(self) -> None:
        """The authorities' file must be there, and have certificates."""
        mine = self.put("c", *pair("x.example"))
        self.assertEqual(
            self.sentence([mine], client_ca=self.put("ca", b"none")),
            "--tls-client-ca ca: no certificate can be read in it; a PEM file with BEGIN CERTIFICATE is needed",
        )

    def test_no_certificate(self) -> None:
        """A store without certificates cannot be made."""
        self.assertRaises(ValueError, CertificateStore, [])

    def test_not_loaded(self) -> None:
        """A store that was not loaded says so."""
        store = CertificateStore([self.put("c", *pair("x.example"))])
        self.assertIn("load()", str(self.assertRaises(RuntimeError, store.serverConnectionForTLS, None)))


class ProtocolTests(StoreTestCase):
    """Only TLS as it should be today."""

    def test_versions(self) -> None:
        """TLS 1.2 and 1.3 are spoken, 1.0 and 1.1 are not."""
        store = self.store("x.example")
        cases = [
            (SSL.TLS1_VERSION, ""),
            (SSL.TLS1_1_VERSION, ""),
            (SSL.TLS1_2_VERSION, "TLSv1.2"),
            (SSL.TLS1_3_VERSION, "TLSv1.3"),
        ]
        for version, expected in cases:
            with self.subTest(expected, version=version):
                handshake = Handshake(store, client_context(lowest=version, highest=version))
                got = "" if handshake.error else handshake.client.get_protocol_version_name()
                self.assertEqual(got, expected)

    def test_ciphers(self) -> None:
        """With TLS 1.2 there is no cipher without forward secrecy and authenticated encryption."""
        key = rsa.generate_private_key(65537, 2048)
        store = CertificateStore([self.put("c", *AUTHORITY.issue("x.example", key=key))])
        store.load()
        cases = [
            (b"ECDHE-RSA-AES128-GCM-SHA256", True),
            (b"ECDHE-RSA-CHACHA20-POLY1305", True),
            (b"ECDHE-RSA-AES128-SHA256", False),
            (b"AES128-GCM-SHA256", False),
            (b"AES256-SHA", False),
        ]
        for cipher, good in cases:
            with self.subTest(cipher):
                context = client_context(highest=SSL.TLS1_2_VERSION)
                context.set_cipher_list(cipher + b":@SECLEVEL=0")
                self.assertEqual(Handshake(store, context).error is None, good)

    def test_renegotiation(self) -> None:
        """A client cannot make the server do the handshake again."""
        handshake = Handshake(self.store("x.example"), client_context(highest=SSL.TLS1_2_VERSION))
        self.assertIsNone(handshake.error)
        client, server = handshake.client, handshake.server
        client.renegotiate()
        self.assertRaises(SSL.WantReadError, client.do_handshake)
        server.bio_write(client.bio_read(1 << 16))
        self.assertRaises(SSL.WantReadError, server.recv, 1)
        client.bio_write(server.bio_read(1 << 16))
        error = self.assertRaises(SSL.Error, client.do_handshake)
        self.assertEqual(error.args[0][-1][-1], "no renegotiation")

    def test_not_tls(self) -> None:
        """What is not TLS fails at once."""
        server = self.store("x.example").serverConnectionForTLS(None)
        server.set_accept_state()
        server.bio_write(b"EHLO client.example\r\n")
        self.assertRaises(SSL.Error, server.do_handshake)


class ClientCertificateTests(StoreTestCase):
    """--tls-client-ca asks for certificates, and refuses nobody."""

    def test_asked(self) -> None:
        """Clients are told whose certificates are believed."""
        clients = Authority("Clients")
        store = self.store("x.example", client_ca=self.put("ca", clients.pem))
        asked = Handshake(store, client_context(highest=SSL.TLS1_2_VERSION)).client.get_client_ca_list()
        self.assertEqual([name.CN for name in asked], ["Clients"])

    def test_nobody_refused(self) -> None:
        """Good, strange, expired and no certificates all get TLS."""
        clients = Authority("Clients")
        store = self.store("x.example", client_ca=self.put("ca", clients.pem))
        for shown in (clients.issue("a"), certificate("b"), clients.issue("c", days=-1), ()):
            with self.subTest(shown=bool(shown)):
                self.assertIsNone(Handshake(store, client_context(*shown)).error)

    def test_not_asked(self) -> None:
        """Without it no client is asked."""
        handshake = Handshake(self.store("x.example"), client_context(*certificate("a")))
        self.assertIsNone(handshake.server.get_peer_certificate(as_cryptography=True))


class RenewalTests(StoreTestCase):
    """Files are read anew when they change, and at SIGHUP."""

    def setUp(self) -> None:
        """Start a service with one certificate."""
        super().setUp()
        self.clock = Clock()
        self.path = self.put("c", *AUTHORITY.issue("x.example", common_name="old"))
        self.tls = CertificateStore([self.path], clock=self.clock)
        self.tls.privilegedStartService()
        self.tls.startService()

    def tearDown(self) -> None:
        """Stop it, which leaves nothing behind."""
        self.tls.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def replace(self, *contents: bytes) -> None:
        """Put another file in the certificate's place, as those who renew do."""
        os.replace(self.put("new", *contents), self.path)

    @property
    def shown(self) -> str:
        """The name that a new client sees."""
        return Handshake(self.tls).name

    def test_noticed(self) -> None:
        """A change is noticed within a minute, and not looked for at each connection."""
        self.replace(*AUTHORITY.issue("x.example", common_name="new"))
        self.assertEqual(self.shown, "CN=old")
        self.clock.advance(INTERVAL)
        self.assertEqual(self.shown, "CN=new")
        self.assertEqual(len(self.logged("read TLS certificates for x.example, until ")), 1)

    def test_written_in_place(self) -> None:
        """A file that is written anew in its place is noticed too."""
        self.put("c", *AUTHORITY.issue("x.example", common_name="new"))
        os.utime(self.path, ns=(1, 1))
        self.clock.advance(INTERVAL)
        self.assertEqual(self.shown, "CN=new")

    def test_link(self) -> None:
        """A symbolic link that points elsewhere is another file."""
        archive = self.put("archive", *AUTHORITY.issue("x.example", common_name="new"))
        os.remove(self.path)
        os.symlink(os.path.abspath(archive), self.path)
        self.clock.advance(INTERVAL)
        self.assertEqual(self.shown, "CN=new")

    def test_unchanged(self) -> None:
        """Files that stay as they are are not read."""
        self.clock.pump([INTERVAL] * 5)
        self.assertEqual(self.logged(), [])

    def test_bad(self) -> None:
        """A bad new file is logged once, and the old certificate stays in use until a good one comes."""
        self.replace(b"nonsense")
        self.clock.pump([INTERVAL] * 5)
        self.assertEqual(self.shown, "CN=old")
        (line,) = self.logged()
        self.assertTrue(line.endswith("; the certificates that are in use stay"), line)
        self.replace(*AUTHORITY.issue("x.example", common_name="new"))
        self.clock.advance(INTERVAL)
        self.assertEqual(self.shown, "CN=new")

    def test_gone(self) -> None:
        """So is one that is gone."""
        os.remove(self.path)
        self.clock.pump([INTERVAL] * 2)
        self.assertEqual(self.shown, "CN=old")
        self.assertEqual(len(self.logged("No such file")), 1)

    def test_at_once(self) -> None:
        """reload() does not wait, and tells whether the files are good."""
        self.replace(*AUTHORITY.issue("x.example", common_name="new"))
        self.assertTrue(self.tls.reload())
        self.assertEqual(self.shown, "CN=new")
        self.replace(b"nonsense")
        self.assertFalse(self.tls.reload())
        self.assertEqual(self.shown, "CN=new")

    def test_open_connections(self) -> None:
        """A connection that has begun goes on with what it has."""
        handshake = Handshake(self.tls)
        self.replace(*AUTHORITY.issue("x.example", common_name="new"))
        self.tls.reload()
        handshake.client.send(b"NOOP\r\n")
        handshake.talk()
        self.assertEqual(handshake.server.recv(100), b"NOOP\r\n")

    def test_tickets(self) -> None:
        """The keys of session tickets last a day, and the files are not read for it."""
        now = time.time()
        store = CertificateStore([self.path], clock=self.clock, wall_clock=lambda: now)
        store.startService()
        self.addCleanup(store.stopService)
        os.remove(self.path)
        store._seen = store._look()
        for later, same in ((TICKETS - 1, True), (TICKETS + 1, False)):
            with self.subTest(later):
                context = store.serverConnectionForTLS(None).get_context()
                now += later
                self.clock.advance(INTERVAL)
                self.assertEqual(store.serverConnectionForTLS(None).get_context() is context, same)
                now -= later if same else 0


class ServiceTests(StoreTestCase):
    """A store is a service, and what Twisted takes for TLS."""

    def test_interfaces(self) -> None:
        """It provides both."""
        store = CertificateStore([self.put("c", *pair("x.example"))])
        verifyObject(IService, store)
        verifyObject(IOpenSSLServerConnectionCreator, store)

    def test_start(self) -> None:
        """It reads its files when it is started, and not when it is made."""
        store = CertificateStore([str(self.home / "none")])
        self.assertRaises(CertificateError, store.privilegedStartService)
        self.assertRaises(CertificateError, store.startService)

    def test_root_only(self) -> None:
        """What was read with privileges is not read again without."""
        clock = Clock()
        path = self.put("c", *pair("x.example"))
        store = CertificateStore([path], clock=clock)
        store.privilegedStartService()
        os.remove(path)
        store.startService()
        store.stopService()

    def test_soon(self) -> None:
        """A certificate that ends within a fortnight is worth a warning."""
        for days, expected in ((13.0, 1), (15.0, 0)):
            with self.subTest(days):
                CertificateStore([self.put("c", *AUTHORITY.issue("x.example", days=days))]).load()
                self.assertEqual(len(self.logged("a TLS certificate ends on ")), expected)
                self.events.clear()

    def test_stale_check(self) -> None:
        """check() changes nothing."""
        store = self.store("x.example")
        before = store.serverConnectionForTLS(None).get_context()
        store.check()
        self.assertIs(store.serverConnectionForTLS(None).get_context(), before)
