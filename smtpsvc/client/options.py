"""
How to talk to a server: what is the same for all connections to it.
"""

from __future__ import annotations

import enum
import ipaddress
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from smtpsvc.client.commands import hello
from smtpsvc.client.dialogue import Timeouts
from smtpsvc.values import TLSInfo


class TLS(enum.Enum):
    """When a connection is protected."""

    #: By STARTTLS, verified; a server without it is refused.
    REQUIRED = "required"
    #: From the first octet, verified (RFC 8314).
    IMPLICIT = "implicit"
    #: By STARTTLS where it is offered, whatever the certificate (RFC 7435): better than nothing, and no more.
    OPPORTUNISTIC = "opportunistic"
    #: Never.
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Login:
    """
    Who we are, and by what that is proved.

    :raises ValueError: for a combination that makes no sense.
    """

    username: str = ""
    password: str | None = field(default=None, repr=False)
    #: For OAUTHBEARER and XOAUTH2.
    token: str | None = field(default=None, repr=False)
    #: Whom to act as; "" for oneself.
    identity: str = ""
    #: The certificate of the connection is the proof (EXTERNAL).
    external: bool = False
    #: Log in as nobody, with the user name as a trace (ANONYMOUS).
    anonymous: bool = False
    #: The mechanisms that may be used, in this order; None for all that fit, the strongest first.
    mechanisms: Sequence[str] | None = None
    #: Show the password or token without verified TLS too.
    in_clear: bool = False

    def __post_init__(self) -> None:
        given = (self.password is not None, self.token is not None, self.external, self.anonymous)
        if sum(given) != 1:
            raise ValueError("a login needs one of: password, token, external, anonymous")
        if "\0" in f"{self.username}{self.identity}{self.password or ''}":
            raise ValueError("names and passwords of a login cannot have a NUL in them")


class Observer(Protocol):
    """Hears what is said on a connection, TLS undone. It must not raise."""

    def sent(self, data: bytes) -> None:
        """We say this."""

    def received(self, data: bytes) -> None:
        """The server says this."""

    def secured(self, tls: TLSInfo) -> None:
        """TLS has begun."""

    def closed(self) -> None:
        """The connection is gone."""


@dataclass(frozen=True, slots=True)
class Options:
    """
    How to talk to a server.

    :raises ValueError: with a sentence for the person who typed a value.
    """

    #: Our name for EHLO; "" is this machine's.
    hostname: str = ""
    #: Speak LMTP (RFC 2033).
    lmtp: bool = False
    #: A member of :class:`TLS`, or its value.
    tls: TLS | str = TLS.REQUIRED
    #: False takes any certificate. That is no protection against whoever is in between.
    verify: bool = True
    #: What Twisted's ``optionsForClientTLS`` takes as ``trustRoot``; None is the platform's authorities.
    trust: Any = None
    #: A ``twisted.internet.ssl.PrivateCertificate`` to show to a server that asks, or None.
    certificate: Any = None
    #: The name that the server's certificate must have; "" is the host that was connected to.
    server_name: str = ""
    login: Login | None = None
    #: Attributes for XCLIENT, where the server takes them from us; None as a value is "not known".
    xclient: Mapping[str, object] = field(default_factory=dict)
    timeouts: Timeouts = field(default_factory=Timeouts)
    #: Send content by BDAT where it is offered.
    chunking: bool = True
    #: Octets of a chunk; so much is in memory for each message that is being sent. What is written at
    #: once, step by step, is not cut; nor is a message of up to 64 KiB that is in memory.
    chunk_size: int = 512 * 1024
    #: The address of ours to connect from; "" is the system's choice.
    source: str = ""
    #: Is called with the host of each connection, and gives who hears all that is said on it, secrets too; or None.
    observer: Callable[[str], Observer] | None = None

    def __post_init__(self) -> None:
        if self.hostname:
            hello("EHLO", self.hostname)
        if not isinstance(self.tls, TLS):
            object.__setattr__(self, "tls", _tls(self.tls))
        if self.chunk_size < 1:
            raise ValueError("a chunk needs at least one octet")
        if self.source:
            ipaddress.ip_address(self.source)

    def changed(self, **changes: Any) -> Options:
        """Give the same with some values changed."""
        return replace(self, **changes)


def _tls(word: Any) -> TLS:
    try:
        return TLS(str(word).lower())
    except ValueError:
        raise ValueError(f"tls: {word!r} is none of {', '.join(each.value for each in TLS)}") from None


def own_name() -> str:
    """Give this machine's name as EHLO needs it: a domain, or an address literal where it has none."""
    name = socket.gethostname()
    try:
        hello("EHLO", name)
    except ValueError:
        return "[127.0.0.1]"
    return name if "." in name else "[127.0.0.1]" if name == "localhost" else name
