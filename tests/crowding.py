"""
What many clients cost: memory, and the time of others. Prints figures; nothing is asserted.

    python -m tests.crowding memory      # 1,000 clients in the middle of large messages, a slow backend
    python -m tests.crowding idle        # 1,000 clients that say nothing after EHLO
    python -m tests.crowding unread      # 100 clients that never read a reply
    python -m tests.crowding fairness    # deliveries beside a client that floods
    python -m tests.crowding log         # the lines of messages, so many in a turn of the reactor

Each but the last starts a server of its own on a free port of 127.0.0.1, and clients in this process. With
``--tls starttls`` or ``--tls implicit`` all clients speak TLS.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import select
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.address import IPv4Address

from smtpsvc.grammar.addresses import Address
from smtpsvc.grammar.replies import OK
from smtpsvc.logs import SummaryLog
from smtpsvc.tlstesting import certificate
from smtpsvc.values import Envelope, Peer, Recipient
from tests.live import ROOT

KIB = 1024
LINE = b"x" * 70 + b"\r\n"
HEADER = b"Subject: crowded\r\n\r\n"

#: A server whose backend takes its time over each piece, and another that takes it at once.
_SERVER = """
import sys
from twisted.internet import reactor, task
from smtpsvc import Limits, MailService, Settings
from smtpsvc.backends.null import NullBackend
from smtpsvc.session import Backend, Delivery, Session
from smtpsvc.tls import CertificateStore
from smtpsvc.transport import DirectServerEndpoint

class SlowDelivery(Delivery):
    def write(self, content):
        held = content
        return task.deferLater(reactor, 5.0, lambda: held and None)

class SlowSession(Session):
    def data(self, envelope):
        return SlowDelivery()

class SlowBackend(Backend):
    def open_session(self, peer, connection):
        return SlowSession()

limits = Limits(connections=5000, junk=0, stress_timeout=0)
backend = SlowBackend() if sys.argv[1] == "slow" else NullBackend()
store = CertificateStore([sys.argv[2]])
service = MailService(backend, Settings(hostname="mx.example", limits=limits), tls=store)
service.listen(DirectServerEndpoint(reactor, 0, interface="127.0.0.1"), implicit_tls=sys.argv[3] == "implicit")
service.privilegedStartService()
service.startService()
print(service.ports[0].getHost().port, flush=True)
reactor.run()
"""


#: How the clients speak TLS: not at all, or
STARTTLS = "starttls"
IMPLICIT = "implicit"

#: Sends messages without a pause, many in each packet, and reads the replies.
_FLOOD = """
import select, socket, sys
client = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
client.setblocking(False)
data = rest = b"EHLO x\\r\\n" + b"MAIL FROM:<>\\r\\nRCPT TO:<b@y>\\r\\nDATA\\r\\n.\\r\\n" * 2000
while True:
    readable, writable, _ = select.select([client], [client], [])
    if readable and not client.recv(1 << 18):
        break
    if writable:
        rest = rest[client.send(rest):] or data[8:]
"""


class Server:
    """
    A server in a process of its own.

    :param tls: how its clients speak TLS; "" for not at all.
    """

    def __init__(self, kind: str, tls: str = "") -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        self.tls = tls
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.check_hostname = False
        self._context.verify_mode = ssl.CERT_NONE
        with tempfile.NamedTemporaryFile() as pem:
            pem.write(b"".join(certificate("mx.example")))
            pem.flush()
            self.process = subprocess.Popen(
                [sys.executable, "-c", _SERVER, kind, pem.name, tls], stdout=subprocess.PIPE, env=environment, text=True
            )
            assert self.process.stdout is not None
            self.port = int(self.process.stdout.readline())

    def memory(self, field: str = "VmRSS") -> int:
        """How much memory it uses, or has used at most (``VmHWM``), in bytes."""
        found = re.search(rf"{field}:\s+(\d+) kB", Path(f"/proc/{self.process.pid}/status").read_text())
        assert found is not None
        return int(found[1]) * KIB

    def connect(self, said: bytes = b"EHLO x\r\n", until: bytes = b"250 ") -> socket.socket:
        """Connect, say something, and read up to what is expected."""
        client = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        if self.tls == IMPLICIT:
            client = self._context.wrap_socket(client)
        expect(client, b"220 ")
        if self.tls == STARTTLS:
            for line, code in ((b"EHLO x\r\n", b"250 "), (b"STARTTLS\r\n", b"220 ")):
                client.sendall(line)
                expect(client, code)
            client = self._context.wrap_socket(client)
        *lines, last = said.splitlines(keepends=True)
        for line in lines:
            client.sendall(line)
            expect(client, b"250 ")
        client.sendall(last)
        expect(client, until)
        return client

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(60)


def expect(client: socket.socket, reply: bytes) -> None:
    """Read until the last line of a reply, which must begin so."""
    got = b""
    while not re.search(rb"(?m)^\d{3} .*\r\n\Z", got):
        piece = client.recv(64 * KIB)
        if not piece:
            raise ConnectionError(f"closed after {got!r}")
        got += piece
    if not got.splitlines()[-1].startswith(reply):
        raise ConnectionError(f"{got!r} instead of {reply!r}")


def push(clients: list[socket.socket], data: bytes, seconds: float) -> int:
    """Send *data* to the server again and again by all clients, as fast as it takes it; count the bytes."""
    poller = select.epoll()
    by_number = {client.fileno(): client for client in clients}
    for client in clients:
        client.setblocking(False)
        poller.register(client, select.EPOLLOUT)
    sent, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        for number, _ in poller.poll(0.1, 200):
            try:
                sent += by_number[number].send(data)
            except (BlockingIOError, ssl.SSLWantWriteError):
                continue
            except OSError:
                poller.unregister(number)
    poller.close()
    return sent


def show(server: Server, clients: int, before: int, what: str) -> None:
    """Print what clients have cost."""
    most = server.memory("VmHWM")
    print(
        f"{what}: {clients} clients, {most / KIB / KIB:.0f} MiB at most, of which {before / KIB / KIB:.0f} before; "
        f"{(most - before) / clients / KIB:.1f} KiB a client",
        flush=True,
    )


def memory(count: int, seconds: float, tls: str) -> None:
    """Let clients be in the middle of large messages, while the backend takes 5 s over each piece."""
    server = Server("slow", tls)
    try:
        before = server.memory()
        way = b"EHLO x\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\nDATA\r\n"
        clients = [server.connect(way, b"354 ") for _ in range(count)]
        for client in clients:
            client.sendall(HEADER)
        sent = push(clients, LINE * 900, seconds)
        print(f"sent {sent / KIB / KIB:.0f} MiB in {seconds:.0f} s")
        show(server, count, before, "large messages and a slow backend")
    finally:
        server.stop()


def idle(count: int, seconds: float, tls: str) -> None:
    """Let clients say EHLO, and nothing more."""
    server = Server("quick", tls)
    try:
        before = server.memory()
        clients = [server.connect() for _ in range(count)]
        time.sleep(min(seconds, 2))
        show(server, len(clients), before, "idle")
    finally:
        server.stop()


def unread(count: int, seconds: float, tls: str) -> None:
    """Let clients send whole messages, and never read a reply."""
    server = Server("quick", tls)
    try:
        before = server.memory()
        clients = [server.connect() for _ in range(count)]
        message = b"MAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\nDATA\r\n.\r\n"
        push(clients, message * 1000, seconds)
        show(server, count, before, "replies never read")
    finally:
        server.stop()


def fairness(count: int, seconds: float, tls: str) -> None:
    """Deliver messages one after the other, while other clients flood the server; print how long each took."""
    server = Server("quick", tls)
    try:
        for flooders in (0, 1, count):
            floods = [subprocess.Popen([sys.executable, "-c", _FLOOD, str(server.port)]) for _ in range(flooders)]
            time.sleep(1)
            took = sorted(_deliveries(server, seconds))
            for flood in floods:
                flood.terminate()
                flood.wait(60)
            at = {name: took[int(len(took) * part)] * 1000 for name, part in (("p50", 0.5), ("p99", 0.99))}
            print(
                f"beside {flooders} flooding: {len(took)} deliveries, "
                f"p50 {at['p50']:.1f} ms, p99 {at['p99']:.1f} ms, at most {took[-1] * 1000:.1f} ms",
                flush=True,
            )
    finally:
        server.stop()


def _deliveries(server: Server, seconds: float) -> list[float]:
    """Deliver whole messages, each by a connection of its own, and measure each."""
    took = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.monotonic()
        client = server.connect(b"EHLO x\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\nDATA\r\n", b"354 ")
        client.sendall(HEADER + b"text\r\n.\r\n")
        expect(client, b"250 ")
        client.sendall(b"QUIT\r\n")
        expect(client, b"221 ")
        took.append(time.monotonic() - began)
        client.close()
    return took


def log(count: int, seconds: float, tls: str) -> None:
    """Log messages to a file, some in each turn of the reactor, and print what a line costs."""
    from twisted.internet import reactor as _reactor
    from twisted.logger import Logger, textFileLogObserver

    reactor: Any = _reactor
    peer = Peer(IPv4Address("TCP", "192.0.2.1", 50000), "p-1")
    peer.helo = "client.example"
    envelope = Envelope("m-1", peer, Address("sender", "y.example"))
    envelope.recipients.append(Recipient(Address("recipient", "x.example")))
    with tempfile.TemporaryFile("w", encoding="utf-8") as file:
        summary = SummaryLog(reactor, Logger(observer=textFileLogObserver(file)))
        for each in (1, 2, count):
            costs = []
            for lines in (0, each):
                left = [3000]

                def turn(lines: int = lines, left: list[int] = left) -> None:
                    for _ in range(lines):
                        summary.message(envelope, 1024, 0.001, (OK,))
                    left[0] -= 1
                    if left[0]:
                        reactor.callLater(0, turn)
                    else:
                        reactor.crash()

                reactor.callLater(0, turn)
                began = time.process_time()
                reactor.run()
                summary.flush()
                costs.append(time.process_time() - began)
            cost = (costs[1] - costs[0]) / 3000 / each
            print(f"{each} lines in a turn: {cost * 1e6:.1f} µs of CPU a line", flush=True)


_WHAT: dict[str, tuple[Callable[[int, float, str], None], int]] = {
    "memory": (memory, 1000),
    "idle": (idle, 1000),
    "unread": (unread, 100),
    "fairness": (fairness, 4),
    "log": (log, 20),
}


def main(arguments: list[str] | None = None) -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.crowding", description="Print what many clients cost.")
    parser.add_argument("what", choices=_WHAT)
    parser.add_argument("--clients", type=int, help="how many")
    parser.add_argument("--seconds", type=float, default=20.0, help="for how long (%(default)s)")
    parser.add_argument("--tls", choices=[STARTTLS, IMPLICIT], default="", help="how clients speak TLS (not at all)")
    given = parser.parse_args(arguments)
    if given.tls and given.what in ("fairness", "log"):
        parser.error(f"{given.what} is without TLS")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    measure, usual = _WHAT[given.what]
    measure(given.clients or usual, given.seconds, given.tls)


if __name__ == "__main__":
    main()
