"""
Clients over TLS: ``python -m benchmarks.secured PORT KIND COUNT CLIENTS SIZE`` prints a line of JSON.
"""

from __future__ import annotations

import json
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

from benchmarks.workloads import body

#: Octets that are encrypted at a time.
_PIECE = 1 << 18


class Session:
    """
    A connection, at the place where its handshake is done and the server has greeted.

    :param implicit: TLS begins with the first octet; else by STARTTLS.
    """

    def __init__(self, port: int, context: ssl.SSLContext, implicit: bool) -> None:
        plain = socket.create_connection(("127.0.0.1", port), timeout=60)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket: socket.socket = context.wrap_socket(plain) if implicit else plain
        self._lines = self._read_lines()
        self._reply()
        if not implicit:
            self.say(b"EHLO bench.example.org\r\n", b"STARTTLS\r\n")
            self._socket = context.wrap_socket(plain)

    def _read_lines(self) -> Iterator[bytes]:
        pending = b""
        while piece := self._socket.recv(65536):
            *lines, pending = (pending + piece).split(b"\r\n")
            yield from lines

    def _reply(self) -> None:
        for line in self._lines:
            if line[3:4] == b"-":
                continue
            if line[:1] in (b"2", b"3"):
                return
            raise RuntimeError(line.decode(errors="replace"))
        raise EOFError("the server has closed")

    def say(self, *commands: bytes) -> None:
        """Send commands, one a round trip."""
        for command in commands:
            for place in range(0, len(command), _PIECE):
                self._socket.sendall(command[place : place + _PIECE])
            self._reply()

    def close(self) -> None:
        """Close, without a farewell."""
        self._socket.close()


def play(port: int, kind: str, count: int, clients: int, size: int) -> dict[str, Any]:
    """
    Play sessions.

    :param kind: ``handshake``, ``starttls`` or ``data``.
    :param count: of sessions, over all clients.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    content = body("base64", size) + b".\r\n" if kind == "data" else b""
    numbers = iter(range(count))
    lock = threading.Lock()
    latencies: list[float] = []
    errors: list[str] = []

    def work() -> None:
        while not errors:
            with lock:
                if not list(islice(numbers, 1)):
                    return
            began = time.perf_counter()
            try:
                session = Session(port, context, kind != "starttls")
                if kind == "data":
                    session.say(b"EHLO bench.example.org\r\n", b"MAIL FROM:<sender@example.org>\r\n")
                    session.say(b"RCPT TO:<user0@example.net>\r\n", b"DATA\r\n", content)
                session.close()
            except (OSError, EOFError, RuntimeError) as error:
                errors.append(repr(error))
            latencies.append(time.perf_counter() - began)

    began = time.perf_counter()
    threads = [threading.Thread(target=work) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall = time.perf_counter() - began
    latencies.sort()
    for error in errors[:3]:
        print(error, file=sys.stderr)
    return {
        "messages": len(latencies) - len(errors),
        "errors": len(errors),
        "seconds": wall,
        "cpu": time.process_time(),
        "p50_ms": latencies[len(latencies) // 2] * 1e3,
        "p99_ms": latencies[len(latencies) * 99 // 100] * 1e3,
    }


if __name__ == "__main__":
    _, port, kind, *numbers = sys.argv
    print(json.dumps(play(int(port), kind, *map(int, numbers))))
