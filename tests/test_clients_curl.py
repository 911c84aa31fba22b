"""
curl sends mail by TLS, with passwords and with tokens of OAuth.
"""

from __future__ import annotations

import time
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.clients import CONTENT, PASSWORD, RECIPIENT, SENDER, USER, ClientTestCase
from tests.live import need, run, until

#: What curl ends with.
RECIPIENT_REFUSED, UNBELIEVED, NO_TLS, DENIED = 55, 60, 64, 67

LOGIN = ("--user", f"{USER}:{PASSWORD}")

ISSUER, AUDIENCE = "https://id.example", "mail"


class CurlTestCase(ClientTestCase):
    def curl(self, port: int, *options: str, scheme: str = "smtp", status: int = 0, to: str = RECIPIENT) -> str:
        """Send a mail, and give what curl says of it."""
        done = run(
            need("curl"), "-sSv", "--cacert", self.ca, "-T", self.write("mail", CONTENT), f"{scheme}://127.0.0.1:{port}/client.example",
            "--mail-from", SENDER, "--mail-rcpt", to, *options, status=status,
        )  # fmt: skip
        return done.stderr.decode(errors="replace")

    def taken(self, port: int, *options: str, scheme: str = "smtp") -> dict[str, Any]:
        """Send a mail, and give what came of it."""
        self.curl(port, *options, scheme=scheme)
        return self.message()


class TLSTests(CurlTestCase):
    def test_starttls(self) -> None:
        """curl believes the certificate, and the mail arrives octet for octet."""
        server = self.serve(*self.tls())
        message = self.taken(server.port, "--ssl-reqd")
        self.assertEqual(message["tls"], "TLSv1.3")
        self.assertTrue(message["content"].encode("latin-1").endswith(CONTENT))

    def test_smtps(self) -> None:
        """curl speaks to a listener with implicit TLS."""
        server = self.serve(*self.tls(), "--port", "implicit-tls:tcp:0:interface=127.0.0.1")
        self.assertEqual(self.taken(server.ports()[1], scheme="smtps")["tls"], "TLSv1.3")

    def test_plain(self) -> None:
        """A service without a certificate offers no TLS, and curl that needs it goes."""
        self.curl(self.serve().port, "--ssl-reqd", status=NO_TLS)
        self.assertEqual(self.messages(), [])

    def test_unbelieved(self) -> None:
        """A client that does not believe the certificate goes, with a line in the log and no traceback."""
        server = self.serve(*self.tls())
        self.curl(server.port, "--ssl-reqd", "--cacert", "/dev/null", status=77)
        other = self.write("other.pem", b"".join(type(self).other_authority()))
        self.curl(server.port, "--ssl-reqd", "--cacert", other, status=UNBELIEVED)
        until(lambda: "unknown ca" in server.log.read_text(), "the alert of the client is logged")
        server.stop()
        self.assertNotIn("Traceback", server.log.read_text())

    @staticmethod
    def other_authority() -> tuple[bytes]:
        """The certificate of an authority that has issued none of ours."""
        from smtpsvc.tlstesting import Authority

        return (Authority("Other Authority").pem,)

    def test_client_certificate(self) -> None:
        """A client's certificate is known to the backend, and one that is not believed ends the connection."""
        server = self.serve(*self.tls(), "--tls-client-ca", self.ca)
        message = self.taken(server.port, "--ssl-reqd", "--cert", self.certificate("client.example"))
        self.assertEqual(message["certificate"], "CN=client.example")


class AuthTests(CurlTestCase):
    MECHANISMS = ("PLAIN", "LOGIN", "CRAM-MD5")

    def test_login(self) -> None:
        """Each mechanism logs in, with an initial response and without."""
        server = self.serve(*self.tls(), *self.logins())
        for mechanism in self.MECHANISMS:
            for more in ((), ("--sasl-ir",)):
                with self.subTest(mechanism, initial=bool(more)):
                    options = (*LOGIN, "--login-options", f"AUTH={mechanism}", *more)
                    self.assertEqual(self.taken(server.port, "--ssl-reqd", *options)["account"], USER)

    def test_best(self) -> None:
        """curl chooses one of the mechanisms that it is offered."""
        server = self.serve(*self.tls(), *self.logins(), "--submission", "tcp:0:interface=127.0.0.1")
        self.assertEqual(self.taken(server.ports("submission")[0], "--ssl-reqd", *LOGIN)["account"], USER)

    def test_wrong_password(self) -> None:
        """A wrong password is refused."""
        server = self.serve(*self.tls(), *self.logins())
        for mechanism in self.MECHANISMS:
            with self.subTest(mechanism):
                said = self.curl(
                    server.port, "--ssl-reqd", "--user", f"{USER}:wrong", "--login-options", f"AUTH={mechanism}",
                    status=DENIED,
                )  # fmt: skip
                self.assertIn("535 5.7.8", said)

    def test_identity(self) -> None:
        """Nobody may act as somebody else."""
        server = self.serve(*self.tls(), *self.logins())
        options = ("--ssl-reqd", *LOGIN, "--login-options", "AUTH=PLAIN", "--sasl-authzid")
        self.assertIn("535 5.7.8", self.curl(server.port, *options, "somebody", status=DENIED))
        self.assertEqual(self.taken(server.port, *options, USER)["account"], USER)

    def test_external(self) -> None:
        """The name in a client's certificate logs in."""
        server = self.serve(*self.tls(), "--tls-client-ca", self.ca, "--auth", "certificate:cn")
        options = ("--ssl-reqd", "--cert", self.certificate(common_name=USER), "--user", f"{USER}:")
        message = self.taken(server.port, *options, "--login-options", "AUTH=EXTERNAL")
        self.assertEqual(message["account"], USER)


class TokenTests(CurlTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.key = ec.generate_private_key(ec.SECP256R1())
        public = self.key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        path = self.write("key.pem", public)
        self.server = self.serve(*self.tls(), "--auth", f"bearer:{path},issuer={ISSUER},audience={AUDIENCE}")

    def token(self, key: Any = None, **claims: Any) -> str:
        """Sign a token that is good unless *claims* say otherwise."""
        good = {"iss": ISSUER, "aud": AUDIENCE, "sub": USER, "exp": int(time.time()) + 600}
        return jwt.encode({**good, **claims}, key or self.key, algorithm="ES256")

    def options(self, mechanism: str, token: str) -> tuple[str, ...]:
        """Options for a login with a token."""
        return "--ssl-reqd", "--user", USER, "--oauth2-bearer", token, "--login-options", f"AUTH={mechanism}"

    def test_login(self) -> None:
        """A token logs in by XOAUTH2 and by OAUTHBEARER, with an initial response and without."""
        for mechanism in ("XOAUTH2", "OAUTHBEARER"):
            for more in ((), ("--sasl-ir",)):
                with self.subTest(mechanism, initial=bool(more)):
                    message = self.taken(self.server.port, *self.options(mechanism, self.token()), *more)
                    self.assertEqual(message["account"], USER)

    def test_refused(self) -> None:
        """A token of somebody else's, or one that has expired, is refused behind a challenge that says why."""
        stranger = ec.generate_private_key(ec.SECP256R1())
        for mechanism in ("XOAUTH2", "OAUTHBEARER"):
            for name, token in (
                ("signature", self.token(stranger)),
                ("expired", self.token(exp=int(time.time()) - 600)),
                ("audience", self.token(aud="calendar")),
            ):
                with self.subTest(mechanism, wrong=name):
                    said = self.curl(self.server.port, *self.options(mechanism, token), status=DENIED)
                    self.assertIn("< 334 ", said)
                    self.assertIn("< 535 5.7.8", said)
                    self.assertEqual(self.messages(), [])

    def test_secrets(self) -> None:
        """No token is in the log."""
        good, bad = self.token(), self.token(aud="calendar")
        self.curl(self.server.port, *self.options("XOAUTH2", good))
        self.curl(self.server.port, *self.options("OAUTHBEARER", bad), status=DENIED)
        self.server.stop()
        log = self.server.log.read_text()
        for token in (good, bad):
            self.assertNotIn(token[-40:], log)


class CommandTests(CurlTestCase):
    def test_recipient(self) -> None:
        """curl hears that a recipient is refused; with one that is taken the mail goes."""
        server = self.serve()
        self.curl(server.port, to="nobody@x.example", status=RECIPIENT_REFUSED)
        message = self.taken(server.port, "--mail-rcpt-allowfails", "--mail-rcpt", "nobody@x.example")
        self.assertEqual(message["recipients"], [RECIPIENT])

    def test_parameters(self) -> None:
        """SIZE and AUTH= of MAIL arrive, typed."""
        server = self.serve(*self.tls(), *self.logins())
        message = self.taken(server.port, "--ssl-reqd", *LOGIN, "--mail-auth", "")
        self.assertEqual(message["params"], {"AUTH": "", "SIZE": len(CONTENT)})

    def test_utf8(self) -> None:
        """An international address is taken."""
        server = self.serve()
        self.curl(server.port, to="j\u00fcrgen@x.example")
        self.assertEqual(self.message()["recipients"], ["j\u00fcrgen@x.example"])

    def test_verify(self) -> None:
        """VRFY and HELP are answered to curl."""
        server = self.serve()
        for command, status in ((("--mail-rcpt", "joe", "-X", "VRFY"), 0), (("-X", "HELP"), 0), (("-X", "NOOP"), 0)):
            with self.subTest(str(command)):
                url = f"smtp://127.0.0.1:{server.port}/client.example"
                run(need("curl"), "-sSv", url, *command, status=status)

    def test_two_mails(self) -> None:
        """Two mails go over one connection."""
        server = self.serve(*self.tls())
        path, url = self.write("mail", CONTENT), f"smtp://127.0.0.1:{server.port}/client.example"
        mail = ("--cacert", self.ca, "--ssl-reqd", "--mail-from", SENDER, "--mail-rcpt", RECIPIENT, "-T", path, url)
        done = run(need("curl"), "-sSv", *mail, "--next", "-sSv", *mail)
        self.assertEqual(len(self.messages()), 2)
        self.assertEqual(done.stderr.count(b"< 220 mx.example"), 1)

    def test_unix_socket(self) -> None:
        """curl speaks by a unix socket."""
        path = f"{self.home}/smtp"
        self.serve("--port", f"unix:{path}")
        self.curl(25, "--unix-socket", path)
        self.assertEqual(self.message()["host"], "")

    def test_haproxy(self) -> None:
        """curl that sends a PROXY header is known by its address."""
        server = self.serve("--trusted-proxies", "127.0.0.1", "--port", "haproxy:tcp:0:interface=127.0.0.1")
        self.assertEqual(self.taken(server.ports()[1], "--haproxy-protocol")["host"], "127.0.0.1")
