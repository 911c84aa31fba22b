"""Tests of smtpsvc.client.exchangers: the order of servers, and domains that have none."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.client.exchangers import (
    DOMAIN_UNKNOWN,
    HOST_UNKNOWN,
    LOOP,
    MOST_HOSTS,
    NO_HOST,
    NO_MAIL,
    NO_SUCH_DOMAIN,
    Exchangers,
    NoRoute,
)
from tests.nameserver import Zone, fake_resolver


class ExchangersTests(SynchronousTestCase):
    def exchangers(self, zone: dict[str, list[str]], **options: Any) -> Exchangers:
        """Make some that know a zone, and leave equals in order."""
        self.zone = Zone(zone)
        options.setdefault("shuffle", lambda names: None)
        return Exchangers(fake_resolver(self.zone), **options)

    def places(self, exchangers: Exchangers, domain: str = "y.example", most: int = 100) -> list[str]:
        """Give the addresses in order."""

        async def gather() -> list[str]:
            found: list[str] = []
            async for place in exchangers.places(domain):
                found.append(place.address)
                if len(found) == most:
                    break
            return found

        return self.successResultOf(Deferred.fromCoroutine(gather()))

    def no_route(self, exchangers: Exchangers, domain: str = "y.example") -> Any:
        """Give the reply of a domain that has no server."""

        async def look() -> Any:
            async for _ in exchangers.places(domain):
                return None

        return self.failureResultOf(Deferred.fromCoroutine(look()), NoRoute).value.reply

    HOSTS = {f"h{n}.example": [f"A 192.0.2.{n}"] for n in range(1, 8)}

    def test_order(self) -> None:
        """The lowest preference comes first; a host that is named twice comes once."""
        zone = {"y.example": ["MX 20 h2.example", "MX 10 h1.example", "MX 30 h1.example"], **self.HOSTS}
        self.assertEqual(self.places(self.exchangers(zone)), ["192.0.2.1", "192.0.2.2"])

    def test_shuffled(self) -> None:
        """Exchangers of one preference are shuffled, and not with those of another."""
        groups: list[list[str]] = []

        def shuffle(names: list[str]) -> None:
            groups.append(list(names))
            names.reverse()

        zone = {"y.example": ["MX 1 h1.example", "MX 1 h2.example", "MX 2 h3.example"], **self.HOSTS}
        self.assertEqual(self.places(self.exchangers(zone, shuffle=shuffle)), ["192.0.2.2", "192.0.2.1", "192.0.2.3"])
        self.assertEqual(groups, [["h1.example", "h2.example"], ["h3.example"]])

    def test_all_addresses(self) -> None:
        """All addresses of a host are given, those of IPv6 first."""
        zone = {"y.example": ["MX 1 h.example"], "h.example": ["A 192.0.2.1", "A 192.0.2.2", "AAAA 2001:db8::1"]}
        self.assertEqual(self.places(self.exchangers(zone)), ["2001:db8::1", "192.0.2.1", "192.0.2.2"])

    def test_lazy(self) -> None:
        """A host is not asked for before its turn comes."""
        exchangers = self.exchangers({"y.example": ["MX 1 h1.example", "MX 2 h2.example"], **self.HOSTS})
        self.places(exchangers, most=1)
        self.assertEqual(self.zone.asked("A"), ["h1.example"])

    def test_many(self) -> None:
        """Of a domain with hundreds of exchangers so many are looked at, the best: each may take its time."""
        records = [f"MX {n} h{n}.example" for n in range(300)]
        self.assertEqual(self.no_route(self.exchangers({"y.example": records})), NO_HOST)
        self.assertEqual(self.zone.asked("A"), [f"h{n}.example" for n in range(MOST_HOSTS)])

    def test_implicit(self) -> None:
        """A domain without MX is its own exchanger (RFC 5321 §5.1)."""
        self.assertEqual(self.places(self.exchangers({"y.example": ["A 192.0.2.9"]}), "Y.Example"), ["192.0.2.9"])

    def test_literal(self) -> None:
        """An address literal is where it says; nothing is asked."""
        exchangers = self.exchangers({})
        self.assertEqual(self.places(exchangers, "[192.0.2.5]"), ["192.0.2.5"])
        self.assertEqual(self.places(exchangers, "[IPv6:2001:db8::5]"), ["2001:db8::5"])
        self.assertEqual(self.no_route(exchangers, "[nonsense]"), NO_SUCH_DOMAIN)
        self.assertEqual(self.zone.questions, [])

    def test_none(self) -> None:
        """Where there is no server the reply says why, and 4yz where there may be one later."""
        cases = [
            ({"y.example": ["MX 0 ."]}, NO_MAIL),
            ({}, NO_SUCH_DOMAIN),
            ({"y.example": ["TXT x"]}, NO_HOST),
            ({"y.example": ["MX 1 h.example"]}, NO_HOST),
            ({"y.example": ["MX 1 127.0.0.1"]}, NO_HOST),
            ({"y.example": ["SERVFAIL"]}, DOMAIN_UNKNOWN),
            ({"y.example": ["MX 1 h.example"], "h.example": ["SERVFAIL"]}, HOST_UNKNOWN),
            ({"y.example": ["MX 1 h.example", "MX 2 n.example"], "h.example": ["SERVFAIL"]}, HOST_UNKNOWN),
        ]
        for zone, reply in cases:
            with self.subTest(zone=zone):
                self.assertEqual(self.no_route(self.exchangers(zone)), reply)

    def test_null_among_others(self) -> None:
        """A null MX beside others says nothing (RFC 7505 §3)."""
        zone = {"y.example": ["MX 0 .", "MX 1 h1.example"], **self.HOSTS}
        self.assertEqual(self.places(self.exchangers(zone)), ["192.0.2.1"])

    def test_loops(self) -> None:
        """Where we are an exchanger ourselves, mail goes to better ones, and to none as good or worse."""
        zone = {"y.example": ["MX 1 h1.example", "MX 5 h2.example", "MX 5 me.example", "MX 9 h3.example"], **self.HOSTS}
        self.assertEqual(self.places(self.exchangers(zone, own=["ME.example."])), ["192.0.2.1"])
        for own in ("me.example", "192.0.2.1"):
            with self.subTest(own=own):
                zone = {"y.example": ["MX 5 h1.example", "MX 5 me.example"], **self.HOSTS}
                self.assertEqual(self.no_route(self.exchangers(zone, own=[own])), LOOP)
        self.assertEqual(self.no_route(self.exchangers({"y.example": ["A 192.0.2.1"]}, own=["y.example"])), LOOP)

    def test_ignored(self) -> None:
        """No stranger's record makes us talk to this machine, in whatever form its address is."""
        for address in ("A 127.0.0.1", "A 127.9.9.9", "A 0.0.0.0", "AAAA ::1", "AAAA ::", "AAAA ::ffff:127.0.0.1",
                        "A 255.255.255.255", "A 224.0.0.1", "AAAA ff02::1"):  # fmt: skip
            with self.subTest(address=address):
                self.assertEqual(self.no_route(self.exchangers({"y.example": [address]})), NO_HOST)
        self.assertEqual(self.places(self.exchangers({"y.example": ["A 127.0.0.1"]}, ignored=())), ["127.0.0.1"])

    def test_ignored_literals(self) -> None:
        """Nor does a stranger's address literal; our own address would be a loop."""
        for literal in ("[127.0.0.1]", "[IPv6:::1]", "[IPv6:::ffff:127.0.0.1]", "[0.0.0.0]"):
            with self.subTest(literal=literal):
                self.assertEqual(self.no_route(self.exchangers({}), literal), NO_HOST)
        self.assertEqual(self.places(self.exchangers({}, ignored=()), "[127.0.0.1]"), ["127.0.0.1"])
        self.assertEqual(self.no_route(self.exchangers({}, own=["192.0.2.5"]), "[192.0.2.5]"), LOOP)
