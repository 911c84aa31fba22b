"""
openssl and sslscan look at the service's TLS.
"""

from __future__ import annotations

import socket
from xml.etree import ElementTree

from tests.clients import ClientTestCase
from tests.live import PATIENCE, Server, need, run, until

#: Lets openssl speak versions of TLS that it has below its lowest level of security only.
OLD = ("-cipher", "ALL:@SECLEVEL=0")


class OpenSSLTests(ClientTestCase):
    def s_client(self, port: int, *options: str, status: int = 0, say: bytes = b"QUIT\r\n") -> str:
        """Begin TLS by STARTTLS, and give what openssl has to say of it."""
        done = run(
            need("openssl"), "s_client", "-connect", f"127.0.0.1:{port}", "-starttls", "smtp", "-CAfile", self.ca,
            "-verify_return_error", *options, input=say, status=status,
        )  # fmt: skip
        return (done.stdout + done.stderr).decode(errors="replace")

    def test_handshake(self) -> None:
        """A client that believes the authority finds the name, TLS 1.3, and no compression."""
        said = self.s_client(self.serve(*self.tls()).port, "-verify_hostname", "mx.example")
        self.assertIn("Verified peername: mx.example", said)
        self.assertIn("New, TLSv1.3, Cipher is TLS_", said)
        self.assertIn("Compression: NONE", said)

    def test_implicit(self) -> None:
        """With implicit TLS the greeting comes once the handshake is complete."""
        server = self.serve(*self.tls(), "--port", "implicit-tls:tcp:0:interface=127.0.0.1")
        done = run(
            need("openssl"), "s_client", "-connect", f"127.0.0.1:{server.ports()[1]}", "-CAfile", self.ca, "-quiet",
            "-verify_return_error", input=b"QUIT\r\n",
        )  # fmt: skip
        self.assertEqual(done.stdout, b"220 mx.example ESMTP smtpsvc\r\n221 Bye\r\n")

    def test_old_versions(self) -> None:
        """TLS 1.0 and 1.1 are refused, each with one line in the log."""
        server = self.serve(*self.tls())
        for version in ("-tls1", "-tls1_1"):
            with self.subTest(version):
                before = server.log.read_text().count("\n")
                self.s_client(server.port, version, *OLD, status=1)
                self.logs_one_line(server, before, "127.0.0.1 failed: unsupported protocol")

    def logs_one_line(self, server: Server, before: int, words: str) -> None:
        """Check that the log has one line more than before, and that it has *words*."""
        until(lambda: server.log.read_text().count("\n") > before, "a line in the log")
        [line] = server.log.read_text().splitlines()[before:]
        self.assertIn(words, line)

    def test_weak_ciphers(self) -> None:
        """Ciphers without forward secrecy, or with CBC, find no partner."""
        server = self.serve(*self.tls())
        for cipher in ("AES128-GCM-SHA256:AES256-SHA", "ECDHE-ECDSA-AES128-SHA:ECDHE-RSA-AES256-SHA384", "aNULL:eNULL"):
            with self.subTest(cipher):
                self.s_client(server.port, "-tls1_2", "-cipher", f"{cipher}:@SECLEVEL=0", status=1)

    def test_renegotiation(self) -> None:
        """A client may not renegotiate."""
        server = self.serve(*self.tls())
        said = self.s_client(server.port, "-tls1_2", say=b"R\n", status=1)
        self.assertIn("RENEGOTIATING", said)
        self.assertIn("no renegotiation", said)

    def test_names(self) -> None:
        """The name that a client asks for picks the certificate; the first is for all others."""
        first, second = self.certificate(), self.certificate("mail.other.example", "*.wild.example")
        server = self.serve("--tls-certificate", first, "--tls-certificate", second)
        for name, subject in (
            ("mx.example", "mx.example"),
            ("mail.other.example", "mail.other.example"),
            ("MAIL.Other.Example", "mail.other.example"),
            ("any.wild.example", "mail.other.example"),
            ("very.any.wild.example", "mx.example"),
            ("stranger.example", "mx.example"),
        ):
            with self.subTest(name):
                self.assertIn(f"subject=CN = {subject}\n", self.s_client(server.port, "-servername", name))
        self.assertIn("subject=CN = mx.example\n", self.s_client(server.port, "-noservername"))

    def test_keys(self) -> None:
        """Certificates and keys may stand in files of their own, in pairs."""
        options: list[str] = []
        for name in ("mx.example", "mail.other.example"):
            certificate, key = self.certificate(name), self.home / f"{name}.key"
            text = (self.home / certificate).read_bytes()
            place = text.index(b"-----BEGIN PRIVATE KEY")
            key.write_bytes(text[place:])
            (self.home / certificate).write_bytes(text[:place])
            options += ["--tls-certificate", certificate, "--tls-key", str(key)]
        server = self.serve(*options)
        said = self.s_client(server.port, "-servername", "mail.other.example")
        self.assertIn("subject=CN = mail.other.example\n", said)

    def test_client_certificate(self) -> None:
        """Clients are asked for certificates of the authority; they need not have one."""
        server = self.serve(*self.tls(), "--tls-client-ca", self.ca)
        said = self.s_client(server.port, "-cert", self.certificate("client.example"))
        self.assertIn("Acceptable client certificate CA names\nCN = Test Authority\n", said)
        self.assertIn("250 ", said)
        self.assertIn("250 ", self.s_client(server.port))

    def test_resumption(self) -> None:
        """A session may be resumed."""
        server = self.serve(*self.tls())
        for version in ("-tls1_2", "-tls1_3"):
            with self.subTest(version):
                session, say = str(self.home / "session"), b"NOOP\r\nQUIT\r\n"
                self.s_client(server.port, version, "-ign_eof", "-sess_out", session, say=say)
                said = self.s_client(server.port, version, "-ign_eof", "-sess_in", session, say=say)
                self.assertIn("\nReused, TLSv1.", said)
                self.assertIn("221 Bye", said)

    def test_plaintext(self) -> None:
        """A client that speaks SMTP where TLS comes first is turned away, with one line in the log."""
        server = self.serve(*self.tls(), "--port", "implicit-tls:tcp:0:interface=127.0.0.1")
        before = server.log.read_text().count("\n")
        with socket.create_connection(("127.0.0.1", server.ports()[1]), PATIENCE) as client:
            client.sendall(b"EHLO client.example\r\n")
            while client.recv(1 << 16):
                pass
        self.logs_one_line(server, before, "TLS handshake with 127.0.0.1 failed: ")


class SslscanTests(ClientTestCase):
    def scan(self, *options: str) -> ElementTree.Element:
        """Scan, and give what was found."""
        return ElementTree.fromstring(run(need("sslscan"), "--no-colour", "--xml=-", *options).stdout)

    def test_scan(self) -> None:
        """A scan finds TLS 1.2 and 1.3 only, strong ciphers, and neither renegotiation nor heartbleed."""
        server = self.serve(*self.tls(), "--port", "implicit-tls:tcp:0:interface=127.0.0.1")
        plain, implicit = server.ports()
        for options in (("--starttls-smtp", f"127.0.0.1:{plain}"), (f"127.0.0.1:{implicit}",)):
            with self.subTest(options[0]):
                found = self.scan(*options)
                spoken = {
                    f"{each.get('type')} {each.get('version')}" for each in found.iter("protocol")
                    if each.get("enabled") == "1"
                }  # fmt: skip
                self.assertEqual(spoken, {"tls 1.2", "tls 1.3"})
                ciphers = [str(each.get("cipher")) for each in found.iter("cipher")]
                self.assertGreaterEqual(len(ciphers), 4)
                for cipher in ciphers:
                    self.assertRegex(cipher, r"^(TLS|ECDHE)_?.*(GCM|CHACHA20)")
                self.assertEqual({each.get("supported") for each in found.iter("renegotiation")}, {"0"})
                self.assertEqual({each.get("vulnerable") for each in found.iter("heartbleed")}, {"0"})
                self.assertEqual({each.get("supported") for each in found.iter("compression")} - {"0"}, set())
        server.stop()
        self.assertNotIn("Traceback", server.log.read_text())
