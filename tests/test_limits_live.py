"""
Tests of limits by real connections: too many of them, and no descriptor left.
"""

from __future__ import annotations

import os
import resource
import socket
import time
from pathlib import Path
from typing import Any
from unittest import TestCase

from tests.live import Server, until

DIALOGUE = b"EHLO x\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\nDATA\r\nhello\r\n.\r\nQUIT\r\n"


def few_descriptors() -> None:
    """Let a process open 60 descriptors."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))


def received(client: socket.socket) -> bytes:
    """Read until the other side closes."""
    got = b""
    while True:
        try:
            piece = client.recv(65536)
        except ConnectionError:
            return got
        if not piece:
            return got
        got += piece


def delivered(server: Server) -> bool:
    """Deliver a message; say whether it was taken."""
    with server.connect() as client:
        try:
            client.sendall(DIALOGUE)
        except ConnectionError:
            return False
        return b"\r\n250 2.0.0 OK, kept" in received(client)


def greeting(client: socket.socket) -> bytes:
    """Read the first line."""
    got = b""
    while not got.endswith(b"\r\n"):
        piece = client.recv(1)
        if not piece:
            break
        got += piece
    return got


class LiveTestCase(TestCase):
    """Starts servers, and stops them."""

    def serve(self, *options: str, **more: Any) -> Server:
        """Start a server."""
        server = Server(*options, **more)
        self.addCleanup(server.stop)
        return server


class TooManyTests(LiveTestCase):
    def test_connections(self) -> None:
        """One too many hears 421 4.3.2 and the end, in that order; when others leave, it is served."""
        server = self.serve("--max-connections", "3")
        clients = [server.connect() for _ in range(3)]
        self.assertEqual({greeting(client)[:4] for client in clients}, {b"220 "})
        with server.connect() as refused:
            self.assertEqual(received(refused)[:10], b"421 4.3.2 ")
        clients.pop().close()
        self.assertTrue(until(lambda: delivered(server), "a client is served"))
        for client in clients:
            client.close()
        self.assertIn("the limit of --max-connections", server.log.read_text())

    def test_each(self) -> None:
        """A number that is given holds for this machine's own clients too: 421 4.7.0."""
        server = self.serve("--max-connections-per-client", "1")
        with server.connect() as first:
            self.assertEqual(greeting(first)[:4], b"220 ")
            with server.connect() as refused:
                self.assertEqual(received(refused)[:10], b"421 4.7.0 ")


class DescriptorTests(LiveTestCase):
    def spent(self, server: Server) -> float:
        """The processor time that the server has used, in seconds."""
        fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def test_none_left(self) -> None:
        """Without a descriptor for one client more the server does not spin, serves the others, and recovers."""
        if not os.path.exists("/proc/self/stat"):
            self.skipTest("processor time is read from /proc")
        server = self.serve("--max-connections-per-client", "0", limits=few_descriptors)
        clients = [server.connect() for _ in range(80)]
        self.assertEqual(greeting(clients[0])[:4], b"220 ")
        before = self.spent(server)
        time.sleep(2)
        self.assertLess(self.spent(server) - before, 1.0)
        clients[0].sendall(b"EHLO x\r\nQUIT\r\n")
        self.assertIn(b"221 ", received(clients[0]))
        for client in clients:
            client.close()
        self.assertTrue(until(lambda: delivered(server), "a client is served"))
