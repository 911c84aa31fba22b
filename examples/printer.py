"""
Print the sender, the recipients and the size of each message.

    python printer.py
    python printer.py tcp:2525

The argument is a Twisted endpoint; without one, this machine alone can connect, to port 2525.
"""

import sys
from typing import Any

from twisted.internet import defer, endpoints, task

from smtpsvc import Message, SMTPFactory, on_message


@on_message
async def backend(message: Message) -> None:
    print(message.sender, "->", *message.recipients, message.size, "bytes")


async def main(reactor: Any, where: str = "tcp:2525:interface=127.0.0.1") -> None:
    await endpoints.serverFromString(reactor, where).listen(SMTPFactory(backend))
    await defer.Deferred()


if __name__ == "__main__":
    task.react(main, sys.argv[1:])
