"""
What becomes of mail where a question to the DNS, or to a file, has no answer.
"""

from __future__ import annotations

from typing import Final

from smtpsvc.grammar.replies import Reply
from smtpsvc.policies.arguments import Arguments
from smtpsvc.policies.clients import Clients
from smtpsvc.values import Peer

#: RFC 3463 §3.5: X.4.3 is a directory server failure.
NO_ANSWER: Final = Reply(451, "The DNS has no answer for now, try again later", "4.4.3")

VERDICTS: Final = ("451", "accept")

_HERE: Final = Clients(
    [
        *("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10"),
        *("::1", "fc00::/7", "fe80::/10"),
    ]
)


def read_verdict(arguments: Arguments, default: str) -> Reply | None:
    """Take ``on-failure``: 451 or accept."""
    return NO_ANSWER if arguments.choice("on-failure", VERDICTS, default) == "451" else None


def is_stranger(peer: Peer) -> bool:
    """Tell whether a client has not logged in, and has an address that the DNS of all the world can know of."""
    return peer.account is None and bool(peer.host) and not _HERE.has(peer)
