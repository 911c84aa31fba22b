"""
Connecting to a server.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory

from smtpsvc.client.connection import Connection
from smtpsvc.client.errors import ConnectFailed, Stage
from smtpsvc.client.observed import ObservedProtocol
from smtpsvc.client.options import TLS, Options
from smtpsvc.client.protocol import ClientProtocol
from smtpsvc.current import current_reactor

#: A host, a host and a port, or an endpoint of Twisted.
Where: TypeAlias = "str | tuple[str, int] | IStreamClientEndpoint"


def connect(
    where: Where, options: Options | None = None, *, reactor: Any = None, **changes: Any
) -> Deferred[Connection]:
    """
    Connect to a server: greeted, protected and logged in when it is done.

    :param where: a host; a host and a port; or a Twisted endpoint that does no TLS itself. Without a port it
        is 25; 465 with implicit TLS, 587 with a login, 24 with LMTP.
    :param options: how; the defaults of :class:`~smtpsvc.client.options.Options` if None.
    :param changes: fields of the options that are to be others: ``tls="opportunistic"``, ``login=Login(...)``.
    :returns: a Deferred of the :class:`~smtpsvc.client.connection.Connection`; fails with a
        :exc:`~smtpsvc.client.errors.ClientError`. Cancelled, it gives up, and fails with CancelledError.
    :raises ValueError: for options that make no sense.
    """
    if reactor is None:
        reactor = current_reactor()
    options = (options or Options()).changed(**changes) if changes else options or Options()
    host, endpoint = endpoint_of(reactor, where, options)
    return Deferred.fromCoroutine(open_connection(endpoint, host, options, reactor))


async def open_connection(endpoint: Any, host: str, options: Options, reactor: Any) -> Connection:
    """
    Connect to an endpoint.

    :param host: the name of the server, for its certificate and in errors; "" if it has none.
    :raises ClientError: if it fails.
    """
    clock = IReactorTime(reactor)
    kind = ClientProtocol if options.observer is None else ObservedProtocol
    factory = Factory.forProtocol(lambda: kind(options, clock, host))
    factory.noisy = False
    connecting: Deferred[Any] = endpoint.connect(factory)
    connecting.addTimeout(options.timeouts.connect, clock, _late)
    try:
        protocol = await connecting
    except (CancelledError, ConnectingCancelledError):
        # Endpoints have an error of their own; that somebody gave up is no fault of the server.
        raise CancelledError from None
    except TimeoutError as error:
        seconds = options.timeouts.connect
        raise ConnectFailed(f"{host or 'the server'} did not answer within {seconds:.0f} s", Stage.CONNECT) from error
    except Exception as error:
        raise ConnectFailed(f"cannot connect to {host or 'the server'}: {error}", Stage.CONNECT) from error
    opened: Connection = await protocol.opened
    return opened


def _late(outcome: Any, seconds: float) -> Any:
    """Say that it took too long; Twisted would do it of some cancelled Deferreds only, not of those of endpoints."""
    raise TimeoutError(seconds, "connect")


def default_port(options: Options) -> int:
    """Give the port that servers for these options listen on."""
    if options.lmtp:
        return 24
    if options.tls is TLS.IMPLICIT:
        return 465
    return 587 if options.login is not None else 25


def endpoint_of(reactor: Any, where: Where, options: Options) -> tuple[str, Any]:
    """
    Make an endpoint of where a server is; its host is given too, "" if it has none.

    :raises ValueError: if it is nowhere.
    """
    check_where(where)
    if isinstance(where, str):
        where = (where, default_port(options))
    if isinstance(where, tuple):
        host, port = where
        source = options.source or None
        return host, HostnameEndpoint(reactor, host, port, timeout=options.timeouts.connect, bindAddress=source)
    return "", where


def check_where(where: Any) -> None:
    """
    Look whether a server can be there.

    :raises ValueError: if it cannot.
    """
    host = where[0] if isinstance(where, tuple) and len(where) == 2 and isinstance(where[1], int) else where
    if not (isinstance(host, str) and host) and not IStreamClientEndpoint.providedBy(where):
        raise ValueError(f"{where!r} is no host, no pair of a host and a port, and no endpoint")
