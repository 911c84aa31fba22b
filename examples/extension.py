"""
An extension of ESMTP of one's own: a parameter of MAIL, a verb, and a line in the reply to EHLO.

    python extension.py
    python extension.py tcp:2525

XTENANT says who pays for a message, and how many each may still send:

    C: EHLO client.example
    S: 250-XTENANT 2
    C: MAIL FROM:<a@x.example> XTENANT=acme
    S: 250 2.1.0 Sender OK
    C: XLEFT acme
    S: 250 2.0.0 acme may send 1 more
"""

import re
import sys
from typing import Any

from twisted.internet import defer, endpoints, task

from smtpsvc import Extension, IConversation, PermanentError, Reply, SMTPFactory
from smtpsvc.backends.null import NullBackend
from smtpsvc.extensions import defaults
from smtpsvc.grammar.states import ANY
from smtpsvc.server.verbs import Verb
from smtpsvc.values import Envelope


def parse_tenant(value: str | None) -> str:
    """
    Take a tenant's name.

    :raises ValueError: with half a sentence, which becomes a 501.
    """
    if value is None or not re.fullmatch("[a-z0-9]{1,20}", value):
        raise ValueError("must be the name of a tenant: 1 to 20 small letters and digits")
    return value


class Tenants(Extension):
    """
    Counts the messages of each tenant.

    :param most: so many may each of them send.
    """

    keyword = "XTENANT"
    mail_params = {"XTENANT": parse_tenant}

    def __init__(self, tenants: set[str], most: int) -> None:
        self.most = most
        self.left = dict.fromkeys(tenants, most)
        self.verbs = {"XLEFT": Verb(allowed=ANY, parse=self.parse, proceed=self.tell)}

    def advertise(self, conversation: IConversation) -> str:
        """Say what stands behind the keyword in the reply to EHLO."""
        return str(self.most)

    def mail(self, conversation: IConversation, envelope: Envelope) -> Reply | None:
        """Look at a MAIL with our parameter, before the backend does."""
        tenant = envelope.mail_params["XTENANT"]
        if self.left.get(tenant, 0) < 1:
            return Reply(550, f"{tenant} may send no more", "5.7.1")
        self.left[tenant] -= 1
        return None

    def parse(self, argument: bytes) -> str:
        """Read what stands behind our verb."""
        tenant = parse_tenant(argument.strip().decode("ascii", "replace"))
        if tenant not in self.left:
            raise PermanentError("No such tenant", "5.1.3")
        return tenant

    def tell(self, conversation: IConversation, tenant: str) -> Reply:
        """Answer our verb."""
        return Reply(250, f"{tenant} may send {self.left[tenant]} more", "2.0.0")


async def main(reactor: Any, where: str = "tcp:2525:interface=127.0.0.1") -> None:
    extensions = [*defaults(), Tenants({"acme", "initech"}, most=2)]
    factory = SMTPFactory(NullBackend(), extensions=extensions)
    await endpoints.serverFromString(reactor, where).listen(factory)
    await defer.Deferred()


if __name__ == "__main__":
    task.react(main, sys.argv[1:])
