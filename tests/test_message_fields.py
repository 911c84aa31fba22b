from __future__ import annotations

import io

from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.grammar.addresses import parse_mailbox
from smtpsvc.message import Header, HeaderEditor, edited, field, return_path, split_header
from tests.support import cuts, example, given, st

MESSAGE = (
    b"Received: from a\r\n\tby b\r\nSubject:  odd   blanks \r\nx-flag: 1\r\nSUBJECT: second\r\nBroken line\r\n"
    b"X-Flag : 2\r\n\r\nbody\r\nSubject: in the body\r\n"
)
MESSAGES = st.lists(
    st.sampled_from([b"A: 1", b"a:2\r\n fold", b"B", b" c", b"\r\n", b"\n", b"\r", b":", b"D: \xff\x00", b"", b"\t"]),
    max_size=12,
).map(b"".join)
ADDED = b"X-New: 1\r\n"


class ReadTests(SynchronousTestCase):
    @given(MESSAGES | st.binary(max_size=60))
    @example(b"")
    @example(b"A: 1\r\n \r\nB: 2\r\n\r\n")
    def test_untouched(self, message: bytes) -> None:
        """Whatever is read gives the same octets again."""
        header, body = split_header(message)
        self.assertEqual(bytes(header) + body, message)
        self.assertEqual(b"".join(each.raw for each in header), bytes(header)[: len(bytes(header)) - len(header._end)])

    def test_fields(self) -> None:
        """Fields are found by name in whatever case, folded ones as one, and values are unfolded."""
        header, body = split_header(MESSAGE)
        self.assertEqual([each.name for each in header], ["Received", "Subject", "x-flag", "SUBJECT", "", "X-Flag"])
        self.assertEqual([each.value for each in header.find_all("subject")], [b"odd   blanks", b"second"])
        self.assertEqual(header.find("received").value, b"from a\tby b")  # type: ignore[union-attr]
        self.assertEqual(header.find("X-FLAG", -1).value, b"2")  # type: ignore[union-attr]
        self.assertIsNone(header.find("X-Flag", 2))
        self.assertIsNone(header.find("X-Flag", -3))
        self.assertTrue(body.startswith(b"body"))


class EditTests(SynchronousTestCase):
    def test_insert(self) -> None:
        """A field is inserted at the top, or in front of another, and nothing else changes."""
        for place, before in (
            (0, b""),
            (1, MESSAGE[: MESSAGE.index(b"Subject")]),
            (100, MESSAGE[: MESSAGE.index(b"\r\n\r\n") + 2]),
        ):
            header, body = split_header(MESSAGE)
            header.insert(ADDED, place)
            with self.subTest(place=place):
                self.assertEqual(bytes(header) + body, before + ADDED + MESSAGE[len(before) :])

    def test_replace(self) -> None:
        """The n-th field of a name is replaced where it stands, or put at the end if there is none."""
        header, body = split_header(MESSAGE)
        header.replace("Subject", b"Subject: new\r\n", 1)
        self.assertEqual(bytes(header) + body, MESSAGE.replace(b"SUBJECT: second", b"Subject: new"))
        header.replace("X-Other", ADDED)
        self.assertTrue(bytes(header).endswith(b"X-Flag : 2\r\nX-New: 1\r\n\r\n"))

    def test_remove(self) -> None:
        """All fields of a name are removed, one of them, or those that a function chooses."""
        for options, left, count in (
            ({}, [], 2),
            ({"n": 0}, [b"2"], 1),
            ({"n": -1}, [b"1"], 1),
            ({"n": 5}, [b"1", b"2"], 0),
            ({"where": lambda each: each.value == b"2"}, [b"1"], 1),
        ):
            with self.subTest(left=left):
                header, _ = split_header(MESSAGE)
                self.assertEqual(header.remove("x-flag", **options), count)  # type: ignore[arg-type]
                self.assertEqual([each.value for each in header.find_all("X-Flag")], left)

    @given(MESSAGES, st.integers(min_value=0, max_value=8))
    def test_round_trip(self, message: bytes, place: int) -> None:
        """What was inserted and is removed again leaves every other octet alone, but for a last line without an end."""
        header, body = split_header(message)
        ended = bytes(header).endswith(b"\n") or not len(header)
        header.insert(ADDED, place)
        self.assertEqual(header.remove("X-New"), 1)
        again = bytes(header) + body
        self.assertIn(again, (message,) if ended else (message, message + b"\r\n", message + b"\n"))

    @given(MESSAGES)
    def test_inserted_is_found(self, message: bytes) -> None:
        """Whoever reads an edited header again finds the field that was inserted, and no more in it."""
        header, body = split_header(message)
        header.insert(ADDED)
        again, rest = split_header(bytes(header) + body)
        self.assertEqual([each.value for each in again.find_all("X-New")], [b"1"])
        if header._end:
            self.assertEqual(rest, body)

    def test_stray_continuation(self) -> None:
        """A field is not put in front of a line that would go on with it: a stranger's words stay out of ours."""
        header, _ = split_header(b" forged\r\n\tforged\r\nA: 1\r\n\r\n")
        header.insert(ADDED)
        self.assertEqual(bytes(header), b" forged\r\n\tforged\r\nX-New: 1\r\nA: 1\r\n\r\n")

    def test_line_ends(self) -> None:
        """A header whose lines end in LF gets a field that does too."""
        header, _ = split_header(b"A: 1\nB: 2\n\nbody")
        header.insert(return_path(parse_mailbox("a@x.example")))
        self.assertEqual(bytes(header), b"Return-Path: <a@x.example>\nA: 1\nB: 2\n\n")

    def test_no_end(self) -> None:
        """A field behind a last line that has no end begins a line of its own."""
        header, _ = split_header(b"A: 1")
        header.append(ADDED)
        self.assertEqual(bytes(header), b"A: 1\r\nX-New: 1\r\n")

    def test_one_field(self) -> None:
        """What is not one whole field is refused, so nothing that is put in can begin another or the body."""
        for raw in (
            b"",
            b"X: 1",
            b"X: 1\n",
            b"X: 1\r\n\r\n",
            b"X: 1\r\nY: 2\r\n",
            b"no field\r\n",
            b"X: a\rb\r\n",
            b"X: a\nb\r\n",
        ):
            with self.subTest(raw=raw):
                self.assertRaises(ValueError, Header().insert, raw)

    def test_empty(self) -> None:
        """A new header has no fields and an empty line."""
        header = Header()
        header.append(ADDED)
        self.assertEqual((bytes(header), len(header)), (b"X-New: 1\r\n\r\n", 1))


class WriteTests(SynchronousTestCase):
    def test_short(self) -> None:
        """A short value stands in one line, in UTF-8."""
        self.assertEqual(field("X-Name", "gr\u00fcn  two"), "X-Name: gr\u00fcn  two\r\n".encode())

    @given(st.lists(st.text("abc\u00fc(;", max_size=30), max_size=40))
    def test_folded(self, words: list[str]) -> None:
        """A long value is folded into lines of at most 78 octets or one word, and blanks; it unfolds to the same."""
        value = " ".join(words)
        made = field("X-Words", value)
        header = Header(made + b"\r\n")
        self.assertEqual(len(header), 1)
        self.assertEqual(next(iter(header)).value, value.strip(" ").encode())
        for line in made.split(b"\r\n"):
            self.assertTrue(len(line.rstrip()) <= 78 or len(line.split()) < 3, line)

    def test_control_characters(self) -> None:
        """Control characters, and names that are none, are refused."""
        for name, value in (
            ("X", "a\r\nBcc: b"),
            ("X", "a\nb"),
            ("X", "\x00"),
            ("X Y", "a"),
            ("X:", "a"),
            ("", "a"),
            ("\u00fc", "a"),
        ):
            with self.subTest(name=name, value=value):
                self.assertRaises(ValueError, field, name, value)

    def test_too_long(self) -> None:
        """A word that no line can hold is refused (RFC 5322 §2.1.1)."""
        self.assertRaises(ValueError, field, "X", "a" * 998)


class EditorTests(SynchronousTestCase):
    def editor(self, **options: int) -> HeaderEditor:
        return HeaderEditor(lambda header: header.insert(ADDED), **options)

    def test_pieces(self) -> None:
        """However the octets come, the header is edited once and the rest handed on as it is."""
        for message in (b"A: 1\r\n\r\nb\r\n\r\nc", b"\r\nb", b"A: 1\n\nb", b"A: 1\r\n", b""):
            header, body = split_header(message)
            header.insert(ADDED)
            for packets in cuts(message):
                editor = self.editor()
                got = b"".join(map(editor.feed, packets)) + editor.end()
                self.assertEqual(got, bytes(header) + body, packets)

    def test_nothing_held(self) -> None:
        """Behind the header pieces are handed on as they come."""
        editor = self.editor()
        self.assertEqual(editor.feed(b"A: 1\r\n\r"), b"")
        self.assertEqual(editor.feed(b"\nbody"), ADDED + b"A: 1\r\n\r\nbody")
        piece = b"more"
        self.assertIs(editor.feed(piece), piece)

    def test_too_long(self) -> None:
        """A header that is too long is not gathered for ever."""
        editor = self.editor(longest=100)
        self.assertRaises(ValueError, lambda: [editor.feed(b"A: 1234567\r\n") for _ in range(10)])

    def test_file(self) -> None:
        """A message is edited as it is read, in pieces."""
        message = b"A: 1\r\n\r\n" + b"x" * 200_000
        pieces = list(edited(io.BytesIO(message), lambda header: header.insert(ADDED)))
        self.assertEqual(b"".join(pieces), ADDED + message)
        self.assertLess(max(map(len, pieces)), 70_000)
