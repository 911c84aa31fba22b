"""
Tests of the policies that ask the DNS: fcrdns, sender-mx and dnsbl; of a zone in memory.
"""

from __future__ import annotations

import string
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.interfaces import IPolicy
from smtpsvc.policies.arguments import Arguments
from smtpsvc.policies.chain import CHECKS, overridden, with_policies
from smtpsvc.policies.clients import address_of
from smtpsvc.policies.dnsbl import DNSBL, Listing, Listings, reversed_address
from smtpsvc.policies.dnsbl import make as make_dnsbl
from smtpsvc.policies.dnslists import DNSList, parse_codes, parse_list
from smtpsvc.policies.fcrdns import ForwardConfirmed, ReverseName
from smtpsvc.policies.fcrdns import make as make_fcrdns
from smtpsvc.policies.mailable import Mailable, SenderMX
from smtpsvc.policies.mailable import make as make_mailable
from smtpsvc.policies.modified import modified
from smtpsvc.policies.unknown import NO_ANSWER
from smtpsvc.resolver import Resolver
from smtpsvc.settings import Role
from smtpsvc.testing import ScriptedBackend, Wire, clocked_factory
from smtpsvc.values import Account
from tests.nameserver import Zone, fake_resolver, reverse
from tests.support import example, given, settings_with, st

HELLO, MAIL, RCPT = "EHLO c.example", "MAIL FROM:<a@x.example>", "RCPT TO:<b@y.example>"
CLIENT = "192.0.2.1"


class DNSTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.zone = Zone()
        self.resolver: Resolver = fake_resolver(self.zone, self.clock)
        self.backend = ScriptedBackend()

    def connect(self, policy: IPolicy, host: str = CLIENT, *, account: str = "", **options: Any) -> Wire:
        """Connect from an address to a server with a policy."""
        address = IPv6Address("TCP", host, 1) if ":" in host else IPv4Address("TCP", host, 1)
        factory, _ = clocked_factory(with_policies(self.backend, policy), settings_with(), **options)
        wire = Wire(factory, address)
        if account:
            wire.say(HELLO)
            self.peer.account = Account(account)
        return wire

    def talk(self, policy: IPolicy, *lines: str, host: str = CLIENT, **options: Any) -> list[str]:
        """Say lines, and give code and enhanced code of the replies behind those of the greeting and EHLO."""
        wire = self.connect(policy, host, **options).say(HELLO, *lines)
        return [f"{reply.code} {reply.enhanced}".strip() for reply in wire.replies[-len(lines) :]]

    @property
    def peer(self) -> Any:
        """The last client."""
        return self.backend.called("open_session")[-1][0]

    @property
    def envelope(self) -> Any:
        """The transaction that the backend has heard of last."""
        return self.backend.called("mail")[-1][0]


def checks(policy: IPolicy) -> list[str]:
    """Give the checks that a policy has."""
    return [stage for stage in CHECKS if overridden(policy, stage) is not None]


class ForwardConfirmedTests(DNSTestCase):
    def ask(self, host: str = CLIENT, **options: Any) -> str:
        """Give the reply to MAIL of a client."""
        return self.talk(ForwardConfirmed(self.resolver, **options), MAIL, host=host)[0]

    def found(self) -> Any:
        """Give what was found out about the last client."""
        return self.peer.results.get(ReverseName)

    def test_confirmed(self) -> None:
        """A client with a name that leads back to it is served, and the name is kept."""
        self.zone.names = {
            reverse(CLIENT): ["PTR other.example", "PTR mail.example"],
            "other.example": ["A 192.0.2.9"],
            "mail.example": ["A 192.0.2.8", f"A {CLIENT}"],
        }
        self.assertEqual(self.ask(), "250 2.1.0")
        names = ("other.example", "mail.example")
        self.assertEqual(self.found(), ReverseName("pass", CLIENT, "mail.example", names))
        self.assertEqual(self.peer.name, "mail.example")

    def test_ipv6(self) -> None:
        """A client of IPv6 is looked up by its nibbles, and its name for AAAA; a mapped address is one of IPv4."""
        self.zone.names = {
            reverse("2001:db8::1"): ["PTR mail.example"],
            reverse(CLIENT): ["PTR mail.example"],
            "mail.example": [f"A {CLIENT}", "AAAA 2001:DB8:0::1"],
        }
        self.assertEqual(self.ask("2001:db8::1"), "250 2.1.0")
        self.assertEqual(self.ask(f"::ffff:{CLIENT}"), "250 2.1.0")

    def test_refused(self) -> None:
        """A client without a name, or with one that does not lead back, hears 550 5.7.25 at MAIL."""
        self.assertEqual((self.ask(), self.found().result), ("550 5.7.25", "permerror"))
        for names in ({"mail.example": ["A 192.0.2.9"]}, {"mail.example": ["MX 1 x"]}, {}):
            self.setUp()
            self.zone.names = {reverse(CLIENT): ["PTR mail.example"], **names}
            self.assertEqual((self.ask(), self.found().result), ("550 5.7.25", "fail"))

    def test_no_answer(self) -> None:
        """Where the DNS has no answer the client hears 451 4.4.3, or is served if that was said."""
        for names in (
            {reverse(CLIENT): ["SERVFAIL"]},
            {reverse(CLIENT): ["PTR mail.example"], "mail.example": ["SERVFAIL"]},
        ):
            self.setUp()
            self.zone.names = dict(names)
            self.assertEqual((self.ask(), self.found().result), ("451 4.4.3", "temperror"))
            self.assertEqual(self.ask(on_failure=None), "250 2.1.0")

    def test_require(self) -> None:
        """Any name will do, or none, if that was said; what was found is there all the same."""
        self.zone.names = {reverse(CLIENT): ["PTR mail.example"], reverse("192.0.2.2"): ["SERVFAIL"]}
        for host, required in {
            CLIENT: {"name": "250 2.1.0", "nothing": "250 2.1.0"},
            "192.0.2.2": {"name": "451 4.4.3", "nothing": "250 2.1.0"},
            "192.0.2.3": {"name": "550 5.7.25", "nothing": "250 2.1.0"},
        }.items():
            for require, expected in required.items():
                with self.subTest(host=host, require=require):
                    self.assertEqual(self.ask(host, require=require), expected)
                    self.assertIsNotNone(self.found())
        self.assertRaises(ValueError, ForwardConfirmed, self.resolver, require="all")

    def test_once(self) -> None:
        """A client is looked up once in a session, unless there was no answer."""
        self.zone.names = {reverse(CLIENT): ["PTR mail.example"], "mail.example": [f"A {CLIENT}"]}
        wire = self.connect(ForwardConfirmed(self.resolver)).say(HELLO, MAIL)
        self.clock.advance(100_000)
        wire.say("RSET", MAIL)
        self.assertEqual((wire.last_reply.code, len(self.zone.questions)), (250, 2))

    def test_many_names(self) -> None:
        """No more than ten names of an address are looked at."""
        names = [f"{number}.mail.example" for number in range(50)]
        self.zone.names = {reverse(CLIENT): [f"PTR {name}" for name in names], names[-1]: [f"A {CLIENT}"]}
        self.assertEqual(self.ask(), "550 5.7.25")
        self.assertEqual(len(self.zone.asked("A")), 10)

    def test_spared(self) -> None:
        """Clients of private networks and of this machine, who has logged in, and clients of LMTP are not looked at."""
        policy = ForwardConfirmed(self.resolver)
        for host in ("10.1.2.3", "127.0.0.1", "::1", "fe80::1%eth0", "fd00::1"):
            self.assertEqual(self.talk(policy, MAIL, host=host), ["250 2.1.0"], host)
        self.assertEqual(self.connect(policy, account="joe").say(MAIL).codes[-1], 250)
        self.assertEqual(self.connect(policy, role=Role.LMTP).say("LHLO c.example", MAIL).codes[-1], 250)
        self.assertEqual(self.zone.questions, [])

    def test_gone(self) -> None:
        """A client that hangs up leaves no question open."""
        self.zone.names = {reverse(CLIENT): ["SILENT"]}
        wire = self.connect(ForwardConfirmed(self.resolver)).say(HELLO, MAIL)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        wire.hang_up()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_deadline(self) -> None:
        """A policy has a deadline of its own if one is given, shorter than that of the question."""
        self.zone.names = {reverse(CLIENT): ["SILENT"]}
        policy = modified(ForwardConfirmed(self.resolver), deadline=3, on_timeout=None, clock=self.clock)
        wire = self.connect(policy).say(HELLO, MAIL)
        self.clock.advance(3)
        self.assertEqual(wire.last_reply.code, 250)


class SenderMXTests(DNSTestCase):
    ZONE = {
        "x.example": ["MX 10 mx.x.example"],
        "null.example": ["MX 0 ."],
        "host.example": ["A 192.0.2.3"],
        "six.example": ["AAAA 2001:db8::1"],
        "text.example": ["TXT nothing"],
        "broken.example": ["SERVFAIL"],
        "half.example": ["SERVFAIL A", "SERVFAIL AAAA"],
        "local.example": ["MX 10 local.example", "A 127.0.0.1"],
        "good.example": ["MX 10 nowhere.example", "MX 20 local.example", "MX 30 host.example"],
        "xn--bcher-kva.example": ["MX 10 host.example"],
    }

    def setUp(self) -> None:
        super().setUp()
        self.zone.names = dict(self.ZONE)

    def ask(self, sender: str, **options: Any) -> str:
        """Give the reply to MAIL with a sender."""
        line = f"MAIL FROM:<{sender}>{'' if sender.isascii() else ' SMTPUTF8'}"
        return self.talk(SenderMX(self.resolver, **options), line)[0]

    def test_senders(self) -> None:
        """A domain needs a mail exchanger or an address, and may not say that it takes no mail (RFC 7505)."""
        for domain, (reply, result) in {
            "x.example": ("250 2.1.0", "mx"),
            "b\u00fccher.example": ("250 2.1.0", "mx"),
            "host.example": ("250 2.1.0", "address"),
            "six.example": ("250 2.1.0", "address"),
            "null.example": ("550 5.7.27", "null"),
            "text.example": ("550 5.1.8", "none"),
            "nowhere.example": ("550 5.1.8", "none"),
            "broken.example": ("451 4.4.3", "unknown"),
            "half.example": ("451 4.4.3", "unknown"),
        }.items():
            with self.subTest(domain):
                self.assertEqual(self.ask(f"a@{domain}"), reply)
                if reply.startswith("250"):
                    self.assertEqual(self.envelope.results.get(Mailable).result, result)

    def test_not_looked_at(self) -> None:
        """The null sender, address literals, who has logged in and clients of LMTP are taken without a look."""
        self.assertEqual([self.ask(sender) for sender in ("", "a@[192.0.2.1]")], ["250 2.1.0"] * 2)
        for wire in (
            self.connect(SenderMX(self.resolver), account="joe"),
            self.connect(SenderMX(self.resolver), role=Role.LMTP).say("LHLO c.example"),
        ):
            wire.say("MAIL FROM:<a@nowhere.example>")
            self.assertEqual((wire.last_reply.code, self.zone.questions), (250, []))

    def test_on_failure(self) -> None:
        """Where the DNS has no answer mail is taken, if that was said."""
        self.assertEqual(self.ask("a@broken.example", on_failure=None), "250 2.1.0")
        self.assertEqual(self.envelope.results.get(Mailable), Mailable("broken.example", "unknown"))

    def test_strict(self) -> None:
        """With strict a mail exchanger must have an address that can be reached."""
        for domain, reply in {
            "x.example": "550 5.1.8",
            "local.example": "550 5.1.8",
            "good.example": "250 2.1.0",
            "host.example": "250 2.1.0",
        }.items():
            with self.subTest(domain):
                self.assertEqual(self.ask(f"a@{domain}", strict=True), reply)

    def test_recipients(self) -> None:
        """For who has logged in recipients are looked at too, if that was said."""
        policy = SenderMX(self.resolver, recipients=True)
        wire = self.connect(policy, account="joe").say("MAIL FROM:<a@x.example>")
        for domain, reply in {
            "x.example": (250, "2.1.5"),
            "null.example": (556, "5.1.10"),
            "nowhere.example": (550, "5.1.2"),
            "broken.example": (451, "4.4.3"),
        }.items():
            wire.say(f"RCPT TO:<b@{domain}>")
            self.assertEqual((wire.last_reply.code, wire.last_reply.enhanced), reply)
        self.zone.questions.clear()
        self.assertEqual(self.talk(policy, MAIL, "RCPT TO:<b@elsewhere.example>")[-1], "250 2.1.5")
        self.assertEqual(self.zone.questions, [])
        self.assertEqual((checks(policy), checks(SenderMX(self.resolver))), (["mail", "rcpt"], ["mail"]))


class DNSBLTests(DNSTestCase):
    KEY = "1.2.0.192"

    def policy(self, *lists: str, **options: Any) -> DNSBL:
        """Make the policy."""
        return DNSBL(map(parse_list, lists), resolver=self.resolver, **options)

    def list(self, zone: str, *records: str, key: str = KEY) -> None:
        """Have a list say something of the client."""
        self.zone.names[f"{key}.{zone}"] = records

    def listings(self) -> Any:
        """Give what was found for the last transaction."""
        return self.envelope.results.get(Listings)

    def test_listed(self) -> None:
        """A client that is listed hears 554 5.7.1 at MAIL, with the list and what it says."""
        self.list("bl.example", "A 127.0.0.2", "TXT Spam,| see https://bl.example/")
        wire = self.connect(self.policy("other.example", "bl.example")).say(HELLO, MAIL)
        reply = wire.last_reply
        self.assertEqual((reply.code, reply.enhanced), (554, "5.7.1"))
        text = "Your address is listed by bl.example: Spam, see https://bl.example/"
        self.assertTrue(reply.text.startswith(text), reply)

    def test_not_listed(self) -> None:
        """A client that is not listed is served; lists are asked at once."""
        self.assertEqual(self.talk(self.policy("bl.example", "other.example"), MAIL), ["250 2.1.0"])
        self.assertEqual(self.listings(), Listings())
        self.assertEqual(self.zone.asked("A"), [f"{self.KEY}.bl.example", f"{self.KEY}.other.example"])

    def test_hostile_text(self) -> None:
        """What a list says is escaped and cut short, so that it forges no line."""
        self.list("bl.example", "A 127.0.0.2", "TXT a\r\n250 2.1.0 OK\x1b[2J\u202e" + "x" * 600)
        wire = self.connect(self.policy("bl.example")).say(HELLO, MAIL)
        self.assertIn(r"a\r\n250 2.1.0 OK\x1b[2J\u202exxx", wire.last_reply.text)
        self.assertLess(len(wire.last_reply.text), 350)

    def test_no_text(self) -> None:
        """A list that has no text refuses without one; with hide the client does not hear which list it is."""
        self.list("bl.example", "A 127.0.0.2", "SERVFAIL TXT")
        self.assertIn("by bl.example (", self.connect(self.policy("bl.example")).say(HELLO, MAIL).last_reply.text)
        reply = self.connect(self.policy("bl.example", hide=True)).say(HELLO, MAIL).last_reply
        self.assertNotIn("bl.example", reply.text)

    def test_codes(self) -> None:
        """Only codes that were named count."""
        self.list("bl.example", "A 127.0.0.2", "A 127.0.1.5")
        for codes, count in {"127.0.0.[3..9]": 0, "127.0.0.2": 1, "127.0.[0;1].[2;4..9]": 2, "127.1.0.2": 0}.items():
            with self.subTest(codes):
                reply = self.talk(self.policy(f"bl.example={codes}", threshold=2), MAIL)
                self.assertEqual(reply, ["250 2.1.0"])
                self.assertEqual(sum(len(each.codes) for each in self.listings().found), count)

    def test_weights(self) -> None:
        """Weights are added up, those below 0 too, and refused from the threshold on."""
        self.list("a.example", "A 127.0.0.2")
        self.list("b.example", "A 127.0.0.2")
        self.list("good.example", "A 127.0.0.2")
        for lists, reply in {
            ("a.example*2", "b.example"): "554 5.7.1",
            ("a.example*2", "no.example*9"): "250 2.1.0",
            ("a.example*2", "b.example", "good.example*-1"): "250 2.1.0",
            ("a.example*3", "b.example", "good.example*-1"): "554 5.7.1",
        }.items():
            with self.subTest(lists):
                self.assertEqual(self.talk(self.policy(*lists, threshold=3), MAIL), [reply])

    def test_results(self) -> None:
        """What was found is in the results of the envelope, of all such policies."""
        self.list("a.example", "A 127.0.0.2", "A 127.0.0.3")
        self.zone.names["broken.example"] = ["SERVFAIL"]
        self.zone.names[f"{self.KEY}.broken.example"] = ["SERVFAIL"]
        chain = with_policies(self.backend, self.policy("a.example*2", threshold=9), self.policy("broken.example"))
        factory, _ = clocked_factory(chain, settings_with())
        Wire(factory, IPv4Address("TCP", CLIENT, 1)).say(HELLO, MAIL)
        found = self.listings()
        expected = Listings((Listing("a.example", self.KEY, ("127.0.0.2", "127.0.0.3"), 2),), ("broken.example",))
        self.assertEqual((found, found.score), (expected, 2))

    def test_no_answer(self) -> None:
        """A list without an answer counts for nothing; or mail that it could have decided is refused for now."""
        self.list("broken.example", "SERVFAIL")
        self.list("bl.example", "A 127.0.0.2")
        for lists, threshold, plain, careful in (
            (("broken.example",), 1, "250 2.1.0", "451 4.4.3"),
            (("broken.example", "bl.example"), 1, "554 5.7.1", "554 5.7.1"),
            (("broken.example*-5", "bl.example"), 1, "554 5.7.1", "451 4.4.3"),
            (("broken.example", "bl.example"), 3, "250 2.1.0", "250 2.1.0"),
            (("broken.example*2", "bl.example"), 3, "250 2.1.0", "451 4.4.3"),
        ):
            with self.subTest(lists):
                self.assertEqual(self.talk(self.policy(*lists, threshold=threshold), MAIL), [plain])
                policy = self.policy(*lists, threshold=threshold, on_failure=NO_ANSWER)
                self.assertEqual(self.talk(policy, MAIL), [careful])

    def test_not_served(self) -> None:
        """Codes by which a list says that it does not serve us refuse nobody, and are logged once."""
        events: list[Any] = []
        globalLogPublisher.addObserver(events.append)
        self.addCleanup(globalLogPublisher.removeObserver, events.append)
        self.list("bl.example", "A 127.255.255.254")
        self.list("gone.example", "A 203.0.113.7")
        policy = self.policy("bl.example", "gone.example")
        for _ in range(3):
            self.assertEqual(self.talk(policy, MAIL), ["250 2.1.0"])
        self.assertEqual(self.listings().unknown, ("bl.example", "gone.example"))
        logged = [each["zone"] for each in events if "does not serve us" in str(each.get("log_format"))]
        self.assertEqual(logged, ["bl.example", "gone.example"])

    def test_connect(self) -> None:
        """At connect a client is refused in place of the greeting, or at RCPT if refusals are deferred."""
        self.list("bl.example", "A 127.0.0.2")
        policy = self.policy("bl.example", at="connect")
        wire = self.connect(policy)
        self.assertEqual((wire.codes, wire.closed), ([554], True))
        self.assertEqual(self.talk(modified(policy, defer=True), MAIL, RCPT), ["250 2.1.0", "554 5.7.1"])
        self.assertEqual((checks(policy), checks(self.policy("bl.example"))), (["connect"], ["mail"]))

    def test_ipv6(self) -> None:
        """A client of IPv6 is looked up by its nibbles (RFC 5782 section 2.4)."""
        self.list("bl.example", "A 127.0.0.2", key="1." + "0." * 23 + "8.b.d.0.1.0.0.2")
        self.assertEqual(self.talk(self.policy("bl.example"), MAIL, host="2001:db8::1"), ["554 5.7.1"])

    def test_names(self) -> None:
        """The domain of the sender, or the name in EHLO, may be looked up; addresses in their places are not."""
        self.list("dbl.example", "A 127.0.1.2", key="x.example")
        self.list("dbl.example", "A 127.0.1.2", key="c.example")
        self.assertEqual(self.talk(self.policy("dbl.example", by="sender"), MAIL), ["554 5.7.1"])
        self.assertEqual(self.talk(self.policy("dbl.example", by="helo"), MAIL), ["554 5.7.1"])
        self.zone.questions.clear()
        for sender in ("", "a@[192.0.2.1]", "a@localhost"):
            self.assertEqual(self.talk(self.policy("dbl.example", by="sender"), f"MAIL FROM:<{sender}>"), ["250 2.1.0"])
        for name in ("[192.0.2.1]", "192.0.2.1", "localhost"):
            wire = self.connect(self.policy("dbl.example", by="helo")).say(f"EHLO {name}", MAIL)
            self.assertEqual(wire.last_reply.code, 250)
        self.assertEqual(self.zone.questions, [])

    def test_spared(self) -> None:
        """Who has logged in, and clients of private networks and of LMTP, are not looked up."""
        self.list("bl.example", "A 127.0.0.2")
        policy = self.policy("bl.example")
        self.assertEqual(self.connect(policy, account="joe").say(MAIL).codes[-1], 250)
        self.assertEqual(self.talk(policy, MAIL, host="192.168.1.1"), ["250 2.1.0"])
        self.assertEqual(self.connect(policy, role=Role.LMTP).say("LHLO c.example", MAIL).codes[-1], 250)
        self.assertEqual(self.zone.questions, [])

    def test_mistakes(self) -> None:
        """Lists that refuse nobody, and a look at what is not known yet, are mistakes."""
        for lists, options in (
            ((), {}),
            (("good.example*-1",), {}),
            (("a.example",), {"by": "sender", "at": "connect"}),
        ):
            with self.subTest(lists=lists, options=options):
                self.assertRaises(ValueError, self.policy, *lists, **options)


class ListTests(SynchronousTestCase):
    def test_parse(self) -> None:
        """A list is written as a zone, with codes and a weight if they are wanted."""
        self.assertEqual(parse_list("BL.example."), DNSList("bl.example"))
        self.assertEqual(parse_list("bl.example*-3"), DNSList("bl.example", (), -3))
        codes = (frozenset({127}), frozenset({0}), frozenset({0}), frozenset({2, 4, 5, 6}))
        self.assertEqual(parse_list("bl.example=127.0.0.[2;4..6]*3"), DNSList("bl.example", codes, 3))

    def test_mistakes(self) -> None:
        """What is no list is a mistake with a sentence."""
        for text in (
            *("", "=127.0.0.2", "*3", "a_b.example", "a.example=", "a.example*", "a.example*x", "a.example*99999"),
            *("a.example=127.0.0", "a.example=127.0.0.256", "a.example=127.0.0.[]", "a.example=127.0.0.[5..2]"),
            *("a.example=127.0.0.2.3", "a.example=127.0.0.[2", "a.example=127.0.0.x", "a.example*1*2"),
        ):
            with self.subTest(text):
                self.assertRaises(ValueError, parse_list, text)

    @given(st.text(st.sampled_from(string.digits + "[].;,=*-a"), max_size=40))
    @example("127.0.0.[2..2]")
    def test_any_codes(self, text: str) -> None:
        """Any text is codes, in which each octet has some, or a mistake."""
        try:
            codes = parse_codes(text)
        except ValueError:
            return
        self.assertTrue(len(codes) == 4 and all(codes) and all(max(each) < 256 for each in codes))

    @given(st.ip_addresses())
    def test_reversed(self, address: Any) -> None:
        """Any address is written backwards, so that it can be told what it was."""
        parts = reversed_address(str(address)).split(".")[::-1]
        seen = address_of(str(address))
        assert seen is not None
        if seen.version == 4:
            self.assertEqual(".".join(parts), str(seen))
        else:
            self.assertEqual("".join(parts), seen.exploded.replace(":", ""))


class MakeTests(SynchronousTestCase):
    def test_made(self) -> None:
        """Each is made of what people type, and asks nobody until it is asked."""
        for make, text in (
            (make_dnsbl, "bl.example=127.0.0.[2..9]*2,good.example*-2,threshold=2,at=connect,hide,on-failure=451"),
            (make_dnsbl, "dbl.example,by=sender"),
            (make_fcrdns, "require=name,on-failure=accept"),
            (make_mailable, "strict,recipients=yes,on-failure=accept"),
        ):
            with self.subTest(text):
                arguments = Arguments(text)
                make(arguments, Clock())
                arguments.end()
        self.assertRaises(ValueError, make_dnsbl, Arguments("bl.example,threshold=x"), Clock())

    def test_iprev_without_policy(self) -> None:
        """What leads back to a client can be asked for without the policy."""
        from smtpsvc.policies.fcrdns import reverse_name

        asked = Deferred.fromCoroutine(reverse_name(fake_resolver({}), CLIENT))
        self.assertEqual(self.successResultOf(asked), ReverseName("permerror", CLIENT))
