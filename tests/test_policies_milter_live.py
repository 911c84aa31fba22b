"""
Tests of smtpsvc.policies.milter with real filters: OpenDKIM and rspamd.
"""

from __future__ import annotations

import smtplib

from twisted.trial.unittest import SynchronousTestCase

from tests.filters import OpenDKIM, RealFilter, Rspamd
from tests.live import Server
from tests.logins import PASSWORD

LETTER = b"From: a@x.example\r\nTo: b@y.example\r\nSubject: %b\r\nX-Secret: 7\r\n\r\nHello\r\n"


def send(server: Server, content: bytes, *recipients: str, login: bool = False) -> None:
    """Send a message."""
    with smtplib.SMTP("127.0.0.1", server.port, local_hostname="client.example", timeout=60) as client:
        if login:
            client.login("joe", PASSWORD)
        client.sendmail("a@x.example", list(recipients) or ["b@y.example"], content)


class LiveTests(SynchronousTestCase):
    def start(self, filter: RealFilter, *options: str, settings: str = "") -> Server:
        """Start a server that asks it."""
        self.addCleanup(filter.close)
        server = Server("--policy", f"milter:inet:127.0.0.1:{filter.port},name=mx.example{settings}", *options)
        self.addCleanup(server.close)
        return server

    def test_opendkim(self) -> None:
        """OpenDKIM signs for who has logged in; its signature is good, and is bad where a word was changed."""
        server = self.start(OpenDKIM(), "--auth", f"memory:joe:{PASSWORD}", "--allow-insecure-auth")
        send(server, LETTER % b"x", login=True)
        (mail,) = server.mails()
        signed = mail[mail.index(b"DKIM-Signature:") :]
        self.assertIn(b" d=x.example; s=s;", signed)
        send(server, signed)
        send(server, signed.replace(b"Hello", b"Hullo"))
        good, bad = sorted((each for each in server.mails() if each != mail), key=lambda each: b"Hullo" in each)
        self.assertRegex(good, rb"\r\nAuthentication-Results: mx\.example;\s+dkim=pass ")
        self.assertRegex(bad, rb"\r\nAuthentication-Results: mx\.example;\s+dkim=fail ")
        self.assertTrue(good.endswith(signed))

    def test_rspamd(self) -> None:
        """rspamd knows the client and the recipients, adds fields and removes one, and refuses."""
        server = self.start(Rspamd())
        send(server, LETTER % b"good", "b@y.example", "c@y.example")
        send(server, LETTER % b"odd")
        with self.assertRaises(smtplib.SMTPDataError) as caught:
            send(server, LETTER % b"bad")
        self.assertEqual(caught.exception.smtp_code, 554)
        odd, good = sorted(server.mails(), key=lambda each: b"Subject: good" in each)
        self.assertIn(b"X-Seen: 127.0.0.1; client.example; a@x.example; b@y.example c@y.example\r\n", good)
        self.assertNotIn(b"X-Secret", good)
        self.assertTrue(good.endswith(b"\r\n\r\nHello\r\n"))
        self.assertIn(b"X-Spam: Yes\r\n", odd)

    def test_rspamd_again(self) -> None:
        """One connection to rspamd serves several clients, and messages that do not fit in memory."""
        server = self.start(Rspamd(), settings=",reuse=yes")
        large = LETTER % b"good" + b"".join(b"%06d%b\r\n" % (number, b"x" * 900) for number in range(3000))
        for _ in range(3):
            send(server, large)
        self.assertEqual(server.log.read_text().count("cannot be asked"), 0)
        for mail in server.mails():
            self.assertIn(b"X-Seen: 127.0.0.1; client.example; a@x.example; b@y.example\r\n", mail)
            self.assertEqual(mail.partition(b"\r\n\r\n")[2], large.partition(b"\r\n\r\n")[2])
