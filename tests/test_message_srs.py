from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.grammar.addresses import NULL, Address, parse_mailbox
from smtpsvc.message import SRS, SRSError, unwrap_sender, unwrap_srs
from tests.support import assume, example, given, st

DAY = 86_400.0
SENDER = parse_mailbox("user@origin.example")
LOCALS = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=24)


def forwarder(*secrets: str, domain: str = "fwd.example", at: float = 20_000.0, **options: int) -> tuple[SRS, Clock]:
    """Make a forwarder, and the clock of its days."""
    clock = Clock()
    clock.advance(at * DAY)
    return SRS(domain, secrets or ("secret",), clock=clock.seconds, **options), clock


class ForwardTests(SynchronousTestCase):
    def test_form(self) -> None:
        """A rewritten sender has digest, day, domain and local part."""
        self.assertRegex(
            str(forwarder()[0].forward(SENDER)), r"\ASRS0=[A-Za-z0-9+/]{4}=RA=origin\.example=user@fwd\.example\Z"
        )

    def test_known_digest(self) -> None:
        """The digest is that of libsrs2: HMAC-SHA1 over day, domain and local part in lower case, in base64."""
        # printf 'raorigin.exampleuser' | openssl sha1 -hmac secret -binary | base64 | cut -c1-4
        self.assertEqual(str(forwarder()[0].forward(SENDER)), "SRS0=5rjJ=RA=origin.example=user@fwd.example")

    def test_left_alone(self) -> None:
        """The null sender stays, and who is at home here."""
        srs, _ = forwarder()
        home = parse_mailbox("user@FWD.example")
        self.assertIs(srs.forward(NULL), NULL)
        self.assertIs(srs.forward(home), home)

    def test_again(self) -> None:
        """The second forwarder, and each after it, keeps the first one's words."""
        first = forwarder()[0].forward(SENDER)
        two, three = forwarder("b", domain="two.example")[0], forwarder("c", domain="three.example")[0]
        second, third = two.forward(first), three.forward(two.forward(first))
        for address in (second, third):
            self.assertRegex(address.local, r"\ASRS1=....=fwd\.example==....=RA=origin\.example=user\Z")
        self.assertEqual((two.reverse(second), three.reverse(third)), (first, first))
        self.assertRaises(SRSError, two.reverse, third)

    def test_too_long(self) -> None:
        """A local part that would be longer than 64 octets is a mistake, unless more is allowed."""
        sender = parse_mailbox(f"{'a' * 45}@origin.example")
        self.assertRaises(ValueError, forwarder()[0].forward, sender)
        srs, _ = forwarder(longest=200)
        self.assertEqual(srs.reverse(srs.forward(sender)), sender)

    def test_without_domain(self) -> None:
        """A sender without a domain cannot be rewritten."""
        self.assertRaises(ValueError, forwarder()[0].forward, Address("postmaster"))

    @given(LOCALS)
    @example("SRS0=a")
    @example("SRS0=aaaa=RA=x.example=b")
    @example('quote"d')
    def test_round_trip(self, local: str) -> None:
        """A bounce finds the way back to whatever local part."""
        srs, _ = forwarder(longest=200)
        sender = Address('"' + local.replace("\\", "\\\\").replace('"', '\\"') + '"', "origin.example")
        assume(not local.upper().startswith(("SRS0", "SRS1")))
        self.assertEqual(unwrap_srs(srs.reverse(srs.forward(sender))).domain, "origin.example")
        self.assertEqual(srs.reverse(srs.forward(sender)).local.strip('"'), sender.local.strip('"'))


class ReverseTests(SynchronousTestCase):
    def test_lifetime(self) -> None:
        """An address is good for its days, over the turn of the day stamp too."""
        srs, clock = forwarder(at=1024.0 * 19 + 1020)
        address = srs.forward(SENDER)
        for days, good in ((0, True), (21, True), (1, False), (500, False)):
            clock.advance(days * DAY)
            with self.subTest(days=days):
                if good:
                    self.assertEqual(srs.reverse(address), SENDER)
                else:
                    self.assertRaises(SRSError, srs.reverse, address)

    def test_rotation(self) -> None:
        """All secrets are believed, and the first makes addresses."""
        before, after, gone = forwarder("old")[0], forwarder("new", "old")[0], forwarder("new")[0]
        self.assertEqual(after.reverse(before.forward(SENDER)), SENDER)
        self.assertEqual(gone.reverse(after.forward(SENDER)), SENDER)
        self.assertRaises(SRSError, gone.reverse, before.forward(SENDER))

    def test_lower_case(self) -> None:
        """An address that came back in lower case is still good."""
        srs, _ = forwarder()
        self.assertEqual(srs.reverse(parse_mailbox(str(srs.forward(SENDER)).lower())), SENDER)

    @given(st.integers(min_value=0, max_value=200), st.sampled_from("abcdefghijklmnopqrstuvwxyz234567+/"))
    def test_forgeries(self, place: int, letter: str) -> None:
        """One character changed, anywhere, makes it another's."""
        srs, _ = forwarder(digest=12)
        text = str(srs.forward(SENDER))
        place %= text.index("@")
        forged = text[:place] + letter + text[place + 1 :]
        # The kinds of the first separator are one.
        assume(forged.lower() != text.lower() and place != 4)
        self.assertRaises(SRSError, srs.reverse, parse_mailbox(forged))

    def test_short_digest(self) -> None:
        """A digest that is shorter than ours is not believed, although it begins as ours does; a longer one is."""
        short, long = forwarder()[0], forwarder(digest=8)[0]
        self.assertRaises(SRSError, long.reverse, short.forward(SENDER))
        self.assertEqual(short.reverse(long.forward(SENDER)), SENDER)

    def test_not_ours(self) -> None:
        """What is not rewritten, or damaged, is refused with a sentence that repeats nothing of it."""
        for local in ("user", "SRS0=", "SRS0=aaaa=RA=origin.example=", "SRS1=a=b=c", "SRS0=aaaa=1!=x=user", "s" * 64):
            with self.subTest(local=local):
                error = self.assertRaises(SRSError, forwarder()[0].reverse, parse_mailbox(f"{local}@fwd.example"))
                self.assertNotIn("user", str(error))

    def test_is_ours(self) -> None:
        """A bounce to a rewritten address of ours can be told without a secret."""
        srs, _ = forwarder()
        for text, expected in (
            ("SRS0=aaaa=RA=x.example=user@fwd.example", True),
            ("srs1=aaaa=y.example==bbbb=RA=x.example=user@FWD.example", True),
            ("SRS0=aaaa=RA=x.example=user@other.example", False),
            ("user@fwd.example", False),
        ):
            with self.subTest(text=text):
                self.assertIs(srs.is_ours(parse_mailbox(text)), expected)


class UnwrapTests(SynchronousTestCase):
    def test_kinds(self) -> None:
        """Who wrote first is found in all kinds of rewritten senders, and others stay as they are."""
        for written, expected in (
            ("SRS0=HHHH=TT=origin.example=user@f.example", "user@origin.example"),
            ("SRS0+HHHH=TT=origin.example=a=b@f.example", "a=b@origin.example"),
            ("SRS1=HHHH=f.example==HHHH=TT=origin.example=user@g.example", "user@origin.example"),
            ("box+SRS=aBcDe=AB=origin.example=user@f.example", "user@origin.example"),
            ("SRS0=HHHH=TT=not a domain=user@f.example", None),
            ("SRS0=HHHH=TT=-.example=user@f.example", None),
            ("user@f.example", None),
        ):
            local, _, domain = written.rpartition("@")
            with self.subTest(written=written):
                address = Address(local, domain)
                self.assertEqual(str(unwrap_srs(address)), expected or written)

    def test_all(self) -> None:
        """Signatures come off before and behind what forwarders do."""
        sender = parse_mailbox("prvs=0123abcdef=SRS0=HHHH=TT=origin.example=prvs=0123abcdef=user@f.example")
        self.assertEqual(str(unwrap_sender(sender)), "user@origin.example")


class SettingsTests(SynchronousTestCase):
    def test_mistakes(self) -> None:
        """What makes no sense is a mistake."""
        for options in ({"days": 0}, {"days": 600}, {"digest": 3}, {"digest": 28}, {"longest": 63}, {"longest": 600}):
            with self.subTest(options=options):
                self.assertRaises(ValueError, SRS, "fwd.example", ["s"], **options)
        self.assertRaises(ValueError, SRS, "not a domain", ["s"])
        self.assertRaises(ValueError, SRS, "fwd.example", [])
