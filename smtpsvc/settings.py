"""
Settings: every default, once.

One tree of frozen values that is checked when it is made. Code, a ``.tac`` file and the command
line build the same one, and the help text reads its defaults from here.
"""

from __future__ import annotations

import enum
import ipaddress
import re
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from twisted.internet.address import UNIXAddress

from smtpsvc.grammar.addresses import is_address_literal, is_domain

KIB = 1024
MIB = 1024 * KIB

#: Longest AUTH line with its CRLF, whatever the limit for other lines is (RFC 4954 §4).
AUTH_LINE = 12288

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

# RFC 5321 §4.1.1.1, ehlo-keyword.
_KEYWORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*+", re.ASCII)

#: Who may speak for others: a network, or whoever can connect to our unix sockets.
Trusted: TypeAlias = Network | Literal["unix"]


class Role(enum.Enum):
    """What a listener is for: the verbs, extensions and rules that its clients meet."""

    #: Mail from other hosts (RFC 5321).
    SMTP = "smtp"
    #: Mail from users' own programs (RFC 6409).
    SUBMISSION = "submission"
    #: Delivery with one result for each recipient (RFC 2033).
    LMTP = "lmtp"


class BareNewline(enum.Enum):
    """What happens to a message with a bare CR or LF in it."""

    #: Refused with 550 5.5.2.
    REJECT = "reject"
    #: Stored as CRLF; still only CRLF.CRLF ends a message.
    NORMALIZE = "normalize"


def default_hostname() -> str:
    """
    Name this host without asking DNS.

    :returns: ``gethostname()`` if it is a domain, else ``"localhost"``.
    """
    name = socket.gethostname()
    return name if is_domain(name) else "localhost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """
    How much, how many and how long; sizes in bytes, times in seconds.

    :raises ValueError: with a sentence that names the option, if a limit could serve nobody.
    """

    #: Largest message, counted with its dots undone; 0 for no limit (RFC 1870).
    message_size: int = 32 * MIB
    #: Recipients of one message; RFC 5321 §4.5.3.1.8 asks for 100 at least.
    recipients: int = 100
    #: MAIL commands of one connection; 0 for no limit (RFC 9422).
    messages: int = 0
    #: Domains among the recipients of one connection; 0 for no limit (RFC 9422).
    recipient_domains: int = 0
    #: Longest command line with its CRLF; RFC 5321 §4.5.3.1.4 asks for 512 at least.
    line_length: int = 2000
    #: Room that a message must leave on the disk, where the backend knows it; 0 for no limit (RFC 1870 §6.1).
    min_free_space: int = 64 * MIB
    #: Wait for a command (RFC 5321 §4.5.3.2.7 asks for 300 at least).
    command_timeout: float = 300.0
    #: Wait for the next piece of a message (RFC 5321 §4.5.3.2.5).
    data_timeout: float = 180.0
    #: Wait for a hook of the backend.
    hook_timeout: float = 300.0
    #: Bytes that gather for a waiting conversation before its client is paused.
    read_ahead: int = 64 * KIB
    #: Wait for the header of the PROXY protocol; a packet that was lost takes 3 to come again.
    proxy_timeout: float = 30.0
    #: Wait for the handshake of TLS to be complete.
    handshake_timeout: float = 30.0
    #: Connections at one time; 0 for no limit.
    connections: int = 1000
    #: Connections of one client at one time: of an IPv4 address, or an IPv6 network of 64 bits. None is 50, and
    #: leaves out this machine's own clients; a number counts everybody but trusted proxies; 0 for no limit.
    connections_per_client: int | None = None
    #: Commands of one connection that are refused before it is closed, from one message to the next; 0 for no limit.
    errors: int = 20
    #: Recipients of one connection that may be refused before each of them counts as an error; 0 for no limit.
    refused_recipients: int = 100
    #: Commands that send no mail, such as NOOP, before each of them counts as an error; 0 for no limit.
    junk: int = 100
    #: Logins of one connection that may fail before it is closed, and of one network before it waits; 0 for no limit.
    auth_failures: int = 3
    #: Wait before the greeting, and refuse a client that does not; 0 for none.
    greet_delay: float = 0.0
    #: Bytes a second of a message that must come, on the average of half a minute; 0 for no limit.
    data_rate: int = 0
    #: ``Received:`` fields of a message: more of them are a loop (RFC 5321 §6.3); 0 for no limit.
    received: int = 50
    #: Largest header of a message; 0 for no limit.
    header_size: int = MIB
    #: Longest line of a message without its CRLF; 0 for no limit. RFC 5321 §4.5.3.1.6 has 998.
    text_line: int = 0
    #: Bytes in memory that wait for the backend or for clients, past which content is not read on.
    buffered: int = 64 * MIB
    #: Wait for a command or a piece of a message at most, while 80 % of the connections are in use; 0 for no change.
    stress_timeout: float = 10.0
    #: Time that open transactions have to end when the service stops; 0 to break them off at once.
    grace: float = 30.0

    def __post_init__(self) -> None:
        for option, value in {
            "--max-message-size": self.message_size,
            "--max-messages": self.messages,
            "--max-domains": self.recipient_domains,
            "--min-free-space": self.min_free_space,
            "--max-connections": self.connections,
            "--max-connections-per-client": self.connections_per_client or 0,
            "--max-errors": self.errors,
            "--max-refused-recipients": self.refused_recipients,
            "--max-junk": self.junk,
            "--max-auth-failures": self.auth_failures,
            "--greet-delay": self.greet_delay,
            "--min-data-rate": self.data_rate,
            "--max-received": self.received,
            "--max-header-size": self.header_size,
            "--max-text-line": self.text_line,
            "--stress": self.stress_timeout,
        }.items():
            _check(value >= 0, option, "a value below 0 has no meaning; 0 turns it off")
        _check(self.recipients >= 1, "--max-recipients", f"{self.recipients} recipients would accept no mail")
        _check(
            self.line_length >= 512,
            "--max-line-length",
            f"{self.line_length} is below the 512 octets that RFC 5321 promises to clients",
        )
        _check(self.command_timeout > 0, "--timeout", "a wait must be longer than 0 seconds")
        _check(self.data_timeout > 0, "--data-timeout", "a wait must be longer than 0 seconds")
        _check(self.hook_timeout > 0, "--hook-timeout", "a wait must be longer than 0 seconds")
        _check(self.read_ahead >= 4 * KIB, "read_ahead", "at least 4096 bytes are needed")
        _check(self.proxy_timeout > 0, "--proxy-timeout", "a wait must be longer than 0 seconds")
        _check(self.handshake_timeout > 0, "--handshake-timeout", "a wait must be longer than 0 seconds")
        late = f"{self.greet_delay:g} s would drive honest clients away; 60 at most"
        _check(self.greet_delay <= 60, "--greet-delay", late)
        _check(self.buffered >= MIB, "--max-buffered", "at least 1M is needed")
        _check(self.grace >= 0, "--grace", "a time below 0 has no meaning; 0 breaks transactions off at once")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """
    How the server behaves.

    :raises ValueError: with a sentence that names the option.
    """

    #: The name in the greeting, in EHLO and in ``Received:``; a domain or an address literal.
    hostname: str = field(default_factory=default_hostname)
    #: Text after the host name in the greeting.
    banner: str = "ESMTP smtpsvc"
    limits: Limits = field(default_factory=Limits)
    #: What happens to a bare CR or LF in a message.
    bare_newline: BareNewline = BareNewline.REJECT
    #: Paths may have odd dots in local parts and lack their angle brackets.
    lenient_paths: bool = False
    #: Write ``Received:`` in front of each message (RFC 5321 §4.4).
    add_received: bool = True
    #: Clients in these networks may speak for others (PROXY, XCLIENT, XFORWARD); with ``"unix"``
    #: those that connect to a unix socket too.
    trusted_proxies: tuple[Trusted, ...] = ()
    #: TLS that ended at a trusted proxy counts as TLS where TLS is needed.
    trust_proxy_tls: bool = False
    #: XCLIENT may say who has logged in.
    xclient_login: bool = False
    #: Before TLS only the commands that lead to it are served; others get 530 5.7.0 (RFC 3207 §4).
    require_tls: bool = False
    #: Mechanisms that send passwords as they are may be used without TLS.
    allow_insecure_auth: bool = False
    #: Clients of SMTP listeners must log in before MAIL, as those of submission listeners always must.
    require_auth: bool = False
    #: Extensions to offer although they wait to be asked for: ``NAME`` or ``NAME:ARGUMENT``.
    enable: frozenset[str] = frozenset()
    #: Names of extensions not to offer.
    disable: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        _check(
            is_domain(self.hostname) or is_address_literal(self.hostname),
            "--hostname",
            f"{self.hostname!r} is neither a domain nor an address literal such as [192.0.2.1]",
        )
        _check(self.hostname.isascii(), "--hostname", f"{self.hostname!r} must be given in ASCII (xn--…)")
        _check(
            self.banner.isascii() and (self.banner.isprintable() or not self.banner),
            "--banner",
            "only printable ASCII can be sent in a greeting",
        )
        _check(
            len(self.hostname) + len(self.banner) <= 500,
            "--banner",
            "with the host name it must fit in one reply line of 512 octets",
        )
        enable, disable = _names("--enable", self.enable), _names("--disable", self.disable)
        names = [item.partition(":")[0] for item in enable]
        for name in names:
            _check(names.count(name) == 1, "--enable", f"{name} is given twice, with different arguments")
            _check(name not in disable, "--disable", f"{name} is given with --enable too; which is meant?")
        for item in disable:
            _check(":" not in item, "--disable", f"{item!r} has an argument; write the name alone")
        object.__setattr__(self, "enable", enable)
        object.__setattr__(self, "disable", disable)
        for trusted in self.trusted_proxies:
            _check(
                trusted == "unix" or isinstance(trusted, ipaddress.IPv4Network | ipaddress.IPv6Network),
                "--trusted-proxies",
                f"{trusted!r} is neither a network nor the word unix",
            )

    def enabled(self, name: str) -> str | None:
        """
        Tell whether :attr:`enable` has an extension.

        :param name: in upper case.
        :returns: its argument, "" if there is none, or None if it is not enabled.
        """
        for item in self.enable:
            found, _, argument = item.partition(":")
            if found == name:
                return argument
        return None

    def trusts(self, address: object) -> bool:
        """
        Tell whether who connects from an address is one of :attr:`trusted_proxies`.

        :param address: as Twisted gives it; an IPv4 address mapped into IPv6 counts as IPv4.
        """
        trusted = self.trusted_proxies
        if not trusted or address is None:
            return False
        if isinstance(address, UNIXAddress):
            return "unix" in trusted
        try:
            ip = ipaddress.ip_address(str(getattr(address, "host", "")).partition("%")[0])
        except ValueError:
            return False
        ip = (ip.version == 6 and ip.ipv4_mapped) or ip
        return any(ip in network for network in trusted if not isinstance(network, str))


def _names(option: str, items: Iterable[str]) -> frozenset[str]:
    """Put the names of extensions in upper case, and leave their arguments as they are."""
    found = set()
    for item in [items] if isinstance(items, str) else items:
        name, colon, argument = item.partition(":")
        _check(bool(_KEYWORD.fullmatch(name)), option, f"{name!r} is no name of an extension")
        found.add(name.upper() + (colon + argument if argument else ""))
    return frozenset(found)


def _check(good: bool, option: str, sentence: str) -> None:
    if not good:
        raise ValueError(f"{option}: {sentence}")


def parse_size(text: str) -> int:
    """
    Read a size as people write it.

    :param text: digits with an optional suffix K, M or G (powers of 1024), e.g. ``"32M"``.
    :returns: the size in bytes.
    :raises ValueError: with a sentence.
    """
    digits, factor = text.strip(), 1
    if digits[-1:].upper() in _SUFFIXES:
        factor = _SUFFIXES[digits[-1:].upper()]
        digits = digits[:-1]
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 15:
        raise ValueError(f"{text!r} is no size; write bytes, or a number with K, M or G such as 32M")
    return int(digits) * factor


_SUFFIXES = {"K": KIB, "M": MIB, "G": 1024 * MIB}


def parse_trusted(text: str) -> tuple[Trusted, ...]:
    """
    Read who may speak for others.

    :param text: addresses, networks and the word ``unix``, separated by commas, e.g.
        ``"192.0.2.10,2001:db8::/64,unix"``; "" for nobody.
    :raises ValueError: with a sentence.
    """
    found: list[Trusted] = []
    for word in text.split(",") if text.strip() else ():
        word = word.strip()
        if word.lower() == "unix":
            found.append("unix")
            continue
        try:
            found.append(ipaddress.ip_network(word))
        except ValueError:
            raise ValueError(f"{word!r} is no {_meant(word)}") from None
    return tuple(found)


def _meant(word: str) -> str:
    try:
        network = ipaddress.ip_network(word, strict=False)
    except ValueError:
        return "address or network; write such as 192.0.2.10 or 2001:db8::/64, or the word unix for unix sockets"
    return f"network, since it has bits beyond its length; write {network}, or {word.partition('/')[0]} for one address"


def format_trusted(trusted: tuple[Trusted, ...]) -> str:
    """Write who may speak for others as :func:`parse_trusted` reads it."""
    return ",".join(map(_format_each, trusted))


def _format_each(trusted: Trusted) -> str:
    if not isinstance(trusted, str) and trusted.num_addresses == 1:
        return str(trusted.network_address)
    return str(trusted)


def format_size(size: int) -> str:
    """Write a size as :func:`parse_size` reads it, with the largest suffix that fits exactly."""
    for suffix in ("G", "M", "K"):
        if size and size % _SUFFIXES[suffix] == 0:
            return f"{size // _SUFFIXES[suffix]}{suffix}"
    return str(size)


#: Reads an option's text into the value of a field; raises ValueError with a sentence.
Coercer: TypeAlias = Callable[[str], object]
