from twisted.internet import defer, endpoints, task

from smtpsvc import Backend, Delivery, PermanentError, Session, SMTPFactory


class Handler(Backend):
    def open_session(self, peer, connection):
        return HandlerSession()


class HandlerSession(Session):
    async def rcpt(self, envelope, recipient):
        if recipient.address.domain != "example.org":
            raise PermanentError("Not here", "5.7.1")

    def data(self, envelope):
        return HandlerDelivery(envelope)


class HandlerDelivery(Delivery):
    def __init__(self, envelope):
        self.envelope = envelope
        self.content = b""

    def write(self, content):
        self.content += content

    async def finish(self):
        recipients = [str(each.address) for each in self.envelope.recipients]
        print(self.envelope.sender, recipients, self.content.splitlines()[-1])


async def main(reactor):
    endpoint = endpoints.serverFromString(reactor, "tcp:2525:interface=127.0.0.1")
    await endpoint.listen(SMTPFactory(Handler()))
    await defer.Deferred()


task.react(main)
