"""Tests of the plugin for pytest, by pytest itself."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from importlib.util import find_spec
from pathlib import Path
from unittest import SkipTest

from twisted.trial.unittest import SynchronousTestCase

from tests.live import ROOT

TESTS = '''
    import asyncio
    import smtplib

    import pytest

    from smtpsvc import Role
    from smtpsvc.testing import ScriptedBackend, nth

    MAIL = "Subject: hello\\r\\n\\r\\ntext\\r\\n"
    seen = []


    def test_plain(smtp_server):
        with smtplib.SMTP(smtp_server.host, smtp_server.port) as client:
            client.sendmail("a@x.example", ["b@y.example"], MAIL)
        assert smtp_server.wait_for(1)[0].subject == "hello"
        seen.append(smtp_server)


    def test_fresh(smtp_server):
        assert smtp_server.messages == []
        assert seen[0].port == 0


    @pytest.mark.smtp_server(tls="implicit", accounts={"joe": "secret"})
    def test_marked(smtp_server):
        with smtplib.SMTP_SSL("localhost", smtp_server.port, context=smtp_server.ssl_context()) as client:
            client.login("joe", "secret")
            client.sendmail("a@x.example", ["b@y.example"], MAIL)
        assert smtp_server.messages[0].account == "joe"


    def test_several(make_smtp_server):
        first = make_smtp_server(ScriptedBackend(rcpt=nth(2, 451)))
        second = make_smtp_server(role=Role.LMTP, unix=True)
        with first.connect() as client:
            refused = client.sendmail("a@x.example", ["b@y.example", "c@y.example"], MAIL)
        assert list(refused) == ["c@y.example"]
        with second.connect() as client:
            client.sendmail("a@x.example", ["b@y.example"], MAIL)
        assert len(second.messages) == 1


    def test_asyncio(smtp_server):
        async def main():
            reader, writer = await asyncio.open_connection(smtp_server.host, smtp_server.port)
            greeting = await reader.readline()
            writer.close()
            return greeting

        assert asyncio.run(main()).startswith(b"220 ")


    def test_told(smtp_server):
        with smtp_server.connect() as client:
            client.sendmail("a@x.example", ["b@y.example"], MAIL)
        assert smtp_server.messages == []
'''


class PluginTests(SynchronousTestCase):
    def test_fixtures(self) -> None:
        """The fixtures serve plain tests; a failure tells what has come; the marker is known."""
        if find_spec("pytest") is None:
            raise SkipTest("pytest is not installed")
        directory = Path(self.mktemp())
        directory.mkdir()
        (directory / "test_mail.py").write_text(textwrap.dedent(TESTS), encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-p", "smtpsvc.testing._plugin", "--strict-markers", "-q"]
        done = subprocess.run(
            [*command, "-p", "no:cacheprovider", "."],
            cwd=directory,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        self.assertIn("1 failed, 5 passed", done.stdout, done.stdout + done.stderr)
        self.assertIn("<RecordedMessage 'hello' from a@x.example to b@y.example, 24 bytes>", done.stdout)

    def test_light(self) -> None:
        """Where pytest runs and no test asks for mail, the plugin loads nothing of Twisted."""
        code = "import sys, smtpsvc.testing._plugin; print(*sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        self.assertNotIn("twisted", done.stdout)

    def test_named(self) -> None:
        """An installed smtpsvc tells pytest of its plugin."""
        metadata = (ROOT / "setup.py").read_text(encoding="utf-8")
        self.assertIn('"pytest11": ["smtpsvc = smtpsvc.testing._plugin"]', metadata)
