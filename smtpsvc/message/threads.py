"""
Parsing off the reactor's thread.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool

from smtpsvc.current import current_reactor
from smtpsvc.message.parsing import Email, parse
from smtpsvc.message.splitting import Bounds

__all__ = ["parse_in_thread"]


def parse_in_thread(message: Any, bounds: Bounds | None = None, *, reactor: Any = None) -> Deferred[Email]:
    """
    Read a message in a thread of the reactor's pool, all of it.

    :param message: as for :func:`~smtpsvc.message.parsing.parse`; it must stay readable until this has fired.
    :param bounds: how much of it is looked at.
    :param reactor: whose pool; None for the running one.
    :returns: the :class:`~smtpsvc.message.parsing.Email`, of which nothing but the content of attachments is left to
        read.
    """
    if reactor is None:
        reactor = current_reactor()
    return deferToThreadPool(reactor, reactor.getThreadPool(), lambda: parse(message, bounds).load())
