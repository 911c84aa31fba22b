from twisted.internet import defer, endpoints, task
from twisted.mail import smtp
from zope.interface import implementer


@implementer(smtp.IMessageDelivery)
class Delivery:
    def receivedHeader(self, helo, origin, recipients):
        return b"Received: by mx.example.org"

    def validateFrom(self, helo, origin):
        self.origin = origin
        return origin

    def validateTo(self, user):
        if user.dest.domain != b"example.org":
            raise smtp.SMTPBadRcpt(user)
        return lambda: Message(self.origin, user.dest)


@implementer(smtp.IMessage)
class Message:
    def __init__(self, origin, recipient):
        self.origin = origin
        self.recipient = recipient
        self.lines = []

    def lineReceived(self, line):
        self.lines.append(line)

    def eomReceived(self):
        print(self.origin, [str(self.recipient)], self.lines[-1])
        return defer.succeed(None)

    def connectionLost(self):
        self.lines.clear()


class Factory(smtp.SMTPFactory):
    protocol = smtp.ESMTP

    def buildProtocol(self, addr):
        protocol = super().buildProtocol(addr)
        protocol.delivery = Delivery()
        return protocol


async def main(reactor):
    endpoint = endpoints.serverFromString(reactor, "tcp:2525:interface=127.0.0.1")
    await endpoint.listen(Factory())
    await defer.Deferred()


task.react(main)
