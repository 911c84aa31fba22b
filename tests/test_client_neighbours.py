"""Tests of messages that share a connection: what goes wrong with one is nothing to the other."""

from __future__ import annotations

from smtpsvc.client import Frugality
from tests.mailnet import SILENT, USUAL, Site
from tests.test_client_mailer import ANN, JOE, MESSAGE, SENDER, MailerTestCase, fates


class NeighbourTests(MailerTestCase):
    def test_cancel_neighbour(self) -> None:
        """The message behind it on the same connection goes by another."""
        for step in ("MAIL", "RCPT", "DATA", "."):
            with self.subTest(step=step):
                mailer = self.smarthost(Site({step: SILENT}), frugality=Frugality(per_server=1))
                first = mailer.send(MESSAGE, SENDER, JOE)
                self.net.settle()
                second = mailer.send(MESSAGE, SENDER, ANN)
                self.net.settle()
                self.sites[0].replies = dict(USUAL)
                first.cancel()
                self.failureResultOf(first)
                self.assertEqual(fates(self.net.result(second)), ["delivered"])

    def test_broken_off_neighbour(self) -> None:
        """That a server breaks a message off is no refusal of the one behind it."""
        mailer = self.smarthost(Site({"DATA": SILENT}), frugality=Frugality(per_server=1))
        first = mailer.send(b"Subject: x\r\n\r\n" + b"x\r\n" * 300_000, SENDER, JOE)
        self.net.settle()
        second = mailer.send(MESSAGE, SENDER, ANN)
        self.net.settle()
        self.sites[0].replies = dict(USUAL)
        [link] = self.sites[0].links
        link.transport.producer.pauseProducing()
        link.protocol.dataReceived(b"354 Go on\r\n")
        link.protocol.dataReceived(b"554 5.7.1 virus\r\n")
        self.assertEqual(fates(self.net.result(second)), ["delivered"])
        self.assertEqual(fates(self.net.result(first)), ["refused"])
