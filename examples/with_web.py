"""
Take mail inside a web application: one process, one reactor, what comes in by SMTP is on a page at once.

    python with_web.py
    python with_web.py tcp:8080 tcp:2525

The page lists the last hundred messages. An application of Klein is the same: give ``app.resource()`` to the Site.
"""

import sys
from collections import deque
from collections.abc import Iterable
from html import escape
from typing import Any

from twisted.application import service
from twisted.application.internet import StreamServerEndpointService
from twisted.internet import defer, endpoints, task
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from smtpsvc import MailService, Message, Settings, on_message

messages: deque[str] = deque(maxlen=100)


@on_message
def backend(message: Message) -> None:
    messages.append(f"{message.sender} to {', '.join(map(str, message.recipients))}, {message.size} bytes")


class Inbox(Resource):
    """The page."""

    isLeaf = True

    def __init__(self, messages: Iterable[str]) -> None:
        Resource.__init__(self)
        self.messages = messages

    def render_GET(self, request: Request) -> bytes:
        request.setHeader("Content-Type", "text/html; charset=utf-8")
        items = "".join(f"<li>{escape(message)}</li>" for message in self.messages)
        return f"<!doctype html><title>Inbox</title><ol>{items}</ol>".encode()


def application(reactor: Any, web: str, where: str) -> service.MultiService:
    """Make what twistd would run: the parts start and stop together."""
    parts = service.MultiService()
    site: Any = Site(Inbox(messages))
    StreamServerEndpointService(endpoints.serverFromString(reactor, web), site).setServiceParent(parts)
    mail = MailService(backend, Settings(hostname="localhost"))
    mail.listen(endpoints.serverFromString(reactor, where))
    mail.setServiceParent(parts)
    return parts


async def main(
    reactor: Any, web: str = "tcp:8080:interface=127.0.0.1", where: str = "tcp:2525:interface=127.0.0.1"
) -> None:
    parts = application(reactor, web, where)
    parts.startService()
    reactor.addSystemEventTrigger("before", "shutdown", parts.stopService)
    await defer.Deferred()


if __name__ == "__main__":
    task.react(main, sys.argv[1:])
