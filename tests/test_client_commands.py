"""Tests of smtpsvc.client's commands, parameters and options: what callers give, on the wire or refused."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.client import TLS, LimitReached, Login, Options, Timeouts, Unsupported
from smtpsvc.client.capabilities import Capabilities, parse_capabilities
from smtpsvc.client.commands import address_of, attributes, hello, line
from smtpsvc.client.envelope import Opening
from smtpsvc.extensions.dsn import DSN
from smtpsvc.grammar.addresses import NULL, Address, SyntaxProblem
from smtpsvc.grammar.params import parse_params
from smtpsvc.grammar.replies import Reply
from smtpsvc.parameters import ByMode, DeliverBy, Notify, OriginalRecipient, Ret, RRVSAction, ValidSince
from smtpsvc.values import Body, Recipient
from tests.support import given, st

ALL = parse_capabilities(
    Reply(
        250,
        "mx\nSIZE 1000\n8BITMIME\nSMTPUTF8\nCHUNKING\nBINARYMIME\nDSN\nAUTH PLAIN\nDELIVERBY 60\nMT-PRIORITY"
        "\nREQUIRETLS\nFUTURERELEASE 100 2030-01-01T00:00:00Z\nRRVS\nXOORG\nNO-SOLICITING\nPRDR",
    )
)
NONE = Capabilities()
WHEN = datetime(2026, 1, 31, 12, tzinfo=UTC)


def mail(params: dict[str, Any], offered: Capabilities = ALL, sender: Any = "a@x.example", **more: Any) -> str:
    """Make a MAIL; without its verb and address."""
    more.setdefault("eight_bit", False)
    return Opening(offered).mail(sender, params, **more)[1].decode().removeprefix("MAIL FROM:<a@x.example>").strip()


def rcpt(params: dict[str, Any], offered: Capabilities = ALL) -> str:
    """Make a RCPT; without its verb and address."""
    return Opening(offered).rcpt("b@y.example", params)[1].decode().removeprefix("RCPT TO:<b@y.example>").strip()


class InjectionTests(SynchronousTestCase):
    @given(st.text(alphabet='a@.<> \r\n\0\t"\\é'))
    def test_addresses(self, text: str) -> None:
        """Whatever is given as an address makes one line or an error."""
        for given_ in (text, Address(text), Address("a", text), Address(text, "x.example")):
            for make in (lambda g=given_: Opening(ALL).mail(g), lambda g=given_: Opening(ALL).rcpt(g)):
                try:
                    command = make()[1]
                except (ValueError, Unsupported):
                    continue
                self.assertEqual((command.count(b"\r"), command.count(b"\n"), command[-2:]), (1, 1, b"\r\n"))

    def test_address_is_one_path(self) -> None:
        """Nothing that follows an address can become a parameter."""
        for text in (
            "a@x.example> SIZE=1",
            "a@x.example>\r\nRCPT TO:<b@y.example",
            "a b@x.example",
            "<a@x.example>",
            "",
        ):
            with self.subTest(text):
                self.assertRaises(SyntaxProblem, address_of, text)
                self.assertRaises(ValueError, address_of, Address(text))

    def test_values(self) -> None:
        """No value makes a word or a line of its own."""
        for name, value in (
            ("X-A", "1 SIZE=2"), ("X-A", "1\r\nQUIT"), ("X-A", ""), ("X A", "1"), ("X\r\nQUIT", True),
            ("ENVID", "a\r\nb"),
            ("ENVID", "a\x85b"), ("XOORG", ""), ("SOLICIT", "a b"), ("RET", "FULL X"), ("AUTH", "a@x\r\n"),
        ):  # fmt: skip
            with self.subTest((name, value)):
                self.assertRaises(ValueError, mail, {name: value})

    def test_names(self) -> None:
        """A name for EHLO has no spaces and no line ends."""
        for name in ("", "a b", "a\r\nMAIL", "a\0", "é.example", "x" * 256):
            with self.subTest(name):
                self.assertRaises(ValueError, hello, "EHLO", name)
                if name:
                    self.assertRaises(ValueError, Options, hostname=name)

    def test_any_command(self) -> None:
        """A command is one line."""
        self.assertEqual(line("VRFY", "joe"), b"VRFY joe\r\n")
        self.assertRaises(ValueError, line, "VRFY", "joe\r\nQUIT")

    def test_attributes(self) -> None:
        """Attributes of XCLIENT are xtext, None is unavailable, and what the server does not take is left out."""
        left: list[str] = []
        made = attributes(
            "XCLIENT", {"ADDR": "192.0.2.1", "NAME": None, "LOGIN": "a b", "X": 1}, ["ADDR", "NAME", "LOGIN"], left
        )
        self.assertEqual(made, b"XCLIENT ADDR=192.0.2.1 NAME=[UNAVAILABLE] LOGIN=a+20b\r\n")
        self.assertEqual(left, ["X"])
        self.assertRaises(ValueError, attributes, "XCLIENT", {"NAME": "é"}, ["NAME"], [])


class AddressTests(SynchronousTestCase):
    def test_forms(self) -> None:
        """Text, an Address and the null sender are taken; postmaster alone is a recipient."""
        self.assertEqual(address_of("", sender=True), NULL)
        self.assertEqual(address_of(NULL, sender=True), NULL)
        self.assertEqual(address_of("Postmaster"), Address("Postmaster"))
        self.assertEqual(address_of('"a b"@x.example'), Address('"a b"', "x.example"))
        self.assertRaises(SyntaxProblem, address_of, "postmaster", sender=True)

    def test_lenient(self) -> None:
        """An Address with odd dots passes, as a lenient server has taken it; text is looked at strictly."""
        self.assertEqual(str(address_of(Address("a..b", "x.example"))), "a..b@x.example")
        self.assertRaises(SyntaxProblem, address_of, "a..b@x.example")

    def test_domain_without_smtputf8(self) -> None:
        """An international domain is written in A-labels where its local part is ASCII."""
        self.assertEqual(Opening(NONE).rcpt("j@b\u00fccher.example")[1], b"RCPT TO:<j@xn--bcher-kva.example>\r\n")

    def test_international(self) -> None:
        """A local part that is not ASCII asks for SMTPUTF8, and is refused where that lacks."""
        made = Opening(ALL).mail("j\u00fc@x.example", eight_bit=False)[1]
        self.assertEqual(made, "MAIL FROM:<j\u00fc@x.example> SMTPUTF8\r\n".encode())
        self.assertRaises(Unsupported, Opening(NONE).mail, "j\u00fc@x.example")
        self.assertRaises(Unsupported, Opening(ALL).rcpt, "j\u00fc@x.example")


class ParameterTests(SynchronousTestCase):
    MAIL = (
        ({"RET": Ret.HDRS, "ENVID": "a+b c"}, "RET=HDRS ENVID=a+2Bb+20c"),
        ({"ret": "FULL"}, "RET=FULL"),
        ({"BY": DeliverBy(600, ByMode.RETURN, True)}, "BY=600;RT"),
        ({"BY": DeliverBy(-5, ByMode.NOTIFY)}, "BY=-5;N"),
        ({"MT-PRIORITY": -3}, "MT-PRIORITY=-3"),
        ({"REQUIRETLS": True}, "REQUIRETLS"),
        ({"HOLDFOR": 60}, "HOLDFOR=60"),
        ({"HOLDUNTIL": WHEN}, "HOLDUNTIL=2026-01-31T12:00:00Z"),
        ({"XOORG": "x.example"}, "XOORG=x.example"),
        ({"AUTH": NULL}, "AUTH=<>"),
        ({"AUTH": "a+b@x.example"}, "AUTH=a+2Bb@x.example"),
        ({"SOLICIT": ("org.example:ADV", "org.example:X")}, "SOLICIT=org.example:ADV,org.example:X"),
        ({"X-OWN": "1", "X-FLAG": True, "X-NOT": False}, "X-OWN=1 X-FLAG"),
    )
    RCPT = (
        ({"NOTIFY": frozenset({Notify.DELAY, Notify.SUCCESS})}, "NOTIFY=SUCCESS,DELAY"),
        ({"NOTIFY": "NEVER"}, "NOTIFY=NEVER"),
        ({"ORCPT": OriginalRecipient("rfc822", "a+b@x.example")}, "ORCPT=rfc822;a+2Bb@x.example"),
        ({"ORCPT": "a@x.example"}, "ORCPT=rfc822;a@x.example"),
        ({"ORCPT": OriginalRecipient("utf-8", "j\u00fc@x.example")}, "ORCPT=utf-8;j\\x{FC}@x.example"),
        ({"RRVS": ValidSince(WHEN, RRVSAction.CONTINUE)}, "RRVS=2026-01-31T12:00:00Z;C"),
        ({"RRVS": WHEN}, "RRVS=2026-01-31T12:00:00Z"),
    )

    def test_written(self) -> None:
        """Values are written as the server's own parsers read them."""
        for make, table in ((mail, self.MAIL), (rcpt, self.RCPT)):
            for params, text in table:
                with self.subTest(text):
                    self.assertEqual(make(params), text)

    def test_read_back(self) -> None:
        """What our server reads is what was given."""
        given_ = {"NOTIFY": frozenset({Notify.FAILURE}), "ORCPT": OriginalRecipient("rfc822", "a+b@x.example")}
        self.assertEqual(parse_params(rcpt(given_).encode(), 0, DSN.rcpt_params), given_)

    def test_dropped(self) -> None:
        """Without its extension a harmless parameter is left out, and the result will say so."""
        opening = Opening(NONE)
        opening.mail(
            "a@x.example", {"RET": Ret.FULL, "MT-PRIORITY": 3, "BY": DeliverBy(60, ByMode.NOTIFY)}, eight_bit=False
        )
        command = opening.rcpt(
            "b@y.example", {"NOTIFY": {Notify.SUCCESS}, "RRVS": ValidSince(WHEN, RRVSAction.CONTINUE)}
        )[1]
        self.assertEqual(command, b"RCPT TO:<b@y.example>\r\n")
        self.assertEqual(opening.dropped, ["RET", "MT-PRIORITY", "BY", "NOTIFY", "RRVS"])

    def test_not_dropped(self) -> None:
        """Where leaving it out would change what happens, the message is refused."""
        for params in (
            {"REQUIRETLS": True}, {"HOLDFOR": 60}, {"HOLDUNTIL": WHEN}, {"BY": DeliverBy(60, ByMode.RETURN)},
            {"BODY": Body.BINARY_MIME}, {"SMTPUTF8": True},
        ):  # fmt: skip
            with self.subTest(str(params)):
                self.assertRaises(Unsupported, mail, params, NONE)
        for action in (RRVSAction.REJECT, RRVSAction.UNSAID):
            self.assertRaises(Unsupported, rcpt, {"RRVS": ValidSince(WHEN, action)}, NONE)

    def test_limits(self) -> None:
        """What is beyond the server's announced limits is refused before it is sent."""
        late = datetime(2031, 1, 1, tzinfo=UTC)
        for params in ({"HOLDFOR": 101}, {"HOLDUNTIL": late}, {"BY": DeliverBy(59, ByMode.RETURN)}, {"SIZE": 1001}):
            with self.subTest(str(params)):
                self.assertRaises(LimitReached, mail, params)
        self.assertRaises(LimitReached, mail, {}, size=1001)

    def test_wrong_values(self) -> None:
        """A value that is none is refused with the parameter's name."""
        for params in (
            {"MT-PRIORITY": 10}, {"HOLDFOR": 0}, {"HOLDFOR": 1, "HOLDUNTIL": WHEN}, {"HOLDUNTIL": datetime(2026, 1, 1)},
            {"BY": 5}, {"NOTIFY": set()}, {"NOTIFY": {"NEVER", "DELAY"}}, {"NOTIFY": {"SOON"}}, {"RRVS": 5},
        ):  # fmt: skip
            make = rcpt if "NOTIFY" in params or "RRVS" in params else mail
            with self.subTest(str(params)):
                error = self.assertRaises(ValueError, make, params)
                self.assertIn(next(iter(params)), str(error))

    def test_own(self) -> None:
        """SIZE and BODY are made of the content, where the server has them."""
        self.assertEqual(mail({}, size=10), "SIZE=10")
        self.assertEqual(mail({}, NONE, size=10), "")
        self.assertEqual(mail({}, eight_bit=True), "BODY=8BITMIME")
        self.assertEqual(mail({}, eight_bit=None), "BODY=8BITMIME")
        self.assertEqual(mail({}, NONE, eight_bit=None), "")
        self.assertEqual(mail({"BODY": "BINARYMIME"}), "BODY=BINARYMIME")
        self.assertRaises(Unsupported, mail, {}, NONE, eight_bit=True)

    def test_recipient(self) -> None:
        """A Recipient brings its own parameters, which win over those for all."""
        recipient = Recipient(Address("b", "y.example"), {"NOTIFY": {Notify.NEVER}})
        command = Opening(ALL).rcpt(recipient, {"NOTIFY": {Notify.DELAY}})[1]
        self.assertEqual(command, b"RCPT TO:<b@y.example> NOTIFY=NEVER\r\n")


class OptionsTests(SynchronousTestCase):
    def test_tls_by_name(self) -> None:
        """TLS may be given by name."""
        self.assertIs(Options(tls="Implicit").tls, TLS.IMPLICIT)
        self.assertIn("required", str(self.assertRaises(ValueError, Options, tls="yes")))

    def test_login(self) -> None:
        """A login has one kind of proof, and its secrets are not shown."""
        self.assertRaises(ValueError, Login, "joe")
        self.assertRaises(ValueError, Login, "joe", "x", token="y")
        self.assertRaises(ValueError, Login, "joe", "a\0b")
        self.assertNotIn("sesame", repr(Options(login=Login("joe", "sesame"))))

    def test_wrong(self) -> None:
        """Times and sizes are more than nothing."""
        self.assertRaises(ValueError, Timeouts, end=0)
        self.assertRaises(ValueError, Options, chunk_size=0)
