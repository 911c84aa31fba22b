"""Our Mailer, with its pool."""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet import task
from twisted.internet.defer import Deferred, gatherResults

from benchmarks.clients import MESSAGES, RECIPIENT, SENDER, started
from smtpsvc.client import Frugality, Mailer


async def run(reactor: Any, port: int, message: bytes, count: int, connections: int) -> None:
    """Send the messages."""
    frugality = Frugality(per_server=connections, messages=1_000_000)
    mailer = Mailer(("127.0.0.1", port), tls="none", hostname="client.example.org", frugality=frugality)
    await gatherResults([mailer.send(b"\r\n", SENDER, RECIPIENT) for _ in range(connections)])

    async def some(number: int) -> None:
        for _ in range(number):
            await mailer.send(message, SENDER, RECIPIENT)

    ended = started()
    senders = connections * 2 if count >= connections * 20 else connections
    await gatherResults([Deferred.fromCoroutine(some(count // senders)) for _ in range(senders)])
    ended()
    await mailer.close()


def main() -> None:
    """Run it."""
    port, kind, count, connections = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    task.react(lambda reactor: Deferred.fromCoroutine(run(reactor, port, MESSAGES[kind](), count, connections)))


if __name__ == "__main__":
    main()
