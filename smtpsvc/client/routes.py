"""
Which way mail of a domain goes, and how it is talked to there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from smtpsvc.client.connecting import Where, check_where, open_connection
from smtpsvc.client.connection import Connection
from smtpsvc.client.errors import Stage, TLSFailed
from smtpsvc.client.options import TLS, Options

#: Seconds for which a server whose TLS does not work is talked to without, where TLS is opportunistic.
CLEAR_FOR: Final = 3600.0
#: How strangers' servers are talked to: TLS where it is to be had.
STRANGERS: Final = Options(tls=TLS.OPPORTUNISTIC)


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """
    Where mail goes.

    :raises ValueError: if a server is none.
    """

    #: Servers, tried in this order; none for the mail exchangers of each domain.
    servers: tuple[Where, ...] = ()
    #: How to talk to them; None for the defaults: TLS where a mail exchanger has it, and verified TLS to *servers*.
    options: Options | None = None
    #: The port of mail exchangers.
    port: int = 25

    def __post_init__(self) -> None:
        for each in self.servers:
            check_where(each)

    @property
    def how(self) -> Options:
        """How to talk to the servers."""
        return self.options or (Options() if self.servers else STRANGERS)


class Routes:
    """
    Routes by domain.

    :param default: for the domains that are not named.
    :param named: by domain, in any case; ``.example.com`` is for all domains below that one.
    """

    def __init__(self, default: Route, named: Mapping[str, Route]) -> None:
        self.default = default
        self.named = {domain.lower(): route for domain, route in named.items()}

    def find(self, domain: str) -> Route:
        """Give the route of a domain; the closest name that fits decides."""
        named = self.named
        if not named:
            return self.default
        domain = domain.lower()
        found = named.get(domain)
        while found is None and "." in domain:
            domain = domain.partition(".")[2]
            found = named.get(f".{domain}")
        return found or self.default


class Opener:
    """
    Opens connections to one server.

    :param host: its name, "" if it has none.
    """

    def __init__(self, endpoint: Any, host: str, options: Options, reactor: Any) -> None:
        self._endpoint = endpoint
        self._host = host
        self._options = options
        self._reactor = reactor
        self._clock = IReactorTime(reactor)
        self._clear_until = float("-inf")

    def __call__(self) -> Deferred[Connection]:
        """Open one; fails with a :exc:`~smtpsvc.client.errors.ClientError`."""
        return Deferred.fromCoroutine(self._open())

    async def _open(self) -> Connection:
        options = self._options
        if self._clock.seconds() < self._clear_until:
            options = options.changed(tls=TLS.NONE)
        try:
            return await open_connection(self._endpoint, self._host, options, self._reactor)
        except TLSFailed as error:
            # RFC 7435 §1: who only wants what is to be had takes the mail to be sent in clear for better than lost.
            if options.tls is not TLS.OPPORTUNISTIC or error.stage is not Stage.TLS:
                raise
        connection = await open_connection(self._endpoint, self._host, options.changed(tls=TLS.NONE), self._reactor)
        self._clear_until = self._clock.seconds() + CLEAR_FOR
        return connection
