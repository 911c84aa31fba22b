"""
A relay in memory: a client, our server with the relay behind it, and the next server.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from smtpsvc.backends.nexthop import NextHop
from smtpsvc.backends.notifier import Notifier
from smtpsvc.backends.relay import RelayBackend
from smtpsvc.client import ConnectFailed, Connection, Stage
from smtpsvc.settings import Role
from smtpsvc.testing import Wire, clocked_factory
from tests.meetings import Meeting, Talk
from tests.support import settings_with

MAIL = "MAIL FROM:<a@x.example>"
RCPT = "RCPT TO:<b@y.example>"
TEXT = "Subject: x\r\n\r\ntext\r\n..dot\r\n."


class Hops:
    """
    Makes servers of which each new connection is with another :class:`Meeting` or :class:`Talk`.

    :param make: gives the next, for the attributes of XCLIENT; or an exception.
    :ivar made: those that were.
    """

    def __init__(self, make: Callable[[Mapping[str, object]], Any], *, clock: Clock, **options: Any) -> None:
        self._make = make
        self.made: list[Any] = []
        self.tried = 0
        self.hop = NextHop("mx.example:25", self._dial, clock, **options)

    def _dial(self, xclient: Mapping[str, object]) -> Deferred[Connection]:
        self.tried += 1
        made = self._make(xclient)
        if isinstance(made, Deferred):
            return made
        if isinstance(made, Exception):
            return fail(made)
        self.made.append(made)
        return succeed(made.connection)


def refused(_: object = None) -> ConnectFailed:
    """Nobody listens."""
    return ConnectFailed("nobody listens", Stage.CONNECT)


class Relayed:
    """
    A client of a relay; what it says goes through until nobody has more to say.

    :param makes: for each next server what gives its connections; see :class:`Hops`.
    :param role: of our own listener.
    :param lmtp: the next servers speak LMTP.
    :param notify: gives the connections of the server that takes notifications.
    """

    def __init__(
        self,
        *makes: Callable[[Mapping[str, object]], Any],
        role: Role = Role.SMTP,
        lmtp: bool = False,
        settings: Mapping[str, Any] | None = None,
        xclient: bool = False,
        xforward: bool = False,
        notify: Callable[[Mapping[str, object]], Any] | None = None,
        **options: Any,
    ) -> None:
        self.clock = Clock()
        self.hops = [Hops(make, clock=self.clock, **options) for make in makes]
        hops = [each.hop for each in self.hops]
        notifier = None
        if notify is not None:
            self.hops.append(Hops(notify, clock=self.clock))
            notifier = Notifier(self.hops[-1].hop, "relay.example", lambda: 1_795_000_000)
        self.backend = RelayBackend(
            hops, per_recipient=lmtp and notifier is None, xclient=xclient, xforward=xforward, notifier=notifier
        )
        made = settings_with(add_received=False, **(settings or {}))
        self.factory, self.server_clock = clocked_factory(self.backend, made, role=role)
        self.wire = self.connect()

    def connect(self) -> Wire:
        """Give one more client, greeted."""
        return Wire(self.factory).greeted()

    def say(self, *lines: str, wire: Wire | None = None) -> Relayed:
        """Say lines, each when the one before is answered."""
        wire = wire or self.wire
        for line in lines:
            wire.say(line)
            self.settle()
        return self

    def settle(self) -> Relayed:
        """Let all talk until nobody has more to say."""
        for _ in range(20):
            for hops in self.hops:
                for each in hops.made:
                    if isinstance(each, Meeting):
                        each.meet()
                    else:
                        each.settle()
        return self

    @property
    def codes(self) -> list[int]:
        """The codes that the client was answered since it was greeted."""
        return self.wire.codes


def meeting(backend: Any = None, **options: Any) -> Callable[[Mapping[str, object]], Meeting]:
    """Give what makes connections to our own server with a backend."""

    def make(xclient: Mapping[str, object]) -> Meeting:
        more = {"xclient": xclient} if xclient else {}
        return Meeting(backend, **more, **options)

    return make


def talk(ehlo: bytes, **options: Any) -> Callable[[Mapping[str, object]], Talk]:
    """Give what makes connections to a server that says what the test lets it say."""
    return lambda xclient: Talk(**options).greeted(ehlo)
