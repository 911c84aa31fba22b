"""
Tests of smtpsvc.transport: both sides do anything at any time, and what holds always holds still.
"""

from __future__ import annotations

import os
import random
from typing import Any

from tests.transports import Client, Direct, Served, TransportTestCase, reactor, turns

SCENES = 150
SIZES = (0, 1, 10, 1_000, 70_000, 300_000)
#: What a server does, and how often of 100.
SERVER = {
    "write": 40,
    "pauseProducing": 12,
    "resumeProducing": 20,
    "later": 14,
    "loseConnection": 4,
    "loseWriteConnection": 3,
    "abortConnection": 1,
    "raise": 1,
    "register": 5,
    "unregisterProducer": 6,
}
CLIENT = {"say": 50, "take": 35, "end": 3, "reset": 2, "close": 1, "wait": 15}


class Oops(Exception):
    """A mistake in a protocol."""


class Scene:
    """
    A connection whose sides do what chance says.

    :ivar written: all that the server has written.
    :ivar said: all that the client has sent.
    :ivar taken: all that the client has received.
    """

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.written, self.said, self.taken = bytearray(), bytearray(), bytearray()
        self.calm = False

    def pick(self, weights: dict[str, int]) -> str:
        """Pick one by weight."""
        return self.chance.choices(list(weights), list(weights.values()))[0]

    def block(self, before: bytearray) -> bytes:
        """Make data that tells its place in a stream."""
        size = self.chance.choice(SIZES)
        return (b"%d," % len(before) * (size // 2 + 1))[:size]

    def act(self, served: Served) -> None:
        """Let the server do something; it is each of its callbacks, too."""
        for _ in range(self.chance.randrange(4)):
            if self.calm:
                return
            name = self.pick(SERVER)
            if name == "write":
                data = self.block(self.written)
                self.written += data
                served.write(data)
            elif name == "later":
                reactor.callLater(0, self.act, served)
            elif name == "register":
                if served.transport.producer is None:
                    served.do("registerProducer", self, True)
            elif name == "raise":
                if served._going_on:
                    raise Oops
            else:
                served.do(name)

    # As a producer.

    def pauseProducing(self) -> None:
        """Do nothing."""

    def resumeProducing(self) -> None:
        """Do nothing."""

    def stopProducing(self) -> None:
        """Do nothing."""

    async def play(self, client: Client) -> None:
        """Let the client do something."""
        name = self.pick(CLIENT)
        try:
            if name == "say":
                data = self.block(self.said)
                sent = client.socket.send(data) if data else 0
                self.said += data[:sent]
            elif name == "take":
                self.taken += client.socket.recv(self.chance.choice(SIZES[1:]))
            elif name == "wait":
                await turns(self.chance.randrange(3))
            else:
                getattr(client, name)()
        except OSError:
            # Full, empty, closed or gone.
            pass


class RandomTests(Direct, TransportTestCase):
    async def check(self, seed: int) -> None:
        """Play a scene to its end."""
        chance = random.Random(seed)
        scenes = [Scene(chance) for _ in range(3)]
        half = chance.random() < 0.7

        def whose(served: Served) -> Any:
            return scenes[self.served.index(served) - first].act(served)

        events = dict.fromkeys(("made", "data", "lost", "read_lost", "write_lost"), whose)
        first = len(self.served)
        port = self.open(half=half, **events)
        pairs = [(await self.meet(port, room=chance.choice((0, 4096)))) for _ in scenes]
        for _ in range(chance.randrange(60)):
            number = chance.randrange(len(scenes))
            await scenes[number].play(pairs[number][1])
        for scene, (served, client) in zip(scenes, pairs, strict=True):
            scene.calm = True
            await turns(2)
            try:
                while piece := client.socket.recv(1 << 20):
                    scene.taken += piece
            except OSError:
                # Nothing more has come.
                pass
            self.assertTrue(scene.written.startswith(scene.taken), "not what was written")
            self.assertTrue(scene.said.startswith(served.received), "not what was sent")
            client.close()
        await turns(2)
        for served, _ in pairs:
            if not served.lost:
                served.do("abortConnection")
            await self.lost(served)
        await port.stopListening()
        self.ports.remove(port)

    async def test_anything(self) -> None:
        """Whatever they do, octets stay whole and in order, and each connection is lost once, from inside no call."""
        start = 0 if os.environ.get("CI") else random.randrange(1 << 32)
        for seed in range(start, start + SCENES):
            with self.subTest(seed=seed):
                await self.check(seed)
                for failure in self.flushLoggedErrors(Oops):
                    self.assertIsInstance(failure.value, Oops)
                errors = self.flushLoggedErrors()
                self.assertEqual([failure.getTraceback() for failure in errors], [])
                for served in self.served:
                    self.assertEqual((len(served.reasons), served.inside), (1, []), served.events)
