from __future__ import annotations

import base64
import io
import random
import re
from contextlib import redirect_stdout
from datetime import UTC, datetime, timedelta, timezone
from email.message import EmailMessage
from typing import Any

from twisted.internet import reactor
from twisted.trial.unittest import SynchronousTestCase, TestCase

from smtpsvc.backends.function import Message, TemporaryContent
from smtpsvc.grammar.addresses import Address
from smtpsvc.message import Bounds, Email, Mailbox, parse, parse_in_thread
from smtpsvc.message.reading import Source
from smtpsvc.values import Envelope, Peer
from tests.pages import EXAMPLES
from tests.support import given, settings, st

PNG = bytes(range(256))


def crlf(text: str) -> bytes:
    """Make octets of text: CRLF for each line end."""
    return text.replace("\n", "\r\n").encode()


NESTED = crlf(
    """\
From: =?utf-8?q?Gr=C3=BCn=2C_A?= <a@x.example>, "B, C" <b@x.example>
Sender: robot@x.example
Reply-To: <list@x.example>
To: group: c@y.example, D <d@y.example>;
Cc: undisclosed-recipients:;
Bcc: e@y.example
Subject: =?utf-8?b?w7w=?=
 two
Date: Fri, 20 Nov 2026 10:00:00 +0100
Message-ID: <1@x.example>
In-Reply-To: <0@x.example>
References: <a@x.example> <0@x.example>
Resent-From: R <r@z.example>
Resent-Sender: s@z.example
Resent-To: t@z.example
Resent-Cc: u@z.example
Resent-Bcc: v@z.example
Resent-Date: Fri, 20 Nov 2026 09:00:00 -0000
Resent-Message-ID: <2@z.example>
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary="=_m"

preamble
--=_m
Content-Type: multipart/related; boundary=r

--r
Content-Type: multipart/alternative; boundary=a

--a
Content-Type: text/plain; charset=iso-8859-1
Content-Transfer-Encoding: quoted-printable

gr=FC=DF=
e
--a
Content-Type: text/html; charset=utf-8

<p>gr\u00fc\u00dfe <img src="cid:logo@x"></p>
--a--
--r
Content-Type: image/png; name=logo.png
Content-ID: <logo@x>
Content-Disposition: inline
Content-Transfer-Encoding: base64

"""
    + base64.encodebytes(PNG).decode()
    + """\
--r--
--=_m
Content-Type: application/pdf
Content-Disposition: attachment; filename*=utf-8''%C3%BCbersicht.pdf

%PDF
--=_m
Content-Type: text/plain

-- footer
--=_m--
epilogue
"""
)


def multipart(*parts: bytes, boundary: bytes = b"b", end: bytes = b"--b--\r\n") -> bytes:
    """Make a multipart message of parts with their headers."""
    begun = b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts)
    return b"Content-Type: multipart/mixed; boundary=" + boundary + b"\r\n\r\n" + begun + end


def message_of(content: Any) -> Message:
    """Make a message as the function of on_message gets it."""
    return Message(Envelope("t1", Peer(None, "c1"), Address("a", "x.example")), content)


class FieldTests(SynchronousTestCase):
    def test_all(self) -> None:
        """Each field is decoded, and has its type."""
        email = parse(NESTED)
        zone = timezone(timedelta(hours=1))
        for name, expected in (
            ("subject", "\u00fc two"),
            ("from_", (Mailbox("Gr\u00fcn, A", "a@x.example"), Mailbox("B, C", "b@x.example"))),
            ("sender", Mailbox("", "robot@x.example")),
            ("reply_to", (Mailbox("", "list@x.example"),)),
            ("to", (Mailbox("", "c@y.example"), Mailbox("D", "d@y.example"))),
            ("cc", ()),
            ("bcc", (Mailbox("", "e@y.example"),)),
            ("date", datetime(2026, 11, 20, 10, tzinfo=zone)),
            ("message_id", "1@x.example"),
            ("in_reply_to", ("0@x.example",)),
            ("references", ("a@x.example", "0@x.example")),
            ("content_type", "multipart/mixed"),
            ("defects", ()),
        ):
            with self.subTest(name=name):
                self.assertEqual(getattr(email, name), expected)

    def test_resent(self) -> None:
        """The Resent- fields are there too, and false where there are none."""
        resent = parse(NESTED).resent
        self.assertTrue(resent)
        for name, expected in (
            ("from_", (Mailbox("R", "r@z.example"),)),
            ("sender", Mailbox("", "s@z.example")),
            ("to", (Mailbox("", "t@z.example"),)),
            ("cc", (Mailbox("", "u@z.example"),)),
            ("bcc", (Mailbox("", "v@z.example"),)),
            ("date", datetime(2026, 11, 20, 9, tzinfo=UTC)),
            ("message_id", "2@z.example"),
        ):
            with self.subTest(name=name):
                self.assertEqual(getattr(resent, name), expected)
        self.assertFalse(parse(b"From: a@x.example\r\n\r\n").resent)

    def test_missing(self) -> None:
        """What is not there is empty."""
        email = parse(b"")
        empty = [email.subject, email.message_id, email.text, email.html]
        self.assertEqual(empty, [""] * 4)
        self.assertEqual((email.sender, email.date), (None, None))
        for name in ("from_", "to", "cc", "bcc", "reply_to", "references", "in_reply_to", "attachments", "defects"):
            with self.subTest(name=name):
                self.assertEqual(getattr(email, name), ())

    def test_bad_dates(self) -> None:
        """A date that is none is None, and a defect."""
        for date in (
            "",
            "yesterday",
            "99 Foo 99999 99:99:99 +9999",
            "Fri, 31 Feb 2026 00:00:00 +0000",
            "1 Jan 2026 0:0:0 +99999999",
        ):
            with self.subTest(date=date):
                email = parse(f"Date: {date}\r\n\r\n".encode())
                self.assertIsNone(email.date)
                self.assertEqual(email.defects, ("the field Date has no date",))

    def test_raw(self) -> None:
        """Other fields are had by name, decoded or as they are."""
        headers = parse(b"X-A: =?utf-8?q?=C3=BC?=\r\nx-a: 2\r\n\r\n").headers
        self.assertEqual((headers.get("x-A"), headers.raw("X-A")), ("\u00fc", b"=?utf-8?q?=C3=BC?="))
        self.assertEqual((headers.get_all("X-A"), headers.names()), (["\u00fc", "2"], ["X-A", "x-a"]))
        self.assertEqual(
            (headers.get("No"), headers.get("No", "-"), "x-a" in headers, len(headers)), ("", "-", True, 2)
        )

    def test_addresses(self) -> None:
        """An address that SMTP could use is had as such."""
        for text, expected in (("a@x.example", Address("a", "x.example")), ("not one", None)):
            self.assertEqual(Mailbox("", text).parsed, expected)
        self.assertEqual(str(Mailbox("A", "a@x.example")), "A <a@x.example>")

    def test_one_line(self) -> None:
        """No field brings a line end or another control character, however it is encoded."""
        email = parse(
            b"Subject: =?utf-8?q?a=0D=0Ab?=\r\nFrom: =?utf-8?q?x=0Ay?= <a\x01@x>\r\nMessage-ID: <a\x00b>\r\n\r\n"
        )
        said = email.subject + email.from_[0].name + email.from_[0].address + email.message_id
        self.assertNotRegex(said, "[\x00-\x1f]")


class PartTests(SynchronousTestCase):
    def test_nested(self) -> None:
        """Texts, the picture of the HTML and the attachment are each in one place."""
        email = parse(NESTED)
        self.assertEqual(email.text, "gr\u00fc\u00dfe\n-- footer")
        self.assertEqual(email.html, '<p>gr\u00fc\u00dfe <img src="cid:logo@x"></p>')
        self.assertEqual(list(email.embedded), ["logo@x"])
        picture = email.embedded["logo@x"]
        self.assertEqual((picture.name, picture.type, picture.size, picture.data), ("logo.png", "image/png", 256, PNG))
        [file] = email.attachments
        self.assertEqual((file.name, file.type, file.size), ("\u00fcbersicht.pdf", "application/pdf", 4))
        with file.open() as opened:
            self.assertEqual(opened.read(), b"%PDF")
        self.assertEqual(
            [part.type for part in email.parts][:3], ["multipart/mixed", "multipart/related", "multipart/alternative"]
        )
        self.assertEqual(email.defects, ())

    def test_like_the_standard_library(self) -> None:
        """What the standard library writes is read as it was meant."""
        made = EmailMessage()
        made["Subject"] = "gr\u00fc\u00dfe " * 20
        made.set_content("text\n\u00fc\n")
        made.add_alternative("<p>\u00fc</p>\n", subtype="html")
        made.add_attachment(PNG, maintype="application", subtype="x", filename="na\u00efve file " * 6 + ".bin")
        email = parse(made.as_bytes())
        self.assertEqual(
            (email.subject, email.text, email.html),
            (("gr\u00fc\u00dfe " * 20).strip(), "text\n\u00fc\n", "<p>\u00fc</p>\n"),
        )
        self.assertEqual(email.attachments[0].data, PNG)
        self.assertEqual(email.attachments[0].name, "na\u00efve file " * 6 + ".bin")

    def test_single(self) -> None:
        """A message without parts is its text, or its attachment."""
        self.assertEqual(parse(b"Subject: x\n\na\r\nb\n").text, "a\nb\n")
        email = parse(b"Content-Type: image/png\r\nContent-Transfer-Encoding: base64\r\n\r\nQUJD\r\n")
        self.assertEqual((email.text, email.attachments[0].data), ("", b"ABC"))

    def test_message_within(self) -> None:
        """A message within a message is an attachment, which can be parsed."""
        email = parse(multipart(b"Content-Type: message/rfc822\r\n\r\nSubject: inner\r\n\r\nhello"))
        with email.attachments[0].open() as file:
            self.assertEqual(parse(file).subject, "inner")

    def test_digest(self) -> None:
        """The parts of a digest are messages if they do not say otherwise (RFC 2046 §5.1.5)."""
        message = multipart(b"\r\nSubject: x\r\n\r\ny").replace(b"mixed", b"digest")
        self.assertEqual(parse(message).attachments[0].type, "message/rfc822")

    def test_octets(self) -> None:
        """The content of a part is what stands between the delimiters, octet by octet (RFC 2046 §5.1.1)."""
        for content in (b"", b"\r\n", b"x", b"x\r\n", b"-- b", b"--bb", b"--", b"a\rb\nc\x00", b"--b x"):
            with self.subTest(content=content):
                [part] = parse(multipart(b"Content-Type: x/y\r\n\r\n" + content)).attachments
                self.assertEqual(part.data, content)

    def test_file_names(self) -> None:
        """A name is safe as a name of a file: one component, printable, not hidden, and not too long."""
        for given_name, name in (
            ("../../etc/passwd", "passwd"),
            ("C:\\x\\evil.exe", "evil.exe"),
            ("..", ""),
            (".hidden", "hidden"),
            ("a\u202etxt.exe", "a_txt.exe"),
            ("x/", ""),
            ("\u00fc" * 300 + ".pdf", "\u00fc" * 125 + ".pdf"),
            ("\u00fc" * 300, "\u00fc" * 127),
        ):
            with self.subTest(name=name):
                part = f'Content-Type: x/y; name="{given_name}"'.replace("\\", "\\\\").encode()
                [found] = parse(multipart(part + b"\r\n\r\n.")).attachments
                self.assertEqual(found.name, name)
                self.assertLess(len(found.name.encode()), 256)

    def test_where_parts_go(self) -> None:
        """A part with a name is a file, text or not; one with an id is embedded unless it says that it is attached."""
        for header, place in (
            (b"Content-Type: text/plain", "text"),
            (b"Content-Type: text/plain; name=x", "attachments"),
            (b"Content-Disposition: attachment", "attachments"),
            (b"Content-Type: text/calendar", "attachments"),
            (b"Content-Type: image/png\r\nContent-ID: <i>", "embedded"),
            (b"Content-Type: image/png\r\nContent-ID: <i>\r\nContent-Disposition: attachment", "attachments"),
        ):
            with self.subTest(header=header):
                email = parse(multipart(header + b"\r\n\r\nx"))
                found = [name for name in ("text", "html", "attachments", "embedded") if getattr(email, name)]
                self.assertEqual(found, [place])


class SourceTests(SynchronousTestCase):
    def test_kinds(self) -> None:
        """Bytes, files from where they stand, and messages of a backend are read."""
        standing = io.BytesIO(b"junk" + NESTED)
        standing.seek(4)
        content = TemporaryContent()
        content.write(bytearray(NESTED))
        self.addCleanup(content.close)
        piped = io.BufferedReader(_Unseekable(io.BytesIO(NESTED)))
        for source in (NESTED, bytearray(NESTED), standing, message_of(NESTED), message_of(content), piped):
            with self.subTest(source=type(source)):
                email = parse(source)
                self.assertEqual((email.subject, email.attachments[0].data), ("\u00fc two", b"%PDF"))

    def test_nothing(self) -> None:
        """What is no message is a mistake that is told."""
        self.assertRaises(TypeError, parse, "text")

    def test_lazy(self) -> None:
        """Only the header is read before parts are asked for."""
        file = _Counting(NESTED + b"x" * 1_000_000)
        email = parse(file)
        self.assertEqual(email.subject, "\u00fc two")
        self.assertLess(file.count, 10_000)
        self.assertEqual(len(email.attachments), 1)
        self.assertGreater(file.count, 1_000_000)

    def test_failure(self) -> None:
        """A disk that fails is the caller's to know, and the next attempt begins anew."""
        file = _Counting(NESTED)
        email = parse(file)
        file.error = OSError("disk")
        self.assertRaises(OSError, lambda: email.parts)
        file.error = None
        self.assertEqual(len(email.attachments), 1)


class _Unseekable(io.RawIOBase):
    def __init__(self, file: io.BytesIO) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._file.readinto(buffer)


class _Counting(io.BytesIO):
    count = 0
    error: OSError | None = None

    def read(self, size: int | None = -1, /) -> bytes:
        if self.error is not None:
            raise self.error
        found = super().read(size)
        self.count += len(found)
        return found


class HostileTests(SynchronousTestCase):
    """Nothing raises, and work is bounded."""

    def reads(self, message: bytes, bounds: Bounds | None = None) -> tuple[Email, int]:
        """Parse all of a message, and count what was read of it."""
        file = _Counting(message)
        return parse(file, bounds).load(), file.count

    def test_nested(self) -> None:
        """Three thousand parts within each other are taken apart as far as the bound, and all where that allows it."""
        message = b"".join(
            b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(3000)
        )
        email, count = self.reads(message)
        self.assertEqual(len(email.parts), 51)
        self.assertIn("parts are nested deeper than 50; the innermost are one", email.defects)
        self.assertLess(count, 4 * len(message))
        email, count = self.reads(message, Bounds(depth=5000, parts=5000))
        self.assertEqual(max(part.depth for part in email.parts), 3000)
        self.assertLess(count, 4 * len(message))

    def test_many_boundaries(self) -> None:
        """A thousand long boundaries cost no expression each."""
        names = [b"%d%b" % (n, b"." * 190) for n in range(640)]
        opened = b'Content-Type: multipart/mixed; boundary="%b"\r\n\r\nx\r\n--%b\r\n'
        message = b"".join(
            [opened % (name, name) for name in names[:40]]
            + [
                opened % (name, name) + b"\r\nhello\r\n--%b--\r\nx\r\n--%b\r\n" % (name, names[39])
                for name in names[40:]
            ]
        )
        made: list[bytes] = []
        compile = re.compile
        self.patch(re, "compile", lambda pattern, flags=0: made.append(pattern) or compile(pattern, flags))
        email = parse(message, Bounds(parts=2000))
        self.assertEqual(email.text.count("hello"), 600)
        self.assertLess(sum(map(len, made)), 300_000)

    def test_nested_messages(self) -> None:
        """Three thousand messages within each other are one attachment."""
        email, _ = self.reads(b"Content-Type: message/rfc822\r\n\r\n" * 3000)
        self.assertEqual(len(email.attachments), 1)

    def test_many(self) -> None:
        """Of very many parts the first thousand are there, and the message is read little more than once."""
        message = multipart(*[b"\r\nx"] * 20_000)
        email, count = self.reads(message)
        self.assertEqual(len(email.parts), 1000)
        self.assertIn("there are more than 1000 parts; the others are not looked at", email.defects)
        self.assertLess(count, 4 * len(message))

    def test_growth(self) -> None:
        """Lines that nearly are delimiters cost their length and no more."""
        for line in (b"--\r\n", b"--bb\r\n", b"\n", b"-"):
            counts = [self.reads(multipart(b"\r\n" + line * n))[1] / n for n in (50_000, 100_000)]
            with self.subTest(line=line):
                self.assertLess(counts[1], counts[0] * 1.5)

    def test_header(self) -> None:
        """A header without an end is read as far as the bound."""
        email, _ = self.reads(b"A: b\r\n" * 200, Bounds(header=600))
        self.assertIn("the header is longer than 600 bytes; the rest is taken for content", email.defects)
        email, _ = self.reads(multipart(b"A: b\r\n" * 200), Bounds(part_header=600))
        self.assertIn("the header of a part is longer than 600 bytes; the rest is content", email.defects)

    def test_text(self) -> None:
        """Of a text larger than the bound the beginning is there."""
        email, _ = self.reads(b"\r\n" + b"x" * 1000, Bounds(text=100))
        self.assertEqual(email.text, "x" * 100)
        self.assertIn("there are more than 100 bytes of text/plain; the rest is left out", email.defects)

    def test_addresses(self) -> None:
        """Of very many addresses the first are there."""
        email, _ = self.reads(b"To: " + b"a@x.example, " * 500 + b"\r\n\r\n", Bounds(addresses=100))
        self.assertEqual(len(email.to), 100)
        email, _ = self.reads(b"To: " + b"a@x.example," * 30_000 + b"\r\n\r\n", Bounds(addresses=10))
        self.assertEqual(len(email.to), 10)

    def test_comments(self) -> None:
        """Comments within comments cost no stack."""
        email, _ = self.reads(b"To: " + b"(" * 20_000 + b"\r\n\r\n")
        self.assertEqual((email.to, email.defects), ((), ("the field To cannot be read as a whole",)))

    def test_broken_parts(self) -> None:
        """Broken structures give what can be read of them, and a defect."""
        for message, text, defect in (
            (b"Content-Type: multipart/mixed\r\n\r\nx", "x", "no boundary"),
            (b"Content-Type: nonsense\r\n\r\nx", "x", "content type is none"),
            (multipart(b"\r\nx", end=b""), "x\n", "does not end"),
            (multipart(b"no field\r\nmore"), "no field\nmore", "no field"),
            (b"Subject: x\r\nno field\r\nmore", "no field\nmore", "no field"),
            (b"Content-Type: multipart/mixed; boundary=b\r\n\r\nx", "x", "no parts"),
            (multipart(b"Content-Type: multipart/mixed; boundary=b\r\n\r\nx"), "", "boundary of one around it"),
            (b"Content-Transfer-Encoding: x-gzip\r\n\r\nx", "x", "not known"),
            (b"Content-Type: text/plain; charset=no-such\r\n\r\nx", "x", "cannot be decoded"),
            (b"\r\n\xff", "\u00ff", "cannot be decoded"),
            (b"Content-Transfer-Encoding: base64\r\n\r\nw7w", "\u00fc", ""),
        ):
            with self.subTest(message=message):
                email, _ = self.reads(message)
                self.assertEqual(email.text, text)
                self.assertIn(defect, "".join(email.defects))

    def test_odd_boundary(self) -> None:
        """Parts whose boundary is no text are not lost with it."""
        email, _ = self.reads(multipart(b"\r\nhidden", boundary=b"\xff"))
        self.assertIn("hidden", email.text)

    def test_damaged_attachment(self) -> None:
        """Damage in an attachment is a defect once its size is known."""
        email, _ = self.reads(b"Content-Type: x/y\r\nContent-Transfer-Encoding: base64\r\n\r\nQU!JD")
        self.assertEqual((email.attachments[0].data, email.defects), (b"ABC", ("a part in base64 is damaged",)))

    def test_defects_are_bounded(self) -> None:
        """Defects are sentences of ours, each once, and not too many."""
        message = multipart(*[b"Content-Type: multipart/x\r\n\r\nsecret"] * 50)
        email, _ = self.reads(message, Bounds(defects=1))
        self.assertEqual(len(email.defects), 1)
        self.assertNotIn("secret", "".join(email.defects))

    @settings(max_examples=60)
    @given(st.randoms(use_true_random=False))
    def test_mutated(self, chance: random.Random) -> None:
        """A message that is damaged anywhere is read, and no lone surrogate comes out."""
        octets = bytearray(NESTED)
        for _ in range(chance.randint(1, 30)):
            place = chance.randrange(len(octets))
            kind = chance.randrange(4)
            if kind == 0:
                octets[place] = chance.randrange(256)
            elif kind == 1:
                del octets[place : place + chance.randrange(40)]
            elif kind == 2:
                octets[place:place] = octets[chance.randrange(len(octets)) :][: chance.randrange(200)]
            else:
                octets[place:place] = chance.choice(
                    [b"\r\n", b"=?utf-7?q?+2AA-?=", b"\xff", b'"', b"(", b"\r\n--r\r\n"]
                )
        self.spoken(bytes(octets))

    @given(st.binary(max_size=200))
    def test_random(self, octets: bytes) -> None:
        """Any octets are a message, more or less."""
        self.spoken(octets)

    def spoken(self, octets: bytes) -> None:
        """Read all that there is to read."""
        email = parse(octets).load()
        told = [email.subject, email.text, email.html, email.message_id, *email.references, *email.defects]
        told += [f"{who} {who.parsed}" for who in (*email.from_, *email.to, *email.cc, *email.resent.from_)]
        told += [f"{part.name} {part.type} {part.charset}" for part in email.parts]
        "".join(told).encode()
        self.assertEqual(sum(len(part.data) == part.size for part in email.attachments), len(email.attachments))
        for part in email.parts:
            self.assertLessEqual(len(part.data), len(octets))


class SplitTests(SynchronousTestCase):
    def test_pieces(self) -> None:
        """Parts are found wherever the pieces in which a file is read are cut."""
        for padding in range(65_400, 65_560, 1):
            message = multipart(b"Content-Type: x/y\r\n\r\n" + b"x" * padding, b"Content-Type: x/z\r\n\r\ny")
            found = [(part.type, part.size) for part in parse(message).attachments]
            self.assertEqual(found, [("x/y", padding), ("x/z", 1)])

    def test_source(self) -> None:
        """A source is read from any place, from where its message begins."""
        source = Source(io.BytesIO(b"junk message"), 5)
        self.assertEqual((source.read(0, 3), source.read(3, 100), source.length(2)), (b"mes", b"sage", 7))


class ThreadTests(TestCase):
    async def test_example(self) -> None:
        """The example of the page of messages says what a message asks, and what files it has."""
        example: dict[str, Any] = {}
        exec(compile((EXAMPLES / "tickets.py").read_text(), "tickets.py", "exec"), example)
        said = io.StringIO()
        with redirect_stdout(said):
            await example["backend"](message_of(NESTED))
        self.assertEqual(
            said.getvalue(), "a@x.example asks: \u00fc two\n with \u00fcbersicht.pdf application/pdf 4 bytes\n"
        )

    async def test_thread(self) -> None:
        """A message is parsed in a thread of the reactor's pool, to its end."""
        email = await parse_in_thread(NESTED, reactor=reactor)
        self.assertEqual((email.text, email.defects), ("gr\u00fc\u00dfe\n-- footer", ()))
