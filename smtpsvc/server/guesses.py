"""
Guesses: failed logins, by the network that they come from.

After a few of them the network's logins have to wait for each other, longer with each that fails. So a
password is guessed no faster by many connections than by one.
"""

from __future__ import annotations

from typing import Final

from twisted.internet.interfaces import IReactorTime

from smtpsvc.server.admission import client_of, is_local
from smtpsvc.settings import Settings

#: Seconds after which a network's failures are forgotten.
FORGOTTEN: Final = 900.0
#: Seconds between two logins of a network, at most.
LONGEST: Final = 16.0
#: A login that would have to wait longer is refused at once.
QUEUE: Final = 30.0
#: Networks that are remembered; beyond them the one whose last failure is the oldest is forgotten.
MOST: Final = 10_000


class _Network:
    """What is remembered of a network."""

    __slots__ = ("due", "failures", "last")

    def __init__(self) -> None:
        self.failures = 0
        #: When the last of them was.
        self.last = 0.0
        #: When the next login may be judged.
        self.due = 0.0


class Guesses:
    """
    Says how long a client's login has to wait.

    Networks are IPv4 addresses, and IPv6 networks of 64 bits. This machine and trusted proxies have none: they
    log in for many people.

    :param settings: ``limits.auth_failures`` of a network are free, and the next has its successor wait for 1 s,
        then 2 s, 4 s and so on.
    :param clock: monotonic.
    """

    __slots__ = ("_clock", "_free", "_networks", "_settings")

    def __init__(self, settings: Settings, clock: IReactorTime) -> None:
        self._settings = settings
        self._clock = clock
        self._free = settings.limits.auth_failures
        # The one whose last failure is the oldest comes first.
        self._networks: dict[str, _Network] = {}

    def __len__(self) -> int:
        return len(self._networks)

    def wait(self, address: object) -> float | None:
        """
        Reserve a turn for a login.

        :returns: the seconds until then, mostly 0; None if that would take too long.
        """
        if not self._networks:
            return 0.0
        client = client_of(address)
        network = self._networks.get(client) if client is not None else None
        if client is None or network is None:
            return 0.0
        now = self._clock.seconds()
        if now - network.last > FORGOTTEN:
            del self._networks[client]
            return 0.0
        if network.failures < self._free:
            return 0.0
        wait = max(network.due - now, 0.0)
        if wait > QUEUE:
            return None
        step = min(network.failures - self._free, 30)
        network.due = now + wait + min(LONGEST, 2.0**step)
        return wait

    def failed(self, address: object) -> None:
        """A login of a client was refused."""
        client = client_of(address)
        if not self._free or client is None or is_local(client) or self._settings.trusts(address):
            return
        network = self._networks.pop(client, None) or _Network()
        now = self._clock.seconds()
        if now - network.last > FORGOTTEN:
            network.failures = 0
        network.failures += 1
        network.last = now
        self._networks[client] = network
        if len(self._networks) > MOST:
            del self._networks[next(iter(self._networks))]

    def succeeded(self, address: object) -> None:
        """A client has logged in: its network's failures are forgotten."""
        if self._networks:
            self._networks.pop(client_of(address) or "", None)
