"""
Let clients wait for the greeting, and refuse those that speak before it: 554 5.5.0, at EHLO or HELO.

Real mail servers wait (RFC 5321 section 4.3.1); many programs that send spam do not. The value is how long they wait
[default: 5s]. --greet-delay does the same for all clients and closes the connection; this can spare some (except=),
only log (warn-only), and refuse at RCPT so that the recipients are logged (defer).
"""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from smtpsvc.grammar.replies import Reply
from smtpsvc.interfaces import Outcome
from smtpsvc.policies.arguments import Arguments, parse_duration
from smtpsvc.policies.chain import Policy
from smtpsvc.values import Peer

SPOKE_EARLY: Final = Reply(554, "You spoke before you were greeted", "5.5.0")
#: Clients may give up before the 5 minutes of RFC 5321 §4.5.3.2.1.
LONGEST: Final = 60.0


class EarlyTalker(Policy):
    """
    Lets clients wait for the greeting, and refuses those that do not.

    :param seconds: how long; 0 for no longer than the server itself takes.
    :raises ValueError: with a sentence, if that is more than a minute.
    """

    name = "early-talker"

    def __init__(self, seconds: float = 5.0, *, clock: IReactorTime) -> None:
        if seconds > LONGEST:
            raise ValueError(f"{seconds:g} s is longer than many clients wait; write {LONGEST:g}s at most")
        self._seconds = seconds
        self._clock = clock

    def connect(self, peer: Peer) -> Outcome:
        """Wait, where the server has not waited already."""
        return deferLater(self._clock, self._seconds) if self._seconds else None

    def helo(self, peer: Peer, name: str) -> Outcome:
        """Refuse whoever has spoken before the greeting."""
        return SPOKE_EARLY if peer.early else None


def make(arguments: Arguments, reactor: Any) -> EarlyTalker:
    """
    Make the policy of ``--policy early-talker``.

    :raises ValueError: with a sentence.
    """
    return EarlyTalker(parse_duration(arguments.value("a time", "5s")), clock=reactor)
