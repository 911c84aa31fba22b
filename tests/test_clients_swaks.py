"""
swaks speaks with the service, with all that it can do: AUTH, TLS, XCLIENT, PROXY, LMTP.
"""

from __future__ import annotations

from typing import Any

from tests.clients import PASSWORD, RECIPIENT, SENDER, USER, ClientTestCase
from tests.live import need, run

#: What swaks ends with.
CLOSED, MAIL_REFUSED, AUTH_FAILED, TLS_FAILED, XCLIENT_FAILED = 6, 23, 28, 29, 33

LOGIN = ("--auth-user", USER, "--auth-password", PASSWORD)


class SwaksTestCase(ClientTestCase):
    def swaks(self, where: int | str, *options: str, to: str = RECIPIENT, status: int = 0) -> str:
        """Send a mail to a port or a unix socket, and give the dialogue."""
        place = ("--server", "127.0.0.1", "--port", str(where)) if isinstance(where, int) else ("--socket", where)
        done = run(
            need("swaks"), *place, "--from", SENDER, "--to", to, "--ehlo", "client.example", *options, status=status
        )
        return done.stdout.decode()

    def taken(self, where: int | str, *options: str, to: str = RECIPIENT) -> dict[str, Any]:
        """Send a mail, and give what came of it."""
        self.swaks(where, *options, to=to)
        return self.message()


class AuthTests(SwaksTestCase):
    MECHANISMS = ("PLAIN", "LOGIN", "CRAM-MD5")

    def test_login(self) -> None:
        """Each mechanism of swaks logs in under TLS."""
        server = self.serve(*self.tls(), *self.logins())
        for mechanism in self.MECHANISMS:
            with self.subTest(mechanism):
                message = self.taken(server.port, "--tls", "--auth", mechanism, *LOGIN)
                self.assertEqual(message["account"], USER)
                self.assertIn("with ESMTPSA id", message["content"])

    def test_wrong_password(self) -> None:
        """A wrong password and an unknown user are refused with the same words, by each mechanism."""
        server = self.serve(*self.tls(), *self.logins())
        for mechanism in self.MECHANISMS:
            for user, password in ((USER, "wrong"), ("nobody", PASSWORD)):
                with self.subTest(mechanism, user=user):
                    said = self.swaks(
                        server.port, "--tls", "--auth", mechanism, "--auth-user", user, "--auth-password", password,
                        status=AUTH_FAILED,
                    )  # fmt: skip
                    self.assertIn("535 5.7.8 Authentication credentials invalid\n", said)
        self.assertEqual(self.messages(), [])

    def test_without_tls(self) -> None:
        """Without TLS only CRAM-MD5, which hides the password, is there."""
        server = self.serve(*self.tls(), *self.logins())
        self.assertEqual(self.taken(server.port, "--auth", "CRAM-MD5", *LOGIN)["account"], USER)
        for mechanism in ("PLAIN", "LOGIN"):
            with self.subTest(mechanism):
                said = self.swaks(server.port, "--auth", mechanism, *LOGIN, status=AUTH_FAILED)
                self.assertNotIn(" -> AUTH", said)

    def test_allowed_without_tls(self) -> None:
        """With --allow-insecure-auth PLAIN and LOGIN are served without TLS."""
        server = self.serve(*self.logins(), "--allow-insecure-auth")
        for mechanism in ("PLAIN", "LOGIN"):
            with self.subTest(mechanism):
                message = self.taken(server.port, "--auth", mechanism, *LOGIN)
                self.assertEqual(message["account"], USER)
                self.assertIn("with ESMTPA id", message["content"])

    def test_required(self) -> None:
        """With --require-auth MAIL waits for a login."""
        server = self.serve(*self.tls(), *self.logins(), "--require-auth")
        self.assertIn("530 5.7.0 Authentication required", self.swaks(server.port, "--tls", status=MAIL_REFUSED))
        self.assertEqual(self.taken(server.port, "--tls", "--auth", "PLAIN", *LOGIN)["account"], USER)

    def test_submission(self) -> None:
        """A submission port wants TLS first, and then a login."""
        server = self.serve(*self.tls(), *self.logins(), "--submission", "tcp:0:interface=127.0.0.1")
        [port] = server.ports("submission")
        self.swaks(port, "--auth", *LOGIN, status=AUTH_FAILED)
        self.assertIn("<** 530 5.7.0", self.swaks(port, status=MAIL_REFUSED))
        self.assertIn("<~* 530 5.7.0", self.swaks(port, "--tls", status=MAIL_REFUSED))
        self.assertEqual(self.taken(port, "--tls", "--auth", *LOGIN)["account"], USER)

    def test_unknown(self) -> None:
        """A mechanism that is not there is refused; where a login is optional, the mail goes without."""
        server = self.serve(*self.tls(), *self.logins())
        for mechanism in ("DIGEST-MD5", "CRAM-SHA1"):
            with self.subTest(mechanism):
                self.swaks(server.port, "--tls", "--auth", mechanism, *LOGIN, status=AUTH_FAILED)
                message = self.taken(server.port, "--tls", "--auth-optional", mechanism, *LOGIN)
                self.assertIsNone(message["account"])

    def test_secrets(self) -> None:
        """No password is in the log, whether it was right or wrong."""
        server = self.serve(*self.tls(), *self.logins())
        self.swaks(server.port, "--tls", "--auth", "LOGIN", *LOGIN)
        self.swaks(
            server.port, "--tls", "--auth", "PLAIN", "--auth-user", USER, "--auth-password", "wrong horse",
            status=AUTH_FAILED,
        )  # fmt: skip
        server.stop()
        log = server.log.read_text()
        for secret in (PASSWORD, "wrong horse", "b3BlbiBzZXNhbWU", "am9lAHdyb25nIGhvcnNl"):
            self.assertNotIn(secret, log)


class TLSTests(SwaksTestCase):
    def test_starttls(self) -> None:
        """swaks believes the certificate, begins TLS 1.3 by STARTTLS, and asks for a name by SNI."""
        server = self.serve(*self.tls())
        message = self.taken(
            server.port, "--tls", "--tls-verify", "--tls-ca-path", self.ca, "--tls-sni", "mx.example"
        )  # fmt: skip
        self.assertEqual((message["tls"], message["sni"]), ("TLSv1.3", "mx.example"))
        self.assertIn("using TLSv1.3 with cipher TLS_", message["content"])

    def test_optional(self) -> None:
        """Where there is no certificate, a client for whom TLS is optional goes without."""
        message = self.taken(self.serve().port, "--tls-optional")
        self.assertEqual(message["tls"], "")
        self.assertIn("with ESMTP id", message["content"])

    def test_on_connect(self) -> None:
        """On a listener with implicit TLS it begins at once, and the Received field says so."""
        server = self.serve(*self.tls(), "--port", "implicit-tls:tcp:0:interface=127.0.0.1")
        message = self.taken(server.ports()[1], "--tls-on-connect", "--tls-verify", "--tls-ca-path", self.ca)
        self.assertIn("with ESMTPS id", message["content"])

    def test_smtps(self) -> None:
        """The port of --smtps takes mail of those who log in."""
        server = self.serve(*self.tls(), *self.logins(), "--smtps", "tcp:0:interface=127.0.0.1")
        [port] = server.ports("submission")
        self.assertIn("<~* 530 5.7.0", self.swaks(port, "-tlsc", status=MAIL_REFUSED))
        self.assertIn("with ESMTPSA id", self.taken(port, "-tlsc", "--auth", *LOGIN)["content"])

    def test_versions(self) -> None:
        """TLS 1.2 and 1.3 are spoken, and older versions are not."""
        server = self.serve(*self.tls())
        for version, name in (("tlsv1_2", "TLSv1.2"), ("tlsv1_3", "TLSv1.3")):
            with self.subTest(version):
                self.assertEqual(self.taken(server.port, "--tls", "--tls-protocol", version)["tls"], name)
        for version in ("tlsv1", "tlsv1_1"):
            with self.subTest(version):
                self.swaks(
                    server.port, "--tls", "--tls-protocol", version, "--tls-cipher", "ALL:@SECLEVEL=0",
                    status=TLS_FAILED,
                )  # fmt: skip

    def test_required(self) -> None:
        """With --require-tls MAIL is refused before TLS."""
        server = self.serve(*self.tls(), "--require-tls")
        self.assertIn("<** 530 5.7.0", self.swaks(server.port, status=MAIL_REFUSED))
        self.assertEqual(self.taken(server.port, "--tls")["sender"], SENDER)

    def test_client_certificate(self) -> None:
        """A client's certificate is known to the backend if its authority is believed."""
        server = self.serve(*self.tls(), "--tls-client-ca", self.ca)
        mine = self.certificate("client.example")
        message = self.taken(server.port, "--tls", "--tls-cert", mine, "--tls-key", mine)
        self.assertEqual(message["certificate"], "CN=client.example")
        self.assertEqual(self.taken(server.port, "--tls")["certificate"], "")

    def test_pipelining(self) -> None:
        """Commands in groups are served under TLS and after a login."""
        server = self.serve(*self.tls(), *self.logins())
        options = ("--tls", "--auth", "PLAIN", *LOGIN, "--pipeline")
        message = self.taken(server.port, *options, to=f"{RECIPIENT},me@x.example")
        self.assertEqual(message["recipients"], [RECIPIENT, "me@x.example"])


class ProtocolTests(SwaksTestCase):
    def test_smtp(self) -> None:
        """Each protocol that swaks knows is named in the Received field."""
        server = self.serve(
            *self.tls(), *self.logins(), "--allow-insecure-auth", "--port", "implicit-tls:tcp:0:interface=127.0.0.1"
        )
        plain, implicit = server.ports()
        for protocol, port, name in (
            ("SMTP", plain, "SMTP"),
            ("ESMTP", plain, "ESMTP"),
            ("ESMTPA", plain, "ESMTPA"),
            ("ESMTPS", plain, "ESMTPS"),
            ("ESMTPSA", plain, "ESMTPSA"),
            ("SSMTP", implicit, "ESMTPS"),
            ("SSMTPA", implicit, "ESMTPSA"),
            ("SMTPS", implicit, "SMTP"),
        ):
            with self.subTest(protocol):
                login = LOGIN if "A" in protocol else ()
                message = self.taken(port, "--protocol", protocol, "--port", str(port), *login)
                self.assertIn(f"with {name} id", message["content"])

    def test_lmtp(self) -> None:
        """LMTP is served on its own port, plain and under TLS, before and after a login."""
        server = self.serve(*self.tls(), *self.logins(), "--allow-insecure-auth", "--lmtp", "tcp:0:interface=127.0.0.1")
        [port] = server.ports("LMTP")
        for protocol in ("LMTP", "LMTPA", "LMTPS", "LMTPSA"):
            with self.subTest(protocol):
                login = LOGIN if "A" in protocol else ()
                message = self.taken(port, "--protocol", protocol, "--port", str(port), *login)
                self.assertIn(f"with {protocol} id", message["content"])

    def test_lmtp_results(self) -> None:
        """Over LMTP each recipient gets a reply of its own, over a unix socket too."""
        path = f"{self.home}/lmtp"
        self.serve("--lmtp", f"unix:{path}")
        said = self.swaks(path, "--protocol", "LMTP", to=f"{RECIPIENT},full@x.example,nobody@x.example,me@x.example")
        replies = [line[4:7] for line in said.partition(" -> .\n")[2].splitlines() if line.startswith("<")]
        self.assertEqual(replies, ["250", "552", "250", "221"], said)
        self.assertEqual(self.message()["recipients"], [RECIPIENT, "me@x.example"])

    def test_prdr(self) -> None:
        """With PRDR each recipient gets a reply of its own over SMTP."""
        server = self.serve("--enable", "PRDR")
        said = self.swaks(server.port, "--prdr", to=f"{RECIPIENT},full@x.example")
        replies = [line[4:7] for line in said.partition(" -> .\n")[2].splitlines() if line.startswith("<")]
        self.assertEqual(replies, ["353", "250", "552", "250", "221"], said)
        self.assertEqual(self.message()["recipients"], [RECIPIENT])

    def test_unix_socket(self) -> None:
        """A mail that comes by a unix socket is taken."""
        path = f"{self.home}/smtp"
        self.serve("--port", f"unix:{path}")
        message = self.taken(path)
        self.assertEqual(message["host"], "")
        self.assertIn("Received: from client.example (local)", message["content"])
