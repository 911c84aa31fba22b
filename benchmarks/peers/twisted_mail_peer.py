"""The server of twisted.mail.smtp, with a delivery that drops the message."""

from __future__ import annotations

from typing import Any

from OpenSSL.SSL import TLS_METHOD
from twisted.internet import defer, reactor, ssl
from twisted.mail import smtp
from zope.interface import implementer

from benchmarks.peers import arguments, count, write_counts_at_the_end


@implementer(smtp.IMessage)
class Dropped:
    """A message."""

    def __init__(self) -> None:
        self.size = 0

    def lineReceived(self, line: bytes) -> None:
        self.size += len(line) + 2

    def eomReceived(self) -> Any:
        count(self.size)
        return defer.succeed(None)

    def connectionLost(self) -> None:
        pass


@implementer(smtp.IMessageDelivery)
class Dropping:
    """Takes everything."""

    def receivedHeader(self, helo: Any, origin: Any, recipients: Any) -> bytes:
        return b""

    def validateFrom(self, helo: Any, origin: Any) -> Any:
        return origin

    def validateTo(self, user: Any) -> Any:
        return Dropped


class Factory(smtp.SMTPFactory):
    """Makes its protocol."""

    def __init__(self, context: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.context = context

    def buildProtocol(self, address: Any) -> Any:
        protocol = smtp.ESMTP(contextFactory=self.context)
        protocol.factory = self
        protocol.delivery = Dropping()
        protocol.timeout = self.timeout
        protocol.host = b"bench.example.org"
        return protocol


def main() -> None:
    """Serve until SIGTERM."""
    running: Any = reactor
    port, tls_port, certificate, key = arguments()
    context = ssl.DefaultOpenSSLContextFactory(key, certificate, sslmethod=TLS_METHOD)
    running.listenTCP(port, Factory(context), interface="127.0.0.1", backlog=1024)
    running.listenSSL(tls_port, Factory(None), context, interface="127.0.0.1", backlog=1024)
    write_counts_at_the_end()
    running.run(installSignalHandlers=False)


if __name__ == "__main__":
    main()
