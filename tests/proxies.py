"""
Headers of the PROXY protocol, for tests.
"""

from __future__ import annotations

import ipaddress
import struct

__all__ = ["INET", "INET6", "SIGNATURE", "TCP4", "block", "tls_tlv", "tlv"]

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"

#: A client 192.0.2.7 and a server 198.51.100.1, as a header of version 1.
TCP4 = b"PROXY TCP4 192.0.2.7 198.51.100.1 50123 25\r\n"

_PORTS = struct.pack("!HH", 50123, 25)

#: The same two as addresses of version 2.
INET = bytes([192, 0, 2, 7, 198, 51, 100, 1]) + _PORTS

#: 2001:db8::7 and 2001:db8::1.
INET6 = b"".join(ipaddress.IPv6Address(text).packed for text in ("2001:db8::7", "2001:db8::1")) + _PORTS


def block(payload: bytes = b"", *, command: int = 0x21, family: int = 0x11, size: int | None = None) -> bytes:
    """Make a header of version 2."""
    return SIGNATURE + struct.pack("!BBH", command, family, len(payload) if size is None else size) + payload


def tlv(kind: int, value: bytes) -> bytes:
    """Make a TLV."""
    return struct.pack("!BH", kind, len(value)) + value


def tls_tlv(client: int = 0x01, verify: int = 0, subs: bytes = b"") -> bytes:
    """
    Make the SSL TLV.

    :param client: its flags: 1 for TLS, 2 for a certificate, 4 for one in the session.
    :param verify: 0 for a good certificate.
    :param subs: the TLVs in it.
    """
    return tlv(0x20, struct.pack("!BI", client, verify) + subs)
