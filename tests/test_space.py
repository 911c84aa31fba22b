"""
Tests of smtpsvc.server.space: MAIL is refused while the disk has too little room.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from smtpsvc.extensions.limits import LIMITS
from smtpsvc.grammar.replies import Reply
from smtpsvc.interfaces import IStorage
from smtpsvc.policies.chain import Policy, with_policies
from smtpsvc.server.space import HOLDS, NO_ROOM
from smtpsvc.settings import KIB, MIB
from smtpsvc.testing import ScriptedBackend, Wire, clocked_factory
from smtpsvc.values import Envelope
from tests.support import basics, settings_with

MAIL = "MAIL FROM:<a@x.example>"


@implementer(IStorage)
class Storage(ScriptedBackend):
    """A backend on a disk whose room the test sets."""

    free: Any = 0

    def free_space(self) -> int | None:
        self.calls.append(("free_space",))
        if isinstance(self.free, Exception):
            raise self.free
        return self.free

    @property
    def asked(self) -> int:
        """How often it was asked."""
        return self.hooks.count("free_space")


class SpaceTestCase(SynchronousTestCase):
    """A server whose backend is asked for 64 KiB."""

    def setUp(self) -> None:
        self.backend = Storage()
        self.clock = Clock()
        self.events: list[Any] = []
        globalLogPublisher.addObserver(self.events.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.events.append)

    def connect(self, backend: Any = None, extensions: Any = (), least: int = 64 * KIB) -> Wire:
        """Connect, and say EHLO."""
        factory, self.clock = clocked_factory(
            self.backend if backend is None else backend,
            settings_with(min_free_space=least, messages=3),
            extensions=[*basics(), *extensions],
        )
        return Wire(factory).greeted()

    def mail(self, free: Any, command: str = MAIL, **options: Any) -> Reply:
        """Give the reply to MAIL while so much is free."""
        self.backend.free = free
        return self.connect(**options).say(command).last_reply

    def logged(self) -> list[tuple[str, Any]]:
        """The levels of what was logged of the disk, and what was free."""
        return [(event["log_level"].name, event.get("free")) for event in self.events if "storage" in event]


class RefusalTests(SpaceTestCase):
    """What is refused, and what is not."""

    def test_limit(self) -> None:
        """With less than the limit MAIL is 452 4.3.1; with exactly the limit it is taken."""
        self.assertEqual(self.mail(64 * KIB - 1), Reply(452, "Insufficient system storage", "4.3.1"))
        self.assertEqual(self.mail(0), NO_ROOM)
        self.assertEqual(self.mail(64 * KIB).code, 250)

    def test_before_the_session(self) -> None:
        """The session is not asked, and no transaction is open."""
        self.backend.free = 0
        wire = self.connect().say(MAIL, "RCPT TO:<b@y.example>", "DATA")
        self.assertEqual(wire.codes, [452, 503, 503])
        self.assertEqual(self.backend.hooks, ["open_session", "helo", "free_space"])

    def test_declared(self) -> None:
        """A message of a declared size must leave the limit free (RFC 1870 §6.1)."""
        for size, code in ((1000, 250), (1001, 452)):
            with self.subTest(size=size):
                self.assertEqual(self.mail(64 * KIB + 1000, f"{MAIL} SIZE={size}").code, code)

    def test_syntax_first(self) -> None:
        """What is no MAIL is told so, whatever room there is."""
        self.assertEqual(self.mail(0, "MAIL FROM:<@>").code, 501)
        self.assertEqual(self.mail(0, f"{MAIL} FOO=1").code, 555)

    def test_unknown(self) -> None:
        """What the backend does not know refuses nothing."""
        self.assertEqual(self.mail(None).code, 250)

    def test_fails(self) -> None:
        """If it fails to tell, mail is taken, and the failure is logged."""
        self.assertEqual(self.mail(KeyError("x")).code, 250)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)

    def test_off(self) -> None:
        """With the limit 0 it is not even asked."""
        self.assertEqual(self.mail(0, least=0).code, 250)
        self.assertEqual(self.backend.asked, 0)

    def test_other_backends(self) -> None:
        """A backend that is no IStorage is not asked, and its row of the table is as it was."""
        plain = ScriptedBackend()
        wire = self.connect(backend=plain).say(MAIL)
        self.assertEqual(wire.codes, [250])
        rows = [clocked_factory(plain, settings_with(min_free_space=n))[0].tables.verbs[b"MAIL"] for n in (0, MIB)]
        self.assertIs(rows[0].proceed, rows[1].proceed)

    def test_behind_policies(self) -> None:
        """Policies in front of the backend do not hide its disk."""

        class Anybody(Policy):
            def mail(self, envelope: Envelope) -> None:
                return None

        self.assertEqual(self.mail(0, backend=with_policies(self.backend, Anybody())), NO_ROOM)

    def test_counted(self) -> None:
        """A MAIL that is refused counts as one of those that a connection may send (RFC 9422)."""
        wire = self.connect(extensions=[LIMITS()]).say(*[MAIL] * 4)
        self.assertEqual(wire.codes, [452, 452, 452, 421])


class AskingTests(SpaceTestCase):
    """The backend is asked rarely, and what changes is logged once."""

    def test_once_a_second(self) -> None:
        """What it says holds for a second, over all connections of the listener."""
        self.backend.free = MIB
        wire = self.connect().say(MAIL, "RSET")
        self.backend.free = 0
        self.clock.advance(HOLDS / 2)
        self.assertEqual(wire.forget().say(MAIL, "RSET").codes, [250, 250])
        self.clock.advance(HOLDS / 2)
        self.assertEqual(wire.forget().say(MAIL).codes, [452])
        self.assertEqual(Wire(wire.factory).greeted().say(MAIL).codes, [452])
        self.assertEqual(self.backend.asked, 2)

    def test_back(self) -> None:
        """When there is room again, mail is taken again."""
        wire = self.connect().say(MAIL)
        self.backend.free = MIB
        self.clock.advance(HOLDS)
        self.assertEqual(wire.say(MAIL).codes, [452, 250])

    def test_logged(self) -> None:
        """A warning says that mail is refused, and a line that it is taken again; nothing is said twice."""
        wire = self.connect()
        for free in (MIB, 5, 4, MIB, None, MIB, 3):
            self.backend.free = free
            wire.say(MAIL, "RSET")
            self.clock.advance(HOLDS)
        self.assertEqual(self.logged(), [("warn", 5), ("info", MIB), ("warn", 3)])

    def test_declared_is_not_logged(self) -> None:
        """A message that is too large for what is left is no news of the disk."""
        self.mail(64 * KIB + 1, f"{MAIL} SIZE=2")
        self.assertEqual(self.logged(), [])
