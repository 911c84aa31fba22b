"""
Which transport TCP listeners have: ours or Twisted's.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.interfaces import IProtocolFactory, IReactorFDSet

from smtpsvc.transport import AVAILABLE, BACKLOG, DirectPort, listen

#: What ``--transport`` may say.
DIRECT: Final = "direct"
STOCK: Final = "stock"


class DirectReactor:
    """
    Stands in for a reactor where endpoints are made: its TCP ports are :class:`~smtpsvc.transport.DirectPort`.

    All else is the reactor's own, also for endpoints that know nothing of ours.

    :param reactor: opens everything in the end.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def listenTCP(
        self, port: int, factory: IProtocolFactory, backlog: int = BACKLOG, interface: str = ""
    ) -> DirectPort:
        """
        Listen on TCP.

        :raises CannotListenError: if the address cannot be bound.
        """
        return listen(self._reactor, port, factory, backlog, interface)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)


def listening_reactor(reactor: Any, transport: str = DIRECT) -> Any:
    """
    Choose what endpoints listen with.

    :param transport: :data:`DIRECT` or :data:`STOCK`.
    :returns: *reactor* itself for the stock transport, and where ours cannot be had: it needs
        Linux's epoll, and a reactor that watches descriptors.
    :raises ValueError: with a sentence, if it is neither.
    """
    if transport not in (DIRECT, STOCK):
        raise ValueError(f"{transport!r} is neither {DIRECT} nor {STOCK}")
    if transport == STOCK or not AVAILABLE or not IReactorFDSet.providedBy(reactor):
        return reactor
    return DirectReactor(reactor)
