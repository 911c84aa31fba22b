"""
What the tests with real clients share: a backend that shows what came, and files for TLS and logins.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from twisted.trial.unittest import TestCase

from smtpsvc.tlstesting import Authority
from tests.live import Server

USER, PASSWORD = "joe", "open sesame"

SENDER, RECIPIENT = "sender@client.example", "you@example.com"

CONTENT = b"Subject: a test\r\n\r\nfirst line\r\n.dot\r\n"

#: Issues the certificates of servers and of clients.
AUTHORITY = Authority()


class ClientTestCase(TestCase):
    """Runs the service with a backend that shows what came, in a directory of its own."""

    def setUp(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="clients-"))
        self.home.chmod(0o755)  # other users' programs look for sockets and certificates there
        self.addCleanup(shutil.rmtree, self.home, ignore_errors=True)
        shutil.copy(Path(__file__).with_name("recorder.py"), self.home)
        self.ca = self.write("ca.pem", AUTHORITY.pem)

    def serve(self, *options: str) -> Server:
        """Start the service."""
        server = Server(
            "--hostname", "mx.example", "--backend", "python:recorder.Recorder", *options, directory=str(self.home)
        )
        self.addCleanup(server.close)
        return server

    def write(self, name: str, content: bytes) -> str:
        """Write a file, and give its path."""
        path = self.home / name
        path.write_bytes(content)
        return str(path)

    def certificate(self, *names: str, common_name: str = "") -> str:
        """Give the path of a file with a certificate and its key; the default is that of ``mx.example``."""
        names = names or ("mx.example", "localhost", "127.0.0.1")
        return self.write(f"{common_name or names[0]}.pem", b"".join(AUTHORITY.issue(*names, common_name=common_name)))

    def tls(self) -> tuple[str, ...]:
        """Options that let the service offer TLS."""
        return "--tls-certificate", self.certificate()

    def logins(self) -> tuple[str, ...]:
        """Options that let :data:`USER` log in."""
        return "--auth", f"memory:{USER}:{PASSWORD}"

    def messages(self) -> list[dict[str, Any]]:
        """What the backend has noted."""
        path = self.home / "messages"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def message(self) -> dict[str, Any]:
        """The only message there is; it is forgotten then."""
        [found] = self.messages()
        (self.home / "messages").unlink()
        return found
