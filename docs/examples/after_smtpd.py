from twisted.internet import defer, endpoints, task

from smtpsvc import PermanentError, SMTPFactory, on_message


@on_message
def backend(message):
    if str(message.sender) == "spam@example.com":
        raise PermanentError("Not from you", "5.7.1")
    recipients = [str(each) for each in message.recipients]
    print(message.sender, recipients, message.content.splitlines()[-1])


async def main(reactor):
    endpoint = endpoints.serverFromString(reactor, "tcp:2525:interface=127.0.0.1")
    await endpoint.listen(SMTPFactory(backend))
    await defer.Deferred()


task.react(main)
