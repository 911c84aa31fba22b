"""
Our client in memory: opposite our server, or a server that follows a script.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.client import ClientError, Connection, Options
from smtpsvc.client.protocol import ClientProtocol
from smtpsvc.settings import Role
from smtpsvc.testing import ScriptedBackend, Wire, clocked_factory
from tests.support import settings_with

#: What a server with the usual extensions says first, and to EHLO.
GREETING = b"220 mx.example ESMTP\r\n"
EHLO = b"250-mx.example\r\n250-PIPELINING\r\n250-SIZE 1000000\r\n250 8BITMIME\r\n"
CHUNKING = b"250-mx.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-CHUNKING\r\n250 BINARYMIME\r\n"
#: A server that has nothing.
BARE = b"250 mx.example\r\n"
OK = b"250 2.0.0 OK\r\n"
GO = b"354 Go on\r\n"

MESSAGE = b"Subject: x\r\n\r\ntext\r\n.dot\r\n"


class ClientTransport(StringTransport):
    """A transport in memory that can be full."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.writes: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Take what the client sends."""
        self.writes.append(data)
        super().write(data)  # type: ignore[no-untyped-call]

    def take(self) -> bytes:
        """Give what was sent since the last time."""
        sent: bytes = self.value()  # type: ignore[no-untyped-call]
        self.clear()  # type: ignore[no-untyped-call]
        return sent

    @property
    def gone(self) -> bool:
        """True if the client has closed, or will."""
        return bool(self.disconnecting or self.disconnected)


class Talk:
    """
    A client, its clock, and its transport.

    :param options: of :class:`Options`; there is no TLS unless it is said.
    """

    def __init__(self, **options: Any) -> None:
        self.clock = Clock()
        self.transport = ClientTransport()
        options = {"tls": "none", "hostname": "client.example", **options}
        self.protocol = ClientProtocol(Options(**options), self.clock)
        self.opened: Deferred[Connection] = self.protocol.opened
        self.lost = False
        self.protocol.makeConnection(self.transport)

    @property
    def connection(self) -> Connection:
        """The connection, open or not."""
        return self.protocol.connection

    def receive(self, *pieces: bytes) -> bytes:
        """Let the client read what the server says; give what it sends then."""
        for piece in pieces:
            if not self.lost:
                self.protocol.dataReceived(piece)
            self.settle()
        return self.transport.take()

    def settle(self) -> None:
        """Lose the connection if the client has closed it."""
        if self.transport.gone and not self.lost:
            self.hang_up(ConnectionDone())

    def hang_up(self, reason: Exception | None = None) -> None:
        """Lose the connection."""
        self.lost = True
        self.protocol.connectionLost(Failure(reason or ConnectionLost()))

    def greeted(self, ehlo: bytes = EHLO) -> Talk:
        """Greet, and answer EHLO."""
        self.receive(GREETING)
        self.protocol.dataReceived(ehlo)
        self.settle()
        return self


class Meeting(Talk):
    """
    A client and our server, with all that both say.

    :param enable: what ``--enable`` says.
    """

    def __init__(
        self, backend: Any = None, *, enable: Iterable[str] = (), role: Role = Role.SMTP, factory: Any = None,
        portal: Any = None, server_tls: Any = None, settings: dict[str, Any] | None = None, **options: Any,
    ) -> None:  # fmt: skip
        self.backend = backend or ScriptedBackend()
        made = settings_with(enable=frozenset(enable), **(settings or {}))
        self.wire = Wire(factory or clocked_factory(self.backend, made, role=role, portal=portal)[0])
        self.wire.protocol.conversation.peer.tls = server_tls
        self._read = 0
        self.said: list[bytes] = []
        super().__init__(lmtp=role is Role.LMTP, **options)
        self.meet()

    def meet(self) -> Meeting:
        """Let both talk until nobody has more to say."""
        while True:
            told = self.wire.transport.value()[self._read :]
            self._read += len(told)
            if told and not self.lost:
                self.protocol.dataReceived(told)
            said = self.transport.take()
            if said and not self.wire.closed:
                self.said.append(said)
                self.wire.receive(said)
            if self.wire.closed and not self.lost:
                self.hang_up(ConnectionDone())
            self.settle()
            if not told and not said:
                return self


class ClientTestCase(SynchronousTestCase):
    """Looks at how a sending ends."""

    def failure(self, deferred: Deferred[Any], kind: type[ClientError] = ClientError) -> Any:
        """Give the error with which *deferred* has failed."""
        return self.failureResultOf(deferred, kind).value  # type: ignore[no-untyped-call]

    def sent(self, meeting: Meeting, *args: Any, **more: Any) -> Any:
        """Send a message to our server, and give the result."""
        done = meeting.connection.send(*args, **more)
        meeting.meet()
        return self.successResultOf(done)


Script = Callable[[Talk], object]
