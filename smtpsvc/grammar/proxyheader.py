"""
The PROXY protocol's header, versions 1 and 2 (HAProxy's ``doc/proxy-protocol.txt``).

A proxy sends it in front of everything else, to say for whom it speaks. Section numbers here are
those of that document.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Final, NamedTuple, TypeAlias

from smtpsvc.grammar.addresses import SyntaxProblem
from smtpsvc.grammar.shown import shown

__all__ = ["MAX_LINE", "MAX_PAYLOAD", "HeaderTLS", "ProxyHeader", "ProxyHeaderReader", "SocketAddress", "crc32c"]

IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

#: Longest line of version 1 with its CRLF (§2.1).
MAX_LINE: Final = 107
#: Most octets that are taken behind the fixed part of version 2; real ones have some hundred.
MAX_PAYLOAD: Final = 4096

_SIGNATURE_1 = b"PROXY "
_SIGNATURE_2 = b"\r\n\r\n\0\r\nQUIT\n"
_FIXED = 16  # signature, version and command, family and protocol, length

_LOCAL, _PROXY = 0, 1
_INET, _INET6, _UNIX = 1, 2, 3
_STREAM, _DGRAM = 1, 2
# Octets of an address, and of the block of both addresses and ports.
_SIZES = {_INET: (4, 12), _INET6: (16, 36), _UNIX: (108, 216)}

_ALPN, _AUTHORITY, _CRC32C, _UNIQUE_ID, _SSL, _NETNS = 0x01, 0x02, 0x03, 0x05, 0x20, 0x30
_SSL_VERSION, _SSL_CN, _SSL_CIPHER, _SSL_SIG_ALG, _SSL_KEY_ALG = 0x21, 0x22, 0x23, 0x24, 0x25
_ONCE = frozenset({_ALPN, _AUTHORITY, _CRC32C, _UNIQUE_ID, _SSL, _NETNS})
_ONCE_IN_SSL = frozenset({_SSL_VERSION, _SSL_CN, _SSL_CIPHER, _SSL_SIG_ALG, _SSL_KEY_ALG})
_CLIENT_SSL, _CLIENT_CERTIFICATE = 0x01, 0x02 | 0x04
_MAX_UNIQUE_ID = 128

_PORT = re.compile(r"0|[1-9][0-9]{0,4}", re.ASCII)
_TRUNCATED = "a TLV of the PROXY header does not fit in"


class SocketAddress(NamedTuple):
    """An IP address and a TCP port. An IPv4 address mapped into IPv6 is given as IPv4."""

    ip: IPAddress
    port: int


@dataclass(frozen=True, slots=True)
class HeaderTLS:
    """What a header says of the TLS that ended at the proxy (§2.2.6)."""

    version: str = ""
    cipher: str = ""
    #: Of the client's certificate; "" for none.
    common_name: str = ""
    #: True if the client showed a certificate and the proxy found it good.
    verified: bool = False
    #: How the proxy's own certificate is signed, and its key, e.g. ``RSA-SHA256``, ``RSA2048``.
    signature_algorithm: str = ""
    key_algorithm: str = ""


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """What a header says. Text that is not UTF-8 has its octets escaped as ``\\xNN``."""

    #: 1 or 2.
    version: int
    #: The connection is the proxy's own, a health check mostly; there is no client behind it.
    local: bool = False
    #: The client; None if it is not known or has no IP address: then only the proxy's is known.
    source: SocketAddress | None = None
    #: Where the client connected to; None if *source* is.
    destination: SocketAddress | None = None
    #: The TLS between client and proxy; None for none.
    tls: HeaderTLS | None = None
    #: The protocol negotiated by ALPN; "" for none.
    alpn: str = ""
    #: The host name that the client asked for, by SNI mostly; "" for none.
    authority: str = ""
    #: What the proxy calls this connection; empty for nothing.
    unique_id: bytes = b""
    #: The name space of the proxy's network; "" for none.
    namespace: str = ""
    #: All TLVs of version 2 as they came: types and values.
    tlvs: tuple[tuple[int, bytes], ...] = field(default=(), repr=False)


class ProxyHeaderReader:
    """
    Read a header from bytes that come in any pieces.

    What cannot become a header any more is refused at once, not when it is whole.
    """

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> tuple[ProxyHeader | None, bytes]:
        """
        Take the next bytes from the wire.

        :param data: any number of bytes, split anywhere.
        :returns: ``(header, rest)``: None and nothing until the header is whole, then it and the
            bytes after it.
        :raises SyntaxProblem: with a sentence that repeats none of the bytes.
        """
        self._buffer = buffer = self._buffer + data
        text = _SIGNATURE_1.startswith(buffer[: len(_SIGNATURE_1)])
        if not text and not _SIGNATURE_2.startswith(buffer[: len(_SIGNATURE_2)]):
            raise SyntaxProblem("no PROXY header, which is needed here")
        end = _line_end(buffer) if text else _block_end(buffer)
        if end is None or len(buffer) < end:
            return None, b""
        self._buffer = b""
        return _parse_line(buffer[:end]) if text else _parse_block(buffer[:end]), buffer[end:]


def crc32c(data: bytes) -> int:
    """Give the CRC32C checksum (RFC 9260, Appendix A) of *data*."""
    table = _crc32c_table()
    crc = 0xFFFFFFFF
    for octet in data:
        crc = table[(crc ^ octet) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


@cache
def _crc32c_table() -> tuple[int, ...]:
    table = []
    for octet in range(256):
        for _ in range(8):
            octet = octet >> 1 ^ (0x82F63B78 if octet & 1 else 0)
        table.append(octet)
    return tuple(table)


# Version 1.


def _line_end(buffer: bytes) -> int | None:
    """
    Find the end of a version 1 header.

    :returns: the offset behind its CRLF, or None while that has not come.
    """
    head = buffer[:MAX_LINE]
    line, crlf, _ = head.partition(b"\r\n")
    if not crlf:
        if len(head) == MAX_LINE:
            raise SyntaxProblem(f"a PROXY line of more than {MAX_LINE} octets")
        line = line.removesuffix(b"\r")
    if line.translate(None, b"\r\n") != line:
        raise SyntaxProblem("a bare CR or LF in a PROXY line")
    return len(line) + 2 if crlf else None


def _parse_line(line: bytes) -> ProxyHeader:
    """Parse a version 1 header (§2.1), CRLF included."""
    words = line[len(_SIGNATURE_1) : -2].split(b" ")
    if words[0] == b"UNKNOWN":
        # The rest of the line, if there is any, must be ignored.
        return ProxyHeader(1)
    try:
        family, *texts = (word.decode("ascii") for word in words)
        kind = _FAMILIES[family]
        source, destination, source_port, destination_port = texts
        return ProxyHeader(
            1,
            source=SocketAddress(_parse_ip(kind, source), _parse_port(source_port)),
            destination=SocketAddress(_parse_ip(kind, destination), _parse_port(destination_port)),
        )
    except (KeyError, ValueError):
        raise SyntaxProblem("a PROXY line is not TCP4 or TCP6, two addresses of that kind and two ports") from None


_FAMILIES: Final[dict[str, type[IPAddress]]] = {"TCP4": ipaddress.IPv4Address, "TCP6": ipaddress.IPv6Address}


def _parse_ip(kind: type[IPAddress], text: str) -> IPAddress:
    if "%" in text:
        raise ValueError("a scope has no meaning to others")
    return _unmapped(kind(text))


def _unmapped(address: IPAddress) -> IPAddress:
    # A proxy that listens on one socket for both gives IPv4 clients so.
    return (address.version == 6 and address.ipv4_mapped) or address


def _parse_port(text: str) -> int:
    if not _PORT.fullmatch(text) or int(text) > 65535:
        raise ValueError("no port")
    return int(text)


# Version 2.


def _block_end(buffer: bytes) -> int | None:
    """
    Find the end of a version 2 header, and check its fixed part as far as that has come (§2.2).

    :returns: the offset behind it, or None while that is not known.
    """
    if len(buffer) > 12 and (buffer[12] >> 4 != 2 or buffer[12] & 0xF not in (_LOCAL, _PROXY)):
        raise SyntaxProblem("a PROXY header with another version than 2, or with an unknown command")
    if len(buffer) > 13 and buffer[12] & 0xF == _PROXY and (buffer[13] >> 4 > _UNIX or buffer[13] & 0xF > _DGRAM):
        raise SyntaxProblem("a PROXY header with an unknown address family or protocol")
    if len(buffer) < _FIXED:
        return None
    size = int.from_bytes(buffer[14:16], "big")
    if size > MAX_PAYLOAD:
        raise SyntaxProblem(f"a PROXY header of more than {MAX_PAYLOAD} octets")
    return _FIXED + size


def _parse_block(block: bytes) -> ProxyHeader:
    """Parse a version 2 header (§2.2)."""
    if block[12] & 0xF == _LOCAL:
        # The family and what follows are to be ignored, whatever they are.
        return ProxyHeader(2, local=True)
    family, protocol = block[13] >> 4, block[13] & 0xF
    if family not in _SIZES or protocol not in (_STREAM, _DGRAM):
        return ProxyHeader(2)
    size, both = _SIZES[family]
    if len(block) < _FIXED + both:
        raise SyntaxProblem("a PROXY header is too short for its addresses")
    source = destination = None
    if family != _UNIX and protocol == _STREAM:
        first, second = _FIXED, _FIXED + size
        ports = second + size
        source = _socket_address(block[first:second], block[ports : ports + 2])
        destination = _socket_address(block[second:ports], block[ports + 2 : ports + 4])
    return _with_tlvs(ProxyHeader(2, source=source, destination=destination), block, _FIXED + both)


def _socket_address(address: bytes, port: bytes) -> SocketAddress:
    kind = ipaddress.IPv4Address if len(address) == 4 else ipaddress.IPv6Address
    return SocketAddress(_unmapped(kind(address)), int.from_bytes(port, "big"))


def _with_tlvs(header: ProxyHeader, block: bytes, start: int) -> ProxyHeader:
    """Read the TLVs from *start* on, check the checksum if there is one, and add what they say."""
    tlvs = []
    values: dict[int, bytes] = {}
    for kind, value, offset in _tlvs(block, start):
        if kind in _ONCE and kind in values:
            raise SyntaxProblem("a TLV of the PROXY header is there twice")
        if kind == _CRC32C:
            _check_crc(block, value, offset)
        tlvs.append((kind, value))
        values[kind] = value
    if not tlvs:
        return header
    if len(values.get(_UNIQUE_ID, b"")) > _MAX_UNIQUE_ID:
        raise SyntaxProblem(f"a unique id of more than {_MAX_UNIQUE_ID} octets in a PROXY header")
    return replace(
        header,
        tls=_parse_tls(values[_SSL]) if _SSL in values else None,
        alpn=shown(values.get(_ALPN, b"")),
        authority=shown(values.get(_AUTHORITY, b"")),
        unique_id=values.get(_UNIQUE_ID, b""),
        namespace=shown(values.get(_NETNS, b"")),
        tlvs=tuple(tlvs),
    )


def _tlvs(block: bytes, start: int) -> Iterator[tuple[int, bytes, int]]:
    """Go through TLVs: type, value and the value's offset."""
    while start < len(block):
        value = start + 3
        end = value + int.from_bytes(block[start + 1 : value], "big")
        if value > len(block) or end > len(block):
            raise SyntaxProblem(_TRUNCATED)
        yield block[start], block[value:end], value
        start = end


def _check_crc(block: bytes, value: bytes, offset: int) -> None:
    """Check the checksum, which was made with zeros in its own place (§2.2.3)."""
    zeroed = block[:offset] + bytes(4) + block[offset + 4 :]
    if len(value) != 4 or crc32c(zeroed) != int.from_bytes(value, "big"):
        raise SyntaxProblem("the checksum of a PROXY header does not fit")


def _parse_tls(value: bytes) -> HeaderTLS | None:
    """Parse the SSL TLV (§2.2.6); None if the client did not use TLS."""
    if len(value) < 5:
        raise SyntaxProblem(_TRUNCATED)
    client, verify = value[0], int.from_bytes(value[1:5], "big")
    values: dict[int, bytes] = {}
    for kind, sub_value, _ in _tlvs(value, 5):
        if kind in _ONCE_IN_SSL and kind in values:
            raise SyntaxProblem("a TLV of the PROXY header is there twice")
        values[kind] = sub_value
    if not client & _CLIENT_SSL:
        return None
    return HeaderTLS(
        version=shown(values.get(_SSL_VERSION, b"")),
        cipher=shown(values.get(_SSL_CIPHER, b"")),
        common_name=shown(values.get(_SSL_CN, b"")),
        # HAProxy also sends 0 for a client that showed no certificate.
        verified=verify == 0 and bool(client & _CLIENT_CERTIFICATE),
        signature_algorithm=shown(values.get(_SSL_SIG_ALG, b"")),
        key_algorithm=shown(values.get(_SSL_KEY_ALG, b"")),
    )
