from twisted.internet import defer, endpoints, task

from smtpsvc import Backend, Delivery, PermanentError, Session, SMTPFactory


class Domain(Backend):
    def open_session(self, peer, connection):
        return DomainSession()


class DomainSession(Session):
    def rcpt(self, envelope, recipient):
        if recipient.address.domain != "example.org":
            raise PermanentError("Not here", "5.7.1")

    def data(self, envelope):
        return Message(envelope)


class Message(Delivery):
    def __init__(self, envelope):
        self.envelope = envelope
        self.content = b""

    def write(self, content):
        self.content += content

    def finish(self):
        recipients = [str(each.address) for each in self.envelope.recipients]
        print(self.envelope.sender, recipients, self.content.splitlines()[-1])
        return defer.succeed(None)

    def abort(self, reason):
        self.content = b""


async def main(reactor):
    endpoint = endpoints.serverFromString(reactor, "tcp:2525:interface=127.0.0.1")
    await endpoint.listen(SMTPFactory(Domain()))
    await defer.Deferred()


task.react(main)
