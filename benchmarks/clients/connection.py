"""Our connections, each given three messages at a time, so that the next envelope leaves with the message before."""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet import task
from twisted.internet.defer import Deferred, gatherResults

from benchmarks.clients import MESSAGES, RECIPIENT, SENDER, started
from smtpsvc.client import Connection, connect


async def run(reactor: Any, port: int, message: bytes, count: int, connections: int, depth: int) -> None:
    """Send the messages."""
    opened = [await connect(("127.0.0.1", port), tls="none", hostname="client.example.org") for _ in range(connections)]

    async def some(connection: Connection, number: int) -> None:
        for _ in range(number):
            await connection.send(SENDER, [RECIPIENT], message)

    ended = started()
    tasks = [some(each, count // connections // depth) for each in opened for _ in range(depth)]
    await gatherResults([Deferred.fromCoroutine(each) for each in tasks])
    ended()
    await gatherResults([each.quit() for each in opened])


def main() -> None:
    """Run it."""
    port, kind, count, connections = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    depth = 3 if kind == "small" else 1
    message = MESSAGES[kind]()
    task.react(lambda reactor: Deferred.fromCoroutine(run(reactor, port, message, count, connections, depth)))


if __name__ == "__main__":
    main()
