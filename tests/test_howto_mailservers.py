"""
The configurations of Postfix, Exim and OpenSMTPD that a page shows hand mail to the service, as it says.
"""

from __future__ import annotations

import os
import shutil
import smtplib
import tempfile
from pathlib import Path
from unittest import SkipTest

from tests.clients import SENDER, ClientTestCase
from tests.live import PATIENCE, Postfix, free_port, need, run, until
from tests.opensmtpd import OpenSMTPD
from tests.pages import run_by

CONTENT = "Subject: a test\r\n\r\nfirst line\r\n"
YOU, FULL, NOBODY = (f"{name}@example.org" for name in ("you", "full", "nobody"))


class MailServerTestCase(ClientTestCase):
    def configuration(self) -> str:
        """Start the service, and give the configuration of the page with its port."""
        server = self.serve("--domain", "example.org", "--lmtp", "tcp:0:interface=127.0.0.1")
        [text] = run_by(f"test_howto_mailservers.{type(self).__name__}")
        self.assertIn("2424", text)
        return text.replace("2424", str(server.ports("LMTP")[0]))

    def taken(self) -> list[str]:
        """Name the recipients whose mail from :data:`SENDER` was kept."""
        return [name for each in self.messages() if each["sender"] == SENDER for name in each["recipients"]]


class PostfixTests(MailServerTestCase):
    def test_results(self) -> None:
        """Postfix asks about recipients at RCPT, hands mail on, and returns what is refused behind the message."""
        need("postfix")
        lines = dict(line.split(" = ", 1) for line in self.configuration().splitlines())
        postfix = Postfix(**lines, notify_classes="", address_verify_poll_delay="1s", address_verify_poll_count="20")
        self.addCleanup(postfix.close)
        with smtplib.LMTP(postfix.socket) as client:
            client.ehlo_msg = "ehlo"
            client.ehlo("client.example")
            refused = client.sendmail(SENDER, [YOU, NOBODY, FULL, "you@elsewhere.example"], CONTENT)
        self.assertEqual(refused.keys(), {NOBODY, "you@elsewhere.example"})
        self.assertEqual(refused[NOBODY][0], 550)
        self.assertIn(b"No such user", refused[NOBODY][1])
        until(lambda: postfix.logged(f"to=<{YOU}>, relay=127.0.0.1[127.0.0.1]"), "Postfix has sent")
        line = until(lambda: postfix.logged("dsn=5.2.2, status=bounced"), "Postfix has given up the other")
        self.assertIn(f"to=<{FULL}>", line)
        self.assertEqual(self.taken(), [YOU])


class EximTests(MailServerTestCase):
    def test_results(self) -> None:
        """Exim asks about recipients at RCPT, hands mail on, and returns what is refused behind the message."""
        program = need("exim4")
        if os.getuid() != 0:
            raise SkipTest("Exim can be started by root only")
        directory = Path(tempfile.mkdtemp(prefix="exim-"))
        self.addCleanup(shutil.rmtree, directory, ignore_errors=True)
        directory.chmod(0o755)
        shutil.chown(directory, "Debian-exim")
        shutil.copy(program, directory / "exim4")
        (directory / "conf").write_text(
            f"exim_path = {directory}/exim4\n"
            f"spool_directory = {directory}/spool\n"
            f"log_file_path = {directory}/%slog\n"
            "primary_hostname = relay.example\nkeep_environment =\ntrusted_users = root\ndeliver_drop_privilege\n"
            f"{self.configuration()}\n"
            "begin retry\n* * F,1h,15m\n"
        )
        dialogue = "\r\n".join(
            ("EHLO client.example", f"MAIL FROM:<{SENDER}>", f"RCPT TO:<{NOBODY}>", "RCPT TO:<you@elsewhere.example>",
             f"RCPT TO:<{YOU}>", f"RCPT TO:<{FULL}>", "DATA", CONTENT, ".", "QUIT", "")
        )  # fmt: skip
        command = [str(directory / "exim4"), "-C", str(directory / "conf"), "-odi", "-bs"]
        said = run(*command, input=dialogue.encode()).stdout.decode()
        codes = [line[:3] for line in said.splitlines() if line[3:4] == " "]
        self.assertEqual(codes, "220 250 250 550 550 250 250 354 250 221".split(), said)
        log = (directory / "mainlog").read_text()
        self.assertIn(f"=> {YOU} ", log)
        self.assertRegex(log, rf"\*\* {FULL} .*552 5\.2\.2 Mailbox full")
        self.assertEqual(self.taken(), [YOU])


class OpenSMTPDTests(MailServerTestCase):
    def test_results(self) -> None:
        """OpenSMTPD hands mail on, each recipient by itself."""
        need("opensmtpd")
        port = free_port()
        text = self.configuration()
        self.assertIn("port 25\n", text)
        server = OpenSMTPD(text.replace("port 25\n", f"port {port}\n") + "\n")
        self.addCleanup(server.close)
        with smtplib.SMTP("127.0.0.1", port, "client.example", timeout=PATIENCE) as client:
            refused = client.sendmail(SENDER, [YOU, FULL, "you@elsewhere.example"], CONTENT)
        self.assertEqual(refused.keys(), {"you@elsewhere.example"})
        until(lambda: server.logged(f"to=<{YOU}>"), "OpenSMTPD has the mail")
        line = until(lambda: server.logged(f"mda delivery evpid={self.envelope(server, YOU)}"), "you have it")
        self.assertIn("result=Ok", line)
        line = until(lambda: server.logged(f"mda delivery evpid={self.envelope(server, FULL)}"), "it was refused")
        self.assertRegex(line, "result=TempFail .*Mailbox full")
        self.assertEqual(self.taken(), [YOU])

    def envelope(self, server: OpenSMTPD, recipient: str) -> str:
        """Find its id of a recipient's mail."""
        line = server.logged(f"to=<{recipient}>") or ""
        return line.partition("evpid=")[2].partition(" ")[0]
