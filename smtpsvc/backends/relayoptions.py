"""
The arguments of ``smtp:`` and ``lmtp:``, as people type them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint
from twisted.internet.ssl import Certificate, trustRootFromCertificates

from smtpsvc.backends import nexthop
from smtpsvc.backends.nexthop import NextHop
from smtpsvc.backends.notifier import Notifier
from smtpsvc.client import TLS, ClientError, Connection, Login, Options, Stage, Timeouts, connect
from smtpsvc.client.connecting import default_port
from smtpsvc.client.options import own_name
from smtpsvc.policies.arguments import Arguments

#: Seconds for a greeting: one that takes longer is no better than none, where a client waits for its MAIL.
_GREETING: Final = 60.0
_TLS: Final = tuple(each.value for each in TLS)


@dataclass(frozen=True, slots=True)
class RelayOptions:
    """What ``smtp:`` or ``lmtp:`` was told."""

    hops: tuple[NextHop, ...]
    xclient: bool
    xforward: bool
    notifier: Notifier | None


def parse_relay(argument: str, reactor: Any, *, lmtp: bool) -> RelayOptions:
    """
    Read the argument; nothing is connected to.

    :raises ValueError: with a sentence for the person who typed it.
    """
    given = Arguments(argument)
    hosts = given.values()
    if not hosts:
        raise ValueError("a server is missing: write HOST:PORT" + (" or unix:/PATH" if lmtp else ""))
    near = all(map(_is_near, hosts))
    tls = TLS(given.choice("tls", _TLS, (TLS.NONE if near else TLS.REQUIRED).value))
    auth = given.text("auth")
    if auth and tls is TLS.OPPORTUNISTIC:
        raise ValueError("auth: with tls=opportunistic anybody could get the password; write tls=required")
    times = Timeouts()
    command = given.seconds("timeout", times.command)
    try:
        options = Options(
            hostname=given.text("helo"),
            lmtp=lmtp,
            tls=tls,
            trust=given.read("ca", _authorities, None),
            server_name=given.text("name"),
            login=_login(auth) if auth else None,
            timeouts=Timeouts(
                connect=given.seconds("connect-timeout", 10.0),
                greeting=min(command, _GREETING),
                command=command,
                data=min(command, times.data),
                block=min(command, times.block),
                end=given.seconds("end-timeout", times.end),
            ),
        )
    except OSError as error:
        raise ValueError(f"auth: {error.strerror}: {error.filename}") from None
    source = given.read("source", _address, "")
    most = given.count("pool", nexthop.MOST)
    if most < 1:
        raise ValueError("pool: without a connection no mail can be passed on; write 1 or more")
    idle = given.seconds("idle", nexthop.IDLE)
    patience = given.seconds("wait", nexthop.PATIENCE)
    xclient, xforward = given.yes("xclient"), given.yes("xforward")
    notify = given.text("notify")
    given.end()
    if notify and not lmtp:
        raise ValueError("notify: is for lmtp:, where recipients of one message have fates of their own")

    def hop(host: str, options: Options, auth: str = "") -> NextHop:
        dial = partial(_dial, reactor, *_endpoint(host, options, reactor, source), options, auth)
        return NextHop(host, dial, reactor, most=most, idle=idle, patience=patience)

    hops = tuple(hop(host, options, auth) for host in hosts)
    notifier = None
    if notify:
        plain = options.changed(lmtp=False, login=None, tls=TLS.NONE if _is_near(notify) else TLS.REQUIRED)
        notifier = Notifier(hop(notify, plain), options.hostname or own_name())
    return RelayOptions(hops, xclient, xforward, notifier)


def _dial(
    reactor: Any, host: str, endpoint: Any, options: Options, auth: str, xclient: Mapping[str, object]
) -> Deferred[Connection]:
    changes: dict[str, Any] = {"server_name": options.server_name or host}
    if xclient:
        changes["xclient"] = xclient
    if auth:
        try:
            # Read anew, so that a password can be changed while the service runs.
            changes["login"] = _login(auth)
        except (OSError, ValueError) as error:
            failed: Deferred[Connection] = Deferred()
            failed.errback(ClientError(f"the login cannot be read: {error}", Stage.AUTH))
            return failed
    return connect(endpoint, options, reactor=reactor, **changes)


def _endpoint(host: str, options: Options, reactor: Any, source: str) -> tuple[str, Any]:
    """
    Give the name that a certificate must have, and the endpoint.

    :raises ValueError: with a sentence.
    """
    seconds = options.timeouts.connect
    if host.startswith("unix:"):
        path = host.removeprefix("unix:")
        if not options.lmtp or not path.startswith("/"):
            raise ValueError(f"{host}: write unix:/PATH with a whole path, for lmtp: only")
        return "", UNIXClientEndpoint(reactor, path, timeout=seconds)
    name, port = _host_port(host)
    number = default_port(options) if port is None else port
    bind = (source, 0) if source else None
    return name, HostnameEndpoint(reactor, name, number, timeout=seconds, bindAddress=bind)


def _host_port(host: str) -> tuple[str, int | None]:
    if host.startswith("["):
        name, bracket, rest = host[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"{host!r} is no address; write [::1]:25")
        port = rest[1:]
    elif host.count(":") > 1:
        raise ValueError(f"{host!r} is no host and port; an IPv6 address stands in brackets, such as [::1]:25")
    else:
        name, _, port = host.partition(":")
    if not name or any(each.isspace() or each == "/" for each in name):
        raise ValueError(f"{host!r} is no host; write HOST:PORT")
    if not port:
        return name, None
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65536):
        raise ValueError(f"{host!r}: {port!r} is no port; ports go from 1 to 65535")
    return name, int(port)


def _is_near(host: str) -> bool:
    """Tell whether what is said to a host stays on this machine."""
    if host.startswith("unix:"):
        return True
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name.lower() == "localhost"


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError(f"{text!r} is no IP address of this machine") from None


def _login(path: str) -> Login:
    """Read ``NAME:PASSWORD`` from a file's first line."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    name, colon, password = (lines[0] if lines else "").partition(":")
    if not name or not colon or not password:
        raise ValueError(f"auth: the first line of {path} must be NAME:PASSWORD")
    return Login(name, password)


def _authorities(path: str) -> Any:
    try:
        octets = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    mark = b"-----BEGIN CERTIFICATE-----"
    parts = [mark + part for part in octets.split(mark)[1:]]
    if not parts:
        raise ValueError(f"{path} has no certificate in PEM in it")
    try:
        return trustRootFromCertificates([Certificate.loadPEM(part) for part in parts])
    except Exception:
        raise ValueError(f"{path} has a certificate in it that cannot be read") from None
