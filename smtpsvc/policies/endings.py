"""
What a policy does when a client, or a transaction, is gone.

A policy that keeps something for a client, such as a connection to a filter, has ``tidies = True`` and asks here to be
called. Whatever ends it ends it once: a refusal, the reply to the message, RSET, STARTTLS, or a lost connection.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.logger import Logger
from twisted.python.failure import Failure

from smtpsvc.awaiting import settled
from smtpsvc.failures import shown_failure
from smtpsvc.grammar.replies import Reply
from smtpsvc.values import Envelope, Peer

log = Logger()


class _Endings(list[Callable[[], object]]):
    """In the results of a client or an envelope: what is called when that ends."""


def at_end(of: Peer | Envelope, call: Callable[[], object]) -> None:
    """
    Have something called when a client is gone, or a transaction is over.

    :param call: must not wait; what it raises is logged.
    """
    found = of.results.get(_Endings)
    if found is None:
        found = _Endings()
        of.results.put(found)
    found.append(call)


def ended(of: Peer | Envelope) -> None:
    """Call what is to be called, each once."""
    calls = of.results.get(_Endings) or ()
    for call in list(calls):
        try:
            call()
        except Exception:
            log.failure("a policy could not tidy up", shown_failure(Failure()))
    if calls:
        of.results.put(_Endings())


def tidied_reset(reset: Callable[..., Any], envelope: Envelope | None, upgraded: bool) -> Any:
    """Stand in front of a session's ``reset``."""
    if envelope is not None:
        ended(envelope)
    return reset(envelope, upgraded)


def tidied_close(close: Callable[[Failure], Any], peer: Peer, reason: Failure) -> Any:
    """Stand in front of a session's ``close``."""
    ended(peer)
    return close(reason)


def tidied_open(peer: Peer, let_in: Callable[[], Any]) -> Any:
    """
    Open a session; a client that gets none is gone.

    :param let_in: gives the session, a refusal, or an awaitable of these.
    """
    try:
        outcome = let_in()
    except Exception:
        ended(peer)
        raise
    if isinstance(outcome, Reply):
        ended(peer)
    return _tidied_later(peer, outcome) if hasattr(type(outcome), "__await__") else outcome


async def _tidied_later(peer: Peer, pending: Any) -> Any:
    opened = False
    try:
        session = await settled(pending)
        opened = not isinstance(session, Reply)
        return session
    finally:
        if not opened:
            ended(peer)
