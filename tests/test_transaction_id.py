"""
Tests of the id of a transaction: one name for a message wherever it is spoken of.
"""

from __future__ import annotations

import re
from typing import Any

from twisted.logger import Logger, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.logs import LogMonitor
from smtpsvc.settings import Role
from smtpsvc.testing import ScriptedBackend, Wire, clocked_factory
from tests.hooks import MAIL
from tests.support import settings_with

BY_DATA = ("DATA", "text", ".")
BY_BDAT = ("BDAT 4 LAST\r\ntext",)


class TransactionIdTests(SynchronousTestCase):
    def names(self, role: Role, *content: str, mail: str = MAIL) -> set[str]:
        """Send a message to two recipients, and gather its names."""
        events: list[dict[str, Any]] = []
        backend = ScriptedBackend()
        monitor = LogMonitor(Logger(observer=events.append))  # type: ignore[arg-type]
        settings = settings_with(enable=frozenset({"PRDR"}))
        factory, _ = clocked_factory(backend, settings, role=role, monitors=[monitor])
        wire = Wire(factory).greeted().say(mail, "RCPT TO:<1@y.example>", "RCPT TO:<2@y.example>")
        if content == BY_BDAT:
            wire.receive(content[0].encode())
        else:
            wire.say(*content)
        [message] = backend.messages
        found = {message.envelope.id}
        found.update(re.findall(r"taken as (\S+)", wire.output.decode()))
        found.update(re.findall(r"\bid (\S+?);", message.content.decode()))
        lines = [formatEvent(event) for event in events if "250 from" in formatEvent(event)]
        self.assertEqual(len(lines), 1)
        self.assertIn("taken as", wire.output.decode())
        return found | {lines[0].partition(" ")[0]}

    def test_one_name(self) -> None:
        """Reply, Received, log and envelope have the same id, however the message came."""
        for role, content, mail in (
            (Role.SMTP, BY_DATA, MAIL),
            (Role.SMTP, BY_BDAT, MAIL),
            (Role.SMTP, BY_DATA, f"{MAIL} PRDR"),
            (Role.LMTP, BY_DATA, MAIL),
        ):
            with self.subTest(role=role, content=content, mail=mail):
                self.assertEqual(len(self.names(role, *content, mail=mail)), 1)

    def test_unique(self) -> None:
        """No other message has it."""
        self.assertNotEqual(self.names(Role.SMTP, *BY_DATA), self.names(Role.SMTP, *BY_DATA))
