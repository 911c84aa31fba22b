"""
The relay between real programs: Postfix in front of it, Dovecot behind it; and ours under TLS.
"""

from __future__ import annotations

import smtplib

from twisted.trial.unittest import TestCase

from tests.clients import CONTENT, PASSWORD, RECIPIENT, SENDER, USER, ClientTestCase
from tests.dovecot import Dovecot
from tests.live import PATIENCE, Postfix, Server, until

TAKEN, BROKEN, UNKNOWN = "taken@example.com", "broken@example.com", "unknown@example.com"
MESSAGE = b"From: <a@x.example>\nSubject: hello\n\ntext\n.dot\n"


class DovecotTests(TestCase):
    def setUp(self) -> None:
        self.dovecot = Dovecot(TAKEN, BROKEN)
        self.addCleanup(self.dovecot.close)

    def relay(self, *options: str) -> Server:
        """Start a relay to Dovecot."""
        server = Server("--backend", f"lmtp:unix:{self.dovecot.socket}", *options)
        self.addCleanup(server.close)
        return server

    def postfix(self, **settings: str) -> Postfix:
        """Start a Postfix that sends all mail one way."""
        postfix = Postfix(**settings)
        self.addCleanup(postfix.close)
        return postfix

    def check(self, postfix: Postfix) -> None:
        """Send a mail to three recipients; one is taken, one refused, one deferred."""
        postfix.send("a@x.example", [TAKEN, BROKEN, UNKNOWN], MESSAGE)
        for user, fate in ((TAKEN, "status=sent"), (BROKEN, "451 4.2.0"), (UNKNOWN, "550 5.1.1")):
            until(lambda user=user, fate=fate: self.logged(postfix, user, fate), f"{user}: {fate}")
        (mail,) = self.dovecot.mails(TAKEN)
        self.assertTrue(mail.replace(b"\r\n", b"\n").endswith(b"\n\ntext\n.dot\n"))
        self.assertEqual(self.dovecot.mails(BROKEN), [])

    def logged(self, postfix: Postfix, user: str, words: str) -> bool:
        """Find what became of a recipient in Postfix's log."""
        lines = postfix.log.read_text().splitlines() if postfix.log.exists() else []
        return any(f"to=<{user}>" in line and words in line for line in lines)

    def test_behind_lmtp(self) -> None:
        """Postfix sends by LMTP: one recipient is taken, one refused, one deferred, in one message."""
        [port] = self.relay("--lmtp", "tcp:0:interface=127.0.0.1").ports("LMTP")
        self.check(self.postfix(default_transport=f"lmtp:inet:127.0.0.1:{port}"))

    def test_behind_smtp(self) -> None:
        """Postfix sends by SMTP: each recipient gets a message of its own, and its own fate."""
        relayhost = f"[127.0.0.1]:{self.relay().port}"
        self.check(self.postfix(relayhost=relayhost, smtp_destination_recipient_limit="1"))

    def test_gone(self) -> None:
        """Without Dovecot MAIL is answered 451 4.4.1."""
        server = self.relay()
        self.dovecot.process.terminate()
        self.dovecot.process.wait(PATIENCE)
        with smtplib.SMTP("127.0.0.1", server.port, timeout=PATIENCE) as client:
            client.ehlo()
            code, text = client.mail("a@x.example")
            self.assertEqual((code, text[:5]), (451, b"4.4.1"))


class ProtectedTests(ClientTestCase):
    def relay(self, *settings: str, hop: Server, name: str = "mx.example") -> int:
        """Start a relay to the submission port of a server with TLS, and give its port."""
        [port] = hop.ports("submission")
        argument = ",".join([f"smtp:127.0.0.1:{port}", "tls=required", f"ca={self.ca}", f"name={name}", *settings])
        server = Server("--backend", argument)
        self.addCleanup(server.close)
        return server.port

    def hop(self) -> Server:
        """Start a server that takes mail under TLS, of who logs in."""
        return self.serve(*self.tls(), *self.logins(), "--submission", "tcp:0:interface=127.0.0.1")

    def send(self, port: int) -> None:
        """Send a message to a port."""
        with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as client:
            client.sendmail(SENDER, [RECIPIENT], CONTENT)

    def test_login(self) -> None:
        """It passes mail on under TLS, with a login."""
        auth = self.write("auth", f"{USER}:{PASSWORD}\n".encode())
        self.send(self.relay(f"auth={auth}", hop=self.hop()))
        message = self.message()
        self.assertEqual((message["account"], message["tls"]), (USER, "TLSv1.3"))
        self.assertTrue(message["content"].endswith(CONTENT.decode()))

    def test_no_mail(self) -> None:
        """A wrong certificate or password is 451 4.4.1: nothing goes on, and nothing bounces."""
        hop = self.hop()
        wrong = self.write("wrong", f"{USER}:wrong\n".encode())
        for port in (self.relay(f"auth={wrong}", hop=hop), self.relay(hop=hop, name="other.example")):
            error = self.assertRaises(smtplib.SMTPSenderRefused, self.send, port)
            self.assertEqual((error.smtp_code, error.smtp_error[:5]), (451, b"4.4.1"))
        self.assertEqual(self.messages(), [])
