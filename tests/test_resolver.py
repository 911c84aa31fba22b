"""
Tests of smtpsvc.resolver and smtpsvc.nameservers.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any
from unittest import SkipTest

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.names import dns
from twisted.trial.unittest import SynchronousTestCase, TestCase

from smtpsvc.nameservers import NameServers, parse_server, read_system
from smtpsvc.resolver import LookupFailed, MailExchanger, NoSuchName, Resolver, encode_name, resolver_for, use_servers
from tests.nameserver import FakeServers, NameServer, Zone, fake_resolver, record, reverse
from tests.support import given, settings, st

ZONE = {
    "x.example": ["MX 20 b.x.example", "MX 10 a.x.example", "TXT v=spf1| -all", "A 192.0.2.7"],
    "a.x.example": ["A 192.0.2.1", "AAAA 2001:db8::1"],
    "b.x.example": ["A 192.0.2.2", "SERVFAIL AAAA"],
    "null.example": ["MX 0 ."],
    "alias.example": ["60 CNAME other.example"],
    "other.example": ["A 192.0.2.3"],
    "lost.example": ["CNAME nowhere.example"],
    "loop.example": ["CNAME pool.example"],
    "pool.example": ["CNAME loop.example"],
    "xn--bcher-kva.example": ["A 192.0.2.4"],
    "broken.example": ["SERVFAIL"],
    "silent.example": ["SILENT"],
    "slow.example": ["SLOW 3 A 192.0.2.5"],
    "deep.down.example": ["A 192.0.2.6"],
    reverse("192.0.2.1"): ["PTR A.x.example", "PTR bad name.example", "PTR ."],
    reverse("2001:db8::1"): ["PTR a.x.example"],
}


class ResolverTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.zone = Zone(ZONE)

    def resolver(self, **options: Any) -> Resolver:
        """Make a resolver that has the zone."""
        self.source = FakeServers(self.zone, self.clock)
        return Resolver(self.source, clock=self.clock, **options)

    def begin(self, question: Coroutine[Any, Any, Any]) -> Deferred[Any]:
        """Ask what may wait."""
        return Deferred.fromCoroutine(question)

    def ask(self, question: Coroutine[Any, Any, Any]) -> Any:
        """Ask what is answered at once."""
        return self.successResultOf(self.begin(question))


class RecordTests(ResolverTestCase):
    def test_kinds(self) -> None:
        """Records are given as plain values, mail exchangers in the order of preference."""
        resolver = self.resolver()
        self.assertEqual(self.ask(resolver.lookup("a.x.example", "A")), ("192.0.2.1",))
        self.assertEqual(self.ask(resolver.lookup("a.x.example", "AAAA")), ("2001:db8::1",))
        hosts = (MailExchanger(10, "a.x.example"), MailExchanger(20, "b.x.example"))
        self.assertEqual(self.ask(resolver.exchangers("x.example")), hosts)
        self.assertEqual(self.ask(resolver.texts("x.example")), (b"v=spf1 -all",))
        self.assertEqual(self.ask(resolver.names("2001:db8::1")), ("a.x.example",))
        self.failureResultOf(self.begin(resolver.lookup("x.example", "NS")), ValueError)

    def test_addresses(self) -> None:
        """A host's addresses are those of both versions; those of one version will do."""
        resolver = self.resolver()
        self.assertEqual(self.ask(resolver.addresses("a.x.example")), ("2001:db8::1", "192.0.2.1"))
        self.assertEqual(self.ask(resolver.addresses("b.x.example")), ("192.0.2.2",))
        self.failureResultOf(self.begin(resolver.addresses("broken.example")), LookupFailed)
        self.failureResultOf(self.begin(resolver.addresses("nowhere.example")), NoSuchName)

    def test_nothing(self) -> None:
        """A name that exists without such records has none; one that does not exist is an error of its own."""
        resolver = self.resolver()
        self.assertEqual(self.ask(resolver.texts("a.x.example")), ())
        self.assertEqual(self.ask(resolver.texts("down.example")), ())
        impossible = ("", "a..example", "x" * 64, "a." * 200, "a b", "\x00", "\u2000")
        for name in ("nowhere.example", "lost.example", *impossible):
            with self.subTest(name):
                self.failureResultOf(self.begin(resolver.texts(name)), NoSuchName)

    def test_null_mx(self) -> None:
        """A domain that takes no mail has a mail exchanger without a name."""
        self.assertEqual(self.ask(self.resolver().exchangers("null.example")), (MailExchanger(0, ""),))

    def test_alias(self) -> None:
        """Aliases are followed, and those that go round in a circle fail."""
        resolver = self.resolver()
        self.assertEqual(self.ask(resolver.lookup("alias.example", "A")), ("192.0.2.3",))
        self.failureResultOf(self.begin(resolver.lookup("loop.example", "A")), LookupFailed)

    def test_hosts(self) -> None:
        """What cannot be the name of a host is left out: other people write those records."""
        self.assertEqual(self.ask(self.resolver().names("192.0.2.1")), ("a.x.example",))

    def test_international(self) -> None:
        """A U-label is asked for as its A-label, and the case of a name does not matter."""
        resolver = self.resolver()
        for name in ("b\u00fccher.example", "B\u00dcCHER.example.", "XN--BCHER-KVA.example"):
            self.assertEqual(self.ask(resolver.lookup(name, "A")), ("192.0.2.4",))
        self.assertEqual(len(self.zone.questions), 1)

    def test_services(self) -> None:
        """Names that hosts cannot have are names: keys and policies are below them."""
        self.assertEqual(encode_name("S1._DomainKey.b\u00fccher.example"), "s1._domainkey.xn--bcher-kva.example")

    @settings(deadline=None)
    @given(st.text(max_size=80))
    def test_any_name(self, name: str) -> None:
        """Whatever a client makes us ask for is a name that can be asked for, or there is none."""
        try:
            encoded = encode_name(name)
        except NoSuchName:
            return
        self.assertLessEqual(len(encoded), 253)
        self.assertTrue(all(1 <= len(label) <= 63 for label in encoded.split(".")))
        self.assertEqual(encode_name(encoded), encoded)


class MemoryTests(ResolverTestCase):
    def test_kept(self) -> None:
        """An answer is kept as long as its owner says: the least of all that were followed."""
        resolver = self.resolver()
        for seconds, asked in ((0, 1), (59, 1), (2, 2)):
            self.clock.advance(seconds)
            self.ask(resolver.lookup("alias.example", "A"))
            self.assertEqual(len(self.zone.questions), asked)

    def test_bounds(self) -> None:
        """No answer is kept shorter or longer than the bounds."""
        self.zone.names.update({"never.example": ["0 A 192.0.2.1"], "ever.example": ["9999999 A 192.0.2.1"]})
        resolver = self.resolver(longest=1000)
        for name, seconds in (("never.example", 5), ("ever.example", 1000)):
            self.zone.questions.clear()
            for wait in (0, seconds - 1, 2):
                self.clock.advance(wait)
                self.ask(resolver.lookup(name, "A"))
            self.assertEqual(len(self.zone.questions), 2, name)

    def test_nothing_kept(self) -> None:
        """That there is nothing is kept as long as the zone says, and a failure for some seconds."""
        resolver = self.resolver()
        for name, seconds in (("nowhere.example", 60), ("broken.example", 5)):
            self.zone.questions.clear()
            for wait in (0, seconds - 1, 2):
                self.clock.advance(wait)
                self.failureResultOf(self.begin(resolver.lookup(name, "A")))
            self.assertEqual(len(self.zone.questions), 2, name)

    def test_size(self) -> None:
        """The answers that are kept have a size at most, and those not used for longest are forgotten."""
        self.zone.names.update({f"{n}.many.example": [f"TXT {'x' * 1000}"] for n in range(20)})
        resolver = self.resolver(memory=16_000)
        for number in range(20):
            self.ask(resolver.texts(f"{number}.many.example"))
            self.ask(resolver.texts("0.many.example"))
        self.assertLessEqual(resolver._size, 16_000)
        self.zone.questions.clear()
        for number in (0, 19, 1):
            self.ask(resolver.texts(f"{number}.many.example"))
        self.assertEqual(self.zone.asked(), ["1.many.example"])

    def test_huge(self) -> None:
        """An answer beyond that size is given and not kept."""
        self.zone.names["huge.example"] = [f"TXT {'|'.join(['x' * 255] * 4)}"] * 20
        resolver = self.resolver(memory=16_000)
        self.assertEqual(len(self.ask(resolver.texts("huge.example"))), 20)
        self.assertEqual((resolver._size, len(resolver._kept)), (0, 0))


class OpenTests(ResolverTestCase):
    def test_shared(self) -> None:
        """A question that is open is not asked again: all get its answer."""
        resolver = self.resolver()
        waiting = [self.begin(resolver.lookup("slow.example", "A")) for _ in range(5)]
        self.assertEqual(len(self.zone.questions), 1)
        self.clock.advance(3)
        self.assertEqual([self.successResultOf(each) for each in waiting], [("192.0.2.5",)] * 5)

    def test_deadline(self) -> None:
        """A question that nobody answers fails after its deadline."""
        waiting = self.begin(self.resolver(timeout=4).lookup("silent.example", "A"))
        self.clock.advance(3.9)
        self.assertNoResult(waiting)
        self.clock.advance(0.2)
        self.failureResultOf(waiting, LookupFailed)
        self.assertEqual((self.source.open, self.clock.getDelayedCalls()), (0, []))

    def test_cancelled(self) -> None:
        """A question is given up when the last who waits has gone, not before."""
        resolver = self.resolver()
        waiting = [self.begin(resolver.lookup("silent.example", "A")) for _ in range(2)]
        for left, each in zip((1, 0), waiting, strict=True):
            each.cancel()
            self.failureResultOf(each, CancelledError)
            self.assertEqual(self.source.open, left)
        self.assertEqual((self.clock.getDelayedCalls(), resolver._flights), ([], {}))

    def test_cancelled_by_another(self) -> None:
        """Who waits may be cancelled by what another one does with the answer."""
        resolver = self.resolver()
        first, second = (self.begin(resolver.lookup("slow.example", "A")) for _ in range(2))
        first.addCallback(lambda _: second.cancel())
        self.clock.advance(3)
        self.successResultOf(first)
        self.failureResultOf(second, CancelledError)

    def test_at_once(self) -> None:
        """So many questions are open at once; others wait for their turn, and more than may wait fail."""
        self.zone.names.update({f"{n}.slow.example": ["SLOW 1 A 192.0.2.1"] for n in range(7)})
        resolver = self.resolver(at_once=2, waiting=4)
        waiting = [self.begin(resolver.lookup(f"{n}.slow.example", "A")) for n in range(7)]
        self.failureResultOf(waiting.pop(), LookupFailed)
        self.clock.pump([1, 1, 1])
        self.assertEqual([self.successResultOf(each) for each in waiting], [("192.0.2.1",)] * 6)
        self.assertEqual(self.source.most, 2)

    def test_turn(self) -> None:
        """Time spent waiting for a turn counts, and who waits no more leaves the turn to others."""
        resolver = self.resolver(at_once=1, timeout=4)
        first, second = (self.begin(resolver.lookup(name, "A")) for name in ("silent.example", "other.example"))
        second.cancel()
        self.failureResultOf(second, CancelledError)
        third = self.begin(resolver.lookup("x.example", "A"))
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.assertEqual(self.successResultOf(third), ("192.0.2.7",))


class SharedTests(SynchronousTestCase):
    def test_one(self) -> None:
        """All that run on a reactor share a resolver, until it is told of other servers."""
        clock = Clock()
        first = resolver_for(clock)
        self.assertIs(resolver_for(clock), first)
        self.assertIsNot(resolver_for(Clock()), first)
        second = use_servers([("192.0.2.53", 53)], clock)
        self.assertIs(resolver_for(clock), second)
        self.assertIsNot(first, second)

    def test_fake(self) -> None:
        """The tests' own shorthand makes a resolver of a zone."""
        found = Deferred.fromCoroutine(fake_resolver(ZONE).addresses("a.x.example"))
        self.assertEqual(self.successResultOf(found), ("2001:db8::1", "192.0.2.1"))


class AddressTests(SynchronousTestCase):
    def test_parse(self) -> None:
        """A server is written as an address, and a port behind a colon."""
        for text, expected in {
            "192.0.2.53": ("192.0.2.53", 53),
            "192.0.2.53:5353": ("192.0.2.53", 5353),
            "2001:DB8::53": ("2001:db8::53", 53),
            "[2001:db8::53]": ("2001:db8::53", 53),
            "[::1]:5353": ("::1", 5353),
        }.items():
            self.assertEqual(parse_server(text), expected)
        wrong = ("", "ns.example", "192.0.2.53:", "192.0.2.53:0", "192.0.2.53:99999", "[::1]5", "[::1", "192.0.2.1:x")
        for text in wrong:
            with self.subTest(text):
                self.assertRaises(ValueError, parse_server, text)

    def test_system(self) -> None:
        """The system's servers are those of its file; without one, that of this machine is asked."""
        path = self.mktemp()
        with open(path, "w") as file:
            file.write("# ours\nsearch example\nnameserver 192.0.2.53\nnameserver  ::1 \nnameserver x\nnameserver\n")
        self.assertEqual(read_system(path), (("192.0.2.53", 53), ("::1", 53)))
        self.assertEqual(read_system(self.mktemp()), (("127.0.0.1", 53),))


def _other(request: dns.Message) -> tuple[dns.Message, float]:
    message = dns.Message(request.id, answer=1, maxSize=0)
    message.queries = [dns.Query(b"evil.example", dns.A)]
    message.answers = [record("other.example", "A", "203.0.113.7", 300)]
    return message, 0.0


class NameServersTests(TestCase):
    def setUp(self) -> None:
        self.server = NameServer(ZONE)
        self.addCleanup(self.server.close)

    def resolver(self, *servers: tuple[str, int], **options: Any) -> Resolver:
        """Make a resolver that asks real servers."""
        options.setdefault("rounds", (5.0, 30.0))
        return Resolver(NameServers(servers or [self.server.address], reactor=reactor, **options), clock=reactor)

    async def test_datagrams(self) -> None:
        """Servers are asked by UDP."""
        resolver = self.resolver()
        self.assertEqual(await resolver.addresses("a.x.example"), ("2001:db8::1", "192.0.2.1"))
        self.assertEqual(await resolver.names("192.0.2.1"), ("a.x.example",))
        with self.assertRaises(NoSuchName):
            await resolver.texts("nowhere.example")
        self.assertEqual({each.by for each in self.server.zone.questions}, {"udp"})

    async def test_ipv6(self) -> None:
        """Servers with an address of IPv6 are asked in the same ways."""
        try:
            server = NameServer({"a.example": ["A 192.0.2.1"], "long.example": [f"TXT {'x' * 900}"]}, "::1")
        except OSError:
            raise SkipTest("this machine has no ::1") from None
        self.addCleanup(server.close)
        resolver = self.resolver(server.address)
        self.assertEqual(await resolver.lookup("a.example", "A"), ("192.0.2.1",))
        self.assertEqual(await resolver.texts("long.example"), (b"x" * 900,))
        self.assertEqual(parse_server(server.option), server.address)

    async def test_stream(self) -> None:
        """What is too long for a datagram is asked for by TCP."""
        text = "|".join(["x" * 255] * 8)
        self.server.zone.names["long.example"] = [f"TXT {text}"]
        self.assertEqual(await self.resolver().texts("long.example"), (b"x" * 2040,))
        self.assertEqual([each.by for each in self.server.zone.questions], ["udp", "tcp"])

    async def test_next(self) -> None:
        """Where a server is not there, or has failed, the next is asked, and first the next time."""
        with NameServer({"": ["SERVFAIL"], "other.example": ["SERVFAIL"]}) as failing:
            gone = NameServer({})
            gone.close()
            resolver = self.resolver(gone.address, failing.address, self.server.address)
            self.assertEqual(await resolver.lookup("other.example", "A"), ("192.0.2.3",))
            self.assertEqual(await resolver.texts("x.example"), (b"v=spf1 -all",))
            self.assertEqual(failing.zone.asked(), ["other.example"])

    async def test_failed(self) -> None:
        """If all servers fail, the lookup does; they are asked once."""
        with self.assertRaises(LookupFailed):
            await self.resolver().lookup("broken.example", "A")
        self.assertEqual(self.server.zone.asked(), ["broken.example"])

    async def test_silent(self) -> None:
        """A server that is silent is asked again, and not for ever; nothing is left of it."""
        with self.assertRaises(LookupFailed):
            await self.resolver(rounds=(0.05, 0.1)).lookup("silent.example", "A")
        self.assertEqual(self.server.zone.asked(), ["silent.example"] * 2)

    async def test_other_question(self) -> None:
        """An answer to another question is none, and the next server is asked."""
        with NameServer(ZONE) as lying:
            lying.zone.answer = lambda request, by: _other(request)  # type: ignore[method-assign]
            resolver = self.resolver(lying.address, self.server.address)
            self.assertEqual(await resolver.lookup("other.example", "A"), ("192.0.2.3",))

    async def test_garbage(self) -> None:
        """What is no message at all is no answer."""
        with NameServer(ZONE) as raving:
            raving._reply = lambda data, by: data[:2] + b"\x81\x80\xff"  # type: ignore[method-assign]
            resolver = self.resolver(raving.address, self.server.address, rounds=(0.1, 30.0))
            self.assertEqual(await resolver.lookup("other.example", "A"), ("192.0.2.3",))

    async def test_lost(self) -> None:
        """A connection that is lost before the answer is no answer."""
        self.server.zone.names["long.example"] = [f"TXT {'x' * 900}"]
        reply = self.server._reply
        self.server._reply = lambda data, by: None if by == "tcp" else reply(data, by)  # type: ignore[method-assign]
        with self.assertRaises(LookupFailed):
            await self.resolver(rounds=(5.0,)).texts("long.example")

    async def test_given_up(self) -> None:
        """A question that is given up leaves no socket and no timer."""
        waiting = Deferred.fromCoroutine(self.resolver().lookup("silent.example", "A"))
        waiting.cancel()
        with self.assertRaises(CancelledError):
            await waiting

    async def test_system(self) -> None:
        """Without servers of our own the system's are asked."""
        path = self.mktemp()
        with open(path, "w") as file:
            file.write("nameserver 192.0.2.53\n")
        servers = NameServers(reactor=Clock(), system=path)
        servers._look()
        self.assertEqual(servers.servers, (("192.0.2.53", 53),))
