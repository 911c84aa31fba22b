"""
Tests of smtpsvc.direct: which transport a listener has.
"""

from __future__ import annotations

import os
from typing import Any

from twisted.internet import tcp, unix
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from smtpsvc.direct import DIRECT, STOCK, DirectReactor, listening_reactor
from smtpsvc.listeners import PortGroup, parse_listener
from smtpsvc.transport import DirectPort
from tests.transports import reactor


class ListenerTests(TestCase):
    """Listeners as the options describe them."""

    async def listen(self, description: str, transport: str) -> IListeningPort:
        """Open a listener until the test ends."""
        listener = parse_listener(description, listening_reactor(reactor, transport))
        port = await listener.listen(Factory.forProtocol(Protocol))
        self.addCleanup(port.stopListening)
        return port

    async def test_direct(self) -> None:
        """TCP of every description has our transport."""
        for description in ("tcp:0:interface=127.0.0.1", "tcp6:0:interface=\\:\\:1", "tcp:port=0:interface=127.0.0.1"):
            with self.subTest(description=description):
                self.assertIsInstance(await self.listen(description, DIRECT), DirectPort)

    async def test_number(self) -> None:
        """A bare number has it on both addresses."""
        group: Any = await self.listen("0", DIRECT)
        self.assertIsInstance(group, PortGroup)
        for port in group.ports:
            self.assertIsInstance(port, DirectPort)

    async def test_stock(self) -> None:
        """With the stock transport the ports are Twisted's."""
        self.assertIs(type(await self.listen("tcp:0:interface=127.0.0.1", STOCK)), tcp.Port)

    async def test_unix(self) -> None:
        """A unix socket is Twisted's in any case."""
        path = os.path.join(os.path.relpath(self.mktemp()))
        self.assertIs(type(await self.listen(f"unix:{path}", DIRECT)), unix.Port)


class ChoiceTests(TestCase):
    def test_elsewhere(self) -> None:
        """A reactor that watches no descriptors keeps its own transport."""
        clock = Clock()
        self.assertIs(listening_reactor(clock), clock)

    def test_rest(self) -> None:
        """All but the TCP ports is the reactor's own."""
        direct = DirectReactor(reactor)
        self.assertEqual(direct.callLater, reactor.callLater)
        self.assertEqual(direct.listenUNIX, reactor.listenUNIX)

    def test_unknown(self) -> None:
        """A transport of another name is refused with the names there are."""
        with self.assertRaisesRegex(ValueError, "'fast' is neither direct nor stock"):
            listening_reactor(reactor, "fast")
