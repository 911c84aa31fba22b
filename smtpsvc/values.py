"""
The values that travel through the hooks: who is connected, and what is being sent.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from twisted.internet.interfaces import IAddress
from zope.interface import implementer

from smtpsvc.grammar.addresses import Address
from smtpsvc.grammar.commands import NO_PARAMS
from smtpsvc.interfaces import IAccount
from smtpsvc.settings import Role

if TYPE_CHECKING:
    from collections.abc import Mapping

    from smtpsvc.grammar.proxyheader import ProxyHeader

_Value = TypeVar("_Value")


class Body(enum.Enum):
    """The value of the BODY parameter of MAIL (RFC 6152 §2, RFC 3030 §3)."""

    SEVEN_BIT = "7BIT"
    EIGHT_BIT_MIME = "8BITMIME"
    BINARY_MIME = "BINARYMIME"


class Abandoned(Exception):
    """A client has begun anew (RSET, EHLO) between two chunks of a message: the reason that ``abort`` is given."""


@dataclass(frozen=True, slots=True)
class TLSInfo:
    """What is known of a connection's TLS; filled once the handshake is complete."""

    version: str
    cipher: str
    #: The name that the client asked for, "" for none.
    sni: str = ""
    #: The client's certificate, verified, or None.
    certificate: Any = None
    #: The protocol negotiated by ALPN, "" for none.
    alpn: str = ""
    #: The common name of a client's certificate that a proxy saw, "" for none.
    common_name: str = ""
    #: True if a proxy saw that certificate and found it good.
    verified: bool = False
    #: True if the TLS ended at a trusted proxy, which says so: the link from there to here is plain.
    proxied: bool = False

    def __str__(self) -> str:
        return f"{self.version} with cipher {self.cipher}" if self.cipher else self.version


@implementer(IAccount)
@dataclass(frozen=True, slots=True)
class Account:
    """Someone who has logged in, known by name alone; "" for a guest (ANONYMOUS, RFC 4505)."""

    name: str


@dataclass(frozen=True, slots=True)
class Forwarded:
    """
    Where a message came from before, as a trusted client said with XFORWARD: for logs, not for permissions.

    None is what was not said, or said to be unavailable. If that is :attr:`address`, the message
    began at the client itself.
    """

    name: str | None = None
    #: An IP address mostly, but any text may be there.
    address: str | None = None
    port: int | None = None
    #: The protocol by which it came, e.g. ``ESMTP``.
    protocol: str | None = None
    helo: str | None = None
    #: What the message was called there.
    ident: str | None = None
    #: ``LOCAL`` or ``REMOTE``: whether it came from within the client's own site.
    source: str | None = None


class Results:
    """
    What policies have found out: at most one value of each type, for later policies and the backend.

    A type is its own key, so that two who have never met do not overwrite each other's.
    """

    __slots__ = ("_found",)

    def __init__(self) -> None:
        self._found: dict[type, Any] = {}

    def put(self, value: object) -> None:
        """Keep a value, in the place of another of exactly its type."""
        self._found[type(value)] = value

    def get(self, kind: type[_Value]) -> _Value | None:
        """Give the value of exactly this type, or None."""
        return self._found.get(kind)

    def __iter__(self) -> Iterator[Any]:
        return iter(tuple(self._found.values()))

    def __len__(self) -> int:
        return len(self._found)

    def __repr__(self) -> str:
        return f"Results({list(self)!r})"


@dataclass(frozen=True, slots=True)
class Login:
    """
    In ``peer.results``: how the client has logged in, while ``peer.account`` says who.

    :param mechanism: of SASL, in upper case.
    """

    mechanism: str


@dataclass(frozen=True, slots=True)
class Quarantine:
    """
    In ``envelope.results``: a policy would keep the message apart from good mail, where the backend can.

    :param reason: for people; it may have a stranger's words in it.
    """

    reason: str


class Peer:
    """
    The client of a connection.

    One object lives as long as the session; its fields are filled as the client makes itself
    known. A session may keep it. XCLIENT puts another in its place, for another session.
    """

    __slots__ = (
        "_results", "account", "address", "destination", "early", "extended", "forwarded", "helo", "host", "id", "name",
        "port", "proxied_by", "proxy_header", "tls",
    )  # fmt: skip

    _results: Results

    def __init__(self, address: IAddress | None, id: str) -> None:
        #: The address as Twisted gives it: ``IPv4Address``, ``IPv6Address`` or ``UNIXAddress``; None if
        #: the transport has none, or a trusted proxy says that it is not known.
        self.address = address
        #: The IP address as text; "" for a unix socket.
        self.host: str = getattr(address, "host", "")
        #: The TCP port; 0 for a unix socket.
        self.port: int = getattr(address, "port", 0)
        #: The client's host name as a trusted proxy (XCLIENT) or the policy ``fcrdns`` found it; "" if none did.
        self.name = ""
        #: Names this connection in logs; unique while the process runs.
        self.id = id
        #: The name given with EHLO, HELO or LHLO; "" before. Not to be trusted, and not always a domain.
        self.helo = ""
        #: True if the client said EHLO or LHLO, False if HELO.
        self.extended = False
        self.tls: TLSInfo | None = None
        #: Who logged in, or None.
        self.account: IAccount | None = None
        #: The address of the trusted proxy that speaks for this client (PROXY, XCLIENT), or None.
        self.proxied_by: IAddress | None = None
        #: Where the client connected to, as far as a trusted proxy said; None otherwise.
        self.destination: IAddress | None = None
        #: The header of the PROXY protocol that came before everything else, or None.
        self.proxy_header: ProxyHeader | None = None
        #: What XFORWARD said of the next transaction, or None; forgotten when that ends. Its envelope has it too.
        self.forwarded: Forwarded | None = None
        #: True if it has spoken before it was greeted (RFC 5321 §4.3.1).
        self.early = False

    @property
    def results(self) -> Results:
        """What policies have found out about the client; it lasts as long as the session."""
        try:
            return self._results
        except AttributeError:
            self._results = Results()
            return self._results

    @property
    def speaker(self) -> IAddress | None:
        """
        The address of whoever gives the commands: it decides on XCLIENT and XFORWARD.

        Behind a PROXY header that is the client, and not the proxy, which only carries its words;
        None if the header does not name it. After XCLIENT it is who gave that.
        """
        header = self.proxy_header
        if header is None:
            return self.proxied_by or self.address
        return self.address if header.local or header.source is not None else None

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

    __slots__ = ("_results", "forwarded", "id", "mail_params", "peer", "recipients", "role", "sender")

    _results: Results

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
        #: Where the message came from before, if a trusted client said so with XFORWARD.
        self.forwarded: Forwarded | None = None

    @property
    def results(self) -> Results:
        """What policies have found out about this transaction."""
        try:
            return self._results
        except AttributeError:
            self._results = Results()
            return self._results

    def found(self, kind: type[_Value]) -> _Value | None:
        """Give what policies have put into :attr:`results` of exactly this type, or None."""
        try:
            return self._results.get(kind)
        except AttributeError:
            # Nobody has looked yet, and so it stays.
            return None

    @property
    def size(self) -> int | None:
        """The size that the client declared (RFC 1870), or None. A promise, not a measurement."""
        return self.mail_params.get("SIZE")

    @property
    def utf8(self) -> bool:
        """True if the client declared internationalized mail (RFC 6531)."""
        return "SMTPUTF8" in self.mail_params

    @property
    def each_answered(self) -> bool:
        """
        True if the client gets a reply for each recipient: LMTP (RFC 2033), or PRDR.

        Then a message may be kept for some recipients and refused for others.
        """
        return self.role is Role.LMTP or "PRDR" in self.mail_params

    def __repr__(self) -> str:
        return f"<Envelope {self.id} from {str(self.sender)!r} to {len(self.recipients)}>"
