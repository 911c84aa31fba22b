"""
smtplib speaks with the service under TLS, logs in, and delivers by LMTP.
"""

from __future__ import annotations

import random
import smtplib
import ssl
from signal import SIGHUP
from typing import Any

from tests.clients import CONTENT, PASSWORD, RECIPIENT, SENDER, USER, ClientTestCase
from tests.live import PATIENCE, Server, until


class SmtplibTestCase(ClientTestCase):
    def context(self) -> ssl.SSLContext:
        """What believes the certificates of these tests only."""
        return ssl.create_default_context(cafile=self.ca)

    def connect(self, port: int) -> smtplib.SMTP:
        """Connect, and begin TLS."""
        client = smtplib.SMTP("127.0.0.1", port, "client.example", timeout=PATIENCE)
        self.addCleanup(client.close)
        client.starttls(context=self.context())
        return client

    def large(self) -> bytes:
        """Make a message of 25 MiB."""
        line = random.randbytes(38).hex().encode() + b"\r\n"
        return b"Subject: large\r\n\r\n" + line * (25 * 1024 * 1024 // len(line))


class TLSTests(SmtplibTestCase):
    def test_starttls(self) -> None:
        """Mail goes under TLS after STARTTLS, and two messages over one connection."""
        server = self.serve(*self.tls())
        client = self.connect(server.port)
        for _ in range(2):
            self.assertEqual(client.sendmail(SENDER, [RECIPIENT], CONTENT), {})
        self.assertEqual([message["tls"] for message in self.messages()], ["TLSv1.3"] * 2)

    def test_forgotten(self) -> None:
        """After STARTTLS the name that was given before is forgotten, and STARTTLS is not offered again."""
        server = self.serve(*self.tls())
        with smtplib.SMTP("127.0.0.1", server.port, "client.example", timeout=PATIENCE) as client:
            client.ehlo()
            self.assertEqual(client.starttls(context=self.context())[0], 220)
            self.assertEqual(client.mail(SENDER)[0], 503)
            client.ehlo()
            self.assertEqual(client.mail(SENDER)[0], 250)
            self.assertFalse(client.has_extn("starttls"))

    def test_implicit(self) -> None:
        """SMTP_SSL speaks to a listener with implicit TLS."""
        server = self.serve(*self.tls(), "--port", "implicit-tls:tcp:0:interface=127.0.0.1")
        port = server.ports()[1]
        with smtplib.SMTP_SSL("127.0.0.1", port, timeout=PATIENCE, context=self.context()) as client:
            client.sendmail(SENDER, [RECIPIENT], CONTENT)
        self.assertEqual(self.message()["tls"], "TLSv1.3")

    def test_large_mail(self) -> None:
        """A mail of 25 MiB arrives octet for octet under TLS, while the process stays below 80 MiB."""
        server = Server(*self.tls(), directory=str(self.home))
        self.addCleanup(server.close)
        content = self.large()
        self.connect(server.port).sendmail(SENDER, [RECIPIENT], content)
        [mail] = server.mails()
        self.assertTrue(mail.endswith(content))
        self.assertLess(server.peak_memory(), 80 * 1024 * 1024)

    def test_reload(self) -> None:
        """After SIGHUP clients see a new certificate, and a connection that stood is kept."""
        server = self.serve("--tls-certificate", self.certificate("mx.example", "127.0.0.1"))
        client = self.connect(server.port)
        before = self.serial(client)
        self.certificate("mx.example", "127.0.0.1")
        server.process.send_signal(SIGHUP)
        until(lambda: self.serial(self.connect(server.port)) != before, "a new certificate")
        self.assertEqual(client.sendmail(SENDER, [RECIPIENT], CONTENT), {})

    def test_bad_reload(self) -> None:
        """If the new certificate is none, the old one stays, and the log says so in one line."""
        path = self.certificate("mx.example", "127.0.0.1")
        server = self.serve("--tls-certificate", path)
        before = self.serial(self.connect(server.port))
        self.write("mx.example.pem", b"nonsense")
        server.process.send_signal(SIGHUP)
        until(lambda: path in server.log.read_text(), "a line in the log")
        self.assertEqual(self.serial(self.connect(server.port)), before)
        self.assertNotIn("Traceback", server.log.read_text())

    @staticmethod
    def serial(client: smtplib.SMTP) -> str:
        """The number of the certificate that the server shows."""
        sock: Any = client.sock
        return str(sock.getpeercert()["serialNumber"])


class AuthTests(SmtplibTestCase):
    def test_login(self) -> None:
        """Each mechanism of smtplib logs in, with an initial response and without."""
        server = self.serve(*self.tls(), *self.logins(), "--submission", "tcp:0:interface=127.0.0.1")
        [port] = server.ports("submission")
        for mechanism in ("plain", "login", "cram_md5"):
            for initial in (True, False):
                with self.subTest(mechanism, initial=initial):
                    client = self.connect(port)
                    client.ehlo()
                    client.user, client.password = USER, PASSWORD
                    client.auth(
                        mechanism.replace("_", "-").upper(),
                        getattr(client, f"auth_{mechanism}"),
                        initial_response_ok=initial,
                    )
                    client.sendmail(SENDER, [RECIPIENT], CONTENT)
                    self.assertEqual(self.message()["account"], USER)

    def test_wrong_password(self) -> None:
        """A wrong password is refused by each mechanism in turn, and the connection goes on if that many may fail."""
        server = self.serve(*self.tls(), *self.logins(), "--max-auth-failures", "0")
        client = self.connect(server.port)
        with self.assertRaises(smtplib.SMTPAuthenticationError) as caught:
            client.login(USER, "wrong")
        self.assertEqual(caught.exception.smtp_code, 535)
        self.assertEqual(client.login(USER, PASSWORD)[0], 235)
        client.sendmail(SENDER, [RECIPIENT], CONTENT)
        self.assertEqual(self.message()["account"], USER)

    def test_forgotten(self) -> None:
        """A login before STARTTLS does not count after it."""
        server = self.serve(*self.tls(), *self.logins(), "--require-auth")
        with smtplib.SMTP("127.0.0.1", server.port, "client.example", timeout=PATIENCE) as client:
            client.login(USER, PASSWORD)
            client.starttls(context=self.context())
            client.ehlo()
            self.assertEqual(client.mail(SENDER)[0], 530)

    def test_utf8(self) -> None:
        """Mail to an international address goes under TLS after a login."""
        server = self.serve(*self.tls(), *self.logins())
        client = self.connect(server.port)
        client.login(USER, PASSWORD)
        client.sendmail(SENDER, ["j\u00fcrgen@x.example"], CONTENT, ["SMTPUTF8", "BODY=8BITMIME"])
        message = self.message()
        self.assertEqual(message["recipients"], ["j\u00fcrgen@x.example"])
        self.assertIn("with UTF8SMTPSA id", message["content"])


class LMTPTests(SmtplibTestCase):
    def test_results(self) -> None:
        """Each recipient has a reply of its own, over TCP and over a unix socket."""
        path = f"{self.home}/lmtp"
        server = self.serve("--lmtp", "tcp:0:interface=127.0.0.1", "--lmtp", f"unix:{path}")
        for host, port in (("127.0.0.1", server.ports("LMTP")[0]), (path, 0)):
            with self.subTest(host), smtplib.LMTP(host, port, "client.example") as client:
                client.ehlo()
                client.mail(SENDER)
                for recipient, code in ((RECIPIENT, 250), ("nobody@x.example", 550), ("full@x.example", 250)):
                    self.assertEqual(client.rcpt(recipient)[0], code)
                self.assertEqual(client.data(CONTENT)[0], 250)
                self.assertEqual(client.getreply()[0], 552)
                self.assertEqual(self.message()["recipients"], [RECIPIENT])

    def test_tls(self) -> None:
        """LMTP goes under TLS, after a login."""
        server = self.serve(*self.tls(), *self.logins(), "--lmtp", "tcp:0:interface=127.0.0.1")
        with smtplib.LMTP("127.0.0.1", server.ports("LMTP")[0], "client.example") as client:
            client.starttls(context=self.context())
            client.login(USER, PASSWORD)
            client.sendmail(SENDER, [RECIPIENT], CONTENT)
        self.assertIn("with LMTPSA id", self.message()["content"])
