"""
Headers of the PROXY protocol, and clients that give XCLIENT, for tests.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.logger import LogEvent, LogLevel, globalLogPublisher

from smtpsvc.proxied import ProxiedFactory
from smtpsvc.settings import parse_trusted
from smtpsvc.testing import ScriptedBackend, Wire, clocked_factory
from smtpsvc.values import Peer
from tests.support import HOST, DialogueTestCase, settings_with

__all__ = [
    "CLIENT",
    "GREETING",
    "INET",
    "INET6",
    "PROXY",
    "SIGNATURE",
    "STRANGER",
    "TCP4",
    "ProxiedTestCase",
    "XClientTestCase",
    "block",
    "tls_tlv",
    "tlv",
]

PROXY = IPv4Address("TCP", "203.0.113.5", 40000)
STRANGER = IPv4Address("TCP", "192.0.2.9", 40000)
CLIENT = IPv4Address("TCP", "192.0.2.7", 50123)
GREETING = f"220 {HOST} ESMTP smtpsvc\r\n".encode()

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


class XClientTestCase(DialogueTestCase):
    """A server that trusts 203.0.113.0/24."""

    def setUp(self) -> None:
        self.make()

    def make(self, backend: Any = None, trusted: str = "203.0.113.0/24", **options: Any) -> None:
        """Make the factory; *options* are fields of the settings, or the factory's."""
        self.backend = backend or ScriptedBackend()
        more = {name: options.pop(name) for name in ("monitors", "role") if name in options}
        self.factory, self.clock = clocked_factory(
            self.backend, settings_with(trusted_proxies=parse_trusted(trusted), **options), **more
        )

    def connect(self, address: Any = PROXY, hello: str = "EHLO proxy.example") -> Wire:
        """A proxy connects and greets."""
        return Wire(self.factory, address).say(hello).forget()

    @property
    def peer(self) -> Peer:
        """The client of the last session."""
        return self.backend.sessions[-1].peer

    def said(self, *attributes: str) -> Peer:
        """Give XCLIENT with *attributes*, which is taken."""
        wire = self.connect().say(f"XCLIENT {' '.join(attributes)}")
        self.assertEqual(wire.output, GREETING)
        return self.peer


class ProxiedTestCase(DialogueTestCase):
    """A listener that trusts 203.0.113.0/24."""

    def setUp(self) -> None:
        self.events: list[LogEvent] = []
        globalLogPublisher.addObserver(self.events.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.events.append)
        self.make()

    def make(self, trusted: str = "203.0.113.0/24", *, backend: Any = None, **options: Any) -> None:
        """Make the factories; *options* are fields of the settings, or the factory's."""
        self.backend = backend or ScriptedBackend()
        more = {name: options.pop(name) for name in ("monitors",) if name in options}
        settings = settings_with(trusted_proxies=parse_trusted(trusted), **options)
        self.core, self.clock = clocked_factory(self.backend, settings, **more)
        self.factory = ProxiedFactory(self.core)

    def connect(self, address: Any = PROXY) -> Wire:
        """A proxy connects."""
        return Wire(self.factory, address)

    @property
    def logged(self) -> list[str]:
        """What was logged about connections."""
        return [
            event["log_format"].format(**event)
            for event in self.events
            if event.get("log_namespace") == "smtpsvc" and event["log_level"] >= LogLevel.info
        ]

    @property
    def peer(self) -> Peer:
        """The client of the last session."""
        return self.backend.sessions[-1].peer
