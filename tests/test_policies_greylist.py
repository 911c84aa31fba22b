"""
Tests of smtpsvc.policies.greylist, and of its memory in smtpsvc.policies.seen.
"""

from __future__ import annotations

import queue
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.grammar.replies import LOCAL_ERROR
from smtpsvc.policies.arguments import Arguments
from smtpsvc.policies.chain import with_policies
from smtpsvc.policies.greylist import Greylist, Greylisted, in_words, make
from smtpsvc.policies.seen import Rules, Seen, StoreProblem
from smtpsvc.policies.thread import Thread, TooMany
from smtpsvc.settings import Role
from smtpsvc.testing import ScriptedBackend, Wire, clocked_factory
from smtpsvc.values import Account
from tests.live import PATIENCE
from tests.support import settings_with

HELLO = "EHLO c.example"
DELAY, WINDOW, LIFETIME = 300, 172_800, 3_024_000


class Turns:
    """What a reactor is to a thread: its calls wait until they are taken, so that no test has to wait for time."""

    def __init__(self) -> None:
        self._calls: queue.Queue[tuple[Callable[..., Any], tuple[Any, ...]]] = queue.Queue()

    def callFromThread(self, function: Callable[..., Any], *args: Any) -> None:
        """Keep a call."""
        self._calls.put((function, args))

    def until(self, claim: Callable[[], Any]) -> None:
        """Make the calls that come until something is true."""
        while not claim():
            function, args = self._calls.get(timeout=PATIENCE)
            function(*args)


class GreylistTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_800_000_000)
        self.turns = Turns()
        self.path = self.mktemp()
        self.backend = ScriptedBackend()

    def policy(self, path: str | None = None, on_failure: Any = None, **rules: Any) -> Greylist:
        """Make the policy."""
        options = {name: rules.pop(name) for name in ("ipv4", "ipv6") if name in rules}
        policy = Greylist(
            path or self.path,
            Rules(**rules),
            on_failure=on_failure,
            now=self.clock.seconds,
            reactor=self.turns,
            **options,
        )
        self.addCleanup(self.close, policy)
        return policy

    def close(self, policy: Any) -> None:
        """Close a database."""
        closed = policy.close()
        self.turns.until(lambda: closed.called)
        self.successResultOf(closed)

    def connect(self, policy: Greylist, host: str = "192.0.2.1", **options: Any) -> Wire:
        """Connect from an address to a server with the policy."""
        address: Any = IPv6Address("TCP", host, 1) if ":" in host else IPv4Address("TCP", host, 1)
        factory, _ = clocked_factory(with_policies(self.backend, policy), settings_with(), **options)
        return Wire(factory, address if host else UNIXAddress(None))

    def say(self, wire: Wire, line: str) -> str:
        """Say a line, wait for the reply, and give its code and enhanced code."""
        count = len(wire.replies)
        wire.say(line)
        self.turns.until(lambda: len(wire.replies) > count)
        return f"{wire.last_reply.code} {wire.last_reply.enhanced}".strip()

    def attempt(
        self,
        policy: Greylist,
        host: str = "192.0.2.1",
        sender: str = "a@x.example",
        recipient: str = "b@y.example",
    ) -> str:
        """Try to send a message, and give the reply to RCPT."""
        wire = self.connect(policy, host).say(HELLO, f"MAIL FROM:<{sender}>")
        return self.say(wire, f"RCPT TO:<{recipient}>")


class GreylistTests(GreylistTestCase):
    def test_waits_once(self) -> None:
        """A stranger hears 450 4.7.1 until the delay has passed, and is known then."""
        policy = self.policy()
        for seconds, reply in ((0, "450 4.7.1"), (DELAY - 1, "450 4.7.1"), (1, "250 2.1.5"), (LIFETIME, "250 2.1.5")):
            self.clock.advance(seconds)
            self.assertEqual(self.attempt(policy), reply)

    def test_says_when(self) -> None:
        """The refusal says when to come again."""
        wire = self.connect(self.policy()).say(HELLO, "MAIL FROM:<a@x.example>")
        self.say(wire, "RCPT TO:<b@y.example>")
        self.assertIn("try again in 5 minutes", wire.last_reply.text)
        self.assertEqual(
            [in_words(each) for each in (0.5, 90, 91, 300)], ["1 seconds", "90 seconds", "2 minutes", "5 minutes"]
        )

    def test_forgotten(self) -> None:
        """Who comes again too late, or was not seen for long, is a stranger."""
        policy = self.policy(after=0)
        self.attempt(policy)
        self.clock.advance(WINDOW + 1)
        self.assertEqual(self.attempt(policy), "450 4.7.1")
        self.clock.advance(DELAY)
        self.assertEqual(self.attempt(policy), "250 2.1.5")
        self.clock.advance(LIFETIME + 1)
        self.assertEqual(self.attempt(policy), "450 4.7.1")

    def test_three(self) -> None:
        """Network, sender and recipient count, each for itself; case, tags and numbers of the sender do not."""
        policy = self.policy(after=0)
        self.attempt(policy)
        self.clock.advance(DELAY)
        for changed, reply in (
            ({"host": "192.0.2.200"}, "250 2.1.5"),
            ({"host": "192.0.3.1"}, "450 4.7.1"),
            ({"sender": "A+12@X.example"}, "250 2.1.5"),
            ({"sender": "b@x.example"}, "450 4.7.1"),
            ({"sender": ""}, "450 4.7.1"),
            ({"recipient": "B@Y.example"}, "250 2.1.5"),
            ({"recipient": "c@y.example"}, "450 4.7.1"),
        ):
            with self.subTest(changed):
                self.assertEqual(self.attempt(policy, **changed), reply)

    def test_verp(self) -> None:
        """A list that gives each message a sender of its own waits once."""
        policy = self.policy()
        self.attempt(policy, sender="list-bounce-4711-0@x.example")
        self.clock.advance(DELAY)
        self.assertEqual(self.attempt(policy, sender="list-bounce-4712-33@x.example"), "250 2.1.5")

    def test_networks(self) -> None:
        """A network is 24 bits of IPv4 and 64 of IPv6, or as was said."""
        policy = self.policy(after=0)
        self.attempt(policy, host="2001:db8::1")
        self.clock.advance(DELAY)
        self.assertEqual(self.attempt(policy, host="2001:db8::ffff:2"), "250 2.1.5")
        self.assertEqual(self.attempt(policy, host="2001:db8:0:1::1"), "450 4.7.1")
        policy = self.policy(self.mktemp(), ipv4=32)
        self.attempt(policy)
        self.clock.advance(DELAY)
        self.assertEqual(self.attempt(policy, host="192.0.2.2"), "450 4.7.1")
        self.assertRaises(ValueError, Greylist, ipv4=33)

    def test_friends(self) -> None:
        """A network that has come again often enough is known with anybody."""
        policy = self.policy(after=2)
        for sender in ("a", "b"):
            self.attempt(policy, sender=f"{sender}@x.example")
        self.clock.advance(DELAY)
        self.attempt(policy, sender="a@x.example")
        self.assertEqual(self.attempt(policy, sender="c@x.example"), "450 4.7.1")
        self.attempt(policy, sender="b@x.example")
        self.assertEqual(self.attempt(policy, sender="d@x.example"), "250 2.1.5")
        self.clock.advance(LIFETIME + 1)
        self.assertEqual(self.attempt(policy, sender="e@x.example"), "450 4.7.1")

    def test_each_recipient(self) -> None:
        """Each recipient of a message is looked at for himself."""
        policy = self.policy(after=0)
        self.attempt(policy)
        self.clock.advance(DELAY)
        wire = self.connect(policy).say(HELLO, "MAIL FROM:<a@x.example>")
        replies = [self.say(wire, f"RCPT TO:<{name}@y.example>") for name in "bc"]
        self.assertEqual(replies, ["250 2.1.5", "450 4.7.1"])

    def test_result(self) -> None:
        """How long a message has waited is in the results of its envelope."""
        policy = self.policy()
        self.attempt(policy)
        self.clock.advance(400)
        for waited in (400.0, 0.0):
            self.attempt(policy)
            envelope = self.backend.called("mail")[-1][0]
            self.assertEqual(envelope.results.get(Greylisted), Greylisted(waited))

    def test_spared(self) -> None:
        """Who has logged in, clients of unix sockets, on this machine and of LMTP do not wait."""
        policy = self.policy()
        for host in ("", "127.0.0.1", "::1"):
            self.assertEqual(self.attempt(policy, host), "250 2.1.5", host)
        wire = self.connect(policy).say(HELLO)
        self.backend.called("open_session")[-1][0].account = Account("joe")
        wire.say("MAIL FROM:<a@x.example>")
        self.assertEqual(self.say(wire, "RCPT TO:<b@y.example>"), "250 2.1.5")
        wire = self.connect(policy, role=Role.LMTP).say("LHLO c.example", "MAIL FROM:<a@x.example>")
        self.assertEqual(self.say(wire, "RCPT TO:<b@y.example>"), "250 2.1.5")

    def test_gone(self) -> None:
        """A client that hangs up while the database is asked leaves nothing behind, and is remembered."""
        policy = self.policy()
        wire = self.connect(policy).say(HELLO, "MAIL FROM:<a@x.example>", "RCPT TO:<b@y.example>")
        wire.hang_up()
        self.assertEqual(self.attempt(policy), "450 4.7.1")


class MemoryTests(GreylistTestCase):
    def rows(self) -> int:
        """Count what is remembered."""
        database = sqlite3.connect(self.path)
        try:
            return int(database.execute("SELECT count(*) FROM seen").fetchone()[0])
        finally:
            database.close()

    def look(self, seen: Seen, network: bytes, three: bytes) -> Any:
        """Ask a memory directly."""
        asked = seen.look(network, three, self.turns)
        self.turns.until(lambda: asked.called)
        return self.successResultOf(asked)

    def test_restart(self) -> None:
        """What is remembered outlives the process."""
        policy = self.policy()
        self.attempt(policy)
        self.close(policy)
        self.clock.advance(DELAY)
        self.assertEqual(self.attempt(self.policy()), "250 2.1.5")

    def test_shared(self) -> None:
        """Several processes share what they remember."""
        one, other = self.policy(), self.policy()
        self.assertEqual(self.attempt(one), "450 4.7.1")
        self.clock.advance(DELAY)
        self.assertEqual(self.attempt(other), "250 2.1.5")
        self.assertEqual(self.attempt(one), "250 2.1.5")

    def test_no_addresses(self) -> None:
        """The database has no addresses in it."""
        policy = self.policy()
        self.attempt(policy)
        self.close(policy)
        content = Path(self.path).read_bytes()
        for secret in (b"x.example", b"y.example", b"192.0.2"):
            self.assertNotIn(secret, content)

    def test_bounded(self) -> None:
        """No more strangers are kept than was said, some more until they are counted; who is known stays."""
        seen = Seen(self.path, Rules(keep=50, after=0), now=self.clock.seconds)
        self.look(seen, b"n", b"friend")
        self.clock.advance(DELAY)
        self.look(seen, b"n", b"friend")
        for number in range(1000):
            self.look(seen, b"n", b"%d" % number)
        # The friend, his network, and strangers.
        self.assertLessEqual(self.rows(), 2 + 50 + 200)
        self.assertEqual(self.look(seen, b"n", b"friend").wait, 0)
        closed = seen.close(self.turns)
        self.turns.until(lambda: closed.called)

    def test_few_writes(self) -> None:
        """One who is known is noted again after an hour, not each time."""
        policy = self.policy(after=0)
        self.attempt(policy)
        self.clock.advance(DELAY)
        self.attempt(policy)
        database = sqlite3.connect(self.path)
        self.addCleanup(database.close)
        versions = set()
        for _ in range(5):
            self.clock.advance(10)
            self.attempt(policy)
            versions.add(database.execute("PRAGMA data_version").fetchone()[0])
        self.assertEqual(len(versions), 1)
        self.clock.advance(3600)
        self.attempt(policy)
        self.assertNotIn(database.execute("PRAGMA data_version").fetchone()[0], versions)

    def test_clock_back(self) -> None:
        """Where the clock was set back, those of the future are strangers."""
        policy = self.policy()
        self.attempt(policy)
        self.clock.rightNow -= 1000
        self.assertEqual(self.attempt(policy), "450 4.7.1")
        self.clock.advance(DELAY)
        self.assertEqual(self.attempt(policy), "250 2.1.5")

    def test_mistakes(self) -> None:
        """Rules that make no sense are mistakes."""
        for rules in ({"delay": 0}, {"delay": 10, "window": 10}, {"keep": 0}):
            self.assertRaises(ValueError, Rules, **rules)


class FailureTests(GreylistTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.events: list[Any] = []
        globalLogPublisher.addObserver(self.events.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.events.append)

    def logged(self, level: Any) -> int:
        """Count the lines of a level that are about the database."""
        return sum(
            each.get("log_level") is level and str(each.get("log_format")).startswith("greylist:")
            for each in self.events
        )

    def test_corrupt(self) -> None:
        """If the file is no database, mail is taken, and that is logged once."""
        Path(self.path).write_bytes(b"this is no database, whatever it is" * 100)
        policy = self.policy()
        for _ in range(3):
            self.assertEqual(self.attempt(policy), "250 2.1.5")
            self.clock.advance(60)
        self.assertEqual(self.logged(LogLevel.error), 1)
        self.assertTrue(Path(self.path).read_bytes().startswith(b"this is no database"))

    def test_verdict(self) -> None:
        """Or it is answered 451 4.3.0, if that was said."""
        self.assertEqual(self.attempt(self.policy(f"{self.path}/absent/file", on_failure=LOCAL_ERROR)), "451 4.3.0")

    def test_again(self) -> None:
        """When the file can be used again, it is, after a while; and that is logged."""
        directory = Path(self.mktemp())
        policy = self.policy(str(directory / "file"))
        self.assertEqual(self.attempt(policy), "250 2.1.5")
        directory.mkdir()
        self.assertEqual(self.attempt(policy), "250 2.1.5")
        self.clock.advance(10)
        self.assertEqual(self.attempt(policy), "450 4.7.1")
        self.assertEqual((self.logged(LogLevel.error), self.logged(LogLevel.info)), (1, 1))

    def test_locked(self) -> None:
        """While somebody else keeps the database to himself, mail does not wait for it."""
        self.patch(__import__("smtpsvc.policies.seen", fromlist=["BUSY"]), "BUSY", 0.0)
        self.attempt(self.policy())
        database = sqlite3.connect(self.path, isolation_level=None)
        self.addCleanup(database.close)
        database.execute("BEGIN EXCLUSIVE")
        self.assertEqual(self.attempt(self.policy()), "250 2.1.5")
        self.assertEqual(self.logged(LogLevel.error), 1)


class ThreadTests(SynchronousTestCase):
    def test_queue(self) -> None:
        """More than may wait fail at once, and a place that is given up is free again."""
        turns, gate = Turns(), queue.Queue[int]()
        thread = Thread(3, "test")
        waiting: list[Deferred[Any]] = [thread.run(turns, gate.get) for _ in range(3)]
        self.failureResultOf(thread.run(turns, gate.get), TooMany)
        waiting[2].cancel()
        self.failureResultOf(waiting[2], CancelledError)
        turns.until(lambda: thread._busy == 2)
        for number in range(3):
            gate.put(number)
        last = thread.end(turns, gate.get)
        turns.until(lambda: last.called)
        self.assertEqual([self.successResultOf(each) for each in (*waiting[:2], last)], [0, 1, 2])

    def test_error(self) -> None:
        """What a function raises is what the Deferred fails with."""
        turns, thread = Turns(), Thread(1, "test")

        def fail() -> None:
            raise StoreProblem("x")

        failed = thread.end(turns, fail)
        turns.until(lambda: failed.called)
        self.failureResultOf(failed, StoreProblem)


class MakeTests(SynchronousTestCase):
    def test_made(self) -> None:
        """It is made of what people type, and opens nothing."""
        text = "file.sqlite,delay=1m,window=1d,lifetime=10d,after=3,keep=1000,ipv4=32,ipv6=48,on-failure=451"
        for each in (text, ""):
            arguments = Arguments(each)
            policy = make(arguments, Clock())
            arguments.end()
            self.assertFalse(Path(policy._seen.path).exists())
        self.assertEqual(policy._seen.rules, Rules())
        self.assertRaises(ValueError, make, Arguments("delay=3d"), Clock())
