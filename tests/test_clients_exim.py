"""
Exim relays to the service: by BDAT, with PRDR, under TLS, with a login, and by LMTP.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any
from unittest import SkipTest

from tests.clients import CONTENT, PASSWORD, RECIPIENT, SENDER, USER, ClientTestCase
from tests.live import Server, need, run

_CONFIGURATION = """\
exim_path = {directory}/exim4
spool_directory = {directory}/spool
log_file_path = {directory}/%slog
log_selector = +tls_certificate_verified +smtp_confirmation
primary_hostname = relay.example
keep_environment =
trusted_users = root
deliver_drop_privilege
message_size_limit = 100M
smtputf8_advertise_hosts =

begin acl

begin routers

out:
  driver = manualroute
  route_list = * 127.0.0.1::{port} byname
  self = send
  transport = out
  errors_to = ""
  no_more

begin transports

out:
  {transport}

begin retry

* * F,1h,15m

begin authenticators

{authenticators}
"""

_AUTHENTICATORS = {
    "PLAIN": 'driver = plaintext\n  public_name = PLAIN\n  client_send = "^{user}^{password}"',
    "LOGIN": 'driver = plaintext\n  public_name = LOGIN\n  client_send = ": {user} : {password}"',
    "CRAM-MD5": "driver = cram_md5\n  public_name = CRAM-MD5\n  client_name = {user}\n  client_secret = {password}",
    "EXTERNAL": 'driver = external\n  public_name = EXTERNAL\n  client_send = "{user}"',
}


def _order(name: str) -> bool:
    return name != "driver"


class Exim:
    """
    An Exim of our own, without a daemon: its own configuration, spool and log.

    :param port: where it relays to.
    :param mechanism: what it logs in by; "" for no login.
    :param transport: options of its transport; a ``driver`` other than ``smtp`` does without the port.
    :raises SkipTest: if it is not installed, or may not be started by this user.
    """

    def __init__(self, port: int, mechanism: str = "", **transport: str) -> None:
        program = need("exim4")
        if os.getuid() != 0:
            raise SkipTest("Exim can be started by root only")
        self.directory = Path(tempfile.mkdtemp(prefix="exim-"))
        self.directory.chmod(0o755)
        shutil.chown(self.directory, "Debian-exim")
        # It runs itself again as a user of its own, who may not be able to reach where it was found.
        shutil.copy(program, self.directory / "exim4")
        authenticators = ""
        if mechanism:
            authenticators = f"it:\n  {_AUTHENTICATORS[mechanism].format(user=USER, password=PASSWORD)}"
            transport["hosts_require_auth"] = "*"
        if transport.setdefault("driver", "smtp") == "smtp":
            transport.update(port=str(port), allow_localhost="true")
        path = self.directory / "conf"
        path.write_text(
            _CONFIGURATION.format(
                directory=self.directory,
                port=port,
                # The driver comes first: it decides what the others may be.
                transport="\n  ".join(f"{name} = {transport[name]}" for name in sorted(transport, key=_order)),
                authenticators=authenticators,
            )
        )

    def send(self, recipients: tuple[str, ...], content: bytes) -> str:
        """Send a mail, and give what the log says of it."""
        run(
            str(self.directory / "exim4"), "-C", str(self.directory / "conf"), "-odi", "-oi", "-f", SENDER, "--",
            *recipients, input=content,
        )  # fmt: skip
        return (self.directory / "mainlog").read_text()

    def close(self) -> None:
        """Remove its directory."""
        shutil.rmtree(self.directory, ignore_errors=True)


class EximTests(ClientTestCase):
    TLS = {"hosts_require_tls": "*", "tls_verify_hosts": "*", "tls_verify_cert_hostnames": ":"}

    def setUp(self) -> None:
        need("exim4")
        super().setUp()

    def exim(self, port: int, mechanism: str = "", **transport: str) -> Exim:
        """Make an Exim that relays to a port."""
        if "driver" not in transport:
            transport.setdefault("hosts_try_chunking", "")
        exim = Exim(port, mechanism, **transport)
        self.addCleanup(exim.close)
        return exim

    def sent(self, exim: Exim, *recipients: str, content: bytes = CONTENT) -> tuple[dict[str, Any], str]:
        """Send a mail, and give what came of it, and Exim's log."""
        log = exim.send(recipients or (RECIPIENT,), content.replace(b"\r\n", b"\n"))
        self.assertIn(f"=> {RECIPIENT} ", log)
        return self.message(), log

    def test_data(self) -> None:
        """A mail arrives by DATA where CHUNKING is not to be used."""
        message, log = self.sent(self.exim(self.serve().port))
        self.assertTrue(message["content"].endswith("\r\n\r\nfirst line\r\n.dot\r\n"), message["content"])
        self.assertNotIn(" K ", log)

    def test_chunking(self) -> None:
        """A mail arrives by BDAT, octet for octet."""
        message, log = self.sent(self.exim(self.serve().port, hosts_try_chunking="*"))
        self.assertTrue(message["content"].endswith("\r\n\r\nfirst line\r\n.dot\r\n"), message["content"])
        self.assertIn(" K ", log)

    def test_large_chunks(self) -> None:
        """A mail of 25 MiB arrives by BDAT under TLS, octet for octet, while the process stays below 80 MiB."""
        server = Server(*self.tls(), directory=str(self.home))
        self.addCleanup(server.close)
        exim = self.exim(server.port, **self.TLS, tls_verify_certificates=self.ca, hosts_try_chunking="*")
        body = (b"." + random.randbytes(37).hex().encode() + b"\n") * (25 * 1024 * 1024 // 76)
        self.assertIn(" K ", exim.send((RECIPIENT,), b"Subject: large\n\n" + body))
        [mail] = server.mails()
        self.assertTrue(mail.endswith(b"\r\n\r\n" + body.replace(b"\n", b"\r\n")))
        self.assertLess(server.peak_memory(), 80 * 1024 * 1024)

    def test_chunking_refused(self) -> None:
        """By BDAT too, a recipient that is refused is refused alone."""
        exim = self.exim(self.serve().port, hosts_try_chunking="*")
        message, log = self.sent(exim, RECIPIENT, "nobody@example.com")
        self.assertEqual(message["recipients"], [RECIPIENT])
        self.assertIn("550 5.1.1 No such user", log)

    def test_results(self) -> None:
        """With PRDR each recipient has a result of its own, by DATA and by BDAT."""
        for chunking in ("", "*"):
            with self.subTest(chunking):
                server = self.serve("--enable", "PRDR")
                exim = self.exim(server.port, hosts_try_prdr="*", hosts_try_chunking=chunking)
                message, log = self.sent(exim, RECIPIENT, "full@example.com")
                self.assertEqual(message["recipients"], [RECIPIENT])
                self.assertRegex(log, r"=> you@example\.com .* PRDR")
                self.assertRegex(log, r"\*\* full@example\.com .*552 5\.2\.2 Mailbox full")

    def test_tls(self) -> None:
        """Exim, whose TLS is GnuTLS, believes the certificate."""
        exim = self.exim(self.serve(*self.tls()).port, **self.TLS, tls_verify_certificates=self.ca)
        message, log = self.sent(exim)
        self.assertEqual(message["tls"], "TLSv1.3")
        self.assertIn(" CV=yes", log)

    def test_implicit_tls(self) -> None:
        """Exim speaks to a listener with implicit TLS."""
        server = self.serve(*self.tls(), "--port", "implicit-tls:tcp:0:interface=127.0.0.1")
        exim = self.exim(server.ports()[1], **self.TLS, tls_verify_certificates=self.ca, protocol="smtps")
        self.assertIn("with ESMTPS id", self.sent(exim)[0]["content"])

    def test_login(self) -> None:
        """Exim logs in by each of its mechanisms."""
        server = self.serve(*self.tls(), *self.logins(), "--submission", "tcp:0:interface=127.0.0.1")
        for mechanism in ("PLAIN", "LOGIN", "CRAM-MD5"):
            with self.subTest(mechanism):
                exim = self.exim(server.ports("submission")[0], mechanism, **self.TLS, tls_verify_certificates=self.ca)
                message, _ = self.sent(exim)
                self.assertEqual(message["account"], USER)
                self.assertIn("with ESMTPSA id", message["content"])

    def test_external(self) -> None:
        """The certificate of Exim logs it in."""
        server = self.serve(*self.tls(), "--tls-client-ca", self.ca, "--auth", "certificate:cn")
        mine = self.certificate(common_name=USER)
        Path(mine).chmod(0o644)
        exim = self.exim(
            server.port, "EXTERNAL", **self.TLS, tls_verify_certificates=self.ca, tls_certificate=mine,
            tls_privatekey=mine,
        )  # fmt: skip
        self.assertEqual(self.sent(exim)[0]["account"], USER)

    def test_lmtp(self) -> None:
        """Each recipient has a result of its own by LMTP, by DATA and by BDAT."""
        server = self.serve("--lmtp", "tcp:0:interface=127.0.0.1")
        for chunking in ("", "*"):
            with self.subTest(chunking):
                exim = self.exim(server.ports("LMTP")[0], protocol="lmtp", hosts_try_chunking=chunking)
                message, log = self.sent(exim, RECIPIENT, "full@example.com", "nobody@example.com")
                self.assertEqual(message["recipients"], [RECIPIENT])
                self.assertRegex(log, r"\*\* full@example\.com .*552 5\.2\.2 Mailbox full")
                self.assertRegex(log, r"\*\* nobody@example\.com .*550 5\.1\.1 No such user")

    def test_lmtp_unix(self) -> None:
        """The delivery agent of Exim hands mail over by LMTP on a unix socket."""
        self.serve("--lmtp", f"unix:{self.home}/lmtp:mode=666")
        exim = self.exim(0, driver="lmtp", socket=f"{self.home}/lmtp", batch_max="10", user="Debian-exim")
        message, log = self.sent(exim, RECIPIENT, "full@example.com", "nobody@example.com")
        self.assertEqual(message["recipients"], [RECIPIENT])
        self.assertRegex(log, r"\*\* full@example\.com .*552 5\.2\.2 Mailbox full")
        self.assertRegex(log, r"\*\* nobody@example\.com .*550 5\.1\.1 No such user")
