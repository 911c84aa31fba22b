from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.grammar.addresses import NULL, parse_mailbox
from smtpsvc.message import BATV, BATVError, unwrap_batv
from tests.support import assume, given, st

DAY = 86_400.0
SENDER = parse_mailbox("user@example.com")
LOCALS = st.from_regex(r"[a-zA-Z0-9+=_-]{1,40}", fullmatch=True)


def signer(*secrets: str, at: float = 20_000.0, days: int = 7) -> tuple[BATV, Clock]:
    """Make a signer, and the clock of its days."""
    clock = Clock()
    clock.advance(at * DAY)
    return BATV(secrets or ("secret",), days=days, clock=clock.seconds), clock


class SignTests(SynchronousTestCase):
    def test_form(self) -> None:
        """A signed sender has prvs=, key 0, the last day, six digits and the local part (the draft's tag-val)."""
        signed = signer()[0].sign(SENDER)
        self.assertRegex(str(signed), r"\Aprvs=0007[0-9a-f]{6}=user@example\.com\Z")

    def test_known_digest(self) -> None:
        """The digest is the first three octets of HMAC-SHA1 over stamp and address, as others make it."""
        # printf '0007user@example.com' | openssl sha1 -hmac secret
        self.assertEqual(str(signer()[0].sign(SENDER)), "prvs=000721afe1=user@example.com")

    def test_left_alone(self) -> None:
        """The null sender is not signed, nor what is signed already."""
        batv, _ = signer()
        signed = batv.sign(SENDER)
        self.assertIs(batv.sign(NULL), NULL)
        self.assertIs(batv.sign(signed), signed)

    def test_too_long(self) -> None:
        """What would be longer than 64 octets is not signed (RFC 5321 §4.5.3.1.1)."""
        batv, _ = signer()
        self.assertEqual(len(batv.sign(parse_mailbox(f"{'a' * 48}@x.example")).local), 64)
        self.assertRaises(ValueError, batv.sign, parse_mailbox(f"{'a' * 49}@x.example"))

    @given(LOCALS)
    def test_round_trip(self, local: str) -> None:
        """What was signed is found again."""
        batv, _ = signer()
        sender = parse_mailbox(f"{local}@Example.com")
        assume(unwrap_batv(sender) is sender)
        self.assertEqual(batv.verify(batv.sign(sender)), sender)


class VerifyTests(SynchronousTestCase):
    def test_lifetime(self) -> None:
        """A signature is good for its days, over the turn of the three digits too."""
        batv, clock = signer(at=20_995.0)
        signed = batv.sign(SENDER)
        for days, good in ((0, True), (7, True), (1, False), (400, False)):
            clock.advance(days * DAY)
            with self.subTest(days=days):
                if good:
                    self.assertEqual(batv.verify(signed), SENDER)
                else:
                    self.assertRaises(BATVError, batv.verify, signed)

    def test_rotation(self) -> None:
        """All secrets are believed, and the first signs."""
        before, after, gone = signer("old")[0], signer("new", "old")[0], signer("new")[0]
        self.assertEqual(after.verify(before.sign(SENDER)), SENDER)
        self.assertEqual(gone.verify(after.sign(SENDER)), SENDER)
        self.assertRaises(BATVError, gone.verify, before.sign(SENDER))

    def test_lower_case(self) -> None:
        """A digest in upper case is the same, and a domain in another case too."""
        batv, _ = signer()
        local, domain = str(batv.sign(SENDER)).split("@")
        tag, digest, user = local.split("=")
        self.assertEqual(batv.verify(parse_mailbox(f"{tag}={digest.upper()}={user}@{domain}")), SENDER)
        self.assertEqual(batv.verify(parse_mailbox(f"{local}@EXAMPLE.com")).local, "user")

    @given(st.integers(min_value=0, max_value=200), st.sampled_from("abcdefghijklmnopqrstuvwxyz0123456789+"))
    def test_forgeries(self, place: int, letter: str) -> None:
        """One character changed, anywhere, makes it another's."""
        batv, _ = signer()
        text = str(batv.sign(SENDER))
        place %= text.index("@")
        forged = text[:place] + letter + text[place + 1 :]
        assume(forged.lower() != text.lower())
        self.assertRaises(BATVError, batv.verify, parse_mailbox(forged))

    def test_not_signed(self) -> None:
        """What is not signed is told apart, and an error repeats nothing of the address."""
        for text in ("user@example.com", "prvs=user@example.com", "prvs=0007zzzzzz=user@example.com", "prvs=1=2=3@x.y"):
            with self.subTest(text=text):
                error = self.assertRaises(BATVError, signer()[0].verify, parse_mailbox(text))
                self.assertNotIn("user", str(error))


class UnwrapTests(SynchronousTestCase):
    def test_kinds(self) -> None:
        """The three kinds that there are of signed senders are understood, and others stay as they are."""
        for written, expected in (
            ("prvs=0123abcdef=user@x.example", "user@x.example"),
            ("PRVS=4142F9A1B7=user@x.example", "user@x.example"),
            ("msprvs1=18302v3-Y1k=user@x.example", "user@x.example"),
            ("btv1==0123abcdef0==user@x.example", "user@x.example"),
            ("prvs=user@x.example", "prvs=user@x.example"),
            ("user@x.example", "user@x.example"),
            ("prvs=0123abcdef=a=b@x.example", "a=b@x.example"),
        ):
            with self.subTest(written=written):
                self.assertEqual(str(unwrap_batv(parse_mailbox(written))), expected)


class SettingsTests(SynchronousTestCase):
    def test_mistakes(self) -> None:
        """No secret, an empty one, or days that cannot be are mistakes, and none is shown."""
        for secrets, days in (([], 7), (["hush", ""], 7), (["hush"], 0), (["hush"], 500)):
            with self.subTest(secrets=secrets, days=days):
                error = self.assertRaises(ValueError, BATV, secrets, days=days)
                self.assertNotIn("hush", str(error))
        self.assertRaises(TypeError, BATV, "hush")
