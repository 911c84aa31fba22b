"""
A 250 means that the message is on disk: the service is killed right after it, many times.
"""

from __future__ import annotations

import shutil
import tempfile

from twisted.trial.unittest import TestCase

from tests.live import Server

CYCLES = 100


class KillTests(TestCase):
    def test_kill_after_250(self) -> None:
        """After SIGKILL right behind a 250, one hundred times, each message is in new/, whole and once."""
        directory = tempfile.mkdtemp(prefix="smtpsvc-kill-")
        self.addCleanup(shutil.rmtree, directory)
        sent = []
        for cycle in range(CYCLES):
            server = Server("--backend", "maildir:./Maildir", directory=directory)
            self.addCleanup(server.close)
            # Some small, some beyond what is gathered in memory.
            content = b"Subject: %d\r\n\r\n" % cycle + b"%060d\r\n" % cycle * (20 if cycle % 10 else 10_000)
            self._send(server, content)
            server.kill()
            sent.append(content)
        kept = server.mails()
        self.assertEqual(len(kept), CYCLES)
        for content in sent:
            whole = [mail for mail in kept if mail.endswith(b"\r\n" + content)]
            self.assertEqual(len(whole), 1, content[:40])

    def _send(self, server: Server, content: bytes) -> None:
        """Send *content*; returns as soon as the 250 has come."""
        with server.connect() as client:
            replies = client.makefile("rb")
            for command, code in (
                (b"", b"220"),
                (b"HELO client.example\r\n", b"250"),
                (b"MAIL FROM:<a@client.example>\r\n", b"250"),
                (b"RCPT TO:<b@example.com>\r\n", b"250"),
                (b"DATA\r\n", b"354"),
                (content + b".\r\n", b"250"),
            ):
                client.sendall(command)
                line = replies.readline()
                self.assertEqual(line[:3], code, line)
