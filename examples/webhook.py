"""
Post each message to a web application.

    pip install 'smtpsvc[webhook]'
    python webhook.py https://app.example.org/mail
    python webhook.py https://app.example.org/mail tcp:25

The application gets a form with ``id``, ``sender``, a ``recipient`` for each recipient, and the message as the file
``message``, which is read from the spool as the application takes it. The client hears 250 when the application has
answered 2xx. Otherwise it hears 451 and tries again, so the application must take an ``id``'s message as often as it
comes; after a lost connection the same message may come with another id.
"""

import sys
from typing import Any

import treq
from twisted.internet import defer, endpoints, error, task
from twisted.web.client import FileBodyProducer, ResponseFailed

from smtpsvc import FunctionBackend, Message, SMTPFactory, TemporaryError, on_message

#: Seconds that the application may take.
PATIENCE = 60


def webhook(url: str, reactor: Any) -> FunctionBackend:
    """Make the backend."""

    async def post(message: Message) -> int:
        with message.open() as file:
            response = await treq.post(
                url,
                data=[
                    ("id", message.envelope.id),
                    ("sender", str(message.sender)),
                    *(("recipient", str(recipient)) for recipient in message.recipients),
                ],
                files={"message": ("message.eml", "message/rfc822", FileBodyProducer(file))},
                unbuffered=True,
                persistent=False,
                reactor=reactor,
            )
            await treq.collect(response, lambda data: None)
        return int(response.code)

    @on_message
    async def backend(message: Message) -> None:
        posting = defer.Deferred.fromCoroutine(post(message)).addTimeout(PATIENCE, reactor)
        try:
            code = await posting
        except (error.ConnectError, ResponseFailed, defer.TimeoutError) as problem:
            raise TemporaryError("Try again later", "4.3.0") from problem
        if not 200 <= code < 300:
            raise TemporaryError("Try again later", "4.3.0")

    return backend


async def main(reactor: Any, url: str, where: str = "tcp:2525:interface=127.0.0.1") -> None:
    await endpoints.serverFromString(reactor, where).listen(SMTPFactory(webhook(url, reactor)))
    await defer.Deferred()


if __name__ == "__main__":
    task.react(main, sys.argv[1:])
