"""
Postfix relays to the service: by SMTP under TLS and with a login, and by LMTP.
"""

from __future__ import annotations

import random
from typing import Any

from tests.clients import CONTENT, PASSWORD, RECIPIENT, SENDER, USER, ClientTestCase
from tests.live import Postfix, Server, need, run, until

TLS = {"smtp_tls_security_level": "verify", "smtp_tls_verify_cert_match": "mx.example", "smtp_tls_loglevel": "1"}


class PostfixTestCase(ClientTestCase):
    def setUp(self) -> None:
        need("postfix")
        super().setUp()

    def postfix(self, **settings: str) -> Postfix:
        """Start a Postfix."""
        postfix = Postfix(**settings)
        self.addCleanup(postfix.close)
        return postfix

    def relay(self, port: int, **settings: str) -> Postfix:
        """Start a Postfix that relays to a port."""
        return self.postfix(relayhost=f"[127.0.0.1]:{port}", smtp_tls_CAfile=self.ca, **settings)

    def sent(self, postfix: Postfix, *options: str, to: str = RECIPIENT, content: bytes = CONTENT) -> dict[str, Any]:
        """Hand it a mail, wait until it is sent, and give what came of it."""
        postfix.send(SENDER, [to], content.replace(b"\r\n", b"\n"), *options)
        until(lambda: postfix.logged("status=sent") or self.broken(postfix), "Postfix has sent")
        return self.message()

    def broken(self, postfix: Postfix) -> None:
        """Fail if it could not send."""
        line = postfix.logged("status=deferred") or postfix.logged("status=bounced")
        if line is not None:
            self.fail(line)


class SMTPTests(PostfixTestCase):
    def test_tls(self) -> None:
        """Postfix believes the certificate, and the mail arrives under TLS."""
        postfix = self.relay(self.serve(*self.tls()).port, **TLS)
        message = self.sent(postfix)
        self.assertEqual(message["tls"], "TLSv1.3")
        self.assertTrue(message["content"].encode("latin-1").endswith(b"\r\n\r\n" + CONTENT.partition(b"\r\n\r\n")[2]))
        self.assertIsNotNone(postfix.logged("Verified TLS connection established to 127.0.0.1"))

    def test_implicit_tls(self) -> None:
        """Postfix in wrapper mode speaks to a listener with implicit TLS."""
        server = self.serve(*self.tls(), "--port", "implicit-tls:tcp:0:interface=127.0.0.1")
        message = self.sent(self.relay(server.ports()[1], **TLS, smtp_tls_wrappermode="yes"))
        self.assertIn("with ESMTPS id", message["content"])

    def test_client_certificate(self) -> None:
        """The certificate of Postfix logs it in."""
        server = self.serve(*self.tls(), "--tls-client-ca", self.ca)
        mine = self.certificate("relay.example")
        message = self.sent(self.relay(server.port, **TLS, smtp_tls_cert_file=mine, smtp_tls_key_file=mine))
        self.assertEqual(message["certificate"], "CN=relay.example")

    def test_login(self) -> None:
        """Postfix logs in by each mechanism that its SASL library has."""
        server = self.serve(*self.tls(), *self.logins(), "--submission", "tcp:0:interface=127.0.0.1")
        for mechanism in ("plain", "login", "cram-md5", "scram-sha-1", "scram-sha-256"):
            with self.subTest(mechanism):
                postfix = self.relay(server.ports("submission")[0], **TLS, **self.sasl(mechanism))
                message = self.sent(postfix)
                self.assertEqual(message["account"], USER)
                self.assertIn("with ESMTPSA id", message["content"])
                postfix.close()

    def sasl(self, mechanism: str) -> dict[str, str]:
        """Settings for a login by a mechanism."""
        return {
            "smtp_sasl_auth_enable": "yes",
            "smtp_sasl_password_maps": f"static:{{{USER}:{PASSWORD}}}",
            "smtp_sasl_security_options": "noanonymous",
            "smtp_sasl_mechanism_filter": mechanism,
        }

    def test_wrong_password(self) -> None:
        """A wrong password defers the mail, and the log of Postfix has our words."""
        server = self.serve(*self.tls(), *self.logins())
        settings = {**self.sasl("plain"), "smtp_sasl_password_maps": f"static:{{{USER}:wrong}}"}
        postfix = self.relay(server.port, **TLS, **settings)
        postfix.send(SENDER, [RECIPIENT], CONTENT.replace(b"\r\n", b"\n"))
        line = until(lambda: postfix.logged("status=deferred"), "Postfix has given up")
        self.assertIn("said: 535 5.7.8 Authentication credentials invalid", line)

    def test_notifications(self) -> None:
        """What the sender says of notifications arrives, typed."""
        postfix = self.relay(self.serve().port)
        message = self.sent(postfix, "-N", "success,delay", "-R", "hdrs", "-V", "a+b c=d")
        self.assertEqual(message["params"]["RET"], "HDRS")
        self.assertEqual(message["params"]["ENVID"], "a+b c=d")
        self.assertEqual(
            message["recipient_params"],
            [{"NOTIFY": ["DELAY", "SUCCESS"], "ORCPT": {"type": "rfc822", "address": RECIPIENT}}],
        )

    def test_utf8(self) -> None:
        """International addresses arrive, and so does an international header."""
        postfix = self.relay(self.serve().port, smtputf8_enable="yes")
        recipient = "j\u00fcrgen@b\u00fccher.example"
        message = self.sent(postfix, to=recipient, content="Subject: Gr\u00fc\u00dfe\n\nx\n".encode())
        self.assertEqual(message["recipients"], [recipient])
        self.assertIn("SMTPUTF8", message["params"])
        self.assertIn("with UTF8SMTP id", message["content"])

    def test_forward(self) -> None:
        """With XFORWARD the backend learns where the message came from before."""
        server = self.serve("--trusted-proxies", "127.0.0.1")
        postfix = self.relay(server.port, smtp_send_xforward_command="yes")
        run(need("swaks"), "--socket", postfix.socket, "--ehlo", "begin.example", "--from", SENDER, "--to", RECIPIENT)
        until(lambda: postfix.logged("status=sent") or self.broken(postfix), "Postfix has sent")
        forwarded = self.message()["forwarded"]
        self.assertIn(forwarded.pop("ident"), postfix.logged("status=sent") or "")
        known = {"name": "localhost", "address": "127.0.0.1", "protocol": "ESMTP", "helo": "begin.example"}
        self.assertEqual(forwarded, {**known, "port": 0, "source": "REMOTE"})

    def test_large_mail(self) -> None:
        """A mail of 25 MiB arrives octet for octet under TLS."""
        server = Server(*self.tls(), directory=str(self.home))
        self.addCleanup(server.close)
        postfix = self.relay(server.port, **TLS)
        body = (random.randbytes(38).hex().encode() + b"\n") * (25 * 1024 * 1024 // 77)
        postfix.send(SENDER, [RECIPIENT], b"Subject: large\n\n" + body)
        until(lambda: postfix.logged("status=sent") or self.broken(postfix), "Postfix has sent")
        [mail] = server.mails()
        self.assertTrue(mail.endswith(b"\r\n\r\n" + body.replace(b"\n", b"\r\n")))

    def test_refused_recipient(self) -> None:
        """A recipient that is refused bounces, and the other gets the mail."""
        postfix = self.relay(self.serve().port)
        postfix.send(SENDER, [RECIPIENT, "nobody@example.com"], CONTENT.replace(b"\r\n", b"\n"))
        until(lambda: postfix.logged("dsn=5.1.1, status=bounced"), "Postfix has given up")
        until(lambda: postfix.logged("status=sent"), "Postfix has sent")
        self.assertEqual(self.messages()[0]["recipients"], [RECIPIENT])


class LMTPTests(PostfixTestCase):
    def check_results(self, where: str, **settings: str) -> None:
        """Send to three recipients, of whom one is refused at RCPT and one after the message."""
        postfix = self.postfix(default_transport=f"lmtp:{where}", notify_classes="", **settings)
        postfix.send(SENDER, [RECIPIENT, "full@example.com", "nobody@example.com"], CONTENT.replace(b"\r\n", b"\n"))
        for recipient, words in (
            ("full", "dsn=5.2.2, status=bounced"),
            ("nobody", "dsn=5.1.1, status=bounced"),
            ("you", "dsn=2.0.0, status=sent"),
        ):
            line = until(lambda name=recipient: postfix.logged(f"to=<{name}@example.com>"), f"word of {recipient}")
            self.assertIn(words, line)
        [recipients] = [each["recipients"] for each in self.messages() if each["sender"] == SENDER]
        self.assertEqual(recipients, [RECIPIENT])

    def test_tcp(self) -> None:
        """Each recipient has a result of its own, over TCP."""
        server = self.serve("--lmtp", "tcp:0:interface=127.0.0.1")
        self.check_results(f"inet:[127.0.0.1]:{server.ports('LMTP')[0]}")

    def test_unix(self) -> None:
        """Each recipient has a result of its own, over a unix socket."""
        self.serve("--lmtp", f"unix:{self.home}/lmtp:mode=666")
        self.check_results(f"unix:{self.home}/lmtp")

    def test_tls(self) -> None:
        """LMTP goes under TLS."""
        server = self.serve(*self.tls(), "--lmtp", "tcp:0:interface=127.0.0.1")
        options = {name.replace("smtp_", "lmtp_"): value for name, value in TLS.items()}
        postfix = self.postfix(
            default_transport=f"lmtp:inet:[127.0.0.1]:{server.ports('LMTP')[0]}", lmtp_tls_CAfile=self.ca, **options
        )
        self.assertIn("with LMTPS id", self.sent(postfix)["content"])
