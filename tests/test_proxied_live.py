"""
Real proxies and clients speak PROXY, XCLIENT and XFORWARD to the real service.
"""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any

from twisted.trial.unittest import TestCase

from smtpsvc.session import Backend, Delivery, Session
from smtpsvc.values import Envelope, Peer
from tests.live import PATIENCE, Postfix, Server, need, run, until
from tests.proxies import TCP4

NOTES = Path("notes")
SWAKS_PROXY = (
    "--proxy-source", "192.0.2.7", "--proxy-source-port", "50123",
    "--proxy-dest", "198.51.100.1", "--proxy-dest-port", "25",
)  # fmt: skip


class NotingSession(Session):
    """Takes all mail, and notes who sends it."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer

    def data(self, envelope: Envelope) -> Any:
        """Note the client and what XFORWARD said."""
        peer = self.peer
        with NOTES.open("a", encoding="utf-8") as file:
            print(peer.host, peer.port, peer.name, peer.helo, peer.proxied_by is not None, file=file)
            print(envelope.forwarded, file=file)
        return Delivery()


class NotingBackend(Backend):
    """Notes who connects, in the file ``notes``."""

    def open_session(self, peer: Peer, connection: object) -> Any:
        """Open a session."""
        return NotingSession(peer)


class LiveTestCase(TestCase):
    """A service that listens plainly and behind a proxy, and trusts this machine."""

    def setUp(self) -> None:
        self.server = Server(
            "--backend", "python:tests.test_proxied_live.NotingBackend",
            "--port", "haproxy:tcp:0:interface=127.0.0.1", "--trusted-proxies", "127.0.0.1",
        )  # fmt: skip
        self.addCleanup(self.server.close)
        found = re.search(r"127\.0\.0\.1:(\d+) behind a proxy", self.log)
        assert found is not None, self.log
        self.port = int(found[1])

    @property
    def log(self) -> str:
        """What the service has logged."""
        return self.server.log.read_text()

    @property
    def notes(self) -> str:
        """What its backend has noted."""
        return (self.server.directory / NOTES).read_text()

    def swaks(self, port: int, *options: str) -> None:
        """Send a message by swaks."""
        run(
            need("swaks"), "--server", f"127.0.0.1:{port}", "--from", "a@x.example", "--to", "b@y.example",
            "--helo", "c.example", *options,
        )  # fmt: skip


class ProxyTests(LiveTestCase):
    def test_swaks(self) -> None:
        """swaks sends headers of both versions, and its client is the one that they name."""
        for options in (("1", "--proxy-family", "TCP4"), ("2", "--proxy-family", "AF_INET")):
            self.swaks(self.port, "--proxy-version", *options, *SWAKS_PROXY)
        self.assertEqual(self.notes, "192.0.2.7 50123  c.example True\nNone\n" * 2)

    def test_curl(self) -> None:
        """curl sends a header with its own address."""
        run(
            need("curl"), "-sS", "--haproxy-protocol", "-T", "-", f"smtp://127.0.0.1:{self.port}/c.example",
            "--mail-from", "a@x.example", "--mail-rcpt", "b@y.example", input=b"Subject: hello\r\n\r\nhi\r\n",
        )  # fmt: skip
        self.assertRegex(self.notes, r"\A127\.0\.0\.1 \d+  c\.example True\n")

    def test_silence(self) -> None:
        """Nothing comes over the wire before the header is whole, and then all at once."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as proxy:
            for place in range(len(TCP4) - 1):
                proxy.sendall(TCP4[place : place + 1])
            proxy.settimeout(0.2)
            with self.assertRaises(TimeoutError):
                proxy.recv(1)
            proxy.settimeout(PATIENCE)
            proxy.sendall(TCP4[-1:] + b"QUIT\r\n")
            with proxy.makefile("rb") as replies:
                self.assertEqual([line[:3] for line in replies], [b"220", b"221"])

    def test_no_header(self) -> None:
        """A client without a header is closed without a word, with one line in the log."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as client:
            client.sendall(b"EHLO c.example\r\n")
            try:
                self.assertEqual(client.recv(100), b"")
            except ConnectionResetError:
                pass
        until(lambda: "was closed: no PROXY header" in self.log, "it is logged")
        self.assertEqual(self.log.count("was closed"), 1)
        self.assertNotIn("Traceback", self.log)

    def test_half_close(self) -> None:
        """A client that shuts down its side behind the header gets all its replies."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as proxy:
            proxy.sendall(TCP4 + b"NOOP\r\n" * 3)
            proxy.shutdown(socket.SHUT_WR)
            with proxy.makefile("rb") as replies:
                self.assertEqual([line[:3] for line in replies], [b"220", b"250", b"250", b"250"])

    def test_stop(self) -> None:
        """A proxy that has sent nothing does not keep the service from ending."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as proxy:
            self.server.stop()
            self.assertEqual(proxy.recv(1), b"")


class XClientTests(LiveTestCase):
    def test_swaks(self) -> None:
        """swaks gives XCLIENT, greets again, and its client is the one that it names."""
        self.swaks(
            self.server.port, "--xclient-addr", "192.0.2.7", "--xclient-port", "50123", "--xclient-name", "c.example",
            "--xclient-proto", "ESMTP", "--xclient-delim", "--xclient-destaddr", "198.51.100.1", "--xclient-helo", "h",
        )  # fmt: skip
        self.assertEqual(self.notes, "192.0.2.7 50123 c.example c.example True\nNone\n")


class XForwardTests(LiveTestCase):
    def test_postfix(self) -> None:
        """A real Postfix says with XFORWARD where its message came from."""
        need("postfix")
        postfix = Postfix(relayhost=f"[127.0.0.1]:{self.server.port}", smtp_send_xforward_command="yes")
        self.addCleanup(postfix.close)
        postfix.send("a@x.example", ["b@y.example"], b"Subject: x\n\nhi\n")
        until(lambda: postfix.logged("status="), "Postfix has sent")
        self.assertIsNotNone(postfix.logged("status=sent"))
        self.assertIsNone(postfix.logged("XFORWARD"))
        self.assertRegex(self.notes, r"\nForwarded\(.*address=None,.* source='LOCAL'\)\n")
