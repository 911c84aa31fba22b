from twisted.internet import defer, endpoints, task

from smtpsvc import SMTPFactory, on_message


@on_message
async def backend(message):
    print(message.sender, "->", *message.recipients, message.size, "bytes")


async def main(reactor):
    await endpoints.serverFromString(reactor, "tcp:2525").listen(SMTPFactory(backend))
    await defer.Deferred()


if __name__ == "__main__":
    task.react(main)
