"""One message through send() to servers of others: Postfix, smtp-sink, Exim, aiosmtpd, Dovecot; and by MX to ours."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ServerEndpoint, UNIXClientEndpoint
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SkipTest, TestCase

from smtpsvc.client import Mailer, Report, send
from smtpsvc.nameservers import NameServers
from smtpsvc.resolver import Resolver
from smtpsvc.server.factory import SMTPFactory
from smtpsvc.testing import ScriptedBackend
from tests.dovecot import Dovecot
from tests.live import PATIENCE, Postfix, free_port, need, until
from tests.nameserver import NameServer
from tests.support import settings_with
from tests.test_client_live import listening

SENDER, JOE, ANN = "a@x.example", "joe@y.example", "ann@y.example"

_EXIM = """\
exim_path = {directory}/exim4
spool_directory = {directory}/spool
log_file_path = {directory}/%slog
primary_hostname = exim.example
keep_environment =
queue_only = true
acl_smtp_rcpt = recipients
chunking_advertise_hosts = *

begin acl

recipients:
  deny local_parts = ann
       message = 5.1.1 nobody
  accept
"""


def message() -> EmailMessage:
    """Make a message to two."""
    made = EmailMessage()
    made["From"], made["To"], made["Bcc"], made["Subject"] = SENDER, JOE, ANN, "Grüße"
    made.set_content("Zeile\n.\n")
    return made


class LiveTests(TestCase):
    timeout = PATIENCE * 2

    async def sent(self, server: Any, **options: Any) -> Report:
        """Send the message."""
        return await send(message(), server=server, tls="none", hostname="client.example", **options)

    def started(self, port: int, *command: str, **options: Any) -> None:
        """Start a server that is to listen on a port, and end it with the test."""
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)
        self.addCleanup(process.wait)
        self.addCleanup(process.terminate)
        until(lambda: process.poll() is not None or listening(port), f"{command[0]} listens")
        if process.poll() is not None:
            raise SkipTest(f"{command[0]} cannot be started")

    async def test_postfix(self) -> None:
        """Postfix takes it for one, and refuses the other."""
        postfix = await deferToThread(
            Postfix,
            relay_domains="y.example",
            smtpd_recipient_restrictions=f"check_recipient_access inline:{{{ANN}=REJECT}}, reject_unauth_destination",
            defer_transports="smtp",
        )
        self.addCleanup(postfix.close)
        report = await self.sent(UNIXClientEndpoint(reactor, postfix.socket))
        self.assertEqual((report.delivered, report.refused), ((JOE,), (ANN,)))
        self.assertEqual(report.recipients[1].status, "5.7.1")

    async def test_exim(self) -> None:
        """Exim too."""
        program = need("exim4")
        if os.getuid() != 0:
            raise SkipTest("Exim can be started by root only")
        directory = Path(tempfile.mkdtemp(prefix="exim-"))
        self.addCleanup(shutil.rmtree, directory)
        directory.chmod(0o755)
        shutil.chown(directory, "Debian-exim")
        shutil.copy(program, directory / "exim4")
        (directory / "conf").write_text(_EXIM.format(directory=directory))
        port = free_port()
        words = ["-C", str(directory / "conf"), "-bdf", "-oX", f"127.0.0.1.{port}"]
        await deferToThread(self.started, port, str(directory / "exim4"), *words)
        report = await self.sent(("127.0.0.1", port))
        self.assertEqual((report.delivered, report.refused), ((JOE,), (ANN,)))
        [kept] = (directory / "spool" / "input").glob("*-D")
        self.assertIn(b"Zeile\n.\n", kept.read_bytes())

    async def test_sink(self) -> None:
        """smtp-sink takes it; one that refuses is passed over for the next."""
        ports = free_port(), free_port()
        for port, options in zip(ports, (["-r", "mail"], []), strict=True):
            words = [need("smtp-sink"), "-u", "nobody", *options, f"127.0.0.1:{port}", "100"]
            await deferToThread(self.started, port, *words)
        report = await self.sent([("127.0.0.1", port) for port in ports])
        self.assertEqual(report.delivered, (JOE, ANN))

    async def test_aiosmtpd(self) -> None:
        """aiosmtpd takes it as it was meant."""
        try:
            from aiosmtpd.controller import Controller
        except ImportError:
            raise SkipTest("aiosmtpd is not installed") from None
        got: list[Any] = []

        class Handler:
            async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
                got.append(envelope)
                return "250 OK"

        controller = Controller(Handler(), hostname="127.0.0.1", port=free_port())
        controller.start()
        self.addCleanup(controller.stop)
        self.assertTrue((await self.sent(("127.0.0.1", controller.port))).complete)
        self.assertEqual(got[0].rcpt_tos, [JOE, ANN])
        self.assertTrue(got[0].original_content.endswith(b"\r\n\r\nZeile\r\n.\r\n"))

    async def test_dovecot(self) -> None:
        """Dovecot answers by LMTP for each of the recipients."""
        dovecot = await deferToThread(Dovecot, JOE)
        self.addCleanup(dovecot.close)
        report = await self.sent(UNIXClientEndpoint(reactor, str(dovecot.socket)), lmtp=True)
        self.assertEqual((report.delivered, report.refused), ((JOE,), (ANN,)))

    async def test_exchangers(self) -> None:
        """By the DNS it finds our server behind an exchanger that is not there, for each domain."""
        backend = ScriptedBackend()
        port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(SMTPFactory(backend, settings_with()))
        self.addCleanup(port.stopListening)
        zone = NameServer({
            "y.example": ["MX 10 dead.example", "MX 20 mx.example"], "dead.example": ["A 127.0.0.99"],
            "mx.example": ["A 127.0.0.1"], "z.example": ["A 127.0.0.1"], "n.example": ["MX 0 ."],
        })  # fmt: skip
        self.addCleanup(zone.close)
        resolver = Resolver(NameServers([zone.address], reactor=reactor), clock=reactor)
        mailer = Mailer(port=port.getHost().port, ignored=(), resolver=resolver, hostname="client.example")
        report = await mailer.send(message(), None, [JOE, "bob@z.example", "no@n.example"])
        await mailer.close()
        self.assertEqual([(each.fate.value, each.host) for each in report.recipients], [
            ("delivered", "mx.example"), ("delivered", "z.example"), ("refused", ""),
        ])  # fmt: skip
        self.assertEqual(len(backend.messages), 2)
