"""
Tests of MT-PRIORITY, REQUIRETLS, NO-SOLICITING and XOORG.
"""

from __future__ import annotations

from smtpsvc import Role
from smtpsvc.extensions.mtpriority import PROFILES, MTPriority, parse_priority
from smtpsvc.extensions.nosoliciting import NoSoliciting, parse_solicit
from smtpsvc.extensions.requiretls import NEEDS_TLS
from smtpsvc.grammar import replies
from smtpsvc.grammar.replies import Reply
from smtpsvc.grammar.xtext import encode_xtext
from smtpsvc.testing import ScriptedBackend
from tests.extended import ParameterTestCase, extended, keywords, protect
from tests.support import given, st


class PriorityTests(ParameterTestCase):
    """MT-PRIORITY (RFC 6710): on MAIL."""

    enable = "MT-PRIORITY"

    def test_values(self) -> None:
        """A priority is a whole number from -9 to 9."""
        for value in range(-9, 10):
            with self.subTest(value):
                self.assertEqual(self.mail(f"mt-priority={value}"), (replies.SENDER_OK, {"MT-PRIORITY": value}))

    def test_malformed(self) -> None:
        """Everything else is 501 5.5.4."""
        for value in ("", "10", "-10", "+1", "-0", "00", "01", "1.0", "high", "--1", "³", "-"):
            with self.subTest(value):
                self.check_malformed(self.mail(f"MT-PRIORITY={value}")[0])
        self.check_malformed(self.mail("MT-PRIORITY")[0])

    def test_on_mail_only(self) -> None:
        """RCPT has none: 555 (RFC 6710 §4)."""
        self.assertEqual(self.rcpt("MT-PRIORITY=3"), (replies.UNKNOWN_PARAMETER, {}))

    def test_profiles(self) -> None:
        """A profile is announced behind the keyword."""
        self.assertIn("MT-PRIORITY", keywords(extended(None, "MT-PRIORITY")))
        for profile in PROFILES:
            with self.subTest(profile):
                shown = keywords(extended(None, f"MT-PRIORITY:{profile.lower()}"))
                self.assertIn(f"MT-PRIORITY {profile}", shown)

    def test_unknown_profile(self) -> None:
        """A profile that is not registered is refused with the list."""
        self.assertRaisesRegex(ValueError, "'X' is no profile; there are MIXER, NSEP, STANAG4406", MTPriority, "X")

    @given(st.text("-+0123456789 ", max_size=4))
    def test_anything(self, text: str) -> None:
        """Any text is one of nineteen numbers, written in the one way that there is, or a ValueError."""
        try:
            value = parse_priority(text)
        except ValueError:
            return
        self.assertIn(value, range(-9, 10))
        self.assertEqual(str(value), text)


class RequireTLSTests(ParameterTestCase):
    """REQUIRETLS (RFC 8689): under TLS only."""

    enable = "REQUIRETLS"

    def test_announced(self) -> None:
        """It is announced under TLS, and not without."""
        wire = extended(None, self.enable)
        self.assertNotIn("REQUIRETLS", keywords(wire))
        self.assertIn("REQUIRETLS", keywords(protect(wire)))

    def test_taken(self) -> None:
        """Under TLS the parameter reaches the hook."""
        backend = ScriptedBackend()
        wire = protect(extended(backend, self.enable)).greeted().say("MAIL FROM:<a@x.example> RequireTLS")
        self.assertEqual(wire.last_reply, replies.SENDER_OK)
        self.assertEqual(backend.called("mail")[0][0].mail_params, {"REQUIRETLS": True})

    def test_without_tls(self) -> None:
        """Without TLS it is 530 5.7.10, and no hook is asked."""
        self.assertEqual(self.mail("REQUIRETLS"), (NEEDS_TLS, {}))

    def test_value(self) -> None:
        """It takes no value: 501 5.5.4."""
        wire = protect(extended(None, self.enable)).greeted()
        self.check_malformed(wire.say("MAIL FROM:<> REQUIRETLS=YES").last_reply)

    def test_not_enabled(self) -> None:
        """Where nobody asked for it, it is neither announced nor taken."""
        wire = protect(extended())
        self.assertNotIn("REQUIRETLS", keywords(wire))
        self.assertEqual(wire.say("MAIL FROM:<> REQUIRETLS").last_reply, replies.UNKNOWN_PARAMETER)


class NoSolicitingTests(ParameterTestCase):
    """NO-SOLICITING (RFC 3865): SOLICIT on MAIL."""

    enable = "NO-SOLICITING"

    def test_values(self) -> None:
        """SOLICIT is a list of keywords, kept as given."""
        cases = {
            "SOLICIT=org.example:ADV:ADLT": ("org.example:ADV:ADLT",),
            "solicit=net.example:ADV,org.example:ADV": ("net.example:ADV", "org.example:ADV"),
            "SOLICIT=a": ("a",),
            "SOLICIT=A-b_c.9:": ("A-b_c.9:",),
        }
        for text, value in cases.items():
            with self.subTest(text):
                self.assertEqual(self.mail(text), (replies.SENDER_OK, {"SOLICIT": value}))

    def test_malformed(self) -> None:
        """Everything else is 501 5.5.4."""
        for value in ("", ",", "a,", ",a", "a,,b", "9a", ":ADV", "a;b", "a+b", "ä", "x" * 1001):
            with self.subTest(value):
                self.check_malformed(self.mail(f"SOLICIT={value}")[0])
        self.check_malformed(self.mail("SOLICIT")[0])

    def test_unwanted(self) -> None:
        """What is announced as unwanted is 550 5.7.1, in any case; other classes are taken."""
        enable = "NO-SOLICITING:net.example:ADV,org.example:ADV"
        self.assertIn("NO-SOLICITING net.example:ADV,org.example:ADV", keywords(extended(None, enable)))
        refusal = Reply(550, "Mail of the class org.example:ADV is not wanted here", "5.7.1")
        self.assertEqual(self.mail("SOLICIT=com.example:X,ORG.example:adv", enable), (refusal, {}))
        self.assertEqual(self.mail("SOLICIT=com.example:X", enable)[0], replies.SENDER_OK)

    def test_no_list(self) -> None:
        """Without a list the keyword stands alone, and hooks decide."""
        self.assertIn("NO-SOLICITING", keywords(extended(None, self.enable)))

    def test_argument(self) -> None:
        """A list that is none, or too long for a line, is refused."""
        for text in ("9", "a,,b", ",".join(["net.example:ADV"] * 40)):
            with self.subTest(text):
                self.assertRaises(ValueError, NoSoliciting().configured, text)

    @given(st.text("aZ9.-_:, ;", max_size=20))
    def test_anything(self, text: str) -> None:
        """Any text is a list of keywords that begin with a letter, or a ValueError."""
        try:
            words = parse_solicit(text)
        except ValueError:
            return
        self.assertEqual(",".join(words), text)
        self.assertTrue(all(word[0].isalpha() for word in words))


class XOORGTests(ParameterTestCase):
    """XOORG, as Exchange servers use it."""

    enable = "XOORG"

    def test_values(self) -> None:
        """It is decoded."""
        for text, value in {"XOORG=contoso.example": "contoso.example", "xoorg=a+20b+2B": "a b+"}.items():
            with self.subTest(text):
                self.assertEqual(self.mail(text), (replies.SENDER_OK, {"XOORG": value}))

    def test_malformed(self) -> None:
        """An empty value, a control character and what is no xtext are 501 5.5.4."""
        for text in ("XOORG", "XOORG=", "XOORG=+0D+0A", "XOORG=+0d", "XOORG=+", "XOORG=ä"):
            with self.subTest(text):
                self.check_malformed(self.mail(text)[0])

    def test_roles(self) -> None:
        """LMTP clients are no Exchange servers: they are not offered it."""
        self.assertIn("XOORG", keywords(extended(None, self.enable, role=Role.SUBMISSION)))
        wire = extended(None, self.enable, role=Role.LMTP)
        self.assertNotIn("XOORG", wire.factory.tables.keywords)

    @given(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=30))
    def test_any(self, text: str) -> None:
        """Whatever is printable arrives as it was."""
        self.assertEqual(self.mail(f"XOORG={encode_xtext(text)}")[1], {"XOORG": text})
