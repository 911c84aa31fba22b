"""
A trap for mail with a mailbox for each user: whoever logs in owns what comes in.

    python -m smtpsvc.checkers.htpasswd alice >> users
    python mailboxes.py users boxes
    python mailboxes.py users boxes tcp:2525

Give each test suite, tenant or colleague a name and a password of their own, and point their programs here. Nothing is
sent on: whatever the recipients are, the message goes to the Maildir ``boxes/NAME`` of the account that sent it.

The passwords come without TLS, so only this machine should be able to connect; for others give the service a
certificate (``tls=CertificateStore(...)``) and leave ``allow_insecure_auth`` out.
"""

import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

from twisted.application.service import MultiService
from twisted.internet import defer, endpoints, task

from smtpsvc import Backend, IConnection, MailService, Peer, Session, Settings
from smtpsvc.backends.maildir import MaildirBackend
from smtpsvc.checkers import make_checker, make_portal
from smtpsvc.values import Envelope


class Mailboxes(Backend, MultiService):
    """Keeps a Maildir for each account; as it is a service, it starts and stops with the MailService."""

    def __init__(self, directory: str, reactor: Any) -> None:
        MultiService.__init__(self)
        self.directory = Path(directory)
        self.reactor = reactor
        self.boxes: dict[str, Any] = {}

    def open_session(self, peer: Peer, connection: IConnection) -> Session:
        return MailboxSession(self, connection)

    def box(self, name: str) -> Any:
        """Give the Maildir of an account, which starts with its first message."""
        if name not in self.boxes:
            # A name may have a slash in it, or be "..": neither may say which directory is meant.
            directory = self.directory / quote(name, safe="").replace(".", "%2E")
            self.boxes[name] = MaildirBackend(str(directory), self.reactor)
            self.boxes[name].setServiceParent(self)
        return self.boxes[name]


class MailboxSession(Session):
    """One connection."""

    def __init__(self, mailboxes: Mailboxes, connection: IConnection) -> None:
        self.mailboxes = mailboxes
        self.connection = connection

    def data(self, envelope: Envelope) -> Any:
        account = envelope.peer.account
        assert account is not None, "require_auth has seen to it"
        box = self.mailboxes.box(account.name)
        return box.open_session(envelope.peer, self.connection).data(envelope)


async def main(reactor: Any, users: str, boxes: str, where: str = "tcp:2525:interface=127.0.0.1") -> None:
    Path(boxes).mkdir(mode=0o700, exist_ok=True)
    settings = Settings(hostname="localhost", require_auth=True, allow_insecure_auth=True)
    portal = make_portal([make_checker(f"htpasswd:{users}")])
    mail = MailService(Mailboxes(boxes, reactor), settings, portal=portal)
    mail.listen(endpoints.serverFromString(reactor, where))
    mail.startService()
    reactor.addSystemEventTrigger("before", "shutdown", mail.stopService)
    await defer.Deferred()


if __name__ == "__main__":
    task.react(main, sys.argv[1:])
