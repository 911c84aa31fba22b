"""
Admission: who is let in, of those who connect.

It is decided before a protocol is made and a session opened, so one who is refused costs little.
"""

from __future__ import annotations

import socket
from typing import Any, Final

from twisted.internet.address import UNIXAddress
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Protocol
from twisted.logger import Logger

from smtpsvc.grammar import replies
from smtpsvc.grammar.replies import Reply
from smtpsvc.server.tally import Tally
from smtpsvc.settings import Settings

log = Logger(namespace="smtpsvc")

#: Connections of one client, if nothing else is said; those of this machine are not counted then.
USUAL: Final = 50
#: A part of all connections from which on the waits are shorter.
STRESS: Final = 0.8
#: Of the refusals by one option, the first in so many seconds is logged.
QUIET: Final = 60.0

_MAPPED: Final = bytes(10) + b"\xff\xff"
_LOOPBACK: Final = bytes(15) + b"\x01"
_LOCAL: Final = "unix"


def client_of(address: object) -> str | None:
    """
    Name the client that an address belongs to: an IPv4 address, or an IPv6 network of 64 bits.

    :param address: as Twisted gives it; an IPv4 address mapped into IPv6 counts as IPv4.
    :returns: ``"unix"`` for all unix sockets together; None if it is not known.
    """
    host = getattr(address, "host", None)
    if not isinstance(host, str):
        return _LOCAL if isinstance(address, UNIXAddress) else None
    if ":" not in host:
        return host
    try:
        packed = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    except (OSError, ValueError):
        return host
    if packed[:12] == _MAPPED:
        return socket.inet_ntoa(packed[12:])
    if packed == _LOOPBACK:
        return host
    return socket.inet_ntop(socket.AF_INET6, packed[:8] + bytes(8)) + "/64"


def is_local(client: str) -> bool:
    """Say whether a client, as :func:`client_of` names it, is on this machine."""
    return client.startswith("127.") or client in ("::1", _LOCAL)


class Admission:
    """
    Counts the connections of all factories of a service, and refuses those beyond its limits.

    Trusted proxies are let in however many connections they have; the clients that they name are counted.

    :param settings: has the limits, and knows who is trusted.
    :param clock: says when a refusal is logged again.
    :param tally: counts for other processes too, for which the limits hold together with this one.
    """

    __slots__ = (
        "_busy", "_clients", "_clock", "_each", "_limit", "_refused", "_settings", "_spare_local",
        "_stress", "_stress_since", "_tally", "_trusting", "open",
    )  # fmt: skip

    def __init__(self, settings: Settings, clock: IReactorTime, tally: Tally | None = None) -> None:
        limits = settings.limits
        self._settings = settings
        self._clock = clock
        self._tally = tally
        self._limit = limits.connections
        each = limits.connections_per_client
        self._each = USUAL if each is None else each
        self._spare_local = each is None
        # With so many the waits are shorter; infinite if they never are.
        shrinks = bool(limits.connections and limits.stress_timeout)
        self._busy = limits.connections * STRESS if shrinks else float("inf")
        self._trusting = bool(settings.trusted_proxies)
        self._clients: dict[str, int] = {}
        # By option: when a refusal was logged, and how many there have been since.
        self._refused: dict[str, tuple[float, int]] = {}
        # True from the line that says that the waits are shorter to the one that says that they are not, and when the
        # first of the two was logged.
        self._stress = False
        self._stress_since = -QUIET
        #: All connections of this process at this time.
        self.open = 0

    @property
    def stressed(self) -> bool:
        """True while so many of the connections are in use that the waits are shorter."""
        return (self.open if self._tally is None else self._tally.open) >= self._busy

    def counts(self, address: object) -> str | None:
        """
        Name the client that a connection counts for.

        :returns: None if it counts for nobody: there is no limit, or none for this client.
        """
        if not self._each:
            return None
        client = client_of(address)
        if client is None or (self._spare_local and is_local(client)):
            return None
        return None if self._trusting and self._settings.trusts(address) else client

    def refusal(self, client: str | None, address: object) -> Reply | None:
        """
        Say why one connection more cannot be served, if it cannot.

        :param client: for whom it counts, as :meth:`counts` says.
        :returns: 421 4.3.2 or 421 4.7.0, after which the connection is closed; or None.
        """
        tally = self._tally
        if self._limit:
            number = self.open if tally is None else tally.open
            if number >= self._limit:
                self._note("--max-connections", client_of(address) or "a client", number)
                return replies.TOO_BUSY
        if client is not None:
            number = self._clients.get(client, 0) if tally is None else tally.of(client)
            if number >= self._each:
                self._note("--max-connections-per-client", client, number)
                return replies.TOO_MANY_CONNECTIONS
        return None

    def enter(self, client: str | None) -> None:
        """Count a connection."""
        self.open += 1
        if self._tally is not None:
            self._tally.enter(client)
        if client is not None:
            self._clients[client] = self._clients.get(client, 0) + 1
        if self.stressed is not self._stress:
            self._note_stress()

    def leave(self, client: str | None) -> None:
        """Count a connection no longer."""
        self.open -= 1
        if self._tally is not None:
            self._tally.leave(client)
        if self.stressed is not self._stress:
            self._note_stress()
        if client is None:
            return
        left = self._clients[client] - 1
        if left:
            self._clients[client] = left
        else:
            del self._clients[client]

    def _note_stress(self) -> None:
        """Log that the waits are shorter, or not any more: two lines a minute at most."""
        began = not self._stress
        if began:
            now = self._clock.seconds()
            if now - self._stress_since < QUIET:
                return
            self._stress_since = now
        self._stress = began
        limits = self._settings.limits
        part = f"{STRESS:.0%} of --max-connections {self._limit}"
        number = self.open if self._tally is None else self._tally.open
        if began:
            log.warn(
                "{number} connections are open, {part} or more: clients have {seconds:g} s (--stress) for each command",
                number=number,
                part=part,
                seconds=limits.stress_timeout,
            )
        else:
            log.info(
                "{number} connections are open, less than {part}: clients have their usual time again",
                number=number,
                part=part,
            )

    def _note(self, option: str, client: str, number: int) -> None:
        now = self._clock.seconds()
        since, refused = self._refused.get(option, (-QUIET, 0))
        if now - since < QUIET:
            self._refused[option] = (since, refused + 1)
            return
        self._refused[option] = (now, 0)
        log.warn(
            "{client} was refused: {number} connections are open, the limit of {option}{others}",
            client=client,
            number=number,
            option=option,
            others=f"; {refused} others were refused since the last such line" if refused else "",
        )


class Refused(Protocol):
    """
    A connection that is closed with its greeting, and no session.

    :param reply: what it is told; None if it would not understand, since TLS comes first.
    """

    def __init__(self, reply: Reply | None) -> None:
        self._reply = reply

    def connectionMade(self) -> None:
        """Say why, and close."""
        transport: Any = self.transport
        if self._reply is not None:
            transport.write(self._reply.wire(True))
        transport.loseConnection()
