"""
Real servers for tests, on free ports of this machine.
"""

from __future__ import annotations

import shutil
import smtplib
import socket
import ssl
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import (
    TCP4ClientEndpoint,
    TCP4ServerEndpoint,
    UNIXClientEndpoint,
    UNIXServerEndpoint,
    wrapClientTLS,
)
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.ssl import Certificate, optionsForClientTLS

from smtpsvc.checkers import make_portal
from smtpsvc.current import current_reactor
from smtpsvc.direct import listening_reactor
from smtpsvc.interfaces import IBackend
from smtpsvc.server.deadlines import MonotonicClock
from smtpsvc.service import MailService
from smtpsvc.settings import Limits, Role, Settings
from smtpsvc.testing.reactors import PrivateReactor
from smtpsvc.testing.recording import RecordedMessage, RecordingBackend
from smtpsvc.tls import CertificateStore
from smtpsvc.tlstesting import Authority

__all__ = ["LocalServer", "ServerMixin", "TLSMode"]

#: Where TLS begins: nowhere, by STARTTLS, or with the first octet.
TLSMode: TypeAlias = Literal["", "starttls", "implicit"]

_HOST = "127.0.0.1"

#: Seconds in which a client must have taken its last reply when a server stops.
_FAREWELL = 0.2


class AnyServer:
    """
    What the servers of tests have in common: what they serve, and what a client must know.

    :param backend: where mail goes; a :class:`~smtpsvc.testing.RecordingBackend` if None.
    :param tls: ``""``, ``"starttls"`` or ``"implicit"``, with a certificate made for this server.
    :param role: ``Role.LMTP`` speaks LMTP; ``Role.SUBMISSION`` wants a login.
    :param unix: listen on a unix socket, in a directory of its own, and not on TCP.
    :param accounts: passwords by name, for AUTH; none without. Where there is no TLS, passwords are taken in clear.
    :param settings: how to behave; if None, no ``Received:`` is written, so that a message's content is what the
        client sent.
    :param more: as for :class:`~smtpsvc.MailService`: ``extensions``, ``mechanisms``, ``monitors``.
    :raises ValueError: if *tls* is something else.
    """

    def __init__(
        self,
        backend: IBackend | None = None,
        *,
        tls: TLSMode = "",
        role: Role = Role.SMTP,
        unix: bool = False,
        accounts: Mapping[str, str] | None = None,
        settings: Settings | None = None,
        **more: Any,
    ) -> None:
        if tls not in ("", "starttls", "implicit"):
            raise ValueError(f"tls is '', 'starttls' or 'implicit', not {tls!r}")
        self.backend: Any = RecordingBackend() if backend is None else backend
        self.tls = tls
        self.role = role
        self.unix = unix
        self.accounts = dict(accounts or {})
        self.settings = settings or Settings(
            hostname="localhost",
            add_received=False,
            allow_insecure_auth=not tls,
            limits=Limits(grace=0),
        )
        #: Issues the server's certificate, and others if a test needs them.
        self.authority = Authority()
        #: The TCP port; 0 before the start, and for a unix socket.
        self.port = 0
        self._more = more
        self._directory: Path | None = None

    # What a client must know.

    @property
    def host(self) -> str:
        """Where it listens on TCP, or "" for a unix socket."""
        return "" if self.unix else _HOST

    @property
    def path(self) -> str:
        """The path of its unix socket, or ""."""
        return str(self._home / "socket") if self.unix else ""

    @property
    def ca_file(self) -> str:
        """A file with the certificate of the authority, for clients to believe; there while the server runs."""
        return str(self._home / "ca.pem")

    def ssl_context(self) -> ssl.SSLContext:
        """Make what a client by the ``ssl`` module needs: it believes the server, by any of its names, and no other."""
        return ssl.create_default_context(cadata=self.authority.pem.decode())

    def connect(self, timeout: float = 10.0) -> smtplib.SMTP:
        """
        Connect by ``smtplib``; for blocking tests.

        :param timeout: for each step.
        :returns: a client that has said EHLO or LHLO, under TLS if the server has it, and may log in.
        """
        if self.unix or (self.role is Role.LMTP and self.tls == "implicit"):
            client = self._connected(timeout)
        elif self.role is Role.LMTP:
            client = smtplib.LMTP(_HOST, self.port, "localhost", timeout=timeout)
        elif self.tls == "implicit":
            client = smtplib.SMTP_SSL("localhost", self.port, timeout=timeout, context=self.ssl_context())
        else:
            client = smtplib.SMTP("localhost", self.port, timeout=timeout)
        if self.tls == "starttls":
            client._host = "localhost"  # type: ignore[attr-defined]
            client.starttls(context=self.ssl_context())
        client.ehlo_or_helo_if_needed()
        return client

    def _connected(self, timeout: float) -> smtplib.SMTP:
        """Give a client on a socket that ``smtplib`` would not make itself."""
        if self.unix:
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(timeout)
            sock.connect(self.path)
        else:
            sock = socket.create_connection((_HOST, self.port), timeout)
        if self.tls == "implicit":
            sock = self.ssl_context().wrap_socket(sock, server_hostname="localhost")
        kind = smtplib.LMTP if self.role is Role.LMTP else smtplib.SMTP
        client: smtplib.SMTP = kind(local_hostname="localhost", timeout=timeout)
        client.sock = sock
        code, text = client.getreply()
        if code != 220:
            client.close()
            raise smtplib.SMTPConnectError(code, text)
        return client

    def endpoint(self, reactor: Any) -> IStreamClientEndpoint:
        """Make the endpoint for Twisted's clients; where the server has implicit TLS, it begins with that."""
        if self.unix:
            plain: Any = UNIXClientEndpoint(reactor, self.path)
        else:
            plain = TCP4ClientEndpoint(reactor, _HOST, self.port)
        made: IStreamClientEndpoint = plain if self.tls != "implicit" else wrapClientTLS(self.client_tls(), plain)
        return made

    def client_tls(self) -> Any:
        """Make what Twisted's clients need for TLS: an ``IOpenSSLClientConnectionCreator`` that believes the server."""
        authority = Certificate.loadPEM(self.authority.pem)
        return optionsForClientTLS("localhost", trustRoot=authority)

    @property
    def messages(self) -> list[RecordedMessage]:
        """The messages that the backend has kept; it must have them, as a RecordingBackend does."""
        found: list[RecordedMessage] = self.backend.messages
        return found

    def __repr__(self) -> str:
        where = self.path if self.unix and self._directory else f"{_HOST}:{self.port}" if self.port else "not started"
        return f"<{type(self).__name__} {self.role.value}{self.tls and ' '}{self.tls} {where}>"

    # For those below.

    @property
    def _home(self) -> Path:
        if self._directory is None:
            raise RuntimeError("the server is not started")
        return self._directory

    def _make(self, reactor: Any) -> MailService:
        """Make the service, with its files."""
        self._directory = Path(tempfile.mkdtemp(prefix="smtpsvc-"))
        (self._home / "ca.pem").write_bytes(self.authority.pem)
        portal = None
        if self.accounts:
            checker = InMemoryUsernamePasswordDatabaseDontUse()
            for name, password in self.accounts.items():
                checker.addUser(name.encode(), password.encode())
            portal = make_portal([checker])
        service = MailService(
            self.backend,
            self.settings,
            portal=portal,
            clock=MonotonicClock(reactor),
            tls=self._certificates(reactor) if self.tls else None,
            **self._more,
        )
        if self.unix:
            endpoint: Any = UNIXServerEndpoint(reactor, self.path)
        elif isinstance(reactor, PrivateReactor):
            endpoint = TCP4ServerEndpoint(reactor, 0, interface=_HOST)
        else:
            endpoint = TCP4ServerEndpoint(listening_reactor(reactor), 0, interface=_HOST)
        service.listen(endpoint, self.role, implicit_tls=self.tls == "implicit")
        return service

    def _certificates(self, reactor: Any) -> CertificateStore:
        path = self._home / "server.pem"
        path.touch(0o600)
        names = dict.fromkeys(("localhost", _HOST, "::1", self.settings.hostname.strip("[]")))
        path.write_bytes(b"".join(self.authority.issue(*names)))
        return CertificateStore([str(path)], clock=reactor)

    def _open(self, reactor: Any) -> MailService:
        """Start, in the thread of the reactor."""
        try:
            service = self._make(reactor)
            service.privilegedStartService()
            service.startService()
        except BaseException:
            self._clean()
            raise
        if not self.unix:
            [port] = service.ports
            self.port = port.getHost().port  # type: ignore[attr-defined]
        return service

    def _close(self, service: MailService) -> Deferred[None]:
        """Stop: clients that are still there are told so, and dropped soon."""
        stopped = service.stopService()
        service.hurry()
        late = current_reactor().callLater(_FAREWELL, service.hurry)

        def clean(result: Any) -> Any:
            if late.active():
                late.cancel()
            self._clean()
            return result

        return stopped.addBoth(clean)

    def _clean(self) -> None:
        directory, self._directory = self._directory, None
        self.port = 0
        if directory is not None:
            shutil.rmtree(directory, ignore_errors=True)


class LocalServer(AnyServer):
    """
    A server that runs in this thread's reactor, for tests of ``twisted.trial``; see :meth:`ServerMixin.serve`.

    It takes the arguments of :class:`AnyServer`.
    """

    _service: MailService | None = None

    def start(self, reactor: Any = None) -> None:
        """
        Open its port and start its backend.

        :param reactor: runs it; the one of this thread if None.
        :raises RuntimeError: if it runs already.
        """
        if self._service is not None:
            raise RuntimeError("the server runs already")
        self._service = self._open(current_reactor() if reactor is None else reactor)

    def stop(self) -> Deferred[None]:
        """
        Close its port, drop its clients and stop its backend; a further call does nothing.

        :returns: a Deferred that fires when all is gone.
        """
        service, self._service = self._service, None
        if service is None:
            done: Deferred[None] = Deferred()
            done.callback(None)
            return done
        return self._close(service)


class ServerMixin:
    """For a ``twisted.trial.unittest.TestCase``: gives its tests servers, which end with the test."""

    if TYPE_CHECKING:

        def addCleanup(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> None:
            """As TestCase has it."""

    def serve(self, backend: IBackend | None = None, **options: Any) -> LocalServer:
        """
        Start a server in the reactor of the test; it is stopped when the test is over.

        :param options: as for :class:`LocalServer`.
        """
        server = LocalServer(backend, **options)
        server.start()
        self.addCleanup(server.stop)
        return server
