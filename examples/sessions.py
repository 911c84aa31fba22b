"""
Sessions that differ from client to client: mechanisms, certificate, extensions, log, and what is taken.

    python sessions.py near.pem far.pem
    python sessions.py near.pem far.pem tcp:2525

Each file has a certificate and its key. Clients on this machine are *near*, all others *far*. Far clients see the other
certificate, may log in by CRAM-MD5 and by nothing else, are not told of 8BITMIME, and hear before they send the content
that a message is for too many.
"""

import sys
from collections.abc import Sequence
from typing import Any

from twisted.internet import defer, endpoints, task
from twisted.logger import Logger
from zope.interface import implementer

from smtpsvc import (
    Backend,
    CertificateStore,
    Delivery,
    IAccount,
    IAuthenticated,
    IConnection,
    IDelivery,
    IGreeting,
    ILogged,
    ISecured,
    Peer,
    Reply,
    Session,
    Settings,
    SMTPFactory,
    TLSInfo,
)
from smtpsvc.checkers import make_checker, make_portal
from smtpsvc.values import Envelope


class House(Backend):
    """Opens a session of one kind or the other."""

    def __init__(self, far: CertificateStore) -> None:
        self.far = far

    def open_session(self, peer: Peer, connection: IConnection) -> Session:
        return Near(peer) if peer.host == "127.0.0.1" else Far(peer, self.far)


@implementer(ILogged)
class Near(Session):
    """A client on this machine."""

    def __init__(self, peer: Peer) -> None:
        #: What the hooks raise is logged here: a namespace for each kind, or an observer for each client.
        self.logger = Logger(namespace=f"house.{type(self).__name__.lower()}")
        self.logger.info("{host} has come in, as {id}", host=peer.host, id=peer.id)

    def data(self, envelope: Envelope) -> IDelivery | Reply:
        return Delivery()


@implementer(IAuthenticated, ISecured, IGreeting)
class Far(Near):
    """Any other client."""

    def __init__(self, peer: Peer, certificate: CertificateStore) -> None:
        super().__init__(peer)
        self.certificate = certificate

    def tls_context(self, default: Any) -> Any:
        """Begin TLS with another certificate."""
        return self.certificate

    def secured(self, tls: TLSInfo) -> Reply | None:
        """Look at what TLS has become."""
        return None if tls.version == "TLSv1.3" else Reply(554, "TLS 1.3 or nothing", "5.7.0")

    def ehlo(self, lines: list[str]) -> list[str]:
        """Edit the lines of the reply to EHLO."""
        return [line for line in lines if line != "8BITMIME"]

    def mechanisms(self, offered: Sequence[str]) -> Sequence[str]:
        """Choose among the mechanisms."""
        return [name for name in offered if name == "CRAM-MD5"]

    def authenticated(self, account: IAccount, credentials: object) -> None:
        """Take whoever the portal has let in."""
        self.logger.info("{name} has logged in", name=account.name)

    def data(self, envelope: Envelope) -> IDelivery | Reply:
        """Refuse at DATA: the client need not send what nobody wants."""
        if len(envelope.recipients) > 2:
            return Reply(550, "Too many recipients for one message from afar", "5.5.3")
        return super().data(envelope)


async def main(reactor: Any, near: str, far: str, where: str = "tcp:2525:interface=127.0.0.1") -> None:
    stores = [CertificateStore([path]) for path in (near, far)]
    for store in stores:
        store.load()
    settings = Settings(hostname="localhost", enable=frozenset({"CRAM-MD5"}))
    portal = make_portal([make_checker("memory:anna:sesame")])
    factory = SMTPFactory(House(stores[1]), settings, portal=portal, tls=stores[0])
    await endpoints.serverFromString(reactor, where).listen(factory)
    await defer.Deferred()


if __name__ == "__main__":
    task.react(main, sys.argv[1:])
