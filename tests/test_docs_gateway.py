"""
The steps to a mail gateway do what the page says: its test passes, and mail goes through as it is printed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.live import ROOT, Server, need, run, until
from tests.pages import EXAMPLES, run_by


class GatewayTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="gateway-"))
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)
        for name in ("gateway.py", "test_gateway.py"):
            shutil.copy(EXAMPLES / name, self.directory)

    def test_unit_tests(self) -> None:
        """The tests of the gateway pass, by the command of the page."""
        [command] = run_by("test_docs_gateway.GatewayTests.test_unit_tests")
        self.assertEqual(command, ".venv/bin/python -m twisted.trial test_gateway")
        done = run(
            sys.executable, *command.split()[1:], cwd=self.directory, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        self.assertIn(b"PASSED (successes=3)", done.stdout)

    def test_walk(self) -> None:
        """Mail goes through the gateway to the next server; with policies, mail for other domains does not."""
        need("curl")
        [command] = run_by("test_docs_gateway.GatewayTests.test_walk")
        following = self.serve("--backend", "debug:")
        program = self.directory / "gateway.py"
        text = program.read_text()
        self.assertIn('("127.0.0.1", 2526)', text)
        program.write_text(text.replace("2526", str(following.port)))
        gateway = self.serve("--backend", "python:gateway.make", "--domain", "example.org")
        command = command.replace(":2525", f":{gateway.port}")
        self.assertEqual(self.shell(command), 0)
        until(lambda: "X-Gateway: gateway.example.org\nReceived: from" in following.log.read_text(), "it is printed")
        self.assertNotEqual(self.shell(command.replace("you@example.org", "you@example.com")), 0)

    def serve(self, *options: str) -> Server:
        """Run the service."""
        server = Server(*options, directory=str(self.directory))
        self.addCleanup(server.close)
        return server

    def shell(self, command: str) -> int:
        """Run a command, and give its exit status."""
        return subprocess.run(["sh", "-c", command], capture_output=True, timeout=60, check=False).returncode
