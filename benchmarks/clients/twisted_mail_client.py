"""The client of twisted.mail: an ESMTPClient on each connection, which asks for the next message when one is sent."""

from __future__ import annotations

import sys
from io import BytesIO
from typing import Any

from twisted.internet import reactor, task
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.mail.smtp import ESMTPClient

from benchmarks.clients import MESSAGES, RECIPIENT, SENDER, started


class Client(ESMTPClient):
    """Sends so many messages, one after the other."""

    requireTransportSecurity = False
    requireAuthentication = False

    def __init__(self, message: bytes, count: int) -> None:
        super().__init__(b"", None, b"client.example.org")
        self.message = message
        self.left = count
        self.done: Deferred[None] = Deferred()

    def getMailFrom(self) -> str | None:
        """Begin the next message, or end."""
        if not self.left:
            if not self.done.called:
                self.done.callback(None)
            return None
        self.left -= 1
        return SENDER

    def getMailTo(self) -> list[str]:
        """Give the recipients."""
        return [RECIPIENT]

    def getMailData(self) -> BytesIO:
        """Give the content."""
        return BytesIO(self.message)

    def sentMail(self, *_: Any) -> None:
        """Take note of nothing."""


async def run(port: int, message: bytes, count: int, connections: int) -> None:
    """Send the messages."""
    clients = [Client(message, count // connections) for _ in range(connections)]
    ended = started()
    for each in clients:
        await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", port), each)
    await gatherResults([each.done for each in clients])
    ended()


if __name__ == "__main__":
    words = int(sys.argv[1]), MESSAGES[sys.argv[2]](), int(sys.argv[3]), int(sys.argv[4])
    task.react(lambda _: Deferred.fromCoroutine(run(*words)))
