"""
Tests of smtpsvc.server.guesses: how often a client may fail to log in, and its network.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.grammar import replies
from smtpsvc.server.guesses import FORGOTTEN, LONGEST, MOST, Guesses
from smtpsvc.settings import parse_trusted
from tests.logins import b64, plain, wire_with
from tests.support import settings_with

CLIENT = IPv4Address("TCP", "192.0.2.1", 1025)
OTHER = IPv4Address("TCP", "192.0.2.2", 1025)
LOCAL = IPv4Address("TCP", "127.0.0.1", 1025)
WRONG = f"AUTH PLAIN {b64(chr(0) + 'joe' + chr(0) + 'wrong')}"


def guesses(**fields: Any) -> tuple[Guesses, Clock]:
    """Make the counts, and their clock."""
    clock = Clock()
    return Guesses(settings_with(**fields), clock), clock


class ConnectionTests(SynchronousTestCase):
    def test_too_many(self) -> None:
        """Behind the third 535 comes 421 4.7.0, and the connection is closed."""
        wire = wire_with().say(WRONG, WRONG)
        self.assertEqual((wire.codes, wire.closed), ([535, 535], False))
        wire.say(WRONG)
        self.assertEqual((wire.codes, wire.last_reply), ([535] * 3 + [421], replies.TOO_MANY_LOGINS))
        self.assertTrue(wire.closed)

    def test_messages_do_not_help(self) -> None:
        """A message that is taken in between does not forgive."""
        wire = wire_with().say(WRONG, WRONG)
        wire.say("MAIL FROM:<a@x.example>", "RCPT TO:<b@y.example>", "DATA", ".").say(WRONG)
        self.assertEqual((wire.codes[-2:], wire.closed), ([535, 421], True))

    def test_exchange(self) -> None:
        """An exchange of several steps counts once."""
        wire = wire_with(auth_failures=2)
        for _ in range(2):
            wire.say("AUTH LOGIN", b64("joe"), b64("wrong"))
        self.assertEqual((wire.codes, wire.closed), ([334, 334, 535] * 2 + [421], True))

    def test_other_mistakes(self) -> None:
        """A response that is none, or a cancelled exchange, is an error and no failed login."""
        wire = wire_with().say("AUTH PLAIN =", "AUTH PLAIN !", "AUTH LOGIN", "*", "AUTH NONE")
        self.assertNotIn(421, wire.codes)
        self.assertEqual(len(wire.factory.shared.guesses), 0)

    def test_off(self) -> None:
        """With 0 there is no limit but that to errors, and no network waits."""
        wire = wire_with(auth_failures=0)
        self.assertEqual(wire.say(*[WRONG] * 19).codes, [535] * 19)
        self.assertEqual(len(wire.factory.shared.guesses), 0)


class WaitingTests(SynchronousTestCase):
    def test_login_waits(self) -> None:
        """A login of a network that has failed waits before it is judged, and is answered then."""
        clocks: list[Clock] = []
        wire = wire_with(clock=clocks)
        for _ in range(4):
            wire.factory.shared.guesses.failed(CLIENT)
        wire.say(WRONG)
        self.assertEqual(wire.codes, [535])
        wire.say(WRONG)
        self.assertEqual(wire.codes, [535])
        clocks[0].pump([0.5] * 4)
        self.assertEqual(wire.codes, [535, 535])

    def test_gone_meanwhile(self) -> None:
        """A client that leaves while it waits leaves the reactor clean, and is not judged."""
        clocks: list[Clock] = []
        wire = wire_with(clock=clocks)
        for _ in range(5):
            wire.factory.shared.guesses.failed(CLIENT)
        wire.say(WRONG, WRONG).hang_up()
        self.assertEqual(clocks[0].getDelayedCalls(), [])
        self.assertEqual(wire.codes, [535])

    def test_too_many_wait(self) -> None:
        """Where the wait would be long, 421 4.7.0 comes at once."""
        wire = wire_with()
        for _ in range(10):
            wire.factory.shared.guesses.failed(CLIENT)
        for _ in range(3):
            wire.factory.shared.guesses.wait(CLIENT)
        self.assertEqual((wire.say(WRONG).replies, wire.closed), ([replies.TOO_MANY_LOGINS], True))

    def test_success(self) -> None:
        """A login that succeeds has the network's failures forgotten."""
        wire = wire_with()
        wire.say(WRONG, f"AUTH PLAIN {plain()}")
        self.assertEqual((wire.codes, len(wire.factory.shared.guesses)), ([535, 235], 0))


class GuessTests(SynchronousTestCase):
    def waits(self, failures: int, logins: int, **fields: Any) -> list[float | None]:
        """Fail so often, then ask for turns at the same time."""
        found, _ = guesses(**fields)
        for _ in range(failures):
            found.failed(CLIENT)
        return [found.wait(CLIENT) for _ in range(logins)]

    def test_free(self) -> None:
        """The first failures cost nothing."""
        self.assertEqual(self.waits(0, 5), [0] * 5)
        self.assertEqual(self.waits(2, 5), [0] * 5)

    def test_growing(self) -> None:
        """From the third on the logins of a network wait for each other: 1 s, then 2, 4 and so on."""
        self.assertEqual(self.waits(3, 3), [0, 1, 2])
        self.assertEqual(self.waits(4, 3), [0, 2, 4])
        self.assertEqual(self.waits(6, 3), [0, 8, 16])
        self.assertEqual(self.waits(1000, 3), [0, LONGEST, None])

    def test_one_by_one(self) -> None:
        """However many connections it has, a network guesses once in 16 s in the end."""
        found, clock = guesses()
        for _ in range(1000):
            found.failed(CLIENT)
        judged = 0
        for _ in range(1600):
            for _ in range(10):
                judged += found.wait(CLIENT) is not None
            found.failed(CLIENT)
            clock.advance(1)
        self.assertLessEqual(judged, 1600 / LONGEST + 3)

    def test_others(self) -> None:
        """Another network does not wait."""
        found, _ = guesses()
        for _ in range(10):
            found.failed(CLIENT)
        self.assertEqual([found.wait(OTHER) for _ in range(3)], [0, 0, 0])

    def test_forgotten(self) -> None:
        """After a quarter of an hour without a failure it begins anew."""
        found, clock = guesses()
        for _ in range(10):
            found.failed(CLIENT)
        clock.advance(FORGOTTEN + 1)
        self.assertEqual(([found.wait(CLIENT) for _ in range(3)], len(found)), ([0, 0, 0], 0))

    def test_many_people(self) -> None:
        """This machine and trusted proxies, which log in for many people, never wait."""
        found, _ = guesses(trusted_proxies=parse_trusted("192.0.2.2"))
        for address in (LOCAL, OTHER, None):
            for _ in range(10):
                found.failed(address)
            self.assertEqual([found.wait(address) for _ in range(3)], [0, 0, 0])

    def test_bounded(self) -> None:
        """Of very many networks the one whose last failure is the oldest is forgotten."""
        found, _ = guesses()
        addresses = [IPv4Address("TCP", f"10.{number >> 8}.{number & 255}.1", 1) for number in range(MOST)]
        for address in (CLIENT, *addresses[1:], CLIENT, *addresses[:1], OTHER):
            found.failed(address)
        self.assertEqual(len(found), MOST)
        self.assertEqual(set(found._networks) & {"10.0.1.1", "192.0.2.1", "192.0.2.2"}, {"192.0.2.1", "192.0.2.2"})
