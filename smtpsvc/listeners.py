"""
Listeners: what the words of ``--port`` and its kin mean.

A bare number listens on this machine's loopback addresses only; anything else is a description of
a Twisted endpoint. Both are checked when they are read, as far as that goes without listening.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import socket
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, execute
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure
from zope.interface import implementer

from smtpsvc.proxied import ProxiedEndpoint, check_trust
from smtpsvc.settings import Role, Settings

LOOPBACK = ("127.0.0.1", "::1")

#: What may stand in front of a listener: haproxy: for the header of the PROXY protocol, implicit-tls:
#: for TLS from the first byte.
PREFIXES = ("haproxy", "implicit-tls")

#: Connections that may wait for us to accept them; the kernel's own limit may be lower. A burst
#: beyond Twisted's 50 makes clients wait a second before they try again.
BACKLOG = 1024

_PORTS = range(65536)
_TRIES = 20
#: Endpoints that only bind what they name, so that it can be known beforehand.
_PLAIN = ("tcp", "tcp4", "tcp6", "ssl", "unix")
_HOST_PORT = re.compile(r"\[?(?P<host>[0-9A-Fa-f.:]*)\]?:(?P<port>\d+)")


class ListenError(Exception):
    """A listener cannot be opened; ``str()`` is a sentence for the person who asked for it."""


@dataclass(frozen=True, slots=True)
class Place:
    """
    Where a port listens, or would.

    :param host: an IP address; "" for a unix socket.
    :param port: its TCP port.
    :param path: the path of a unix socket.
    """

    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def local(self) -> bool:
        """True if other machines cannot connect there."""
        if self.path:
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        if self.path:
            return f"unix:{os.path.abspath(self.path)}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@implementer(IStreamServerEndpoint)
@dataclass(frozen=True, slots=True)
class Listener:
    """
    One listener as it was asked for; an endpoint whose errors are sentences.

    Made by :func:`parse_listener`.
    """

    #: The option and its text, for sentences: ``"--port 2525"``.
    name: str
    endpoint: Any
    role: Role = Role.SMTP
    #: What it will bind, as far as that can be known.
    places: tuple[Place, ...] = ()
    #: True for a bare number.
    loopback: bool = False
    #: True if clients speak SMTP there from the first byte.
    plain: bool = True
    #: True if its clients are proxies that send a PROXY header.
    proxied: bool = False
    #: True if TLS comes first, with our certificates.
    implicit_tls: bool = False

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """
        Open it.

        :returns: a Deferred of the port; its failure is a :class:`ListenError` that names the option.
        """

        def failed(failure: Failure) -> Failure:
            return Failure(self._problem(failure))

        listening: Deferred[IListeningPort] = self.endpoint.listen(protocolFactory)
        return listening.addErrback(failed)

    def check_settings(self, settings: Settings) -> None:
        """
        Check that it can serve anybody with these settings.

        :raises ValueError: with a sentence that names the option and what to give.
        """
        if self.proxied:
            unix = any(place.path for place in self.places) if self.places else None
            check_trust(self.name, settings, unix=unix)

    def check(self) -> None:
        """
        Find out whether it could be opened now, and leave nothing behind.

        :raises ListenError: with the sentence that :meth:`listen` would fail with.
        """
        for place in self.places:
            try:
                _try(place)
            except CannotListenError as error:
                if not (self.loopback and place.host == LOOPBACK[1] and _is_absent(error)):
                    raise self._problem(Failure(error)) from error

    def _problem(self, failure: Failure) -> ListenError:
        return ListenError(f"{self.name}: {explain(failure)}")


def parse_listener(
    text: str, reactor: Any, *, option: str = "--port", role: Role = Role.SMTP, implicit_tls: bool = False
) -> Listener:
    """
    Read what was given for an option that opens a listener.

    :param text: a number, or a description of a Twisted endpoint, behind any of :data:`PREFIXES`.
    :param reactor: opens the sockets later.
    :param implicit_tls: TLS comes first even without the prefix.
    :returns: an endpoint, not listening.
    :raises ValueError: with a sentence that names the option.
    """
    name = f"{option} {text}"
    prefixes, text = _take_prefixes(text, name)
    if implicit_tls and "implicit-tls" not in prefixes:
        prefixes.append("implicit-tls")
    if "haproxy" in prefixes and text.lower().startswith("ssl:"):
        raise ValueError(f"{name}: a proxy's header comes before TLS, and this endpoint would want it inside")
    listener = _parse_plain(text, reactor, name, role)
    for prefix in prefixes:
        if prefix == "haproxy":
            listener = replace(listener, endpoint=ProxiedEndpoint(listener.endpoint), plain=False, proxied=True)
        elif text.lower().startswith(("ssl:", "tls:")):
            raise ValueError(f"{name}: this endpoint has TLS of its own already; write tcp: for it")
        else:
            listener = replace(listener, plain=False, implicit_tls=True)
    return listener


def _take_prefixes(text: str, name: str) -> tuple[list[str], str]:
    """Take the prefixes off, in their order: the first is nearest to the wire."""
    prefixes: list[str] = []
    while (word := text.partition(":")[0].lower()) in PREFIXES and ":" in text:
        if word in prefixes:
            raise ValueError(f"{name}: the prefix {word}: is there twice")
        prefixes.append(word)
        text = text.partition(":")[2]
    if "haproxy" in prefixes[1:]:
        raise ValueError(f"{name}: a proxy's header comes before all else; write haproxy: first")
    return prefixes, text


def _parse_plain(text: str, reactor: Any, name: str, role: Role) -> Listener:
    """Read what stands behind the prefixes."""
    if text.isascii() and text.isdigit():
        number = _port_number(text, name)
        places = tuple(Place(host, number) for host in LOOPBACK)
        return Listener(name, LoopbackEndpoint(reactor, number), role, places, loopback=True)
    kind = text.partition(":")[0].lower()
    try:
        endpoint = serverFromString(reactor, text)
        places = _rehearse(text) if kind in _PLAIN else ()
    except Exception as error:  # a stranger's endpoint may raise anything for bad arguments
        if kind == "systemd" and isinstance(error, LookupError):
            raise ValueError(f"{name}: systemd has passed no such socket; start it by a socket unit") from error
        wrong = "its port is no number" if "invalid literal for int()" in str(error) else _one_line(error)
        raise ValueError(f"{name}: this is no endpoint ({wrong}); {_suggest(text)}") from error
    for place in places:
        _port_number(str(place.port), name)
    return Listener(name, endpoint, role, places, plain=kind in {*_PLAIN, "systemd"} - {"ssl"})


def _port_number(digits: str, name: str) -> int:
    if len(digits) > 5 or int(digits) not in _PORTS:
        raise ValueError(f"{name}: {digits} is no port; ports go from 1 to 65535, and 0 takes a free one")
    return int(digits)


def _suggest(text: str) -> str:
    match = _HOST_PORT.fullmatch(text)
    if match is not None and match["host"]:
        host, port = match["host"], match["port"]
        kind, host = ("tcp6", host.replace(":", "\\:")) if ":" in host else ("tcp", host)
        return f"for that address write {kind}:{port}:interface={host}"
    if text.startswith(("/", "./")):
        return f"for a socket in the file system write unix:{text}"
    return "write a port such as 2525 for this machine, tcp:2525 for all, or unix:/run/smtp"


class _Rehearsal:
    """Stands in for a reactor, and only notes what an endpoint would have it bind."""

    def __init__(self) -> None:
        self.places: list[Place] = []

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> None:
        self.places.append(Place(interface or "0.0.0.0", port))

    def listenSSL(
        self, port: int, factory: Any, contextFactory: Any, backlog: int = 50, interface: str = ""
    ) -> None:
        self.listenTCP(port, factory, backlog, interface)

    def listenUNIX(self, address: Any, factory: Any, **rest: Any) -> None:
        self.places.append(Place(path=os.fsdecode(address)))


def _rehearse(description: str) -> tuple[Place, ...]:
    rehearsal = _Rehearsal()
    serverFromString(rehearsal, description).listen(Factory())
    return tuple(rehearsal.places)


@implementer(IStreamServerEndpoint)
class LoopbackEndpoint:
    """
    Listens on 127.0.0.1 and, where the host has it, on ::1, with the same number.

    :param port: busy on either address, it is an error; 0 takes a number that is free on both.
    """

    def __init__(self, reactor: Any, port: int) -> None:
        self.reactor = reactor
        self.port = port

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """
        Bind both addresses, or none.

        :returns: a Deferred of one port that stands for both.
        """
        return execute(self._listen, protocolFactory)

    def _listen(self, factory: IProtocolFactory) -> IListeningPort:
        tries = 1 if self.port else _TRIES
        while True:
            tries -= 1
            first = self.reactor.listenTCP(self.port, factory, backlog=BACKLOG, interface=LOOPBACK[0])
            number = first.getHost().port
            try:
                second = self.reactor.listenTCP(number, factory, backlog=BACKLOG, interface=LOOPBACK[1])
            except CannotListenError as error:
                if _is_absent(error):
                    return PortGroup((first,))
                first.stopListening()
                if not tries or _errno(error) != errno.EADDRINUSE:
                    raise
            else:
                return PortGroup((first, second))


@implementer(IListeningPort)
@dataclass(frozen=True, slots=True)
class PortGroup:
    """Several ports that are one to whoever opened them."""

    ports: tuple[Any, ...] = field(default=())

    def startListening(self) -> None:
        """Listen again on each."""
        for port in self.ports:
            port.startListening()

    def stopListening(self) -> Deferred[None]:
        """
        Close each.

        :returns: a Deferred that fires when all are closed.
        """
        closing = [result for port in self.ports if isinstance(result := port.stopListening(), Deferred)]
        return DeferredList(closing, fireOnOneErrback=True, consumeErrors=True).addCallback(lambda results: None)

    def getHost(self) -> Any:
        """Give the address of the first."""
        return self.ports[0].getHost()


def places_of(port: IListeningPort) -> tuple[Place, ...]:
    """
    Say where a port listens, with the number that it really has.

    :returns: one place, or one for each address of a :class:`PortGroup`.
    """
    if isinstance(port, PortGroup):
        return tuple(place for one in port.ports for place in places_of(one))
    address: Any = port.getHost()
    if hasattr(address, "host"):
        return (Place(address.host, address.port),)
    if getattr(address, "name", None):
        return (Place(path=os.path.abspath(os.fsdecode(address.name))),)
    return (Place(str(address)),)


def explain(failure: Failure) -> str:
    """
    Say why a port could not be opened, and what to do.

    :param failure: what ``listen`` failed with.
    :returns: the rest of a sentence that begins with the name of the listener.
    """
    error: Any = failure.value
    if not isinstance(error, CannotListenError):
        file = getattr(error, "filename", None)
        which = f": {os.fsdecode(file)}" if isinstance(file, str | bytes) else ""
        return f"cannot listen there: {_one_line(error)}{which}"
    path = isinstance(error.port, bytes | str)
    host = error.interface or "0.0.0.0"
    where = os.fsdecode(error.port) if path else str(Place(host, error.port))
    code = _errno(error)
    if code == errno.EADDRINUSE or (path and error.socketError == "Cannot acquire lock"):
        return f"{where} is in use by another program; end it or give another {'path' if path else 'port'}"
    if code in {errno.EACCES, errno.EPERM}:
        low = "; ports below 1024 are for root (twistd gives up the rights with --uid)"
        return f"this user may not listen on {where}{low if not path and 0 < error.port < 1024 else ''}"
    if code == errno.EADDRNOTAVAIL:
        return f"{host} is no address of this host; give one that it has"
    return f"cannot listen on {where}: {_one_line(error.socketError)}"


def _try(place: Place) -> None:
    try:
        if place.path:
            _try_path(Path(place.path))
            return
        family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As Twisted's ports do: an address with connections in TIME_WAIT is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((place.host, place.port))
            probe.listen()
    except OSError as error:
        raise CannotListenError(place.host or None, place.port or place.path, error) from error


def _try_path(path: Path) -> None:
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "its directory does not exist")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "its directory is not writable")
    if path.is_socket():
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(path)) == 0:
                raise OSError(errno.EADDRINUSE, "in use")
    elif path.exists():
        raise OSError(errno.EEXIST, "a file of that name exists")


def _errno(error: CannotListenError) -> int | None:
    return getattr(error.socketError, "errno", None)


def _is_absent(error: CannotListenError) -> bool:
    """Whether an address cannot be bound because this host does not have it."""
    return _errno(error) in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT}


def _one_line(error: object) -> str:
    text = getattr(error, "strerror", None) or " ".join(str(error).split())
    return text if isinstance(error, ValueError | OSError | str) else f"{type(error).__name__}: {text}"


