"""
Tests of smtpsvc.extensions.dsn: RET, ENVID, NOTIFY and ORCPT.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from smtpsvc import Notify, OriginalRecipient, Ret
from smtpsvc.extensions.dsn import parse_envid, parse_notify, parse_orcpt
from smtpsvc.grammar import replies
from smtpsvc.grammar.xtext import encode_utf8_addr_unitext, encode_utf8_addr_xtext, encode_xtext
from smtpsvc.testing import ScriptedBackend, Wire
from tests.extended import extended
from tests.support import given, st

PRINTABLE = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=30)


class MailTests(SynchronousTestCase):
    """The parameters of MAIL."""

    def params(self, text: str) -> Mapping[str, Any]:
        """Send MAIL with parameters, and give what the hook saw."""
        backend = ScriptedBackend()
        wire = extended(backend).greeted().say(f"MAIL FROM:<a@x.example> {text}")
        self.assertEqual(wire.last_reply, replies.SENDER_OK)
        [(envelope,)] = backend.called("mail")
        params: Mapping[str, Any] = envelope.mail_params
        return params

    def refused(self, text: str) -> str:
        """Send MAIL with parameters, and give the text of the 501 5.5.4."""
        reply = extended().greeted().say(f"MAIL FROM:<a@x.example> {text}").last_reply
        self.assertEqual((reply.code, reply.enhanced), (501, "5.5.4"), text)
        return reply.text

    def test_ret(self) -> None:
        """RET is FULL or HDRS, in any case (RFC 3461 §4.3)."""
        for text, ret in {"RET=FULL": Ret.FULL, "ret=hdrs": Ret.HDRS}.items():
            with self.subTest(text):
                self.assertEqual(self.params(text), {"RET": ret})

    def test_bad_ret(self) -> None:
        """Any other RET is 501."""
        for text in ("RET", "RET=", "RET=BODY", "RET=FULL,HDRS", "RET=FULL RET=HDRS"):
            with self.subTest(text):
                self.refused(text)

    def test_envid(self) -> None:
        """ENVID is decoded (RFC 3461 §4.4)."""
        cases = {"QQ314159": "QQ314159", "a+2Bb+3Dc": "a+b=c", "two+20words": "two words", "x" * 100: "x" * 100}
        for value, envid in cases.items():
            with self.subTest(value):
                self.assertEqual(self.params(f"ENVID={value}"), {"ENVID": envid})

    def test_bad_envid(self) -> None:
        """One that is no xtext, too long, or has control characters in it, is 501."""
        for value in ("", "x" * 101, "+", "a+2b", "a+2", "a+G0", "a+0D+0Ab", "+00", "+7F", "a+80", "a=b"):
            with self.subTest(value):
                self.refused(f"ENVID={value}")
        self.refused("ENVID")

    @given(PRINTABLE)
    def test_any_envid(self, text: str) -> None:
        """Whatever is printable arrives as it was."""
        self.assertEqual(parse_envid(encode_xtext(text)), text)


class RcptTests(SynchronousTestCase):
    """The parameters of RCPT."""

    def say(self, text: str, mail: str = "", backend: ScriptedBackend | None = None) -> Wire:
        """Send RCPT with parameters."""
        wire = extended(backend).greeted().say(f"MAIL FROM:<a@x.example>{mail}").forget()
        return wire.say(f"RCPT TO:<b@y.example> {text}")

    def params(self, text: str, mail: str = "") -> Mapping[str, Any]:
        """Send RCPT with parameters, and give what the hook saw."""
        backend = ScriptedBackend()
        self.assertEqual(self.say(text, mail, backend).last_reply, replies.RECIPIENT_OK)
        [(_, recipient)] = backend.called("rcpt")
        params: Mapping[str, Any] = recipient.params
        return params

    def test_notify(self) -> None:
        """NOTIFY is NEVER, or some of the others, in any case and order (RFC 3461 §4.1)."""
        cases = {
            "NEVER": {Notify.NEVER},
            "success": {Notify.SUCCESS},
            "SUCCESS,FAILURE,DELAY": {Notify.SUCCESS, Notify.FAILURE, Notify.DELAY},
            "Delay,Failure": {Notify.DELAY, Notify.FAILURE},
        }
        for value, notify in cases.items():
            with self.subTest(value):
                self.assertEqual(self.params(f"NOTIFY={value}"), {"NOTIFY": notify})

    def test_bad_notify(self) -> None:
        """NEVER beside others, a word twice, an unknown or empty one, are 501."""
        values = (
            "", "NEVER,SUCCESS", "SUCCESS,NEVER", "NEVER,NEVER", "SUCCESS,success", "SUCCESS,", ",SUCCESS",
            "SUCCESS,,DELAY", "ALWAYS", "SUCCESS;DELAY",
        )  # fmt: skip
        for value in values:
            with self.subTest(value):
                reply = self.say(f"NOTIFY={value}").last_reply
                self.assertEqual((reply.code, reply.enhanced), (501, "5.5.4"))

    def test_folded_notify(self) -> None:
        """A letter that has an ASCII one as upper case is none."""
        self.assertRaises(ValueError, parse_notify, "\N{LATIN SMALL LETTER LONG S}UCCESS")

    def test_orcpt(self) -> None:
        """ORCPT is a type and an address (RFC 3461 §4.2)."""
        cases = {
            "rfc822;Bob@Y.example": ("rfc822", "Bob@Y.example"),
            "RFC822;a+2Bb@y.example": ("rfc822", "a+b@y.example"),
            "rfc822;+22two+20words+22@y.example": ("rfc822", '"two words"@y.example'),
            "rfc822;postmaster": ("rfc822", "postmaster"),
            "x400;/C+3DUS/": ("x400", "/C=US/"),
            "rfc822;a;b": ("rfc822", "a;b"),
        }
        for value, found in cases.items():
            with self.subTest(value):
                self.assertEqual(self.params(f"ORCPT={value}"), {"ORCPT": OriginalRecipient(*found)})

    def test_orcpt_beyond_ascii(self) -> None:
        r"""The type utf-8 has \x{} for what goes beyond ASCII (RFC 6533 §3)."""
        found = {"ORCPT": OriginalRecipient("utf-8", "jörg@bücher.example")}
        self.assertEqual(self.params(r"ORCPT=UTF-8;j\x{F6}rg@b\x{FC}cher.example"), found)
        self.assertEqual(self.params(r"ORCPT=utf-8;jörg@b\x{FC}cher.example", " SMTPUTF8"), found)

    def test_orcpt_needs_smtputf8(self) -> None:
        """Without SMTPUTF8 nothing beyond ASCII may stand there as it is: 553 5.6.7."""
        self.assertEqual(self.say("ORCPT=utf-8;jörg@y.example").last_reply, replies.RECIPIENT_NOT_ASCII)

    def test_bad_orcpt(self) -> None:
        """Everything else is 501."""
        values = (
            "", "rfc822", "rfc822;", ";a@y.example", "rfc.822;a@y.example", "rfc822:a@y.example",
            "rfc822;a+2b@y.example", "rfc822;a+0D+0ADATA",
            "rfc822;a+00", r"rfc822;j\x{F6}rg+", "utf-8;a", "utf-8;a@", r"utf-8;a\x{1}@y.example",
            r"utf-8;a\x{D}@y.example", r"utf-8;a\x{XY}@y.example", "utf-8;a+2B@y.example", r"utf-8;\x{85}@y.example",
            "rfc822;" + "x" * 500,
        )  # fmt: skip
        for value in values:
            with self.subTest(value):
                reply = self.say(f"ORCPT={value}").last_reply
                self.assertEqual((reply.code, reply.enhanced), (501, "5.5.4"))
        self.assertEqual(self.say("ORCPT").last_reply.code, 501)

    @given(PRINTABLE)
    def test_any_orcpt(self, text: str) -> None:
        """Whatever is printable arrives as it was."""
        self.assertEqual(parse_orcpt(f"rfc822;{encode_xtext(text)}"), OriginalRecipient("rfc822", text))

    @given(st.text(st.characters(categories=["Ll", "Lu", "Lo"]), min_size=1, max_size=10))
    def test_any_international_orcpt(self, local: str) -> None:
        """Both ways to write an address beyond ASCII give the same."""
        address = f"{local}@y.example"
        for encode in (encode_utf8_addr_xtext, encode_utf8_addr_unitext):
            self.assertEqual(parse_orcpt(f"utf-8;{encode(address)}"), OriginalRecipient("utf-8", address))

    @given(st.text(max_size=60))
    def test_anything(self, text: str) -> None:
        """Any text is an original recipient without control characters, or a ValueError."""
        for value in (text, f"rfc822;{text}", f"utf-8;{text}"):
            try:
                found = parse_orcpt(value)
            except ValueError:
                continue
            self.assertEqual(found.address.translate(dict.fromkeys((*range(32), *range(127, 160)))), found.address)


class OfferTests(SynchronousTestCase):
    """When the parameters are there."""

    def test_announced(self) -> None:
        """DSN stands in the reply to EHLO, without arguments."""
        self.assertIn("DSN", extended().say("EHLO x").last_reply.text.splitlines())

    def test_not_after_helo(self) -> None:
        """After HELO the parameters are 555."""
        wire = extended().say("HELO x", "MAIL FROM:<> RET=FULL", "MAIL FROM:<>", "RCPT TO:<b@y.example> NOTIFY=NEVER")
        self.assertEqual(wire.codes, [250, 555, 250, 555])

    def test_disabled(self) -> None:
        """Where it is disabled the parameters are 555, and it is not announced."""
        wire = extended(disable={"DSN"}).say("EHLO x")
        self.assertNotIn("DSN", wire.last_reply.text.splitlines())
        wire.forget().say("MAIL FROM:<> RET=FULL", "MAIL FROM:<>", "RCPT TO:<b@y.example> NOTIFY=NEVER")
        self.assertEqual(wire.replies, [replies.UNKNOWN_PARAMETER, replies.SENDER_OK, replies.UNKNOWN_PARAMETER])

    def test_twice(self) -> None:
        """A parameter given twice is 501 5.5.4 (RFC 3461 §4.1, §4.2)."""
        wire = extended().greeted().say("MAIL FROM:<>", "RCPT TO:<b@y.example> NOTIFY=DELAY notify=DELAY")
        self.assertEqual((wire.last_reply.code, wire.last_reply.enhanced), (501, "5.5.4"))
