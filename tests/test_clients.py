"""
Real clients send real mail to the real service, and it arrives octet for octet.
"""

from __future__ import annotations

import random
import smtplib
from email.message import EmailMessage

from twisted.trial.unittest import TestCase

from tests.live import Postfix, Server, need, run, until

#: Dots at line starts, long lines, 8-bit octets, an empty first line: what a careless path would change.
CONTENT = (
    b"From: <sender@client.example>\r\nTo: <you@example.com>\r\nSubject: a test\r\n"
    b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
    b".\r\n..\r\n.leading dot\r\n" + "ünïcödé\r\n".encode() + b"\r\n" + b"x" * 900 + b"\r\n\r\n\r\nend\r\n"
)


def body_of(mail: bytes) -> bytes:
    """What follows the header of a message."""
    return mail.partition(b"\r\n\r\n")[2]


class ClientTests(TestCase):
    def setUp(self) -> None:
        self.server = Server()
        self.addCleanup(self.server.close)

    def test_smtplib(self) -> None:
        """Mail from smtplib arrives octet for octet behind the trace header."""
        with smtplib.SMTP("127.0.0.1", self.server.port, timeout=30) as client:
            refused = client.sendmail(
                "sender@client.example", ["you@example.com", "me@example.com"], CONTENT, ["BODY=8BITMIME"]
            )
        self.assertEqual(refused, {})
        [mail] = self.server.mails()
        self.assertTrue(mail.startswith(b"Return-Path: <sender@client.example>\r\n"), mail[:200])
        self.assertEqual(mail.count(b"Delivered-To: "), 2)
        self.assertIn(b"\r\nReceived: from ", mail)
        self.assertTrue(mail.endswith(CONTENT))

    def test_smtplib_message(self) -> None:
        """An EmailMessage sent by send_message with an international address arrives."""
        message = EmailMessage()
        message["From"] = "sender@client.example"
        message["To"] = "jürgen@example.com"
        message["Subject"] = "Grüße"
        message.set_content("hällo\n")
        with smtplib.SMTP("127.0.0.1", self.server.port, timeout=30) as client:
            self.assertEqual(client.send_message(message), {})
        [mail] = self.server.mails()
        self.assertIn("Delivered-To: jürgen@example.com\r\n".encode(), mail)

    def test_swaks(self) -> None:
        """swaks sends with pipelining, and its message arrives."""
        run(
            need("swaks"), "--server", f"127.0.0.1:{self.server.port}", "--from", "sender@client.example",
            "--to", "you@example.com", "--pipeline", "--body", "-", input=b"first line\n.dot\n",
        )  # fmt: skip
        [mail] = self.server.mails()
        self.assertIn(b"first line\r\n.dot\r\n", mail)

    def test_curl(self) -> None:
        """curl sends a file, as the command that is printed at start says."""
        run(
            need("curl"), "-sS", "--crlf", "-T", "-", f"smtp://127.0.0.1:{self.server.port}",
            "--mail-from", "me@example.com", "--mail-rcpt", "you@example.com", input=b"Subject: hello\n\n.hi\n\n",
        )  # fmt: skip
        [mail] = self.server.mails()
        self.assertTrue(mail.endswith(b"Subject: hello\r\n\r\n.hi\r\n\r\n"), mail)

    def test_large_mail(self) -> None:
        """A mail of 25 MiB arrives octet for octet while the process stays below 80 MiB."""
        seed = random.randrange(1 << 32)
        line = random.Random(seed).randbytes(38).hex().encode() + b"\r\n"
        body = line * (25 * 1024 * 1024 // len(line))
        content = b"Subject: large\r\n\r\n" + body
        with smtplib.SMTP("127.0.0.1", self.server.port, timeout=60) as client:
            client.sendmail("sender@client.example", ["you@example.com"], content)
        [mail] = self.server.mails()
        self.assertTrue(body_of(mail) == body, f"the content differs (seed {seed})")
        self.assertLess(self.server.peak_memory(), 80 * 1024 * 1024)


class PostfixTests(TestCase):
    def test_relayhost(self) -> None:
        """A real Postfix relays to the service, and the mail arrives octet for octet."""
        need("postfix")
        server = Server()
        self.addCleanup(server.close)
        postfix = Postfix(relayhost=f"[127.0.0.1]:{server.port}")
        self.addCleanup(postfix.close)
        postfix.send("sender@client.example", ["you@example.com", "me@example.com"], CONTENT.replace(b"\r\n", b"\n"))
        until(lambda: postfix.logged("status=sent") or self._broken(postfix), "Postfix has sent")
        [mail] = server.mails()
        self.assertEqual(body_of(mail), body_of(CONTENT))
        self.assertIn(b"Delivered-To: you@example.com\r\n", mail)

    def _broken(self, postfix: Postfix) -> None:
        line = postfix.logged("status=deferred") or postfix.logged("status=bounced")
        if line is not None:
            self.fail(line)
