"""
Tests of the policies that ask nobody: allow, deny, require-auth, require-tls, sender-login, helo and early-talker.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.grammar.addresses import NULL, parse_mailbox
from smtpsvc.grammar.replies import Reply
from smtpsvc.interfaces import IPolicy
from smtpsvc.policies.chain import CHECKS, overridden, with_policies
from smtpsvc.policies.early import EarlyTalker
from smtpsvc.policies.listed import Allow, Deny
from smtpsvc.policies.modified import modified
from smtpsvc.policies.names import HeloName
from smtpsvc.policies.ownership import SenderLogin
from smtpsvc.policies.required import RequireAuth, RequireTLS
from smtpsvc.settings import Role
from smtpsvc.testing import ScriptedBackend, Wire, clocked_factory
from smtpsvc.values import Account, Envelope, Peer, TLSInfo
from tests.support import settings_with

HELLO, RCPT = "EHLO c.example", "RCPT TO:<b@y.example>"


def connect(policy: IPolicy, host: str = "192.0.2.1", **options: Any) -> Wire:
    """Connect from an address to a server with a policy."""
    chain = with_policies(ScriptedBackend(), policy)
    address = IPv6Address("TCP", host, 1) if ":" in host else IPv4Address("TCP", host, 1)
    return Wire(clocked_factory(chain, settings_with(), **options)[0], address if host else UNIXAddress(None))


def talk(policy: IPolicy, *lines: str, host: str = "192.0.2.1", **options: Any) -> list[str]:
    """Say lines to a server with a policy, and give code and enhanced code of the replies behind the greeting's."""
    wire = connect(policy, host, **options).say(*lines)
    return [f"{reply.code} {reply.enhanced}".strip() for reply in wire.replies[1:]]


def checks(policy: IPolicy) -> list[str]:
    """Give the checks that a policy has."""
    return [stage for stage in CHECKS if overridden(policy, stage) is not None]


class ListedTests(SynchronousTestCase):
    def test_deny_client(self) -> None:
        """A client that is denied hears 554 5.7.1 in place of the greeting; others do not."""
        policy = Deny(["192.0.2.0/24", "2001:db8::/32"])
        for host, code in {"192.0.2.9": 554, "192.0.3.9": 220, "2001:db8::1": 554, "": 220}.items():
            with self.subTest(host):
                wire = connect(policy, host)
                self.assertEqual((wire.last_reply.code, wire.closed), (code, code == 554))

    def test_allow_client(self) -> None:
        """Only clients that are allowed are served."""
        policy = Allow(["192.0.2.0/24", "unix"])
        codes = [connect(policy, host).last_reply.code for host in ("192.0.2.9", "192.0.3.9", "::1", "")]
        self.assertEqual(codes, [220, 554, 554, 220])

    def test_senders(self) -> None:
        """Senders are refused with 550 5.7.1 at MAIL, and the next one may be taken."""
        lines = (HELLO, "MAIL FROM:<a@x.example>", "RSET", "MAIL FROM:<a@z.example>", "RSET", "MAIL FROM:<>")
        denied = talk(Deny(senders=["x.example", "<>"]), *lines)
        self.assertEqual(denied, ["250", "550 5.7.1", "250 2.0.0", "250 2.1.0", "250 2.0.0", "550 5.7.1"])
        allowed = talk(Allow(senders=["x.example", "<>"]), *lines)
        self.assertEqual(allowed, ["250", "250 2.1.0", "250 2.0.0", "550 5.7.1", "250 2.0.0", "250 2.1.0"])

    def test_recipients(self) -> None:
        """Recipients are refused with 550 5.7.1 at RCPT, each for himself."""
        lines = (HELLO, "MAIL FROM:<a@x.example>", RCPT, "RCPT TO:<c@y.example>")
        self.assertEqual(talk(Deny(recipients=["b@y.example"]), *lines)[2:], ["550 5.7.1", "250 2.1.5"])
        self.assertEqual(talk(Allow(recipients=["b@y.example"]), *lines)[2:], ["250 2.1.5", "550 5.7.1"])

    def test_all_kinds(self) -> None:
        """Of several kinds each is looked at where it is known."""
        policy = Deny(["10.0.0.0/8"], senders=["x.example"], recipients=["b@"])
        lines = (HELLO, "MAIL FROM:<a@x.example>", "MAIL FROM:<a@z.example>", RCPT)
        self.assertEqual(talk(policy, *lines), ["250", "550 5.7.1", "250 2.1.0", "550 5.7.1"])

    def test_logged_in(self) -> None:
        """With auth among the clients they are looked at when it is known, at MAIL."""
        policy = Allow(["10.0.0.0/8", "auth"])
        for host, account, expected in (("192.0.2.1", "", 554), ("192.0.2.1", "joe", None), ("10.0.0.1", "", None)):
            peer = Peer(IPv4Address("TCP", host, 1), "c1")
            peer.account = Account(account) if account else None
            answer = policy.mail(Envelope("t1", peer, parse_mailbox("a@x.example")))
            self.assertEqual(answer.code if isinstance(answer, Reply) else answer, expected)
        self.assertEqual(checks(policy), ["mail"])

    def test_checks(self) -> None:
        """What nothing is listed for is not asked."""
        self.assertEqual(checks(Deny(["10.0.0.0/8"])), ["connect"])
        self.assertEqual(checks(Deny(senders=["*"])), ["mail"])
        self.assertEqual(checks(Allow(recipients=["*"])), ["rcpt"])

    def test_nothing(self) -> None:
        """A list of nothing is a mistake."""
        self.assertRaises(ValueError, Deny)


class RequiredTests(SynchronousTestCase):
    LINES = (HELLO, "MAIL FROM:<a@x.example>", RCPT, "DATA")

    def test_stages(self) -> None:
        """A client that has not logged in, or has no TLS, hears 530 5.7.0 at the stage named, not before."""
        for kind in (RequireAuth, RequireTLS):
            for place, stage in enumerate(("mail", "rcpt", "data"), 1):
                with self.subTest(kind=kind, stage=stage):
                    policy = kind(stage)
                    self.assertEqual(talk(policy, *self.LINES)[place], "530 5.7.0")
                    self.assertTrue(all(code[0] == "2" for code in talk(policy, *self.LINES)[:place]))
                    self.assertEqual(checks(policy), [stage])

    def test_served(self) -> None:
        """Who has what is needed is served; a guest has not logged in, and TLS of a proxy counts if that is said."""
        peer = Peer(IPv4Address("TCP", "192.0.2.1", 1), "c1")
        for account, good in ((Account("joe"), True), (Account(""), False), (None, False)):
            peer.account = account
            self.assertEqual(RequireAuth().refusal(peer) is None, good)
        for tls, proxied, good in (
            (TLSInfo("TLSv1.3", ""), False, True),
            (TLSInfo("TLSv1.3", "", proxied=True), False, False),
            (TLSInfo("TLSv1.3", "", proxied=True), True, True),
            (None, True, False),
        ):
            peer.tls = tls
            self.assertEqual(RequireTLS(proxied=proxied).refusal(peer) is None, good)

    def test_stage(self) -> None:
        """A stage that is none is a mistake."""
        self.assertRaises(ValueError, RequireAuth, "helo")


class SenderLoginTests(SynchronousTestCase):
    def ask(self, policy: SenderLogin, account: str, sender: str) -> bool:
        """Tell whether an account may send as an address."""
        peer = Peer(IPv4Address("TCP", "192.0.2.1", 1), "c1")
        peer.account = Account(account) if account else None
        answer = policy.mail(Envelope("t1", peer, parse_mailbox(sender)))
        if answer is not None:
            assert isinstance(answer, Reply)
            self.assertEqual((answer.code, answer.enhanced), (553, "5.7.1"))
        return answer is None

    def test_own(self) -> None:
        """An account is its own address, in any case and with any tag, and no other."""
        policy = SenderLogin()
        for sender in ("joe@x.example", "JOE@X.example", "joe+list@x.example"):
            self.assertTrue(self.ask(policy, "Joe@x.example", sender), sender)
        for sender in ("jo@x.example", "joe@y.example", "joe@s.x.example", "+joe@x.example", "joe-list@x.example"):
            self.assertFalse(self.ask(policy, "joe@x.example", sender), sender)

    def test_strangers(self) -> None:
        """Who has not logged in is not looked at, and the null sender is anybody's."""
        self.assertTrue(self.ask(SenderLogin(), "", "joe@x.example"))
        peer = Peer(None, "c1")
        peer.account = Account("joe@x.example")
        self.assertIsNone(SenderLogin().mail(Envelope("t1", peer, NULL)))

    def test_domain(self) -> None:
        """Accounts without a domain are in the one that is named, or are no address."""
        self.assertTrue(self.ask(SenderLogin(domain="X.example"), "joe", "joe@x.example"))
        self.assertFalse(self.ask(SenderLogin(domain="x.example"), "joe", "joe@y.example"))
        self.assertFalse(self.ask(SenderLogin(), "joe", "joe@x.example"))

    def test_separator(self) -> None:
        """Other characters may begin what does not count, or none."""
        self.assertTrue(self.ask(SenderLogin(separator="-+"), "joe@x.example", "joe-a+b@x.example"))
        self.assertFalse(self.ask(SenderLogin(separator=""), "joe@x.example", "joe+a@x.example"))

    def test_file(self) -> None:
        """A file adds addresses and domains to an account, or to all, and is read again when it changes."""
        path = self.mktemp()
        with open(path, "w") as file:
            file.write("# who is who\nJoe: sales@x.example, .shop.example\n*: info@x.example\n")
        policy = SenderLogin(path, domain="x.example")
        for sender in ("joe@x.example", "sales@x.example", "sales+1@x.example", "a@b.shop.example", "info@x.example"):
            self.assertTrue(self.ask(policy, "joe", sender), sender)
        self.assertFalse(self.ask(policy, "jane", "sales@x.example"))
        self.assertTrue(self.ask(policy, "jane", "info@x.example"))
        with open(path, "w") as file:
            file.write("jane: sales@x.example\n")
        self.assertTrue(self.ask(policy, "jane", "sales@x.example"))
        self.assertFalse(self.ask(policy, "joe", "sales@x.example"))

    def test_mistakes(self) -> None:
        """A file without accounts, or a domain that is none, is a mistake."""
        path = self.mktemp()
        with open(path, "w") as file:
            file.write("sales@x.example\n")
        self.assertIn("no account", str(self.assertRaises(ValueError, SenderLogin, path)))
        self.assertRaises(ValueError, SenderLogin, domain="x_y")


class HeloTests(SynchronousTestCase):
    def ask(self, name: str, host: str = "192.0.2.1", **options: Any) -> str:
        """Give the reply to MAIL of a client with a name."""
        policy = HeloName(["mx.example.org"], lenient=options.pop("lenient", False))
        hello = f"{'LHLO' if options.get('role') is Role.LMTP else 'EHLO'} {name}"
        return talk(policy, hello, "MAIL FROM:<a@x.example>", host=host, **options)[1]

    def test_taken(self) -> None:
        """Names that may be true are taken."""
        names = ("mail.example.com", "mail.example.com.", "b\u00fccher.example", "[192.0.2.1]", "a-b.c.example")
        self.assertEqual([self.ask(name) for name in names], ["250 2.1.0"] * 5)
        self.assertEqual(self.ask("[IPv6:2001:DB8:0::1]", "2001:db8::1"), "250 2.1.0")

    def test_refused(self) -> None:
        """Names that cannot be true are refused with 550 5.7.1 at MAIL."""
        names = (
            *("192.0.2.1", "[192.0.2.2]", "[x]", "[IPv6:::1]", "mail", "localhost", "localhost.localdomain"),
            *("a.localhost", "mx.example.org", "MX.example.ORG", "a_b.example", "-a.example", "a..example", "a b"),
        )
        for name in names:
            with self.subTest(name):
                self.assertEqual(self.ask(name), "550 5.7.1")

    def test_lenient(self) -> None:
        """Names without a dot are taken if that is said; localhost is not."""
        self.assertEqual([self.ask(name, lenient=True) for name in ("mail", "localhost")], ["250 2.1.0", "550 5.7.1"])

    def test_spared(self) -> None:
        """Clients on this machine, of unix sockets and of LMTP are not looked at."""
        self.assertEqual([self.ask("x", host) for host in ("127.0.0.1", "::1", "")], ["250 2.1.0"] * 3)
        self.assertEqual(self.ask("x", role=Role.LMTP), "250 2.1.0")

    def test_logged_in(self) -> None:
        """Who has logged in is not looked at."""
        peer = Peer(IPv4Address("TCP", "192.0.2.1", 1), "c1")
        envelope = Envelope("t1", peer, NULL)
        self.assertIsNotNone(HeloName().mail(envelope))
        peer.account = Account("joe")
        self.assertIsNone(HeloName().mail(envelope))


class EarlyTests(SynchronousTestCase):
    def test_patient(self) -> None:
        """A client that waits is greeted when the time has passed, and served."""
        clock = Clock()
        wire = connect(EarlyTalker(5, clock=clock))
        clock.advance(4)
        self.assertEqual(wire.codes, [])
        clock.advance(2)
        self.assertEqual(wire.say(HELLO).codes, [220, 250])

    def test_early(self) -> None:
        """A client that speaks before it is greeted hears 554 to its EHLO."""
        clock = Clock()
        wire = connect(EarlyTalker(5, clock=clock)).say(HELLO)
        clock.advance(6)
        self.assertEqual([(reply.code, reply.enhanced) for reply in wire.replies[1:]], [(554, "")])
        self.assertEqual(wire.say("MAIL FROM:<a@x.example>").codes[-1], 503)

    def test_deferred(self) -> None:
        """With defer it hears so at RCPT, where the recipient is logged."""
        clock = Clock()
        wire = connect(modified(EarlyTalker(5, clock=clock), defer=True)).say(HELLO)
        clock.advance(6)
        self.assertEqual(wire.say("MAIL FROM:<a@x.example>", RCPT).codes, [220, 250, 250, 554])

    def test_gone(self) -> None:
        """Of a client that hangs up while it waits nothing is left."""
        clock = Clock()
        connect(EarlyTalker(5, clock=clock)).hang_up()
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_long(self) -> None:
        """A wait of more than a minute is a mistake."""
        self.assertRaises(ValueError, EarlyTalker, 61, clock=Clock())
