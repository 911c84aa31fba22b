"""
Take mail of the listed clients, senders and recipients only (allow), or refuse theirs (deny).

Values without a name, and client=, are addresses and networks of clients, unix for clients of unix sockets,
and auth for who has logged in. sender= and recipient= are patterns: user@example.com, example.com for all in
a domain, .example.com for its subdomains, user@ for a user anywhere, <> for the null sender, * for all.
Each may be given several times, and may be a file with one a line, written as a path that begins with / or ./;
a file that changes is read again.

Clients are refused before the greeting with 554 5.7.1, or at MAIL if auth is among them; senders at MAIL and
recipients at RCPT with 550 5.7.1. What is not listed at all is not looked at: allow:192.0.2.0/24 takes any
sender from there.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from smtpsvc.grammar.replies import Reply
from smtpsvc.interfaces import Outcome
from smtpsvc.policies.arguments import Arguments
from smtpsvc.policies.chain import Policy
from smtpsvc.policies.patterns import listed_addresses, listed_clients
from smtpsvc.values import Envelope, Peer, Recipient

CLIENT_REFUSED: Final = Reply(554, "Mail from your address is not taken here", "5.7.1")
SENDER_REFUSED: Final = Reply(550, "Mail from that sender is not taken here", "5.7.1")
RECIPIENT_REFUSED: Final = Reply(550, "Mail for that recipient is not taken here", "5.7.1")


class _Lists(Policy):
    """
    Looks clients, senders and recipients up in lists.

    :param clients: as for :class:`~smtpsvc.policies.clients.Clients`; these and the others may be paths of files.
    :param senders: as for :class:`~smtpsvc.policies.patterns.Addresses`.
    :param recipients: as *senders*.
    :raises ValueError: with a sentence, if nothing is listed, or an item makes no sense.
    """

    #: What is taken: what is listed, or what is not.
    allows = False

    def __init__(
        self, clients: Iterable[str] = (), *, senders: Iterable[str] = (), recipients: Iterable[str] = ()
    ) -> None:
        self._clients = listed_clients(clients)
        self._senders = listed_addresses(senders)
        self._recipients = listed_addresses(recipients)
        if not (self._clients or self._senders or self._recipients):
            raise ValueError("nothing is listed; write such as 192.0.2.0/24, sender=example.com or a file")
        self._late = "auth" in map(str.lower, self._clients.here)
        base: Any = super()
        # What nothing is listed for is not asked.
        if not self._clients or self._late:
            self.connect = base.connect  # type: ignore[method-assign]
        if not self._senders and not self._late:
            self.mail = base.mail  # type: ignore[method-assign]
        if not self._recipients:
            self.rcpt = base.rcpt  # type: ignore[method-assign]

    def connect(self, peer: Peer) -> Outcome:
        """Look the client up."""
        return None if self._clients.has(peer) is self.allows else CLIENT_REFUSED

    def mail(self, envelope: Envelope) -> Outcome:
        """Look the sender up, and the client where it matters who has logged in."""
        if self._late and self._clients.has(envelope.peer) is not self.allows:
            return CLIENT_REFUSED
        if not self._senders:
            return None
        return None if self._senders.has(envelope.sender) is self.allows else SENDER_REFUSED

    def rcpt(self, envelope: Envelope, recipient: Recipient) -> Outcome:
        """Look the recipient up."""
        return None if self._recipients.has(recipient.address) is self.allows else RECIPIENT_REFUSED


class Allow(_Lists):
    """Takes mail of the listed clients, senders and recipients only; the parameters are those of :class:`Deny`."""

    name = "allow"
    allows = True


class Deny(_Lists):
    """
    Refuses the listed clients, senders and recipients.

    :param clients: as for :class:`~smtpsvc.policies.clients.Clients`; these and the others may be paths of files.
    :param senders: as for :class:`~smtpsvc.policies.patterns.Addresses`.
    :param recipients: as *senders*.
    :raises ValueError: with a sentence, if nothing is listed, or an item makes no sense.
    """

    name = "deny"


def _lists(arguments: Arguments) -> dict[str, Any]:
    return {
        "clients": [*arguments.values(), *arguments.texts("client")],
        "senders": arguments.texts("sender"),
        "recipients": arguments.texts("recipient"),
    }


def make_allow(arguments: Arguments, reactor: Any) -> Allow:
    """
    Make the policy of ``--policy allow:``.

    :raises ValueError: with a sentence.
    """
    return Allow(**_lists(arguments))


def make_deny(arguments: Arguments, reactor: Any) -> Deny:
    """
    Make the policy of ``--policy deny:``.

    :raises ValueError: with a sentence.
    """
    return Deny(**_lists(arguments))
