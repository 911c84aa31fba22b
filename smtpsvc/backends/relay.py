"""
Pass mail on to the next server, step by step within the client's own transaction.

The argument is the server, or several, and settings, separated by commas:

  smtp:HOST:PORT,HOST:PORT,tls=required,auth=FILE
  lmtp:unix:/run/dovecot/lmtp
  lmtp:HOST:PORT

What the next server says to MAIL, RCPT, DATA and the message is what the client hears; the message is kept
nowhere, and 250 is said when the next server has said it. Of several servers the first that answers is taken.

tls=required, implicit, opportunistic or none; none for servers on this machine, else required. ca=FILE has the
authorities that sign its certificate, name=NAME stands in it. auth=FILE has NAME:PASSWORD in its first line.
xclient and xforward tell the server who the client is. helo=NAME is our name, source=ADDRESS our address. pool=50
connections at most to each server; one that nobody uses is closed after idle=30s, and a message waits wait=30s
for one. lmtp: takes one recipient a message from clients that have one reply for all; with notify=HOST:PORT it
takes several, and senders are notified by that server of those who did not get what others have got.
connect-timeout=10s, timeout=5m for the reply to a command, end-timeout=10m for that to a message.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList
from zope.interface import implementer

from smtpsvc.backends.nexthop import NextHop
from smtpsvc.backends.notifier import Notifier
from smtpsvc.backends.relaying import RelaySession
from smtpsvc.backends.relayoptions import parse_relay
from smtpsvc.interfaces import IConnection, IReady
from smtpsvc.session import Backend
from smtpsvc.values import Peer

__all__ = ["RelayBackend", "make_lmtp", "make_smtp"]


@implementer(IReady)
class RelayBackend(Backend, Service):
    """
    Passes each message on to the first of some servers that answers.

    It is a service: what it has open is closed with it.

    :param hops: the servers.
    :param per_recipient: they say of each recipient what became of the message (LMTP). Then a client that has one
        reply for all gets one recipient a message.
    :param xclient: tell them who our client is, by XCLIENT; such a connection is used for one message.
    :param xforward: tell them where a message came from, by XFORWARD.
    :param notifier: tells senders of recipients who did not get what others have got.
    """

    #: These are handed on or refused, never lost.
    supports: ClassVar[frozenset[str]] = frozenset({"REQUIRETLS", "DELIVERBY", "RRVS"})

    def __init__(
        self,
        hops: Sequence[NextHop],
        *,
        per_recipient: bool = False,
        xclient: bool = False,
        xforward: bool = False,
        notifier: Notifier | None = None,
    ) -> None:
        if not hops:
            raise ValueError("mail cannot be passed on without a server")
        self.hops = tuple(hops)
        self.per_recipient = per_recipient
        self._xclient = xclient
        self._xforward = xforward
        self._notifier = notifier

    def __repr__(self) -> str:
        return f"<RelayBackend to {', '.join(hop.name for hop in self.hops)}>"

    @property
    def destination(self) -> str:
        """Where mail goes, for people."""
        return f"on to {', or '.join(hop.name for hop in self.hops)}"

    def open_session(self, peer: Peer, connection: IConnection) -> RelaySession:
        """Open a session; a server is connected to when there is mail."""
        return RelaySession(self.hops, peer, xclient=self._xclient, xforward=self._xforward, notifier=self._notifier)

    def ready(self) -> str:
        """Say so if no server answers."""
        return "" if any(not hop.breaker.open for hop in self.hops) else "the next server does not answer"

    def startService(self) -> None:
        """Let connections be made."""
        super().startService()  # type: ignore[no-untyped-call]
        for hop in self._all:
            hop.start()

    def stopService(self) -> Deferred[Any]:
        """Close the connections that nobody uses; the others are closed behind their messages."""
        super().stopService()  # type: ignore[no-untyped-call]
        return DeferredList([hop.stop() for hop in self._all])

    @property
    def _all(self) -> Sequence[NextHop]:
        return self.hops if self._notifier is None else (*self.hops, self._notifier.hop)


def make_smtp(argument: str, reactor: Any) -> RelayBackend:
    """
    Make the backend of ``--backend smtp:HOST:PORT``.

    :raises ValueError: with a sentence.
    """
    return _make(argument, reactor, lmtp=False)


def make_lmtp(argument: str, reactor: Any) -> RelayBackend:
    """
    Make the backend of ``--backend lmtp:HOST:PORT`` or ``--backend lmtp:unix:/PATH``.

    :raises ValueError: with a sentence.
    """
    return _make(argument, reactor, lmtp=True)


def _make(argument: str, reactor: Any, *, lmtp: bool) -> RelayBackend:
    options = parse_relay(argument, reactor, lmtp=lmtp)
    return RelayBackend(
        options.hops,
        per_recipient=lmtp and options.notifier is None,
        xclient=options.xclient,
        xforward=options.xforward,
        notifier=options.notifier,
    )
