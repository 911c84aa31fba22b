"""
Tests of what a power cut leaves: whatever was answered 250 is in new/, whole and once.

Messages come by DATA, BDAT and LMTP, side by side, into a Maildir with its real threads; each file
operation is recorded. Then the power is cut behind each of them, in the model of
:mod:`tests.powercut`.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import SynchronousTestCase, TestCase

from smtpsvc.backends.commit import make_maildir
from smtpsvc.backends.maildir import SPOOL_AT, MaildirBackend
from smtpsvc.server.factory import SMTPFactory
from smtpsvc.settings import Role
from smtpsvc.testing import Wire, WireTransport
from tests.killing import MARK, account
from tests.powercut import Chance, Operation, Recorder, order_faults, survivors
from tests.support import settings_with

#: Clients of each kind, and the messages that each sends one after the other.
CLIENTS, MESSAGES = 5, 3


class HeardTransport(WireTransport):
    """Tells each write."""

    heard: Any = None

    def write(self, data: bytes) -> None:
        super().write(data)
        if self.heard is not None:
            self.heard(data)


class HeardWire(Wire):
    make_transport = HeardTransport


class Recording:
    """
    What clients sent to a Maildir, and what its recorder saw.

    :ivar sent: the digest of each message by its name.
    :ivar names: of messages by their ids.
    """

    def __init__(self, directory: str, recorder: Recorder) -> None:
        self.new = str(Path(directory) / "new")
        self.recorder = recorder
        self.sent: dict[str, bytes] = {}
        self.names: dict[str, str] = {}
        self._backend = MaildirBackend(directory, reactor, system=recorder)
        settings = settings_with(hook_timeout=600)
        self._factories = [SMTPFactory(self._backend, settings, role=role) for role in (Role.SMTP, Role.LMTP)]

    async def run(self) -> None:
        """Start the backend, let all clients send, and stop it."""
        self._backend.startService()
        try:
            clients = [
                Deferred.fromCoroutine(self._client(factory, f"{kind}{number}.{factory.role.value}", kind))
                for factory in self._factories
                for kind in ("data", "bdat")
                for number in range(CLIENTS)
            ]
            await gatherResults(clients)
        finally:
            await self._backend.stopService()

    async def _client(self, factory: Any, client: str, kind: str) -> None:
        choices = random.Random(client)
        wire = HeardWire(factory).say(f"{'LHLO' if factory.role is Role.LMTP else 'EHLO'} c.example")
        for number in range(MESSAGES):
            name = f"{client}.{number}"
            size = choices.choice([10, 100, 2_000, 20_000]) if number else choices.choice([50, SPOOL_AT * 2])
            content = b"%b%b\r\n\r\n%b\r\n" % (MARK, name.encode(), choices.randbytes(size // 2).hex().encode())
            self.sent[name] = hashlib.sha256(content).digest()
            wire.say("MAIL FROM:<a@x.example>", "RCPT TO:<b@y.example>")
            answered = self._answer(wire, name)
            if kind == "bdat":
                half = len(content) // 2
                wire.receive(b"BDAT %d\r\n%b" % (half, content[:half]))
                wire.receive(b"BDAT %d LAST\r\n%b" % (len(content) - half, content[half:]))
            else:
                wire.say("DATA").receive(content + b".\r\n")
            await answered
        wire.say("QUIT")

    def _answer(self, wire: Wire, name: str) -> Deferred[None]:
        """Record when the client is told that its message is kept."""
        answered: Deferred[None] = Deferred()

        def heard(data: bytes) -> None:
            found = re.search(rb"250 2\.0\.0 OK, kept as (\w+)", data)
            if found:
                self.names[found[1].decode()] = name
                self.recorder.answered(found[1].decode())
                wire.transport.heard = None
                # The next message comes from outside, not from within a write of the server's.
                reactor.callLater(0, answered.callback, None)

        wire.transport.heard = heard
        return answered

    def faults(self, operations: Sequence[Operation], chance: Chance) -> list[str]:
        """Cut the power behind the last operation, and look what is there."""
        acknowledged = [self.names[each.path] for each in operations if each.kind == "answer"]
        return account(self.sent, acknowledged, survivors(operations, self.new, chance).values())

    def cuts(self) -> Iterator[Sequence[Operation]]:
        """Give the operations up to each, from the first answer on."""
        operations = self.recorder.operations
        first = next(place for place, each in enumerate(operations) if each.kind == "answer")
        for end in range(first + 1, len(operations) + 1):
            yield operations[:end]


def chances() -> list[tuple[str, Chance]]:
    """Give what may become of what was not fsynced."""
    luck = random.Random(1)
    return [
        ("nothing survives", lambda operation: False),
        ("all survives", lambda operation: True),
        ("half survives", lambda operation: luck.random() < 0.5),
        ("entries survive and data does not", lambda operation: operation.kind != "write"),
    ]


class PowerCutTests(TestCase):
    timeout = 300

    async def record(self, *forgetful: str) -> Recording:
        """Run clients against a Maildir that is new, two directories below one that is not."""
        recording = Recording(str(Path(self.mktemp()).absolute() / "Maildir"), Recorder(*forgetful))
        await recording.run()
        return recording

    async def test_each_point(self) -> None:
        """Wherever the power is cut, each acknowledged message is there, and none is half there."""
        recording = await self.record()
        self.assertEqual(len(recording.names), 4 * CLIENTS * MESSAGES)
        cuts = 0
        for operations in recording.cuts():
            for what, chance in chances():
                self.assertEqual(recording.faults(operations, chance), [], f"{what}, {len(operations)} operations")
            cuts += 1
        self.assertGreater(cuts, 100)

    async def test_made_by_another(self) -> None:
        """A Maildir whose maker was killed before it fsynced anything is no trap for the next."""
        directory = str(Path(self.mktemp()).absolute() / "Maildir")
        killed = Recorder("fsync_directory")
        make_maildir(directory, killed)
        recorder = Recorder()
        recorder.operations += killed.operations
        recording = Recording(directory, recorder)
        await recording.run()
        self.assertEqual(recording.faults(recorder.operations, lambda operation: False), [])

    async def test_order(self) -> None:
        """Each message is written, fsynced, renamed, its directory fsynced, and only then answered."""
        recording = await self.record()
        self.assertEqual(order_faults(recording.recorder.operations), [])

    async def test_found_out(self) -> None:
        """If a file's or a directory's fsync were forgotten, the replay would find it."""
        for forgotten in ("fsync", "fsync_directory"):
            with self.subTest(forgotten):
                recording = await self.record(forgotten)
                operations = recording.recorder.operations
                self.assertNotEqual(recording.faults(operations, lambda operation: False), [])
                self.assertNotEqual(order_faults(operations), [])


class ModelTests(SynchronousTestCase):
    """The model itself."""

    def left(self, *operations: Operation, lucky: bool = False) -> dict[str, bytes]:
        """Cut the power behind some operations."""
        return survivors(operations, "/m/new", lambda operation: lucky)

    MADE = (Operation("create", "/m/tmp/a", 0), Operation("write", "/m/tmp/a", 1, b"text"))
    RENAMED = Operation("rename", "/m/tmp/a", 3, target="/m/new/a")

    def test_all_fsynced(self) -> None:
        """What was fsynced in the right order is there."""
        done = (*self.MADE, Operation("fsync", "/m/tmp/a", 2), self.RENAMED, Operation("fsync_directory", "/m/new", 4))
        self.assertEqual(self.left(*done), {"a": b"text"})
        self.assertEqual(self.left(*done[:-1]), {})
        self.assertEqual(self.left(*done[:-1], lucky=True), {"a": b"text"})

    def test_early(self) -> None:
        """An fsync that began before a write or a rename does not cover it."""
        early = (*self.MADE, Operation("fsync", "/m/tmp/a", 1), self.RENAMED, Operation("fsync_directory", "/m/new", 4))
        self.assertEqual(self.left(*early), {"a": b""})
        early = (*self.MADE, Operation("fsync", "/m/tmp/a", 2), self.RENAMED, Operation("fsync_directory", "/m/new", 3))
        self.assertEqual(self.left(*early), {})

    def test_directory(self) -> None:
        """A directory whose own entry was not fsynced takes all that is in it along."""
        done = (*self.MADE, Operation("fsync", "/m/tmp/a", 2), self.RENAMED, Operation("fsync_directory", "/m/new", 4))
        self.assertEqual(self.left(*done, Operation("mkdir", "/m", 5)), {})
        made = (Operation("mkdir", "/m", 5), Operation("fsync_directory", "/", 6))
        self.assertEqual(self.left(*done, *made), {"a": b"text"})

    def test_removed(self) -> None:
        """A file that was removed may come back, until its directory is fsynced."""
        made = (Operation("create", "/m/new/a", 0), Operation("fsync_directory", "/m/new", 1))
        removed = (*made, Operation("unlink", "/m/new/a", 2))
        self.assertEqual(self.left(*removed), {"a": b""})
        self.assertEqual(self.left(*removed, lucky=True), {})
        self.assertEqual(self.left(*removed, Operation("fsync_directory", "/m/new", 3)), {})
