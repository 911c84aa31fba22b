"""
Tests of smtpsvc.policies.rates: so much in a time.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.grammar.addresses import parse_mailbox
from smtpsvc.policies.arguments import Arguments
from smtpsvc.policies.buckets import Buckets
from smtpsvc.policies.chain import CHECKS, overridden, with_policies
from smtpsvc.policies.rates import KEYS, Rate, make
from smtpsvc.testing import ScriptedBackend, Wire, clocked_factory
from smtpsvc.values import Account, Envelope, Peer, Recipient
from tests.support import uncounted

MAIL, RCPT = "MAIL FROM:<a@x.example>", "RCPT TO:<b@y.example>"


class RateTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()

    def rate(self, text: str) -> Rate:
        """Make the policy as people type it."""
        arguments = Arguments(text)
        made = make(arguments, self.clock)
        arguments.end()
        return made

    def factory(self, text: str) -> Any:
        """Make a server with the policy."""
        return clocked_factory(with_policies(ScriptedBackend(), self.rate(text)), uncounted(add_received=False))[0]


class BucketTests(RateTestCase):
    def test_fills(self) -> None:
        """A bucket holds its burst, and fills up evenly to no more than that."""
        buckets = Buckets(0.5, 2, keep=9, clock=self.clock)
        self.assertEqual([buckets.take("k", 1, 1) for _ in range(3)], [True, True, False])
        self.clock.advance(1.9)
        self.assertFalse(buckets.take("k", 1, 1))
        self.clock.advance(0.2)
        self.assertEqual([buckets.take("k", 1, 1) for _ in range(2)], [True, False])
        self.clock.advance(1e9)
        self.assertEqual([buckets.take("k", 1, 1) for _ in range(3)], [True, True, False])

    def test_keys(self) -> None:
        """Each key has a bucket of its own."""
        buckets = Buckets(1, 1, keep=9, clock=self.clock)
        self.assertEqual([buckets.take(key, 1, 1) for key in "abab"], [True, True, False, False])

    def test_bounded(self) -> None:
        """No more buckets are kept than was said; the one that was not used for longest is full again."""
        buckets = Buckets(1, 1, keep=3, clock=self.clock)
        for key in "abcad":
            buckets.take(key, 1, 1)
        self.assertEqual(len(buckets), 3)
        self.assertEqual([buckets.take(key, 1, 1) for key in "adb"], [False, False, True])

    def test_clock_back(self) -> None:
        """A clock that is set back neither fills nor empties a bucket."""
        buckets = Buckets(1, 2, keep=3, clock=self.clock)
        self.clock.advance(100)
        buckets.take("k", 2, 1)
        self.clock.rightNow = 0.0
        self.assertFalse(buckets.take("k", 1, 1))
        self.clock.advance(1)
        self.assertTrue(buckets.take("k", 1, 1))

    @given(st.lists(st.floats(0, 50), max_size=60))
    def test_never_more(self, waits: list[float]) -> None:
        """In any time no more is taken than the burst and what the time brings."""
        clock = Clock()
        buckets = Buckets(0.2, 3, keep=2, clock=clock)
        taken = 0
        for wait in waits:
            clock.advance(wait)
            taken += buckets.take("k", 1, 1)
        self.assertLessEqual(taken, 3 + clock.seconds() * 0.2 + 1e-6)


class ClientTests(RateTestCase):
    def test_messages(self) -> None:
        """Messages of a client beyond the rate are refused with 450 4.7.1 at MAIL, until time has passed."""
        factory = self.factory("2/1m")
        wire = Wire(factory).greeted().say(MAIL, "RSET", MAIL, "RSET", MAIL)
        self.assertEqual((wire.last_reply.code, wire.last_reply.enhanced), (450, "4.7.1"))
        self.assertEqual(Wire(factory).greeted().say(MAIL).codes, [450])
        self.clock.advance(30)
        self.assertEqual(wire.say(MAIL).codes[-1], 250)

    def test_networks(self) -> None:
        """A client is an address of IPv4, or 64 bits of IPv6, or what was said; unix sockets are not counted."""
        for text, codes in (("1/1h", [250, 250, 250, 450]), ("1/1h,ipv4=24,ipv6=48", [250, 450, 250, 450])):
            factory = self.factory(text)
            hosts = ("192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2")
            given = []
            for host in hosts:
                address = IPv6Address("TCP", host, 1) if ":" in host else IPv4Address("TCP", host, 1)
                given += Wire(factory, address).greeted().say(MAIL).codes
            self.assertEqual(given, codes)
            local = [Wire(factory, UNIXAddress(None)).greeted().say(MAIL).codes for _ in range(3)]
            self.assertEqual(local, [[250]] * 3)

    def test_connections(self) -> None:
        """Connections beyond the rate hear 421 in place of the greeting, and are closed."""
        factory = self.factory("2/1m,of=connections")
        wires = [Wire(factory) for _ in range(3)]
        self.assertEqual([wire.codes for wire in wires], [[220], [220], [421]])
        self.assertTrue(wires[2].closed)

    def test_recipients(self) -> None:
        """Recipients beyond the rate are refused with 450 4.7.1; the others get the message."""
        wire = Wire(self.factory("2/1m,of=recipients")).greeted().say(MAIL, RCPT, RCPT, RCPT, "DATA", ".")
        self.assertEqual(wire.codes, [250, 250, 250, 450, 354, 250])

    def test_bytes(self) -> None:
        """A client that has sent more than its bytes waits until the debt is paid, and may not declare more."""
        factory = self.factory("100/100s,of=bytes")
        wire = Wire(factory).greeted().say(MAIL, RCPT, "DATA", "x" * 148, ".", MAIL)
        self.assertEqual(wire.codes[-2:], [250, 450])
        self.clock.advance(50)
        self.assertEqual(wire.say(MAIL).codes[-1], 450)
        self.clock.advance(2)
        self.assertEqual(wire.say(f"{MAIL} SIZE=50", MAIL).codes[-2:], [450, 250])

    def test_large(self) -> None:
        """A message larger than a bucket may come when that is full."""
        wire = Wire(self.factory("100/100s,of=bytes")).greeted()
        self.assertEqual(wire.say(f"{MAIL} SIZE=5000").codes, [250])

    def test_burst(self) -> None:
        """A burst other than the rate's number is what the bucket holds."""
        wire = Wire(self.factory("1/1m,burst=3")).greeted().say(*[MAIL, "RSET"] * 4)
        self.assertEqual(wire.codes[::2], [250, 250, 250, 450])


class KeyTests(RateTestCase):
    def envelope(self, sender: str = "a@x.example", account: str = "") -> Envelope:
        """Make a transaction."""
        peer = Peer(IPv4Address("TCP", "192.0.2.1", 1), "c1")
        peer.account = Account(account) if account else None
        return Envelope("t1", peer, parse_mailbox(sender))

    def test_account(self) -> None:
        """Accounts are counted wherever they are, strangers are not."""
        rate = self.rate("1/1m,by=account")
        given = [rate.mail(self.envelope(account=account)) for account in ("joe", "JOE", "jane", "", "")]
        self.assertEqual([answer is None for answer in given], [True, False, True, True, True])

    def test_sender(self) -> None:
        """Senders are counted in any case, the null sender is not."""
        rate = self.rate("1/1m,by=sender")
        given = [rate.mail(self.envelope(sender)) for sender in ("a@x.example", "A@X.example", "b@x.example")]
        self.assertEqual([answer is None for answer in given], [True, False, True])
        wire = Wire(self.factory("1/1m,by=sender")).greeted()
        self.assertEqual(wire.say("MAIL FROM:<>", "RSET", "MAIL FROM:<>").codes, [250, 250, 250])

    def test_recipient(self) -> None:
        """A mailbox is counted in any case, with any tag and in quotes, whoever sends."""
        rate = self.rate("2/1m,by=recipient")
        names = ("b@y.example", '"B+tag"@y.example', "b+1@Y.example", "c@y.example")
        given = [rate.rcpt(self.envelope(), Recipient(parse_mailbox(name))) for name in names]
        self.assertEqual([answer is None for answer in given], [True, True, False, True])

    def test_bytes_of_mailbox(self) -> None:
        """Bytes count for each mailbox that a message is for, once."""
        factory = self.factory("10/1m,by=recipient,of=bytes")
        wire = Wire(factory).greeted().say(MAIL, RCPT, RCPT, "DATA", "x" * 20, ".", MAIL, RCPT, "RCPT TO:<c@y.example>")
        self.assertEqual(wire.codes[-2:], [450, 250])

    def test_checks(self) -> None:
        """What does not count is not asked."""
        cases = {
            "1/1m": ["mail"],
            "1/1m,of=connections": ["connect"],
            "1/1m,of=recipients": ["rcpt"],
            "1/1m,of=bytes": ["mail", "content"],
            "1/1m,by=recipient": ["rcpt"],
            "1/1m,by=recipient,of=bytes": ["rcpt", "content"],
        }
        for text, expected in cases.items():
            self.assertEqual([stage for stage in CHECKS if overridden(self.rate(text), stage)], expected, text)


class MistakeTests(RateTestCase):
    def test_sentences(self) -> None:
        """What makes no sense is refused with a sentence."""
        cases = {
            "": "a rate such as 60/1m is missing",
            "60": "'60' has no time; write such as 60/1m",
            "x/1m": "'x' is no size; write bytes, or a number with K, M or G such as 32M",
            "1/1y": "'1y' is no time; write such as 5s, 10m, 2h or 1d",
            "0/1m": "the rate would take no mail; write such as 60/1m",
            "1/0s": "the rate would take no mail; write such as 60/1m",
            "1/m,burst=0": "the rate would take no mail; write such as 60/1m",
            "1/m,ipv4=33": "a network has 0 to 32 bits of IPv4, and 0 to 128 of IPv6",
            "1/m,keep=0": "keep: at least one bucket must be kept",
            "1/m,of=connections,by=sender": "connections are counted by client only",
            "1/m,by=x": f"by: 'x' is not one of {', '.join(KEYS)}",
        }
        for text, sentence in cases.items():
            with self.subTest(text):
                self.assertEqual(str(self.assertRaises(ValueError, self.rate, text)), sentence)
