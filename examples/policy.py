"""
A policy of one's own: take mail for signed addresses only.

    python policy.py SECRET
    python policy.py SECRET tcp:2525
    python -c 'import policy; print(policy.Signed("SECRET").sign("anna+shop"))'

The last line prints an address for a shop: ``anna+shop-1f2e3d4c``, with a signature of what stands before it. Nobody
can make up another, no list of them is kept anywhere, and mail to one tells who has passed it on.
"""

import hmac
import sys
from typing import Any

from twisted.internet import defer, endpoints, task

from smtpsvc import Policy, Recipient, Reply, SMTPFactory, with_policies
from smtpsvc.backends.debug import DebugBackend
from smtpsvc.policies.domains import Domains
from smtpsvc.values import Envelope


class Signed(Policy):
    """
    Refuses recipients without a good signature.

    :param secret: whoever knows it can make addresses.
    """

    name = "signed"

    def __init__(self, secret: str) -> None:
        self.secret = secret.encode()

    def sign(self, name: str) -> str:
        """Give the local part of an address: the name with its signature."""
        return f"{name}-{hmac.digest(self.secret, name.lower().encode(), 'sha256')[:4].hex()}"

    def rcpt(self, envelope: Envelope, recipient: Recipient) -> Reply | None:
        """Look at a recipient before the backend does."""
        local = recipient.address.local.lower()
        name = local.rpartition("-")[0]
        if hmac.compare_digest(self.sign(name).encode(), local.encode()):
            return None
        return Reply(550, "No such address", "5.1.1")


async def main(reactor: Any, secret: str, where: str = "tcp:2525:interface=127.0.0.1") -> None:
    # They are asked in this order, and the backend comes last.
    backend = with_policies(DebugBackend(), Domains(["example.org"]), Signed(secret))
    await endpoints.serverFromString(reactor, where).listen(SMTPFactory(backend))
    await defer.Deferred()


if __name__ == "__main__":
    task.react(main, sys.argv[1:])
