"""
Tests of smtpsvc.policies.spf: who may send a domain's mail.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.policies.authentication import Authentication
from smtpsvc.policies.senderpolicy import LONGEST_RECORD, check_spf
from smtpsvc.settings import Role
from tests.mailauth import Server, make_spf
from tests.nameserver import Zone, fake_resolver, reverse
from tests.support import given, settings, st

#: The names of RFC 7208, appendix A.
APPENDIX = {
    "example.com": ["MX 10 mail-a.example.com", "MX 20 mail-b.example.com", "A 192.0.2.10", "A 192.0.2.11"],
    "amy.example.com": ["A 192.0.2.65"],
    "bob.example.com": ["A 192.0.2.66"],
    "mail-a.example.com": ["A 192.0.2.129"],
    "mail-b.example.com": ["A 192.0.2.130"],
    "example.org": ["MX 10 mail-c.example.org"],
    "mail-c.example.org": ["A 192.0.2.140"],
    reverse("192.0.2.10"): ["PTR example.com"],
    reverse("192.0.2.11"): ["PTR example.com"],
    reverse("192.0.2.65"): ["PTR amy.example.com"],
    reverse("192.0.2.66"): ["PTR bob.example.com"],
    reverse("192.0.2.129"): ["PTR mail-a.example.com"],
    reverse("192.0.2.130"): ["PTR mail-b.example.com"],
    reverse("192.0.2.140"): ["PTR mail-c.example.org"],
    reverse("10.0.0.4"): ["PTR bob.example.com"],
}

HELO_OK = {"mail.x.example": ["TXT v=spf1 ip4:192.0.2.1 -all"]}


def server(names: Any, *, role: Role = Role.SMTP, **options: Any) -> Server:
    """Make a server that asks."""
    return Server(lambda resolver: make_spf(resolver, **options), Zone({**HELO_OK, **names}), role=role)


class EvaluationTests(SynchronousTestCase):
    def evaluate(self, names: Any, host: str = "192.0.2.1", sender: str = "a@x.example") -> str:
        """Evaluate a record."""
        pending = Deferred.fromCoroutine(check_spf(fake_resolver(names), host, sender, "h.example"))
        return str(self.successResultOf(pending)[0])

    def test_appendix(self) -> None:
        """The examples of RFC 7208, appendix A.1, A.2 and A.4, have the results that it gives."""
        for record, passing, failing in (
            ("+all", ["192.0.2.129"], []),
            ("a -all", ["192.0.2.10", "192.0.2.11"], ["192.0.2.65"]),
            ("a:example.org -all", [], ["192.0.2.10"]),
            ("mx -all", ["192.0.2.129", "192.0.2.130"], ["192.0.2.10"]),
            ("mx:example.org -all", ["192.0.2.140"], ["192.0.2.129"]),
            ("mx mx:example.org -all", ["192.0.2.129", "192.0.2.130", "192.0.2.140"], ["192.0.2.10"]),
            ("mx/30 mx:example.org/30 -all", ["192.0.2.131", "192.0.2.143"], ["192.0.2.132"]),
            ("ptr -all", ["192.0.2.10", "192.0.2.65", "192.0.2.129"], ["192.0.2.140", "10.0.0.4"]),
            ("ip4:192.0.2.128/28 -all", ["192.0.2.140"], ["192.0.2.65"]),
            ("exists:%{l1r+}.%{d} -all", [], ["192.0.2.65"]),
            ("mx redirect=_spf.example.org", ["192.0.2.129", "10.9.9.9"], ["10.9.9.8"]),
        ):
            names = {**APPENDIX, "_spf.example.org": ["TXT v=spf1 ip4:10.9.9.9 -all"]}
            names["example.com"] = [*names["example.com"], f"TXT v=spf1 {record}"]
            for result, hosts in (("pass", passing), ("fail", failing)):
                for host in hosts:
                    with self.subTest(record, host=host):
                        self.assertEqual(self.evaluate(names, host, "alice@example.com"), result)

    def test_results(self) -> None:
        """Each result is given."""
        for records, result in (
            (["TXT v=spf1 ?all"], "neutral"),
            (["TXT v=spf1 ~all"], "softfail"),
            (["TXT other"], "none"),
            (["A 192.0.2.1"], "none"),
            (["TXT v=spf1 -all", "TXT v=spf1 +all"], "permerror"),
            (["TXT v=spf1 moo -all"], "permerror"),
            (["SERVFAIL"], "temperror"),
            (["TXT v=spf1 include:broken.example -all"], "temperror"),
            (["TXT v=spf1 include:nowhere.example -all"], "permerror"),
            (["TXT v=spf1 a:n1.example a:n2.example a:n3.example +all"], "permerror"),
            ([f"TXT v=spf1 {' '.join(f'a:x{n}.example' for n in range(11))} +all"], "permerror"),
            (["TXT v=spf1 " + "ip4:192.0.2.9 " * (LONGEST_RECORD // 14 + 1) + "+all"], "permerror"),
        ):
            with self.subTest(records[0][:60]):
                self.assertEqual(self.evaluate({"x.example": records, "broken.example": ["SERVFAIL"]}), result)

    def test_rounds(self) -> None:
        """The hosts of an mx are looked up at once, and no name twice."""
        names = {f"m{n}.example": [f"A 192.0.2.{n}"] for n in range(10)}
        zone = Zone({"x.example": ["TXT v=spf1 mx mx -all", *(f"MX {n} m{n}.example" for n in range(10))], **names})
        self.assertEqual(self.evaluate(zone, "192.0.2.9"), "pass")
        self.assertEqual(len(zone.questions), len(set(zone.questions)))

    def test_ipv6(self) -> None:
        """Clients by IPv6 are looked at, and those of mapped addresses as by IPv4."""
        names = {"x.example": ["TXT v=spf1 a ip4:192.0.2.0/24 -all", "AAAA 2001:db8::5"]}
        for host, result in (("2001:db8::5", "pass"), ("2001:db8::6", "fail"), ("::ffff:192.0.2.3", "pass")):
            self.assertEqual(self.evaluate(names, host), result)

    @settings(max_examples=100, deadline=None)
    @given(st.text(st.sampled_from("abimx46:/.%{}dsl-~?+=012 redirectxplncuystp"), max_size=60), st.text(max_size=10))
    def test_any_record(self, record: str, local: str) -> None:
        """Whatever stands in a record, evaluating it ends with a result."""
        names = {"x.example": [f"TXT v=spf1 {record}", "A 192.0.2.7", "MX 1 x.example"]}
        self.assertIn(
            self.evaluate(names, sender=f"{local}@x.example"),
            ("pass", "fail", "softfail", "neutral", "none", "permerror", "temperror"),
        )


class PolicyTests(SynchronousTestCase):
    def reply(self, names: Any, sender: str = "ann@x.example", helo: str = "mail.x.example", **options: Any) -> Any:
        """Give the code and enhanced code of the reply to MAIL."""
        reply = server(names, **options).mail(sender, helo=helo).last_reply
        return reply.code, reply.enhanced

    def test_verdicts(self) -> None:
        """Fail and records that make no sense are refused, no answer for now; the others are taken."""
        for record, expected, record_only in (
            ("TXT v=spf1 -all", (550, "5.7.23"), 250),
            ("TXT v=spf1 moo", (550, "5.7.24"), 250),
            ("SERVFAIL", (451, "4.7.24"), 250),
            ("TXT v=spf1 ~all", (250, "2.1.0"), 250),
            ("TXT v=spf1 ?all", (250, "2.1.0"), 250),
            ("TXT none", (250, "2.1.0"), 250),
            ("TXT v=spf1 +all", (250, "2.1.0"), 250),
        ):
            with self.subTest(record):
                self.assertEqual(self.reply({"x.example": [record]}), expected)
                self.assertEqual(self.reply({"x.example": [record]}, enforce=False)[0], record_only)
                if expected[0] != 550 or expected[1] == "5.7.24":
                    self.assertEqual(self.reply({"x.example": [record]}, on_failure=None, on_error=None)[0], 250)

    def test_wording(self) -> None:
        """The refusal says whose domain does not let whom."""
        text = server({"x.example": ["TXT v=spf1 -all"]}).mail().last_reply.text
        self.assertRegex(text, r"^x\.example does not let 192\.0\.2\.1 send its mail \(SPF\) \(\w+\)$")

    def test_name(self) -> None:
        """A name of EHLO that fails is refused; one without an answer is not, where there is a sender."""
        good = {"x.example": ["TXT v=spf1 +all"]}
        self.assertEqual(self.reply({**good, "mail.x.example": ["TXT v=spf1 -all"]}), (550, "5.7.23"))
        self.assertEqual(self.reply({**good, "mail.x.example": ["TXT v=spf1 -all"]}, helo="[192.0.2.1]")[0], 250)
        self.assertEqual(self.reply({**good, "mail.x.example": ["SERVFAIL"]})[0], 250)
        self.assertEqual(self.reply({**good, "mail.x.example": ["SERVFAIL"]}, sender="")[0], 451)

    def test_empty_sender(self) -> None:
        """For the empty sender the name stands alone, even if it is not looked at otherwise."""
        for options in ({}, {"enforce": False}):
            asking = server({"mail.x.example": ["TXT v=spf1 -all"]}, **options)
            wire = asking.mail("")
            self.assertEqual(wire.last_reply.code, 250 if options else 550)

    def test_told(self) -> None:
        """What was found stands at the top of the message, and in the results of the envelope."""
        asking = server({"x.example": ["TXT v=spf1 ~all"]})
        asking.send()
        self.assertEqual(
            asking.told(),
            'spf=pass smtp.helo=mail.x.example; spf=softfail reason="domain owner discourages use of this host" '
            "smtp.mailfrom=ann@x.example",
        )
        results = asking.backend.messages[-1].envelope.results.get(Authentication)
        self.assertEqual([each.result for each in results.of("spf")], ["pass", "softfail"])

    def test_international(self) -> None:
        """A domain with U-labels is asked for by its A-labels."""
        asking = server({"xn--bcher-kva.example": ["TXT v=spf1 -all"]})
        wire = asking.connect().say("MAIL FROM:<a@b\u00fccher.example> SMTPUTF8")
        self.assertEqual((wire.last_reply.code, wire.last_reply.enhanced), (550, "5.7.23"))

    def test_timeout(self) -> None:
        """A check that takes too long has no answer."""
        asking = server({"x.example": ["SILENT"]}, timeout=3.0)
        wire = asking.connect()
        wire.say("MAIL FROM:<ann@x.example>")
        self.assertEqual(wire.replies[-1:], [])
        asking.clock.advance(10)
        self.assertEqual(wire.last_reply.enhanced, "4.7.24")

    def test_own_clients(self) -> None:
        """Clients of our own are not looked at."""
        names = {"x.example": ["TXT v=spf1 -all"]}
        for role, address in (
            (Role.SUBMISSION, None),
            (Role.SMTP, IPv4Address("TCP", "127.0.0.1", 5)),
            (Role.SMTP, IPv4Address("TCP", "10.1.2.3", 5)),
            (Role.SMTP, UNIXAddress(b"/run/x")),
            (Role.LMTP, None),
        ):
            with self.subTest(role=role, address=address):
                asking = server(names, role=role)
                self.assertEqual(asking.mail(address=address).last_reply.code, 250)
                self.assertEqual(asking.zone.questions, [])
