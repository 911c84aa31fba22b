"""
Which reactor runs here: the process has one, and a thread may have one of its own.

Code that was given no reactor asks :func:`current_reactor` when it needs one, and so also works in the
thread of a :class:`~smtpsvc.testing.ThreadedServer`.
"""

from __future__ import annotations

import threading
from typing import Any

_own = threading.local()


def current_reactor() -> Any:
    """Give the reactor that this thread has of its own, or else the one of the process, which may be chosen by this."""
    own = getattr(_own, "reactor", None)
    if own is not None:
        return own
    from twisted.internet import reactor

    return reactor


def have_reactor(reactor: Any) -> None:
    """
    Let this thread have a reactor of its own.

    :param reactor: None, and it has none any more.
    """
    _own.reactor = reactor
