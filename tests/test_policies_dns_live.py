"""
Tests of policies that ask the DNS, in the service as it is started: with a name server, a database and workers.
"""

from __future__ import annotations

import smtplib

from twisted.trial.unittest import SynchronousTestCase

from tests.live import PATIENCE, Server
from tests.nameserver import NameServer

ZONE = {
    "x.example": ["MX 10 mx.x.example"],
    "null.example": ["MX 0 ."],
    "1.2.0.192.bl.example": ["A 127.0.0.2", "TXT Go away"],
}


class LiveTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.dns = NameServer(ZONE)
        self.addCleanup(self.dns.close)

    def start(self, *options: str) -> Server:
        """Start the service."""
        server = Server("--dns-server", self.dns.option, "--trusted-proxies", "127.0.0.1", *options)
        self.addCleanup(server.close)
        return server

    def client(self, server: Server, address: str = "") -> smtplib.SMTP:
        """Connect as a client of some address."""
        client = smtplib.SMTP("127.0.0.1", server.port, "c.example", PATIENCE)
        self.addCleanup(client.close)
        client.ehlo()
        if address:
            client.docmd("XCLIENT", f"ADDR={address}")
            client.ehlo()
        return client

    def test_dns_server(self) -> None:
        """The service asks the server that --dns-server names."""
        server = self.start("--policy", "sender-mx", "--policy", "dnsbl:bl.example,hide")
        client = self.client(server, "192.0.2.2")
        self.assertEqual([client.mail(f"a@{name}.example")[0] for name in ("null", "nowhere", "x")], [550, 550, 250])
        code, text = self.client(server, "192.0.2.1").mail("a@x.example")
        self.assertEqual((code, text.partition(b" (")[0]), (554, b"5.7.1 Your address is listed"))
        self.assertIn("1.2.0.192.bl.example", self.dns.zone.asked("A"))

    def test_workers(self) -> None:
        """Workers share the database of the greylist, and a service that is started again has it too."""
        server = self.start("--workers", "2", "--policy", "greylist:grey.sqlite,delay=1ms")
        for sender in ("a", "b", "c"):
            codes = []
            for _ in range(4):
                client = self.client(server, "192.0.2.1")
                client.mail(f"{sender}@x.example")
                codes.append(client.rcpt("b@y.example")[0])
                client.quit()
            self.assertEqual(codes, [450, 250, 250, 250])
        server.stop()
        again = Server(
            *("--trusted-proxies", "127.0.0.1", "--policy", "greylist:grey.sqlite"), directory=str(server.directory)
        )
        self.addCleanup(again.close)
        client = self.client(again, "192.0.2.1")
        client.mail("a@x.example")
        self.assertEqual(client.rcpt("b@y.example")[0], 250)
