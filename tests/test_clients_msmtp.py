"""
msmtp sends mail by TLS, and logs in by all that it knows.
"""

from __future__ import annotations

import re
from typing import Any

from tests.clients import CONTENT, PASSWORD, RECIPIENT, SENDER, USER, ClientTestCase
from tests.live import need, run

#: What msmtp ends with if it may not log in, or lacks what it was told to use (sysexits.h).
DENIED, UNAVAILABLE = 77, 69


class MsmtpTestCase(ClientTestCase):
    def msmtp(self, port: int, *options: str, to: tuple[str, ...] = (RECIPIENT,), status: int = 0) -> str:
        """Send a mail, and give the dialogue."""
        done = run(
            need("msmtp"), "--file=/dev/null", "--debug", "--host=127.0.0.1", f"--port={port}", f"--from={SENDER}",
            "--domain=client.example", *options, "--", *to, input=CONTENT.replace(b"\r\n", b"\n"), status=status,
        )  # fmt: skip
        return done.stdout.decode(errors="replace")

    def taken(self, port: int, *options: str) -> dict[str, Any]:
        """Send a mail, and give what came of it."""
        self.msmtp(port, *options)
        return self.message()

    def starttls(self) -> tuple[str, ...]:
        """Options for STARTTLS with a certificate to be believed."""
        return "--tls", "--tls-starttls", f"--tls-trust-file={self.ca}"

    def login(self, mechanism: str, password: str = PASSWORD) -> tuple[str, ...]:
        """Options for a login by a mechanism."""
        return f"--auth={mechanism}", f"--user={USER}", f"--passwordeval=echo '{password}'"


class MsmtpTests(MsmtpTestCase):
    def test_starttls(self) -> None:
        """msmtp begins TLS by STARTTLS and believes the certificate."""
        server = self.serve(*self.tls())
        message = self.taken(server.port, *self.starttls())
        self.assertEqual(message["tls"], "TLSv1.3")
        self.assertTrue(message["content"].encode().endswith(CONTENT), message["content"])

    def test_implicit_tls(self) -> None:
        """msmtp speaks to a listener with implicit TLS."""
        server = self.serve(*self.tls(), "--port", "implicit-tls:tcp:0:interface=127.0.0.1")
        options = ("--tls", "--tls-starttls=off", f"--tls-trust-file={self.ca}")
        self.assertEqual(self.taken(server.ports()[1], *options)["tls"], "TLSv1.3")

    def test_login(self) -> None:
        """Each mechanism that works with passwords logs in, and refuses a wrong one."""
        server = self.serve(*self.tls(), *self.logins())
        known = run(need("msmtp"), "--version").stdout.decode().split("methods:")[1].splitlines()[1].split()
        for mechanism in ("plain", "login", "cram-md5", "scram-sha-1", "scram-sha-256"):
            with self.subTest(mechanism):
                self.assertIn(mechanism, known)
                message = self.taken(server.port, *self.starttls(), *self.login(mechanism))
                self.assertEqual(message["account"], USER)
                said = self.msmtp(server.port, *self.starttls(), *self.login(mechanism, "wrong"), status=DENIED)
                self.assertIn("<-- 535 5.7.8", said)

    def test_scram_without_tls(self) -> None:
        """SCRAM is served without TLS."""
        server = self.serve(*self.logins())
        self.assertEqual(self.taken(server.port, *self.login("scram-sha-256"))["account"], USER)

    def test_htpasswd(self) -> None:
        """A user of a file of SCRAM entries logs in by SCRAM and by PLAIN."""
        made = run(
            need("gsasl"), "--mkpasswd", "--mechanism=SCRAM-SHA-256", f"--password={PASSWORD}",
            "--iteration-count=4096", "--verbose",
        ).stdout.decode()  # fmt: skip
        found = re.search(r"\{SCRAM-SHA-256\}(\d+),([^,]+),([^,]+),([^,\s]+)", made)
        assert found is not None
        count, salt, stored, server_key = found.groups()
        users = self.write("users", f"{USER}:SCRAM-SHA-256${count}:{salt}${stored}:{server_key}\n".encode())
        server = self.serve(*self.tls(), "--auth", f"htpasswd:{users}")
        for mechanism in ("scram-sha-256", "plain"):
            with self.subTest(mechanism):
                message = self.taken(server.port, *self.starttls(), *self.login(mechanism))
                self.assertEqual(message["account"], USER)

    def test_external(self) -> None:
        """The name in a client's certificate logs in."""
        server = self.serve(*self.tls(), "--tls-client-ca", self.ca, "--auth", "certificate:cn")
        mine = self.certificate(common_name=USER)
        options = (f"--tls-cert-file={mine}", f"--tls-key-file={mine}", "--auth=external", f"--user={USER}")
        self.assertEqual(self.taken(server.port, *self.starttls(), *options)["account"], USER)

    def test_dsn(self) -> None:
        """What msmtp says of notifications arrives."""
        server = self.serve()
        message = self.taken(server.port, "--dsn-notify=failure,delay", "--dsn-return=headers")
        self.assertEqual(message["params"]["RET"], "HDRS")
        self.assertEqual(message["recipient_params"], [{"NOTIFY": ["DELAY", "FAILURE"]}])

    def test_lmtp(self) -> None:
        """Over LMTP msmtp hears which recipient was refused."""
        server = self.serve("--lmtp", "tcp:0:interface=127.0.0.1")
        [port] = server.ports("LMTP")
        options = ("--protocol=lmtp",)
        self.msmtp(port, *options, to=(RECIPIENT, "full@x.example"), status=UNAVAILABLE)
        self.assertEqual(self.message()["recipients"], [RECIPIENT])
        self.assertIn("with LMTP id", self.taken(port, *options)["content"])

    def test_remote_info(self) -> None:
        """msmtp shows the certificate and what is offered."""
        server = self.serve(*self.tls(), *self.logins())
        done = run(
            need("msmtp"), "--file=/dev/null", "--serverinfo", "--host=127.0.0.1", f"--port={server.port}",
            *self.starttls(),
        )  # fmt: skip
        self.assertIn(b"SCRAM-SHA-256", done.stdout)
        self.assertIn(b"CN=mx.example", done.stdout)
