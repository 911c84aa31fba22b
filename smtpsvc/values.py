"""
The values that travel through the hooks: who is connected, and what is being sent.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IAddress

from smtpsvc.grammar.addresses import Address
from smtpsvc.grammar.commands import NO_PARAMS
from smtpsvc.settings import Role

if TYPE_CHECKING:
    from collections.abc import Mapping

    from smtpsvc.interfaces import IAccount


class Body(enum.Enum):
    """The value of the BODY parameter of MAIL (RFC 6152 §2, RFC 3030 §3)."""

    SEVEN_BIT = "7BIT"
    EIGHT_BIT_MIME = "8BITMIME"
    BINARY_MIME = "BINARYMIME"


@dataclass(frozen=True, slots=True)
class TLSInfo:
    """What is known of a connection's TLS; filled once the handshake is complete."""

    version: str
    cipher: str
    #: The name that the client asked for, "" for none.
    sni: str = ""
    #: The client's certificate, verified, or None.
    certificate: Any = None


class Peer:
    """
    The client of a connection.

    One object lives as long as the connection; its fields are filled as the client makes itself
    known. A session may keep it.
    """

    __slots__ = ("account", "address", "extended", "helo", "host", "id", "port", "proxied_by", "tls")

    def __init__(self, address: IAddress | None, id: str) -> None:
        #: The address as Twisted gives it: ``IPv4Address``, ``IPv6Address`` or ``UNIXAddress``; None if
        #: the transport has none.
        self.address = address
        #: The IP address as text; "" for a unix socket.
        self.host: str = getattr(address, "host", "")
        #: The TCP port; 0 for a unix socket.
        self.port: int = getattr(address, "port", 0)
        #: Names this connection in logs; unique while the process runs.
        self.id = id
        #: The name given with EHLO, HELO or LHLO; "" before. Not to be trusted, and not always a domain.
        self.helo = ""
        #: True if the client said EHLO or LHLO, False if HELO.
        self.extended = False
        self.tls: TLSInfo | None = None
        #: Who logged in, or None.
        self.account: IAccount | None = None
        #: The address of the trusted proxy that speaks for this client, or None.
        self.proxied_by: IAddress | None = None

    def __repr__(self) -> str:
        return f"<Peer {self.id} {self.host or 'local'!s}>"


@dataclass(frozen=True, slots=True)
class Recipient:
    """One recipient of a transaction, with the parameters of its RCPT, parsed."""

    address: Address
    #: By name in upper case; empty if there were none.
    params: Mapping[str, Any] = field(default_factory=lambda: NO_PARAMS)

    def __str__(self) -> str:
        return str(self.address)


class Envelope:
    """
    One transaction: from MAIL to its end, and never longer.

    Parameters arrive parsed: ``mail_params["SIZE"]`` is an int, ``mail_params["BODY"]`` a
    :class:`Body`. Names are upper case.
    """

    __slots__ = ("id", "mail_params", "peer", "recipients", "role", "sender")

    def __init__(
        self,
        id: str,
        peer: Peer,
        sender: Address,
        mail_params: Mapping[str, Any] = NO_PARAMS,
        role: Role = Role.SMTP,
    ) -> None:
        #: Names this transaction in ``Received:``, in replies and in logs; unique for all time to come.
        self.id = id
        self.peer = peer
        #: The reverse path; ``sender.is_null`` for ``<>``.
        self.sender = sender
        self.mail_params = mail_params
        #: In the order of their RCPT commands; duplicates stay.
        self.recipients: list[Recipient] = []
        self.role = role

    @property
    def size(self) -> int | None:
        """The size that the client declared (RFC 1870), or None. A promise, not a measurement."""
        return self.mail_params.get("SIZE")

    @property
    def utf8(self) -> bool:
        """True if the client declared internationalized mail (RFC 6531)."""
        return "SMTPUTF8" in self.mail_params

    def __repr__(self) -> str:
        return f"<Envelope {self.id} from <{self.sender}> to {len(self.recipients)}>"
