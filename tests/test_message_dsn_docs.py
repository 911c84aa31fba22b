"""The example of the page on notifications does what it shows."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.trial.unittest import TestCase

from smtpsvc.server.factory import SMTPFactory
from smtpsvc.testing import ScriptedBackend
from tests.live import ROOT
from tests.support import settings_with
from tests.test_message_dsn import failed, written


class NotifyingTests(TestCase):
    async def test_send(self) -> None:
        """It sends a notification from nobody, which asks for none itself."""
        path = ROOT / "docs" / "examples" / "notifying.py"
        example: dict[str, Any] = {}
        exec(compile(path.read_text(), str(path), "exec"), example)
        backend = ScriptedBackend()
        port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(SMTPFactory(backend, settings_with()))
        self.addCleanup(port.stopListening)
        made = written(failed())
        assert made is not None
        await example["send"](made, ("127.0.0.1", port.getHost().port))
        (message,) = backend.messages
        self.assertTrue(message.sender.is_null)
        self.assertEqual([str(each) for each in message.recipients], ["a@x.example"])
        self.assertEqual(len(message.envelope.recipients[0].params["NOTIFY"]), 1)
