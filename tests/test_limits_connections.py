"""
Tests of smtpsvc.server.admission: how many connections there may be, and whose.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.grammar import replies
from smtpsvc.proxied import ProxiedFactory
from smtpsvc.server.admission import Admission, client_of
from smtpsvc.service import MailService
from smtpsvc.settings import Role, parse_trusted
from smtpsvc.testing import ScriptedBackend, Wire, clocked_factory
from tests.support import settings_with


def v4(host: str) -> IPv4Address:
    """An address of a client."""
    return IPv4Address("TCP", host, 1025)


def v6(host: str) -> IPv6Address:
    """An address of a client."""
    return IPv6Address("TCP", host, 1025)


UNIX = UNIXAddress("")


class ClientTests(SynchronousTestCase):
    def test_names(self) -> None:
        """A client is an IPv4 address, however it is written, or the first 64 bits of an IPv6 address."""
        for address, name in (
            (v4("192.0.2.1"), "192.0.2.1"),
            (v6("::ffff:192.0.2.1"), "192.0.2.1"),
            (v6("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64"),
            (v6("2001:db8:1:2::"), "2001:db8:1:2::/64"),
            (v6("fe80::1%eth0"), "fe80::/64"),
            (v6("::1"), "::1"),
            (UNIX, "unix"),
            (None, None),
        ):
            with self.subTest(address=address):
                self.assertEqual(client_of(address), name)


class TotalTests(SynchronousTestCase):
    def test_one_too_many(self) -> None:
        """One connection more than connections is told 421 4.3.2 and closed, and no session is opened for it."""
        backend = ScriptedBackend()
        factory, _ = clocked_factory(backend, settings_with(connections=3, connections_per_client=0))
        wires = [Wire(factory) for _ in range(4)]
        self.assertEqual([wire.closed for wire in wires], [False, False, False, True])
        self.assertEqual(wires[3].replies, [replies.TOO_BUSY])
        self.assertEqual(backend.hooks, ["open_session"] * 3)

    def test_room_again(self) -> None:
        """When one leaves, another is let in."""
        factory, _ = clocked_factory(ScriptedBackend(), settings_with(connections=1))
        for _ in range(3):
            wire = Wire(factory)
            self.assertEqual(wire.codes, [220])
            wire.hang_up()
        self.assertEqual(factory.admission.open, 0)

    def test_off(self) -> None:
        """With 0 there is no limit."""
        factory, _ = clocked_factory(ScriptedBackend(), settings_with(connections=0, connections_per_client=0))
        self.assertEqual({Wire(factory).codes[0] for _ in range(1200)}, {220})

    def test_whoever_it_is(self) -> None:
        """It holds for this machine and for trusted proxies too: it is about memory."""
        settings = settings_with(connections=1, trusted_proxies=parse_trusted("192.0.2.1"))
        factory, _ = clocked_factory(ScriptedBackend(), settings)
        Wire(factory)
        for address in (v4("127.0.0.1"), UNIX, v4("192.0.2.1")):
            self.assertEqual(Wire(factory, address).codes, [421])

    def test_refused_is_silent(self) -> None:
        """What a refused client sends is not looked at, and its end changes no count."""
        factory, _ = clocked_factory(ScriptedBackend(), settings_with(connections=1))
        Wire(factory)
        refused = Wire(factory)
        refused.receive(b"EHLO x\r\n").hang_up()
        self.assertEqual((refused.codes, factory.admission.open), ([421], 1))

    def test_before_tls(self) -> None:
        """Where TLS comes first, it is closed without a word: nothing could be read without a handshake."""
        factory, _ = clocked_factory(
            ScriptedBackend(), settings_with(connections=1), tls=object(), implicit_tls=True
        )
        factory.admission.enter(None)
        wire = Wire(factory)
        self.assertEqual((wire.output, wire.closed), (b"", True))

    def test_one_count_for_all(self) -> None:
        """The factories of a service, one for each role, share the count."""
        service = MailService(
            ScriptedBackend(), settings_with(connections=2, connections_per_client=0), clock=Clock()
        )
        wires = [Wire(service.factory(role)) for role in (Role.SMTP, Role.LMTP, Role.SMTP)]
        self.assertEqual([wire.codes for wire in wires], [[220], [220], [421]])

    def test_preview(self) -> None:
        """A full service can still show what EHLO would answer."""
        factory, _ = clocked_factory(ScriptedBackend(), settings_with(connections=1))
        Wire(factory)
        self.assertTrue(factory.preview())


class EachTests(SynchronousTestCase):
    def answers(self, count: int, *addresses: Any, **fields: Any) -> list[list[int]]:
        """Connect *count* times from each address; give the codes that the last of each has."""
        factory, _ = clocked_factory(ScriptedBackend(), settings_with(**fields))
        return [[Wire(factory, address).codes for _ in range(count)][-1] for address in addresses]

    def test_one_too_many(self) -> None:
        """One more than connections_per_client is told 421 4.7.0; another client is let in."""
        factory, _ = clocked_factory(ScriptedBackend(), settings_with(connections_per_client=2))
        wires = [Wire(factory, v4("192.0.2.1")) for _ in range(3)]
        self.assertEqual((wires[2].replies, wires[2].closed), ([replies.TOO_MANY_CONNECTIONS], True))
        self.assertEqual(Wire(factory, v4("192.0.2.2")).codes, [220])
        wires[0].hang_up()
        self.assertEqual(Wire(factory, v4("192.0.2.1")).codes, [220])

    def test_default(self) -> None:
        """It is 50, and this machine's own clients may have more."""
        self.assertEqual(self.answers(50, v4("192.0.2.1")), [[220]])
        addresses = (v4("192.0.2.1"), v4("127.0.0.1"), v4("127.8.8.8"), v6("::1"), v6("::ffff:127.0.0.1"), UNIX)
        self.assertEqual(self.answers(51, *addresses), [[421], *[[220]] * 5])

    def test_given(self) -> None:
        """A number that is given counts everybody but trusted proxies."""
        fields: dict[str, Any] = {"connections_per_client": 50, "trusted_proxies": parse_trusted("192.0.2.9")}
        addresses = (v4("192.0.2.1"), v4("127.0.0.1"), v6("::1"), UNIX, v4("192.0.2.9"))
        self.assertEqual(self.answers(51, *addresses, **fields), [*[[421]] * 4, [220]])

    def test_off(self) -> None:
        """With 0 there is no limit."""
        self.assertEqual(self.answers(60, v4("192.0.2.1"), connections_per_client=0), [[220]])

    def test_networks(self) -> None:
        """An IPv6 client is a network of 64 bits."""
        addresses = [v6(f"2001:db8::{number:x}") for number in range(1, 5)]
        self.assertEqual(self.answers(1, *addresses, connections_per_client=3), [*[[220]] * 3, [421]])
        others = [v6(f"2001:db8:0:{number:x}::1") for number in range(1, 5)]
        self.assertEqual(self.answers(1, *others, connections_per_client=3), [[220]] * 4)

    def test_nothing_kept(self) -> None:
        """Clients that have gone leave nothing behind."""
        factory, _ = clocked_factory(ScriptedBackend(), settings_with())
        wires = [Wire(factory, v4(f"192.0.2.{number}")) for number in range(1, 200)]
        self.assertEqual(len(factory.admission._clients), 199)
        for wire in wires:
            wire.hang_up()
        self.assertEqual(factory.admission._clients, {})


class ProxyTests(SynchronousTestCase):
    FIELDS: dict[str, Any] = {"connections_per_client": 1, "trusted_proxies": parse_trusted("192.0.2.1")}

    def through(self, factory: ProxiedFactory, host: str) -> Wire:
        """Connect by a proxy that names a client."""
        header = f"PROXY TCP4 {host} 198.51.100.1 1025 25\r\n"
        return Wire(factory, v4("192.0.2.1")).receive(header.encode())

    def test_proxy_header(self) -> None:
        """Behind a PROXY header the client is counted, and the proxy is not."""
        core, _ = clocked_factory(ScriptedBackend(), settings_with(**self.FIELDS))
        factory = ProxiedFactory(core)
        wires = [self.through(factory, host) for host in ("203.0.113.1", "203.0.113.2", "203.0.113.1")]
        self.assertEqual([wire.codes for wire in wires], [[220], [220], [421]])
        for wire in wires:
            wire.hang_up()
        self.assertEqual((core.admission.open, core.admission._clients), (0, {}))

    def test_place_in_the_total(self) -> None:
        """A proxy that has not said its header has one of all the places, and its client takes that over."""
        core, _ = clocked_factory(ScriptedBackend(), settings_with(connections=1, **self.FIELDS))
        factory = ProxiedFactory(core)
        first = Wire(factory, v4("192.0.2.1"))
        self.assertEqual(Wire(factory, v4("192.0.2.1")).codes, [421])
        first.receive(b"PROXY TCP4 203.0.113.1 198.51.100.1 1025 25\r\n")
        self.assertEqual((first.codes, core.admission.open), ([220], 1))

    def test_xclient(self) -> None:
        """A client that XCLIENT names is counted; one too many is 421 4.7.0 to XCLIENT, and closed."""
        factory, _ = clocked_factory(ScriptedBackend(), settings_with(**self.FIELDS))
        wires = [Wire(factory, v4("192.0.2.1")).greeted().say("XCLIENT ADDR=203.0.113.1") for _ in range(2)]
        self.assertEqual([wire.codes for wire in wires], [[220], [421]])
        self.assertTrue(wires[1].closed)
        wires[0].say("XCLIENT ADDR=203.0.113.2")
        self.assertEqual(factory.admission._clients, {"203.0.113.2": 1})
        wires[0].hang_up()
        self.assertEqual((factory.admission.open, factory.admission._clients), (0, {}))


class LogTests(SynchronousTestCase):
    def test_once_a_minute(self) -> None:
        """The first refusal a minute is logged, with the client, how many there are, and the option."""
        lines: list[str] = []

        def observe(event: Any) -> None:
            if "option" in event:
                lines.append(event["log_format"].format(**event))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        clock = Clock()
        admission = Admission(settings_with(connections=5, connections_per_client=2), clock)
        admission.enter("192.0.2.1")
        admission.enter("192.0.2.1")
        for _ in range(10):
            self.assertIs(admission.refusal("192.0.2.1", None), replies.TOO_MANY_CONNECTIONS)
        clock.advance(61)
        admission.refusal("192.0.2.1", None)
        for _ in range(3):
            admission.enter(None)
        admission.refusal(None, v4("203.0.113.7"))
        self.assertEqual(
            lines,
            [
                "192.0.2.1 was refused: 2 connections are open, the limit of --max-connections-per-client",
                f"{lines[0]}; 9 others were refused since the last such line",
                "203.0.113.7 was refused: 5 connections are open, the limit of --max-connections",
            ],
        )


class StressTests(SynchronousTestCase):
    """Lines that say when the waits are shorter."""

    def setUp(self) -> None:
        self.lines: list[str] = []

        def observe(event: Any) -> None:
            if "part" in event:
                self.lines.append(event["log_format"].format(**event))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        settings = settings_with(connections=10, connections_per_client=0, stress_timeout=7)
        self.factory, self.clock = clocked_factory(ScriptedBackend(), settings)

    def connect(self, count: int) -> list[Wire]:
        """Let so many clients come."""
        return [Wire(self.factory) for _ in range(count)]

    BEGAN = (
        "8 connections are open, 80% of --max-connections 10 or more: clients have 7 s (--stress) for each command"
    )
    ENDED = "7 connections are open, less than 80% of --max-connections 10: clients have their usual time again"

    def test_told(self) -> None:
        """The connection with which stress begins is told, and the one with which it ends."""
        wires = self.connect(7)
        self.assertEqual(self.lines, [])
        wires += self.connect(3)
        self.assertEqual(self.lines, [self.BEGAN])
        for wire in wires[:2]:
            wire.hang_up()
        self.assertEqual(self.lines, [self.BEGAN])
        for wire in wires[2:]:
            wire.hang_up()
        self.assertEqual(self.lines, [self.BEGAN, self.ENDED])

    def test_bounded(self) -> None:
        """However often it comes and goes, two lines a minute are logged; stress that stays is told when it may be."""
        wires = self.connect(7)
        for _ in range(20):
            for wire in self.connect(1):
                wire.hang_up()
        self.assertEqual(self.lines, [self.BEGAN, self.ENDED])
        wires += self.connect(1)
        self.clock.advance(61)
        wires += self.connect(1)
        self.assertEqual(self.lines, [self.BEGAN, self.ENDED, self.BEGAN.replace("8", "9", 1)])

    def test_off(self) -> None:
        """Without a limit, or without --stress, there is none."""
        for limits in ({"connections": 0}, {"connections": 10, "stress_timeout": 0}):
            with self.subTest(limits):
                factory, _ = clocked_factory(ScriptedBackend(), settings_with(connections_per_client=0, **limits))
                wires = [Wire(factory) for _ in range(12)]
                for wire in wires:
                    wire.hang_up()
                self.assertEqual(self.lines, [])
