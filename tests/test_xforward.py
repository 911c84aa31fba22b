"""
Tests of smtpsvc.extensions.xforward: where a message came from before.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from smtpsvc.extensions.xforward import XForward
from smtpsvc.grammar.xtext import encode_xtext
from smtpsvc.settings import Role
from smtpsvc.testing import ScriptedBackend, Wire
from smtpsvc.values import Forwarded
from tests.proxies import PROXY, STRANGER, XClientTestCase

ALL = "NAME=c.example ADDR=192.0.2.7 PORT=50123 PROTO=ESMTP HELO=c IDENT=4B1F SOURCE=REMOTE"
SAID = Forwarded("c.example", "192.0.2.7", 50123, "ESMTP", "c", "4B1F", "REMOTE")


class ForwardTestCase(XClientTestCase):
    """A server that trusts 203.0.113.0/24."""

    @property
    def forwarded(self) -> list[Forwarded | None]:
        """What the envelopes of all MAIL commands say."""
        return [envelope.forwarded for (envelope,) in self.backend.called("mail")]


class PermissionTests(ForwardTestCase):
    """Who may give XFORWARD, and who sees it."""

    def shown(self, wire: Wire) -> list[str]:
        """What EHLO shows of it."""
        text = wire.say("EHLO x").last_reply.text
        return [line for line in text.split("\n") if line.startswith("XFORWARD")]

    def test_trusted(self) -> None:
        """A trusted client sees the attributes."""
        self.assertEqual(self.shown(self.connect()), ["XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE"])

    def test_strangers(self) -> None:
        """Others do not see it, and get 550 5.7.0 whatever they write and whenever."""
        wire = self.connect(STRANGER)
        self.assertEqual(self.shown(wire), [])
        for command in (f"XFORWARD {ALL}", "XFORWARD", "xforward ="):
            wire.say(command)
            self.assertEqual((wire.last_reply.code, wire.last_reply.enhanced), (550, "5.7.0"))
        wire.say("MAIL FROM:<>", "XFORWARD NAME=x")
        self.assertEqual(wire.last_reply.code, 550)
        self.assertEqual(self.forwarded, [None])

    def test_help(self) -> None:
        """HELP does not name it."""
        self.assertNotIn("XFORWARD", self.connect().say("HELP").last_reply.text)

    def test_roles(self) -> None:
        """Every role has it."""
        self.assertEqual(XForward().roles, frozenset(Role))


class AttributeTests(ForwardTestCase):
    """What each attribute does."""

    def said(self, *commands: str) -> Forwarded | None:  # type: ignore[override]
        """Give XFORWARD commands, which are taken, and MAIL."""
        self.make()
        wire = self.connect().say(*[f"XFORWARD {command}" for command in commands], "MAIL FROM:<>")
        self.assertEqual(wire.codes, [250] * (len(commands) + 1))
        return self.forwarded[0]

    def test_all(self) -> None:
        """The envelope has what was said."""
        self.assertEqual(self.said(ALL), SAID)

    def test_nothing_else(self) -> None:
        """The peer stays who it is."""
        self.said(ALL)
        self.assertEqual((self.peer.address, self.peer.helo), (PROXY, "proxy.example"))

    def test_steps(self) -> None:
        """Several commands add up; a value that is given again takes the place of the first."""
        self.assertEqual(self.said("NAME=a ADDR=b", "ADDR=c HELO=d"), Forwarded(name="a", address="c", helo="d"))

    def test_unavailable(self) -> None:
        """[UNAVAILABLE], in any case of letters, takes a value away."""
        for word in ("[UNAVAILABLE]", "[unavailable]", "[Unavailable]"):
            everything = " ".join(f"{pair.partition('=')[0]}={word}" for pair in ALL.split())
            self.assertEqual(self.said(ALL, everything), Forwarded())

    def test_values(self) -> None:
        """Values are text of any kind but for PORT and SOURCE; the prefix of an IPv6 address goes."""
        cases: dict[str, tuple[str, Any]] = {
            "NAME=a+2Bb": ("name", "a+b"),
            "ADDR=IPV6:2001:db8::7": ("address", "2001:db8::7"),
            "ADDR=2001:db8::7": ("address", "2001:db8::7"),
            "ADDR=uucp!host": ("address", "uucp!host"),
            "PORT=25": ("port", 25),
            "PROTO=" + "x" * 64: ("protocol", "x" * 64),
            "HELO=my+20computer": ("helo", "my computer"),
            "source=local": ("source", "LOCAL"),
        }
        for text, (field, value) in cases.items():
            with self.subTest(text):
                self.assertEqual(getattr(self.said(text), field), value)

    def test_mistakes(self) -> None:
        """Anything else is 501 5.5.4, and what was said before stays."""
        cases = (
            "", "NAME", "NAME=", "NAME=a NAME=b", "FOO=x", "LOGIN=x", "DESTADDR=192.0.2.1", "NAME=a+0Ab", "NAME=a+0Db",
            "NAME=a+00", "NAME=a+", "NAME=a+zz", "NAME=ü", "NAME=" + "x" * 256, "PORT=x", "PORT=65536", "SOURCE=x",
            "PROTO=" + "x" * 65, "HELO=a IDENT=+7F",
        )  # fmt: skip
        for text in cases:
            with self.subTest(text):
                self.make()
                wire = self.connect().say("XFORWARD NAME=kept", f"XFORWARD {text}", "MAIL FROM:<>")
                self.assertEqual([reply.code for reply in wire.replies], [250, 501, 250])
                self.assertEqual(wire.replies[1].enhanced, "5.5.4")
                self.assertEqual(self.forwarded, [Forwarded(name="kept")])

    @given(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=255))
    def test_any_value(self, value: str) -> None:
        """Any printable text comes through in xtext."""
        forwarded = self.said(f"IDENT={encode_xtext(value)}")
        assert forwarded is not None
        self.assertEqual(forwarded.ident, None if value.upper() in ("[UNAVAILABLE]", "[TEMPUNAVAIL]") else value)


class SequenceTests(ForwardTestCase):
    """When it may come, and how long it holds."""

    def test_sequence(self) -> None:
        """It comes after EHLO and outside of transactions; elsewhere it is 503."""
        wire = Wire(self.factory, PROXY).say("XFORWARD NAME=x", "EHLO x").forget()
        wire.say(
            "MAIL FROM:<>", "XFORWARD NAME=x", "RCPT TO:<b@y.example>", "XFORWARD NAME=x", "RSET", "XFORWARD NAME=x"
        )
        self.assertEqual(wire.codes, [250, 503, 250, 503, 250, 250])
        self.assertEqual(Wire(self.factory, PROXY).say("XFORWARD NAME=x").codes, [220, 503])

    def test_one_transaction(self) -> None:
        """It holds for one transaction, whether that is delivered or reset."""
        message = ("MAIL FROM:<>", "RCPT TO:<b@y.example>", "DATA", ".")
        self.connect().say(
            f"XFORWARD {ALL}", *message, *message, f"XFORWARD {ALL}", "MAIL FROM:<>", "RSET", "MAIL FROM:<>"
        )
        self.assertEqual(self.forwarded, [SAID, None, SAID, None])

    def test_kept_by_the_envelope(self) -> None:
        """An envelope keeps it after its transaction."""
        wire = self.connect().say(f"XFORWARD {ALL}", "MAIL FROM:<>", "RCPT TO:<b@y.example>", "DATA", ".")
        wire.say("XFORWARD NAME=other", "MAIL FROM:<>")
        self.assertEqual(self.backend.messages[0].envelope.forwarded, SAID)

    def test_forgotten(self) -> None:
        """RSET, EHLO, HELO and XCLIENT forget it."""
        for command in ("RSET", "EHLO x", "HELO x", "XCLIENT NAME=x"):
            with self.subTest(command):
                self.make()
                self.connect().say(
                    f"XFORWARD {ALL}", command, "EHLO x" if command[0] == "X" else "NOOP", "MAIL FROM:<>"
                )
                self.assertEqual(self.forwarded, [None])

    def test_refused_mail(self) -> None:
        """A MAIL that is refused opens no transaction: it still holds for the next."""
        self.make(ScriptedBackend(mail=[OSError("no")]))
        wire = self.connect().say(f"XFORWARD {ALL}", "MAIL FROM:<", "MAIL FROM:<>", "MAIL FROM:<>")
        self.assertEqual(wire.codes, [250, 501, 451, 250])
        self.assertEqual(self.forwarded, [SAID, SAID])
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)

    def test_without(self) -> None:
        """Without XFORWARD the envelope has None."""
        self.connect().say("MAIL FROM:<>")
        self.assertEqual(self.forwarded, [None])
