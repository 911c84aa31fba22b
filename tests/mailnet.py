"""
A net in memory: servers at addresses, which do as they are told, and a clock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionRefusedError
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from tests.meetings import ClientTransport

#: What a server says if nothing else was said: by verb, "." is the end of the content, "" the greeting.
USUAL = {
    "": b"220 mx.example ESMTP\r\n",
    "EHLO": b"250-mx.example\r\n250-PIPELINING\r\n250-SIZE 1000000\r\n250 8BITMIME\r\n",
    "DATA": b"354 Go on\r\n",
    "QUIT": b"221 2.0.0 Bye\r\n",
}
OK = b"250 2.0.0 OK\r\n"
#: Instead of a reply: the connection is lost.
LOST = b""
#: Nothing is said any more.
SILENT = b"SILENT"


class Site:
    """
    A server.

    :param replies: other replies, by verb; a callable gets the line and gives the reply.
    :ivar up: False, and connections are refused.
    :ivar messages: what has come: the recipients, and the content as it was sent.
    """

    def __init__(self, replies: dict[str, bytes | Callable[[str], bytes]] | None = None, *, up: bool = True) -> None:
        self.replies: dict[str, Any] = {**USUAL, **(replies or {})}
        self.up = up
        self.tried = 0
        self.links: list[Link] = []
        self.messages: list[tuple[list[str], bytes]] = []

    @property
    def open(self) -> int:
        """How many connections are open."""
        return sum(not link.closed for link in self.links)

    @property
    def said(self) -> list[str]:
        """All commands that came, on all connections."""
        return [line for link in self.links for line in link.lines]


class Link:
    """One connection to a server."""

    def __init__(self, site: Site, protocol: Any) -> None:
        self.site = site
        self.protocol = protocol
        self.transport = ClientTransport()
        self.lines: list[str] = []
        self.closed = False
        self._held = b""
        self._content = self._stuck = False
        self._recipients: list[str] = []
        protocol.makeConnection(self.transport)
        self.answer("")

    def answer(self, verb: str, line: str = "") -> bytes:
        """Give the reply that the site has for a verb; or lose the connection."""
        found = self.site.replies.get(verb, OK)
        reply: bytes = found(line) if callable(found) else found
        if reply == LOST:
            self.lose()
        elif reply == SILENT:
            self._held, self._stuck = b"", True
        else:
            self._content = verb == "DATA" and reply.startswith(b"354")
            self.protocol.dataReceived(reply)
            if reply.startswith(b"421"):
                self.lose()
        return reply

    def lose(self) -> None:
        """Lose the connection."""
        if not self.closed:
            self.closed = True
            self.protocol.connectionLost(Failure(ConnectionDone()))

    def work(self) -> bool:
        """Answer what has come; tell whether there was something."""
        data = self.transport.take()
        self._held += b"" if self._stuck else data
        while self._held and not self.closed:
            if self._content:
                whole = b"\r\n" + self._held
                content, end, rest = whole.partition(b"\r\n.\r\n")
                if not end:
                    break
                self._held = rest
                self._content = False
                self.site.messages.append((self._recipients, content[2:] + b"\r\n"))
                self._recipients = []
                self.answer(".")
                continue
            line, end, rest = self._held.partition(b"\r\n")
            if not end:
                break
            self._held = rest
            text = line.decode()
            self.lines.append(text)
            verb = text[:4].upper()
            if verb in ("MAIL", "RSET"):
                self._recipients = []
            reply = self.answer(verb, text)
            if verb == "RCPT" and reply.startswith(b"250"):
                self._recipients.append(text[9:].partition(">")[0])
            if verb == "QUIT":
                self.lose()
        if self.transport.gone:
            self.lose()
        return bool(data)


class Net(Clock):
    """
    A reactor with a clock, and sites at addresses; where there is none, connections are refused.

    :ivar held: True, and connections hang until :meth:`let`.
    """

    def __init__(self, sites: dict[str, Site]) -> None:
        super().__init__()
        self.sites = sites
        self.held = False
        self._hanging: list[Callable[[], None]] = []

    def connectTCP(self, host: str, port: int, factory: Any, timeout: float = 30, bindAddress: Any = None) -> Any:
        """Connect to a site."""
        site = self.sites.get(host) or Site(up=False)
        site.tried += 1

        def connected() -> None:
            if not site.up:
                factory.clientConnectionFailed(None, Failure(ConnectionRefusedError()))
                return
            protocol = factory.buildProtocol(None)
            site.links.append(Link(site, protocol))

        if self.held:
            self._hanging.append(connected)
        else:
            connected()
        return _Connector()

    def connectUNIX(self, path: str, factory: Any, timeout: float = 30, checkPID: bool = False) -> Any:
        """Connect to a site."""
        return self.connectTCP(path, 0, factory, timeout)

    def let(self) -> None:
        """Let the connections come that hang."""
        self.held = False
        hanging, self._hanging = self._hanging, []
        for each in hanging:
            each()
        self.settle()

    def settle(self) -> None:
        """Let all talk until nobody has more to say."""
        while sum(link.work() for site in self.sites.values() for link in site.links if not link.closed):
            pass

    def result(self, deferred: Deferred[Any]) -> Any:
        """Let all talk, and give what comes of it; an error is raised."""
        self.settle()
        found: list[Any] = []
        deferred.addBoth(found.append)
        if not found:
            raise AssertionError("it waits for something")
        if isinstance(found[0], Failure):
            found[0].raiseException()
        return found[0]


class _Connector:
    def stopConnecting(self) -> None:
        """Nothing is connecting."""
