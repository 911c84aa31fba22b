"""
Commands of the pages do what is printed, in the order in which a reader gives them.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import smtplib
import subprocess
import sys
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.checkers.htpasswd import parse_users
from smtpsvc.tap import Options
from tests.live import PATIENCE, ROOT, Server, free_port, need, run, until
from tests.pages import EXAMPLES, PAGES, run_by
from tests.test_twistd import TWISTD

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


class WalkTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="walks-"))
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)

    def serve(self, *options: str) -> Server:
        """Run the service."""
        server = Server(*options, directory=str(self.directory))
        self.addCleanup(server.close)
        return server

    def shell(self, command: str, **options: object) -> bytes:
        """Run a command of a page to its good end, and give what it prints."""
        return run("sh", "-c", command, cwd=self.directory, env=ENVIRONMENT, **options).stdout

    def test_login(self) -> None:
        """curl logs in, by the first two commands on logins; without its login it is refused."""
        need("curl")
        [text] = run_by("test_docs_walks.WalkTests.test_login")
        service, client = text.split("\n")
        server = self.serve(*shlex.split(service)[5:])
        client = client.replace("localhost:2525", f"127.0.0.1:{server.port}")
        self.shell(client)
        self.assertEqual(len(server.mails()), 1)
        self.assertIn("--user joe:sesame", client)
        without = client.replace("--user joe:sesame", "")
        done = subprocess.run(["sh", "-c", without], capture_output=True, cwd=self.directory, check=False)
        self.assertNotEqual(done.returncode, 0)

    def test_passwords(self) -> None:
        """The commands for passwords write lines that the checker reads."""
        [text] = run_by("test_docs_walks.WalkTests.test_passwords")
        for command in text.split("\n"):
            command = command.replace("/etc/mail/users", "users").replace("python ", f"{sys.executable} ", 1)
            self.shell(command, input=b"open sesame\n")
        path = self.directory / "users"
        self.assertEqual(path.read_text().count("alice:"), 2)
        parse_users(path.read_bytes())

    def test_application(self) -> None:
        """The application starts by each command that a page has for it."""
        commands = run_by("test_docs_walks.WalkTests.test_application")
        self.assertEqual(len(commands), 2)
        text = (EXAMPLES / "intranet.tac").read_text()
        self.assertIn("tcp:2525", text)
        port = free_port()
        (self.directory / "intranet.tac").write_text(text.replace("tcp:2525", f"tcp:{port}"))
        for command in commands:
            words = shlex.split(command)
            self.assertEqual(words[0].removeprefix(".venv/bin/"), "twistd")
            process = subprocess.Popen(
                [*TWISTD, *words[1:]],
                cwd=self.directory,
                env=ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            try:
                until(lambda: self.served(port), "the application listens")
            finally:
                process.terminate()
                process.wait(PATIENCE)

    def served(self, port: int) -> bool:
        """Send a mail, if somebody listens."""
        try:
            with smtplib.SMTP("127.0.0.1", port, "client.example", timeout=PATIENCE) as client:
                client.sendmail("me@example.com", ["you@example.org"], "Subject: hello\r\n\r\nhi\r\n")
        except ConnectionRefusedError:
            return False
        return True

    def test_health(self) -> None:
        """The options and the paths of the probes fit, and so does the command for them."""
        need("curl")
        probes, command = run_by("test_docs_walks.WalkTests.test_health")
        [found] = re.findall(r"args: (\[.*\])", probes)
        Options().parseOptions(json.loads(found))
        port = free_port()
        self.serve("--metrics", f"tcp:{port}:interface=127.0.0.1")
        command = command.replace(":9100", f":{port}")
        self.assertIn("/readyz", command)
        for path in re.findall(r"path: (/\w+)", probes):
            with self.subTest(path):
                self.shell(command.replace("/readyz", path))


class PackageTests(SynchronousTestCase):
    def test_extras(self) -> None:
        """Each extra that a page has pip install is one."""
        [extras] = re.findall(r"(?s)extras_require=\{(.*?)\}", (ROOT / "setup.py").read_text())
        known = set(re.findall(r'"(\w+)":', extras))
        for page, text in PAGES.items():
            for name in re.findall(r"pip install[^\n]*\[(\w+)\]", text):
                with self.subTest(f"{page}: {name}"):
                    self.assertIn(name, known)
