"""
The servers on the page of migration do the same before and after.
"""

from __future__ import annotations

import os
import smtplib
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from unittest import SkipTest

from twisted.trial.unittest import SynchronousTestCase

from tests.live import PATIENCE, ROOT, free_port, until
from tests.pages import EXAMPLES

MAIL = "Subject: hello\r\n\r\nhi\r\n"


class ServerTests(SynchronousTestCase):
    def answers(self, example: str) -> tuple[list[object], str]:
        """Run a server, send to it, and give the codes of its replies and what it prints."""
        port = free_port()
        program = (EXAMPLES / f"{example}.py").read_text()
        self.assertIn("2525", program)
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "server.py")
            path.write_text(program.replace("2525", str(port)))
            process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-u", str(path)],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            try:
                with until(lambda: self.connected(port, process), "it listens") as client:
                    codes: list[object] = []
                    for sender, recipient in (
                        ("me@example.com", "you@example.org"),
                        ("me@example.com", "you@example.com"),
                        ("spam@example.com", "you@example.org"),
                    ):
                        try:
                            client.sendmail(sender, [recipient], MAIL)
                            codes.append("taken")
                        except smtplib.SMTPRecipientsRefused as error:
                            codes.append(error.recipients[recipient][0])
                        except smtplib.SMTPDataError as error:
                            codes.append(error.smtp_code)
            finally:
                process.kill()
                said, _ = process.communicate(timeout=PATIENCE)
        return codes, said.decode()

    def connected(self, port: int, process: subprocess.Popen[bytes]) -> smtplib.SMTP | None:
        """Connect, if it listens."""
        if process.poll() is not None:
            raise AssertionError((process.stdout.read() if process.stdout else b"").decode())
        try:
            return smtplib.SMTP("127.0.0.1", port, "client.example", timeout=PATIENCE)
        except ConnectionRefusedError:
            return None

    def check(self, name: str, *expected: object) -> None:
        """Compare a server before with the one after."""
        after = self.answers(f"after_{name}")
        self.assertEqual(after[0], list(expected))
        self.assertIn("me@example.com ['you@example.org'] b'hi'\n", after[1])
        if find_spec({"twisted_mail": "twisted"}.get(name, name)) is None:
            if name == "smtpd":  # no longer in Python 3.12
                return
            raise SkipTest(f"{name} is not installed")
        self.assertEqual(self.answers(f"before_{name}"), after)

    def test_smtpd(self) -> None:
        """The servers of smtpd and ours take, refuse and print the same."""
        self.check("smtpd", "taken", "taken", 550)

    def test_aiosmtpd(self) -> None:
        """So do those of aiosmtpd."""
        self.check("aiosmtpd", "taken", 550, "taken")

    def test_twisted_mail(self) -> None:
        """So do those of twisted.mail."""
        self.check("twisted_mail", "taken", 550, "taken")
