"""
smtplib delivers by LMTP, over TCP and over a unix socket.
"""

from __future__ import annotations

import smtplib
import stat
from pathlib import Path

from tests.clients import CONTENT, RECIPIENT, SENDER, ClientTestCase
from tests.live import PATIENCE, Server


class LMTPTests(ClientTestCase):
    def listen(self, *options: str) -> Server:
        """Start the service with LMTP listeners on a free port and on the unix socket ``lmtp``."""
        unix = f"unix:{self.home}/lmtp:mode=660"
        return self.serve("--lmtp", "tcp:0:interface=127.0.0.1", "--lmtp", unix, *options)

    def clients(self, server: Server) -> list[smtplib.LMTP]:
        """Connect to both."""
        [port] = server.ports("LMTP")
        return [self.client("127.0.0.1", port), self.client(f"{self.home}/lmtp", 0)]

    def client(self, host: str, port: int) -> smtplib.LMTP:
        """Connect to a port, or to a unix socket."""
        client = smtplib.LMTP(host, port)
        assert client.sock is not None
        client.sock.settimeout(PATIENCE)
        self.addCleanup(client.close)
        return client

    def test_sendmail(self) -> None:
        """A mail for one recipient arrives octet for octet."""
        server = self.listen()
        for client in self.clients(server):
            self.assertEqual(client.sendmail(SENDER, [RECIPIENT], CONTENT), {})
            message = self.message()
            self.assertTrue(message["content"].endswith(CONTENT.decode()))
            self.assertIn("with LMTP id", message["content"])
            self.assertEqual((message["sender"], message["recipients"]), (SENDER, [RECIPIENT]))

    def test_each(self) -> None:
        """Each recipient that was accepted has a reply, in order, a duplicate too; a refused one has none."""
        server = self.listen()
        for client in self.clients(server):
            client.ehlo_or_helo_if_needed()
            client.mail(SENDER)
            names = ("you@example.com", "full@example.com", "nobody@example.com", "you@example.com")
            self.assertEqual([client.rcpt(name)[0] for name in names], [250, 250, 550, 250])
            # smtplib itself reads the first.
            found = [client.data(CONTENT), client.getreply(), client.getreply()]
            self.assertEqual([code for code, _ in found], [250, 552, 250])
            self.assertEqual(client.noop()[0], 250)
            self.assertEqual(self.message()["recipients"], ["you@example.com"] * 2)

    def test_lhlo(self) -> None:
        """LHLO shows the extensions, and EHLO is unknown."""
        server = self.listen()
        for client in self.clients(server):
            self.assertEqual(client.ehlo()[0], 250)
            self.assertTrue(client.has_extn("chunking"))
            self.assertEqual(client.docmd("EHLO", "x")[0], 500)

    def test_mode(self) -> None:
        """The socket has the mode that was asked for, and is gone when the service has ended."""
        server = self.listen()
        path = Path(self.home, "lmtp")
        self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o660)
        server.stop()
        self.assertFalse(path.exists())

    def test_maildir(self) -> None:
        """The Maildir backend takes one mail for all recipients, and each of them hears of it."""
        server = self.listen("--backend", "maildir:Maildir")
        [client, _] = self.clients(server)
        client.ehlo_or_helo_if_needed()
        client.mail(SENDER)
        for name in ("you@example.com", "me@example.com"):
            client.rcpt(name)
        self.assertEqual([client.data(CONTENT)[0], client.getreply()[0]], [250, 250])
        [mail] = server.mails()
        for name in (b"you@example.com", b"me@example.com"):
            self.assertIn(b"Delivered-To: " + name + b"\r\n", mail)
