"""Tests of smtpsvc.client.Mailer: routes, fates, and connections that are used again."""

from __future__ import annotations

import random
from email.message import EmailMessage
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.client import (
    ClientError,
    ConnectFailed,
    Fate,
    Frugality,
    LimitReached,
    Mailer,
    NotSent,
    Report,
    Route,
    Stage,
    send,
)
from smtpsvc.client.pool import Budget, Pool
from tests.mailnet import LOST, OK, SILENT, Net, Site
from tests.meetings import MESSAGE
from tests.nameserver import Zone, fake_resolver

SENDER, JOE, ANN, BOB = "a@x.example", "joe@y.example", "ann@y.example", "bob@z.example"
ZONE = {
    "y.example": ["MX 10 a.mx.example", "MX 20 b.mx.example"],
    "z.example": ["MX 10 b.mx.example"],
    "a.mx.example": ["A 192.0.2.1"],
    "b.mx.example": ["A 192.0.2.2"],
}
NOT_NOW = b"450 4.2.1 Not now\r\n"
NEVER = b"550 5.1.1 Never\r\n"


def fates(report: Report) -> list[str]:
    """Give the fates in order."""
    return [each.fate.value for each in report.recipients]


class MailerTestCase(SynchronousTestCase):
    def mailer(self, *sites: Site, zone: dict[str, list[str]] | None = None, **options: Any) -> Mailer:
        """Make a mailer in a net that has sites at 192.0.2.1 and so on."""
        self.sites = list(sites) or [Site(), Site()]
        self.net = Net({f"192.0.2.{number}": site for number, site in enumerate(self.sites, 1)})
        self.zone = Zone(zone or ZONE)
        options.setdefault("frugality", Frugality(back_off=5))
        return Mailer(
            reactor=self.net, resolver=fake_resolver(self.zone, self.net), hostname="client.example", **options
        )

    def smarthost(self, *sites: Site, **options: Any) -> Mailer:
        """Make a mailer that sends everything to the first site, or the next."""
        self.mailer(*sites)
        servers = [TCP4ClientEndpoint(self.net, address, 25) for address in self.net.sites]
        options.setdefault("frugality", Frugality(back_off=5))
        return Mailer(servers, tls="none", hostname="client.example", reactor=self.net, **options)

    def sent(self, mailer: Mailer, *recipients: str, **more: Any) -> Report:
        """Send a message, and give what became of it."""
        report: Report = self.net.result(mailer.send(MESSAGE, SENDER, recipients or (JOE,), **more))
        return report


class ExchangerTests(MailerTestCase):
    """Mail goes to the mail exchangers of its domain."""

    def test_by_domain(self) -> None:
        """Recipients of one domain go in one transaction to its best exchanger; the report keeps their order."""
        mailer = self.mailer()
        report = self.sent(mailer, JOE, BOB, ANN)
        self.assertEqual([(each.address, each.host) for each in report.recipients], [
            (JOE, "a.mx.example"), (BOB, "b.mx.example"), (ANN, "a.mx.example"),
        ])  # fmt: skip
        self.assertEqual([recipients for recipients, _ in self.sites[0].messages], [[JOE, ANN]])
        self.assertTrue(report.complete)

    def test_next_when_down(self) -> None:
        """An exchanger that cannot be reached is passed over."""
        mailer = self.mailer(Site(up=False), Site())
        self.assertEqual(self.sent(mailer).recipients[0].host, "b.mx.example")

    def test_next_when_unwilling(self) -> None:
        """So is one that greets with a refusal, loses the connection, or says that it cannot now, at any step."""
        for verb in ("", "EHLO", "MAIL", "RCPT", "DATA", "."):
            for reply in (NOT_NOW, b"421 4.3.2 Closing\r\n"):
                with self.subTest(verb=verb, reply=reply):
                    mailer = self.mailer(Site({verb: reply}), Site())
                    self.assertEqual(self.sent(mailer).recipients[0].host, "b.mx.example")
        for verb in ("", "EHLO", "MAIL", "RCPT", "DATA"):
            with self.subTest(verb=verb, reply="lost"):
                mailer = self.mailer(Site({verb: LOST}), Site())
                self.assertEqual(fates(self.sent(mailer)), ["delivered"])
                self.assertEqual(self.sites[0].messages, [])

    def test_refused(self) -> None:
        """A recipient who is refused for good is not tried elsewhere; the others are."""
        site = Site({"RCPT": lambda line: NEVER if ANN in line else NOT_NOW})
        report = self.sent(self.mailer(site, Site()), JOE, ANN)
        self.assertEqual(fates(report), ["delivered", "refused"])
        self.assertEqual(self.sites[1].messages[0][0], [JOE])
        self.assertEqual((report.recipients[1].host, report.recipients[1].status), ("a.mx.example", "5.1.1"))

    def test_deferred(self) -> None:
        """If no exchanger takes it now, it is deferred, with the last reply."""
        report = self.sent(self.mailer(Site({"RCPT": NOT_NOW}), Site({".": b"452 4.3.1 Full\r\n"})))
        self.assertEqual([str(each) for each in report.recipients], [
            f"deferred {JOE} by b.mx.example: 452 4.3.1 Full"
        ])  # fmt: skip

    def test_lost_at_the_end(self) -> None:
        """A message that was sent whole and is not answered goes nowhere else, as it may have been taken."""
        report = self.sent(self.mailer(Site({".": LOST}), Site()))
        self.assertEqual((fates(report), self.sites[1].tried), (["unknown"], 0))

    def test_repeat(self) -> None:
        """Unless the caller wants it twice rather than never."""
        report = self.sent(self.mailer(Site({".": LOST}), Site()), repeat=True)
        self.assertEqual((fates(report), len(self.sites[1].messages)), (["delivered"], 1))

    def test_routeless(self) -> None:
        """A domain to which no way leads is refused, or deferred where that may change; the others get their mail."""
        zone = {
            **ZONE,
            "null.example": ["MX 0 ."],
            "empty.example": ["TXT nothing"],
            "dead.example": ["MX 5 nobody.example"],
            "shy.example": ["SERVFAIL"],
            "shyhost.example": ["MX 5 shy.example"],
            "home.example": ["MX 5 localhost.example"],
            "localhost.example": ["A 127.0.0.1"],
            "loop.example": ["MX 5 client.example", "MX 7 b.mx.example"],
        }
        cases = {
            "null.example": ("refused", "5.1.10"),
            "nowhere.example": ("refused", "5.1.2"),
            "empty.example": ("refused", "5.4.4"),
            "dead.example": ("refused", "5.4.4"),
            "shy.example": ("deferred", "4.4.3"),
            "shyhost.example": ("deferred", "4.4.3"),
            "home.example": ("refused", "5.4.4"),
            "loop.example": ("refused", "5.4.6"),
            "[bad]": ("refused", "5.1.2"),
            "y.example": ("delivered", "2.0.0"),
            "[192.0.2.2]": ("delivered", "2.0.0"),
        }
        mailer = self.mailer(zone=zone)
        recipients = [f"u@{domain}" for domain in cases if domain != "[bad]"]
        report = self.sent(mailer, *recipients)
        for each in report.recipients:
            with self.subTest(address=each.address):
                self.assertEqual((each.fate.value, each.status), cases[each.address[2:]])

    def test_postmaster(self) -> None:
        """An address without a domain is refused where no server was named."""
        self.assertEqual(fates(self.sent(self.mailer(), "postmaster")), ["refused"])

    def test_attempts(self) -> None:
        """So many servers are tried, and no more."""
        zone = {"y.example": [f"MX {n} h{n}.example" for n in range(9)]}
        zone.update({f"h{n}.example": [f"A 192.0.2.{n + 1}"] for n in range(9)})
        sites = [Site(up=False) for _ in range(9)]
        report = self.sent(self.mailer(*sites, zone=zone, frugality=Frugality(attempts=4)))
        self.assertEqual((fates(report), sum(site.tried for site in sites)), (["deferred"], 4))

    def test_opportunistic(self) -> None:
        """Where STARTTLS is offered and fails, the mail goes in clear, and TLS is not tried again for a while."""
        offer = b"250-mx.example\r\n250 STARTTLS\r\n"
        site = Site({"EHLO": offer, "STAR": b"220 Go\r\n"})
        mailer = self.mailer(site, zone={"y.example": ["MX 1 a.mx.example"], "a.mx.example": ["A 192.0.2.1"]})
        self.assertEqual(fates(self.sent(mailer)), ["delivered"])
        self.assertEqual([link.lines[1][:4] for link in site.links], ["STAR", "MAIL"])
        self.net.advance(60)
        self.net.settle()
        self.sent(mailer)
        self.assertEqual(site.links[2].lines[1][:4], "MAIL")


class RouteTests(MailerTestCase):
    """Routes of some domains."""

    def test_named(self) -> None:
        """The closest name decides; a point at its beginning stands for all below it."""
        mailer = self.mailer(Site(), Site(), Site())
        way = Route((TCP4ClientEndpoint(self.net, "192.0.2.3", 25),), mailer._routes.default.how)
        mailer = Mailer(
            resolver=fake_resolver(self.zone, self.net), reactor=self.net, hostname="client.example",
            routes={".example.org": way, "b.example.org": Route()},
        )  # fmt: skip
        self.zone.names["b.example.org"] = ["MX 1 a.mx.example"]
        self.sent(mailer, "u@a.example.org", "v@deep.A.example.org", "u@b.example.org", JOE)
        self.assertEqual(self.sites[2].messages[0][0], ["u@a.example.org", "v@deep.A.example.org"])
        self.assertEqual(sorted(to for to, _ in self.sites[0].messages), [[JOE], ["u@b.example.org"]])

    def test_several_servers(self) -> None:
        """Of several servers the next takes what the first does not."""
        mailer = self.smarthost(Site(up=False), Site())
        self.assertEqual(fates(self.sent(mailer, JOE, BOB)), ["delivered"] * 2)
        self.assertEqual(self.sites[1].messages[0][0], [JOE, BOB])

    def test_no_server(self) -> None:
        """What is no server is refused at once, with a sentence."""
        for wrong in (("h", "25"), "", 5):
            with self.subTest(wrong=wrong), self.assertRaisesRegex((ValueError, TypeError), r"is no host|iterable"):
                Mailer(wrong, reactor=Net({}))  # type: ignore[arg-type]


class PoolTests(MailerTestCase):
    """Connections are used again."""

    def test_reuse(self) -> None:
        """Messages one after the other share a connection, without RSET between them."""
        mailer = self.smarthost()
        for _ in range(5):
            self.sent(mailer)
        self.assertEqual((len(self.sites[0].links), len(self.sites[0].messages)), (1, 5))
        self.assertNotIn("RSET", self.sites[0].said)

    def test_reset(self) -> None:
        """After a refusal it is reset before it is used again."""
        mailer = self.smarthost(Site({"RCPT": lambda line: NEVER if ANN in line else OK}))
        self.sent(mailer, ANN)
        self.sent(mailer, JOE)
        self.assertEqual((len(self.sites[0].links), self.sites[0].said.count("RSET")), (1, 1))

    def test_cap(self) -> None:
        """No more connections than allowed are open to a server; all messages get their turn."""
        mailer = self.smarthost(frugality=Frugality(per_server=3))
        self.net.held = True
        done = [mailer.send(MESSAGE, SENDER, JOE) for _ in range(20)]
        self.assertEqual((mailer.connections, self.sites[0].tried), (3, 3))
        self.net.let()
        self.assertEqual([fates(self.net.result(each)) for each in done], [["delivered"]] * 20)
        self.assertEqual((len(self.sites[0].links), len(self.sites[0].messages)), (3, 20))

    def test_idle(self) -> None:
        """A connection that nobody uses says QUIT after a while."""
        mailer = self.smarthost(frugality=Frugality(idle=30))
        self.sent(mailer)
        self.net.advance(29)
        self.net.settle()
        self.assertEqual(self.sites[0].open, 1)
        self.net.advance(1)
        self.net.settle()
        self.assertEqual((self.sites[0].open, self.sites[0].said[-1], mailer.connections), (0, "QUIT", 0))
        self.assertEqual(self.net.getDelayedCalls(), [])

    def test_worn(self) -> None:
        """After so many messages, or so many seconds, a new connection is made."""
        mailer = self.smarthost(frugality=Frugality(messages=2, age=10))
        for _ in range(4):
            self.sent(mailer)
        self.assertEqual(len(self.sites[0].links), 2)
        self.sent(mailer)
        self.net.advance(11)
        self.sent(mailer)
        self.assertEqual(len(self.sites[0].links), 4)

    def test_mail_max(self) -> None:
        """A server's own limit on messages is kept."""
        mailer = self.smarthost(Site({"EHLO": b"250-mx.example\r\n250 LIMITS MAILMAX=2\r\n"}))
        for _ in range(6):
            self.assertEqual(fates(self.sent(mailer)), ["delivered"])
        self.assertEqual([link.lines.count("DATA") for link in self.sites[0].links], [2, 2, 2])

    def test_closed_by_server(self) -> None:
        """A connection that the server has closed is not used."""
        mailer = self.smarthost()
        self.sent(mailer)
        self.sites[0].links[0].lose()
        self.assertEqual(mailer.connections, 0)
        self.assertEqual(fates(self.sent(mailer)), ["delivered"])

    def test_stale(self) -> None:
        """One that was dead before the message, as it shows now, is replaced; the message goes out once."""
        for reply in (LOST, b"421 4.4.2 You were idle\r\n"):
            with self.subTest(reply=reply):
                site = Site()
                mailer = self.smarthost(site)
                self.sent(mailer)
                site.replies["MAIL"] = lambda _, site=site, reply=reply: reply if len(site.links) == 1 else OK
                self.assertEqual(fates(self.sent(mailer)), ["delivered"])
                self.assertEqual((len(site.links), len(site.messages)), (2, 2))

    def test_back_off(self) -> None:
        """A server that is down is left alone for a time that doubles, and one message tries it then."""
        site = Site(up=False)
        mailer = self.smarthost(site, frugality=Frugality(back_off=5, longest_back_off=12))
        for pause in (5, 10, 12, 12):
            tried = site.tried
            self.assertEqual(fates(self.sent(mailer)), ["deferred"])
            self.assertIn("not tried again", self.sent(mailer).recipients[0].reason)
            self.assertEqual(site.tried, tried + 1)
            self.net.advance(pause)
        site.up = True
        self.net.held = True
        done = [mailer.send(MESSAGE, SENDER, JOE) for _ in range(4)]
        self.assertEqual(site.tried, tried + 2)
        self.net.let()
        self.assertEqual([fates(self.net.result(each)) for each in done], [["delivered"]] * 4)

    def test_login_back_off(self) -> None:
        """A login that is refused is not tried with every message: the account would be locked."""
        site = Site({"": b"554 5.7.1 Not you\r\n"})
        mailer = self.smarthost(site)
        reports = [self.sent(mailer) for _ in range(3)]
        self.assertEqual((site.tried, [fates(each) for each in reports]), (1, [["refused"]] * 3))

    def test_waiting(self) -> None:
        """If too many wait for a server, more are deferred at once."""
        mailer = self.smarthost(Site(), frugality=Frugality(waiting=2))
        self.net.held = True
        done = [mailer.send(MESSAGE, SENDER, JOE) for _ in range(2)]
        report = self.net.result(mailer.send(MESSAGE, SENDER, JOE))
        self.assertIsInstance(report.recipients[0].error, LimitReached)
        self.assertEqual(fates(report), ["deferred"])
        self.net.let()
        self.assertEqual([fates(self.net.result(each)) for each in done], [["delivered"]] * 2)

    def test_all_together(self) -> None:
        """If no more connections are allowed, the one that was idle for longest makes room."""
        zone = {f"d{n}.example": [f"MX 1 h{n}.example"] for n in range(1, 5)}
        zone.update({f"h{n}.example": [f"A 192.0.2.{n}"] for n in range(1, 5)})
        mailer = self.mailer(*(Site() for _ in range(4)), zone=zone, frugality=Frugality(connections=2))
        for n in (1, 2, 3):
            self.assertEqual(fates(self.sent(mailer, f"u@d{n}.example")), ["delivered"])
            self.net.advance(1)
        self.assertEqual(([site.open for site in self.sites], mailer.connections), ([0, 1, 1, 0], 2))
        report = self.sent(mailer, *(f"u@d{n}.example" for n in (1, 2, 3, 4)))
        self.assertTrue(report.complete)
        self.assertLessEqual(sum(site.open for site in self.sites), 2)

    def test_forgotten(self) -> None:
        """Of servers that are not used nothing is kept, however many there were."""
        self.patch(__import__("smtpsvc.client.mailer").client.mailer, "MOST_POOLS", 3)
        zone = {f"d{n}.example": [f"A 192.0.2.{n}"] for n in range(1, 9)}
        mailer = self.mailer(*(Site() for _ in range(8)), zone=zone, frugality=Frugality(idle=0))
        for n in range(1, 9):
            self.sent(mailer, f"u@d{n}.example")
        self.assertLessEqual(len(mailer._pools), 3)
        self.assertLessEqual(len(mailer._budget.pools), 3)


class BudgetTests(SynchronousTestCase):
    def test_left(self) -> None:
        """A pool that wants a connection no more does not keep the next from one that is free."""
        budget, opened = Budget(1), list[Deferred[Any]]()

        def opener() -> Deferred[Any]:
            opened.append(Deferred())
            return opened[-1]

        pools = [Pool(name, opener, Frugality(), budget, Clock()) for name in "abc"]
        first, second, third = (pool.acquire() for pool in pools)
        second.cancel()
        self.failureResultOf(second, CancelledError)
        opened[0].errback(ConnectFailed("nobody there", Stage.CONNECT))
        self.failureResultOf(first, ConnectFailed)
        self.assertEqual(len(opened), 2)
        self.assertNoResult(third)


class EndTests(MailerTestCase):
    """How it ends."""

    def test_close(self) -> None:
        """It brings its messages to their end, says QUIT, and takes no more."""
        mailer = self.smarthost()
        self.net.held = True
        done, closed = mailer.send(MESSAGE, SENDER, JOE), mailer.close()
        self.net.let()
        self.assertEqual(fates(self.net.result(done)), ["delivered"])
        self.assertIsNone(self.net.result(closed))
        self.assertEqual((self.sites[0].said[-1], self.sites[0].open), ("QUIT", 0))
        self.assertRaises(ClientError, self.net.result, mailer.send(MESSAGE, SENDER, JOE))
        self.assertEqual(self.net.getDelayedCalls(), [])

    def test_cancel_waiting(self) -> None:
        """A message that is cancelled while it waits for a connection leaves the others alone."""
        mailer = self.smarthost(frugality=Frugality(per_server=1))
        self.net.held = True
        first, second = mailer.send(MESSAGE, SENDER, JOE), mailer.send(MESSAGE, SENDER, ANN)
        second.cancel()
        self.net.let()
        self.assertRaises(CancelledError, self.net.result, second)
        self.assertEqual(fates(self.net.result(first)), ["delivered"])

    def test_cancel_sending(self) -> None:
        """One that is on its way is broken off, and its connection closed."""
        mailer = self.smarthost(Site({"MAIL": SILENT}))
        done = mailer.send(MESSAGE, SENDER, JOE)
        self.net.settle()
        done.cancel()
        self.net.settle()
        self.assertRaises((CancelledError, ClientError), self.net.result, done)
        self.assertEqual((self.sites[0].open, mailer.connections), (0, 0))

    def test_content_fails(self) -> None:
        """What the source of the content raises comes out as it is."""

        async def pieces() -> Any:
            yield b"Subject: x\r\n"
            raise KeyError("gone")

        mailer = self.smarthost()
        self.assertRaises(KeyError, self.net.result, mailer.send(pieces(), SENDER, JOE))
        self.assertEqual(self.sites[0].tried, 0)

    def test_pieces(self) -> None:
        """Content that can be read once goes to each of the servers."""

        async def pieces() -> Any:
            for line in MESSAGE.splitlines(keepends=True):
                yield line

        mailer = self.mailer()
        report = self.net.result(mailer.send(pieces(), SENDER, [JOE, BOB]))
        self.assertTrue(report.complete)
        self.assertEqual(self.sites[0].messages[0][1], self.sites[1].messages[0][1])

    def test_damaged(self) -> None:
        """Content that cannot be sent is refused for all, and says why."""
        mailer = self.smarthost()
        report = self.net.result(mailer.send(b"Subject: x\n\ny\n", SENDER, [JOE, ANN]))
        self.assertEqual(fates(report), ["refused", "refused"])
        self.assertIn("bare LF", report.recipients[0].reason)


class SendTests(MailerTestCase):
    """One call."""

    def one(self, message: Any, *args: Any, **more: Any) -> Deferred[Report]:
        """Send by one call to the first site."""
        where = TCP4ClientEndpoint(self.net, "192.0.2.1", 25)
        return send(message, *args, server=where, tls="none", hostname="client.example", reactor=self.net, **more)

    def test_message(self) -> None:
        """A message of the standard library is sent, and the connection closed."""
        self.mailer()
        message = EmailMessage()
        message["From"], message["To"], message["Bcc"] = f"A <{SENDER}>", JOE, BOB
        message.set_content("text\n")
        report = self.net.result(self.one(message))
        self.assertEqual((report.delivered, self.sites[0].said[-1]), ((JOE, BOB), "QUIT"))
        self.assertNotIn(b"Bcc", self.sites[0].messages[0][1])
        self.assertEqual(self.net.getDelayedCalls(), [])

    def test_nobody(self) -> None:
        """If nobody was delivered to, that is an error, with the report; if somebody was, it is not."""
        self.mailer(Site({"RCPT": lambda line: NEVER if ANN in line else OK}))
        with self.assertRaises(NotSent) as caught:
            self.net.result(self.one(MESSAGE, SENDER, ANN))
        self.assertEqual((fates(caught.exception.report), caught.exception.temporary), (["refused"], False))
        self.assertIn("550 5.1.1 Never", str(caught.exception))
        self.assertEqual(fates(self.net.result(self.one(MESSAGE, SENDER, [ANN, JOE]))), ["refused", "delivered"])

    def test_no_connection(self) -> None:
        """A server that cannot be reached is an error that may pass."""
        self.mailer(Site(up=False))
        with self.assertRaises(NotSent) as caught:
            self.net.result(self.one(MESSAGE, SENDER, ANN))
        [only] = caught.exception.report.recipients
        self.assertIsInstance(only.error, ConnectFailed)
        self.assertEqual((only.status, only.fate, caught.exception.temporary), ("4.4.1", Fate.DEFERRED, True))

    def test_seven_bits(self) -> None:
        """A server without 8BITMIME gets a message of the standard library in 7 bits."""
        self.mailer(Site({"EHLO": b"250 mx.example\r\n"}))
        message = EmailMessage()
        message["From"], message["To"] = SENDER, JOE
        message.set_content("é\n", cte="8bit")
        self.net.result(self.one(message))
        content = self.sites[0].messages[0][1]
        self.assertTrue(content.isascii())
        self.assertRegex(content, rb"Content-Transfer-Encoding: (base64|quoted-printable)")

    def test_lost(self) -> None:
        """A lost end is an error that says that it may have been delivered."""
        self.mailer(Site({".": LOST}))
        with self.assertRaises(NotSent) as caught:
            self.net.result(self.one(MESSAGE, SENDER, JOE))
        self.assertTrue(caught.exception.maybe_delivered)


class RandomTests(MailerTestCase):
    """Servers that do what they like."""

    def check(self, seed: int) -> None:
        """Send many messages to servers that refuse, defer and vanish at random; look at every fate."""
        chance = random.Random(seed)
        taken: dict[tuple[str, str], int] = {}
        lost: set[tuple[str, str]] = set()

        def some(_: str) -> bytes:
            return chance.choices([OK, NOT_NOW, NEVER, LOST, b"421 4.3.2 Bye\r\n"], [30, 2, 1, 1, 1])[0]

        def end(site: Site) -> bytes:
            reply = some("")
            recipients, content = site.messages[-1]
            for each in recipients if content.strip() else ():
                if reply == OK:
                    taken[content.decode(), each] = taken.get((content.decode(), each), 0) + 1
                elif reply == LOST:
                    lost.add((content.decode(), each))
            return reply

        sites = [Site(dict.fromkeys(("MAIL", "RCPT", "DATA"), some)) for _ in range(3)]
        for site in sites:
            site.replies["."] = lambda _, site=site: end(site)
            site.replies["DATA"] = lambda _: b"354 Go\r\n" if chance.random() < 0.95 else NOT_NOW
            site.replies[""] = lambda _: b"220 x\r\n" if chance.random() < 0.9 else LOST
        zone = {f"d{n}.example": [f"MX {chance.randrange(3)} h{h}.example" for h in range(3)] for n in range(4)}
        zone.update({f"h{h}.example": [f"A 192.0.2.{h + 1}"] for h in range(3)})
        bounds = Frugality(
            per_server=chance.randint(1, 3), connections=chance.randint(1, 5), messages=chance.randint(1, 9), back_off=0
        )
        if seed % 2:
            mailer = self.mailer(*sites, zone=zone, frugality=bounds)
        else:
            mailer = self.smarthost(*sites, frugality=bounds)
        running = {}
        for number in range(40):
            to = [f"u{k}@d{chance.randrange(4)}.example" for k in range(chance.randint(1, 3))]
            content = b"Subject: %d\r\n\r\ntext\r\n" % number
            running[content.decode()] = mailer.send(content, SENDER, to)
            if chance.random() < 0.3:
                self.net.settle()
                self.net.advance(chance.choice([0, 1, 40]))
            self.assertLessEqual(sum(site.open for site in sites), bounds.connections)
        for content, done in running.items():
            report: Report = self.net.result(done)
            for each in report.recipients:
                times = taken.get((content, each.address), 0)
                self.assertEqual(times, each.fate is Fate.DELIVERED, (seed, content, str(each)))
                if each.fate is Fate.UNKNOWN:
                    self.assertIn((content, each.address), lost)
        self.net.result(mailer.close())
        self.assertEqual(([site.open for site in sites], self.net.getDelayedCalls()), ([0, 0, 0], []))

    def test_random(self) -> None:
        """Whatever they do, each recipient has the right fate, gets nothing twice, and nothing stays open."""
        for seed in range(60):
            with self.subTest(seed=seed):
                self.check(seed)


class FrugalityTests(SynchronousTestCase):
    def test_values(self) -> None:
        """Values that make no sense are refused with their names."""
        for wrong in ({"connections": 0}, {"per_server": 0}, {"idle": -1}, {"attempts": 0}):
            [name] = wrong
            with self.subTest(name=name), self.assertRaisesRegex(ValueError, name):
                Frugality(**wrong)
