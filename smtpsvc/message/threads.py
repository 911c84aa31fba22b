"""
Parsing off the reactor's thread.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool

from smtpsvc.message.parsing import Bounds, Email, parse

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
        from twisted.internet import reactor
    return deferToThreadPool(reactor, reactor.getThreadPool(), lambda: parse(message, bounds).load())
