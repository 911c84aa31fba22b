"""
Refuse clients that have not logged in (require-auth), or whose connection has no TLS (require-tls): 530 5.7.0.

The value is the stage at which: mail, rcpt or data [default: mail]. TLS that ended at a trusted proxy counts
with proxied=yes only. Other than --require-auth and --require-tls, which say so before any command that matters,
these can spare clients (except=) and let them get as far as the stage; EHLO does not tell of them.
"""

from __future__ import annotations

from typing import Any, Final

from smtpsvc.grammar.replies import Reply
from smtpsvc.interfaces import Outcome
from smtpsvc.policies.arguments import Arguments, parse_choice
from smtpsvc.policies.chain import Policy
from smtpsvc.values import Envelope, Peer, Recipient

STAGES: Final = ("mail", "rcpt", "data")

# As the server words them (RFC 4954 §6, RFC 3207 §4).
AUTH_REQUIRED: Final = Reply(530, "Authentication required", "5.7.0")
TLS_REQUIRED: Final = Reply(530, "Must issue a STARTTLS command first", "5.7.0")


class _Required(Policy):
    """
    Looks at the client at one stage.

    :param at: ``mail``, ``rcpt`` or ``data``.
    :raises ValueError: with a sentence, if it is another.
    """

    def __init__(self, at: str = "mail") -> None:
        at = parse_choice(at, STAGES)
        for stage in STAGES:
            if stage != at:
                # What need not be looked at is not asked.
                setattr(self, stage, getattr(super(), stage))

    def refusal(self, peer: Peer) -> Reply | None:
        """Say why a client is not served, or give None."""
        raise NotImplementedError

    def mail(self, envelope: Envelope) -> Outcome:
        """Look at the client."""
        return self.refusal(envelope.peer)

    def rcpt(self, envelope: Envelope, recipient: Recipient) -> Outcome:
        """Look at the client."""
        return self.refusal(envelope.peer)

    def data(self, envelope: Envelope) -> Outcome:
        """Look at the client."""
        return self.refusal(envelope.peer)


class RequireAuth(_Required):
    """
    Refuses clients that have not logged in.

    :param at: ``mail``, ``rcpt`` or ``data``.
    :raises ValueError: with a sentence, if it is another.
    """

    name = "require-auth"

    def refusal(self, peer: Peer) -> Reply | None:
        """Refuse a stranger; a guest (ANONYMOUS) is one."""
        return None if peer.account is not None and peer.account.name else AUTH_REQUIRED


class RequireTLS(_Required):
    """
    Refuses clients whose connection has no TLS.

    :param at: ``mail``, ``rcpt`` or ``data``.
    :param proxied: TLS that ended at a trusted proxy counts.
    :raises ValueError: with a sentence, if *at* is another.
    """

    name = "require-tls"

    def __init__(self, at: str = "mail", *, proxied: bool = False) -> None:
        super().__init__(at)
        self.proxied = proxied

    def refusal(self, peer: Peer) -> Reply | None:
        """Refuse a plain connection."""
        tls = peer.tls
        return None if tls is not None and (self.proxied or not tls.proxied) else TLS_REQUIRED


def make_auth(arguments: Arguments, reactor: Any) -> RequireAuth:
    """
    Make the policy of ``--policy require-auth``.

    :raises ValueError: with a sentence.
    """
    return RequireAuth(arguments.value("mail, rcpt or data", "mail"))


def make_tls(arguments: Arguments, reactor: Any) -> RequireTLS:
    """
    Make the policy of ``--policy require-tls``.

    :raises ValueError: with a sentence.
    """
    proxied = arguments.yes("proxied")
    return RequireTLS(arguments.value("mail, rcpt or data", "mail"), proxied=proxied)
