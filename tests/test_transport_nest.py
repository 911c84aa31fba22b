"""
Tests of smtpsvc.nest: all connections in one epoll, and what the reactor sees of it.
"""

from __future__ import annotations

import errno
import select
import socket
from typing import Any

from twisted.internet.error import ConnectionAborted, ConnectionLost
from twisted.python.failure import Failure

from smtpsvc.transport import DirectServer
from tests.transports import (
    LOOPBACK,
    MUCH,
    Direct,
    Served,
    TransportTestCase,
    answer,
    counted,
    nests,
    reactor,
    turns,
    until,
)


class FullEpoll:
    """An epoll that has as many descriptors as its user may watch."""

    def __init__(self, epoll: select.epoll) -> None:
        self._epoll = epoll

    def register(self, descriptor: int, mask: int) -> None:
        """Refuse."""
        raise OSError(errno.ENOSPC, "No space left on device")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._epoll, name)


class ReactorTests(Direct, TransportTestCase):
    """What the reactor has of it."""

    async def test_comes_and_goes(self) -> None:
        """It comes with the first port, and goes with the last port or connection, whichever is last."""
        for port_first in (False, True):
            with self.subTest(port_first=port_first):
                self.assertEqual(nests(), [])
                first, second = self.open(), self.open()
                self.assertEqual(len(nests()), 1)
                served, client = await self.meet(first)
                await second.stopListening()
                if port_first:
                    await first.stopListening()
                    self.assertEqual(len(nests()), 1)
                client.close()
                await self.lost(served)
                if not port_first:
                    self.assertEqual(len(nests()), 1)
                    await first.stopListening()
                self.assertEqual(nests(), [])

    async def test_only_reader(self) -> None:
        """Ports and it are all that the reactor watches, also while connections wait to be written to."""
        await turns(1)
        before, calls = {*reactor.getReaders()}, {*reactor.getDelayedCalls()}
        first, second = self.open(), self.open()
        for port in (first, second):
            for paused in (False, True):
                served, client = await self.meet(port)
                if paused:
                    served.do("pauseProducing")
                served.write(MUCH)
                client.say(b"go")
        self.assertEqual({*reactor.getReaders()} - before, {first, second, *nests()})
        self.assertEqual((len(nests()), reactor.getWriters()), (1, []))
        self.assertEqual({*reactor.getDelayedCalls()} - calls, set())

    async def test_repr(self) -> None:
        """It names its ports and connections, for those who find it left behind."""
        port = self.open()
        await self.meet(port)
        shown = repr(nests()[0])
        self.assertIn("Served #0 from 127.0.0.1", shown)
        self.assertIn(f"on {port.getHost().port}", shown)
        self.assertEqual(nests()[0].logPrefix(), "smtpsvc")

    async def test_disconnected(self) -> None:
        """When the reactor drops it, all connections are lost, whatever they wait for; the port finds a new one."""
        port = self.open(data=answer, lost=lambda served: 1 / 0)
        for name, much in (("", b""), ("pauseProducing", b""), ("", MUCH), ("pauseProducing", MUCH)):
            served, _ = await self.meet(port)
            served.write(much)
            if name:
                served.do(name)
        (nest,) = nests()
        # As reactor.disconnectAll does.
        reactor.removeReader(nest)
        nest.connectionLost(Failure(ConnectionLost()))
        self.assertEqual([type(served.reasons[0].value) for served in self.served], [ConnectionLost] * 4)
        self.assertEqual((nest.fileno(), nests()), (-1, []))
        _, client = await self.meet(port)
        client.say(b"go")
        self.assertEqual(await client.receive(3), b"you")
        client.close()
        await self.lost(self.served[-1])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 5)

    async def test_dropped(self) -> None:
        """When it is taken out without a word, as by trial behind a test, the next port is served all the same."""
        served, _ = await self.connect(data=answer)
        reactor.removeReader(nests()[0])
        _, client = await self.connect(data=answer)
        client.say(b"go")
        self.assertEqual(await client.receive(3), b"you")
        served.do("pauseProducing")
        served.do("resumeProducing")

    async def test_full(self) -> None:
        """A connection that cannot be watched is closed, and nothing of it is left."""
        port = self.open(data=answer)
        (nest,) = nests()
        with_room = nest._epoll
        self.patch(nest, "_epoll", FullEpoll(with_room))
        client = self.dial(port)
        self.assertEqual(await client.rest(), b"")
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
        self.assertEqual([served.events for served in self.served], [[]])
        self.served.clear()
        nest._epoll = with_room
        _, client = await self.meet(port)
        client.say(b"go")
        self.assertEqual(await client.receive(3), b"you")


class EventTests(Direct, TransportTestCase):
    """Whose events are dealt with, how many, and how often."""

    async def test_share(self) -> None:
        """64 are dealt with in a turn, so that other readers have theirs; the rest in the next."""
        port = self.open()
        clients = [(await self.meet(port))[1] for _ in range(100)]
        for client in clients:
            client.say(b"go")
        (nest,) = nests()
        reads = []
        for _ in range(3):
            nest.doRead()
            reads.append(sum(served.reads for served in self.served))
        self.assertEqual(reads, [64, 100, 100])

    async def test_much(self) -> None:
        """Of a client that sends much four reads are taken in a turn, and none that the protocol does not want."""
        for pauses, wanted in ((False, 4), (True, 1)):
            with self.subTest(pauses=pauses):
                script = {"data": lambda served: served.transport.pauseProducing()} if pauses else {}
                served, client = await self.connect(**script)
                served.transport._read_size = 1024
                client.say(bytes(16 * 1024))
                nests()[0].doRead()
                self.assertEqual(served.reads, wanted)

    async def test_much_to_say(self) -> None:
        """What there is to say to a client that sends much is said before it is read again."""
        served, client = await self.connect(data=answer)
        served.transport._read_size = 1024
        client.say(bytes(16 * 1024))
        nests()[0].doRead()
        self.assertEqual(served.reads, 1)

    async def test_descriptors(self) -> None:
        """One goes to the connection that it was seen for, not to one that has its descriptor since."""
        listening = socket.create_server((LOOPBACK, 0))
        self.addCleanup(listening.close)
        early = socket.create_connection(listening.getsockname())
        self.addCleanup(early.close)
        early.send(b"early")
        heir = Served({})

        def replace(served: Served) -> None:
            (other,) = (other for other in (first, second) if other is not served)
            descriptor = other.transport.fileno()
            other.transport.connectionLost(Failure(ConnectionAborted()))
            sock, address = listening.accept()
            self.assertEqual(sock.fileno(), descriptor)
            heir.makeConnection(DirectServer(sock, heir, address, None, 0, reactor))

        port = self.open(data=replace)
        (first, one), (second, two) = await self.meet(port), await self.meet(port)
        one.say(b"go")
        two.say(b"go")
        nests()[0].doRead()
        self.served.append(heir)
        self.assertEqual((heir.events, heir.received), (["made"], b""))
        self.assertEqual(sorted([first.reads, second.reads]), [0, 1])
        await until(lambda: heir.received == b"early", "it has events of its own")

    async def test_sent_together(self) -> None:
        """What is written while data is delivered is sent when the others of the turn have had theirs."""
        waiting = []

        def data(served: Served) -> None:
            waiting.append(sum(bool(other.transport._tempDataLen) for other in self.served))
            served.write(b"you")

        port = self.open(data=data)
        clients = [(await self.meet(port))[1] for _ in range(3)]
        for client in clients:
            client.say(b"go")
        nests()[0].doRead()
        self.assertEqual(waiting, [0, 1, 2])
        self.assertEqual([await client.receive(3) for client in clients], [b"you"] * 3)

    async def test_no_spin(self) -> None:
        """A client that is gone makes no event for a connection that waits for nothing."""
        port = self.open(half=True)
        idle, _ = await self.meet(port)
        paused, client = await self.meet(port)
        paused.do("pauseProducing")
        ended, other = await self.meet(port)
        other.end()
        await until(lambda: "read_lost" in ended.events, "the end is told")
        calls = counted(self, nests()[0])
        client.reset()
        other.reset()
        await turns(50)
        self.assertLess(calls[0], 3)
        self.assertFalse(idle.lost or paused.lost or ended.lost)

    async def test_asked_little(self) -> None:
        """Nor is it asked while clients are silent, or do not read what is sent."""
        port = self.open()
        served, _ = await self.meet(port)
        await self.meet(port)
        served.write(MUCH)
        await turns(20)
        calls = counted(self, nests()[0])
        await turns(50)
        self.assertEqual(calls[0], 0)
