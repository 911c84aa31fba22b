"""
Tests of smtpsvc.grammar.content.
"""

from __future__ import annotations

import itertools
import os
import random
import re
import time

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.grammar.content import ChunkDecoder, Damage, DotDecoder, find_damage, has_whole_line_ends
from tests.support import FALSE_ENDS

ALPHABET = [b"\r", b"\n", b".", b"a", b"\0"]
PIECES = [b"\r\n", b"\r\n.", b"\r\n.\r\n", b"\r\n..\r\n", b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r\r\n.\r\r\n"]
streams = st.lists(st.sampled_from(ALPHABET + PIECES), max_size=30).map(b"".join)


Result = tuple[bytes, int, "Damage | None"]


def reference(stream: bytes, normalize: bool, nul: bool) -> Result:
    """
    Decode octet by octet, written apart from the decoder: what it must say of the whole stream.

    :returns: content (b"" if damaged), the offset after the end or -1, the first damage. What could
        still become another thing with more octets is not counted as content.
    """
    found = stream.startswith(b".\r\n") or b"\r\n.\r\n" in stream
    end = 0 if stream.startswith(b".\r\n") else stream.find(b"\r\n.\r\n") + 2
    body = stream[:end] if found else stream
    lines: list[tuple[str, bytes, str]] = []  # the line end before, the line, the line end after
    before, line, at, damage = "CRLF", b"", 0, None
    while at < len(body):
        octet, after = body[at : at + 1], body[at + 1 : at + 2]
        if octet not in b"\r\n":
            if octet == b"\0" and not nul:
                damage = damage or Damage.NUL
            line += octet
            at += 1
            continue
        if octet == b"\r" and not after and not found:
            break
        whole = octet == b"\r" and after == b"\n"
        if not whole and not normalize:
            damage = damage or (Damage.BARE_CR if octet == b"\r" else Damage.BARE_LF)
        kind = "CRLF" if whole else "bare"
        lines.append((before, line, kind))
        before, line = kind, b""
        at += 2 if whole else 1
    if line:
        lines.append((before, line, "open"))
    content = b""
    for before, line, after_line in lines:
        alone = line == b"." and "bare" in (before, after_line)
        content += line[1:] if line.startswith(b".") and not alone else line
        content += b"" if after_line == "open" else b"\r\n"
    return b"" if damage else content, end + 3 if found else -1, damage


def decode(pieces: list[bytes], *, normalize: bool = False, nul: bool = False) -> Result:
    """
    Feed the pieces to a decoder until the end.
    """
    decoder = DotDecoder(normalize=normalize, nul=nul)
    content, fed = b"", 0
    for piece in pieces:
        more, offset = decoder.feed(piece)
        content += more
        if offset >= 0:
            return b"" if decoder.damaged else content, fed + offset, decoder.damaged
        fed += len(piece)
    return b"" if decoder.damaged else content, -1, decoder.damaged


def each_octet(stream: bytes) -> list[bytes]:
    return [stream[at : at + 1] for at in range(len(stream))]


def each_cut(stream: bytes) -> list[list[bytes]]:
    """
    The stream whole, octet by octet, and in two at every place.
    """
    return [[stream], each_octet(stream), *([stream[:at], stream[at:]] for at in range(len(stream) + 1))]


class DotDecoderTests(SynchronousTestCase):
    def test_content(self) -> None:
        """Content is the message with its dots undone, its last CRLF and nothing of the end."""
        cases = [
            (b".\r\n", b"", b""),
            (b"\r\n.\r\n", b"\r\n", b""),
            (b"a\r\n.\r\n", b"a\r\n", b""),
            (b"a\r\n\r\nb\r\n.\r\nQUIT\r\n", b"a\r\n\r\nb\r\n", b"QUIT\r\n"),
            (b"..\r\n.\r\n", b".\r\n", b""),
            (b".a\r\n.b\r\n...\r\n.\r\n", b"a\r\nb\r\n..\r\n", b""),
            (b"a.\r\n.\r\n", b"a.\r\n", b""),
            (b"a\r\n.\r\n.\r\n", b"a\r\n", b".\r\n"),
            (b".\r\n.\r\n", b"", b".\r\n"),
            ("ü\r\n.\r\n".encode(), "ü\r\n".encode(), b""),
        ]
        for stream, content, rest in cases:
            for pieces in each_cut(stream):
                with self.subTest(pieces=pieces):
                    got, offset, damage = decode(pieces)
                    self.assertEqual((got, stream[offset:], damage), (content, rest, None))

    def test_start(self) -> None:
        """Octets before the start are not looked at, and the offset counts from the front of the data."""
        data = b"DATA\r\n.\r\nDATA\r\n\0\n..a\r\n.\r\nQUIT\r\n"
        decoder = DotDecoder()
        self.assertEqual(decoder.feed(data, 6), (b"", 9))
        decoder = DotDecoder()
        self.assertEqual(decoder.feed(data, 17), (b".a\r\n", len(data) - 6))
        self.assertIsNone(decoder.damaged)

    def test_start_after_held_octets(self) -> None:
        """The offset is right when a part of the end was held back."""
        decoder = DotDecoder()
        self.assertEqual(decoder.feed(b"xxa\r\n.\r", 2), (b"a", -1))
        self.assertEqual(decoder.feed(b"yy\nQUIT", 2), (b"\r\n", 3))

    def test_nothing_to_take(self) -> None:
        """Empty data changes nothing, whatever stands before its start."""
        decoder = DotDecoder()
        self.assertEqual(decoder.feed(b""), (b"", -1))
        self.assertEqual(decoder.feed(b"DATA\r\n", 6), (b"", -1))
        self.assertEqual(decoder.feed(b"."), (b"", -1))
        self.assertEqual(decoder.feed(b""), (b"", -1))
        self.assertEqual(decoder.feed(b"\r\n"), (b"", 2))

    def test_after_the_end(self) -> None:
        """A decoder cannot be fed again after the end."""
        for stream in (b".\r\n", b"a\r\n.\r\n", b"a\n\r\n.\r\n"):
            with self.subTest(stream=stream):
                decoder = DotDecoder()
                decoder.feed(stream)
                self.assertRaises(ValueError, decoder.feed, b"")

    def test_clean_data_is_not_copied(self) -> None:
        """A read without dots and with nothing to hold back is given on as it is."""
        decoder = DotDecoder()
        data = b"a\r\nb" * 10
        self.assertIs(decoder.feed(data)[0], data)

    def test_damage(self) -> None:
        """A bare CR, bare LF or NUL anywhere in the message damages it, and the first one is named."""
        cases = [
            (b"a\nb\r\n.\r\n", Damage.BARE_LF),
            (b"\n\r\n.\r\n", Damage.BARE_LF),
            (b"a\rb\r\n.\r\n", Damage.BARE_CR),
            (b"\rX\n\r\n.\r\n", Damage.BARE_CR),
            (b"a\r\r\n.\r\n", Damage.BARE_CR),
            (b"a\r\n.\rX\r\n.\r\n", Damage.BARE_CR),
            (b".\n\r\n.\r\n", Damage.BARE_LF),
            (b".\rX\r\n.\r\n", Damage.BARE_CR),
            (b"a\n\r\n.\r\n", Damage.BARE_LF),
            (b"\0\r\n.\r\n", Damage.NUL),
            (b"a\0b\nc\rd\r\n.\r\n", Damage.NUL),
            (b"a\nb\0c\rd\r\n.\r\n", Damage.BARE_LF),
        ]
        for stream, damage in cases:
            for pieces in each_cut(stream + b"RSET\r\n"):
                with self.subTest(pieces=pieces):
                    self.assertEqual(decode(pieces), (b"", len(stream), damage))

    def test_no_content_after_damage(self) -> None:
        """Once a message is damaged nothing more of it is given."""
        decoder = DotDecoder()
        self.assertEqual(decoder.feed(b"a\r\nb\nc"), (b"", -1))
        self.assertEqual(decoder.feed(b"clean\r\nlines"), (b"", -1))
        self.assertEqual(decoder.feed(b"\r\n.\r\nQUIT\r\n"), (b"", 5))

    def test_damage_behind_the_end(self) -> None:
        """What comes after the end is not looked at."""
        for pieces in each_cut(b"a\r\n.\r\n\0\r\n.\n\r"):
            with self.subTest(pieces=pieces):
                self.assertEqual(decode(pieces), (b"a\r\n", 6, None))

    def test_nul_allowed(self) -> None:
        """NUL passes where it is allowed, and line ends are still looked at."""
        self.assertEqual(decode([b"\0\r\n.\r\n"], nul=True), (b"\0\r\n", 6, None))
        self.assertEqual(decode([b"\0\n\r\n.\r\n"], nul=True), (b"", 7, Damage.BARE_LF))

    def test_smuggling(self) -> None:
        """No sequence but CRLF.CRLF ends a message, however it is cut; what follows it is never a command."""
        for sequence in FALSE_ENDS:
            stream = b"a" + sequence + b"MAIL FROM:<b@x.example>\r\nDATA\r\n.\r\nQUIT\r\n"
            for pieces in each_cut(stream):
                with self.subTest(pieces=pieces):
                    content, offset, damage = decode(pieces)
                    self.assertEqual((content, stream[offset:]), (b"", b"QUIT\r\n"))
                    self.assertIsNotNone(damage)

    def test_smuggling_at_every_two_cuts(self) -> None:
        """The same holds for three reads, cut at all places."""
        for sequence in FALSE_ENDS:
            stream = b"a" + sequence + b"b\r\n.\r\nQ"
            for first, second in itertools.combinations(range(1, len(stream)), 2):
                pieces = [stream[:first], stream[first:second], stream[second:]]
                self.assertEqual(decode(pieces)[1], len(stream) - 1, pieces)

    @given(streams, st.booleans(), st.booleans())
    @example(b".\r\n.\r\n", False, False)
    @example(b"\r\n.\r\nMAIL", True, True)
    def test_same_as_the_reference(self, stream: bytes, normalize: bool, nul: bool) -> None:
        """End, content and damage are those of a decoder that goes octet by octet, however the stream is cut."""
        # Two ends stand behind it, so that there is one whatever the stream leaves open.
        stream += b"\r\n.\r\n.\r\n"
        expected = reference(stream, normalize, nul)
        for pieces in each_cut(stream):
            self.assertEqual(decode(pieces, normalize=normalize, nul=nul), expected, pieces)

    @given(streams, st.booleans())
    def test_nothing_invented_before_the_end(self, stream: bytes, normalize: bool) -> None:
        """Without the end, what was given so far begins what the reference gives, and lacks at most four octets."""
        expected, offset, damage = reference(stream, normalize, False)
        for pieces in each_cut(stream):
            content, got_offset, got_damage = decode(pieces, normalize=normalize)
            self.assertEqual(got_offset, offset, pieces)
            if offset < 0 and got_damage is None and damage is None:
                self.assertTrue(expected.startswith(content), pieces)
                self.assertLessEqual(len(expected) - len(content), 4, pieces)

    def test_many_random_streams(self) -> None:
        """A second and a half of random streams in random reads decode as the reference does."""
        seed = int(os.environ.get("CONTENT_SEED", random.randrange(1 << 32)))
        chance = random.Random(seed)
        deadline = time.monotonic() + 1.5
        count = 0
        while count < 20_000 and time.monotonic() < deadline:
            stream = b"".join(chance.choices(ALPHABET + PIECES, [4, 2, 4, 6, 0.2] + [1] * len(PIECES), k=25))
            stream += b"\r\n.\r\n.\r\n"
            cuts = sorted(chance.sample(range(len(stream)), 6))
            pieces = [stream[a:b] for a, b in itertools.pairwise([0, *cuts, len(stream)])]
            for normalize in (False, True):
                expected = reference(stream, normalize, False)
                self.assertEqual(decode(pieces, normalize=normalize), expected, f"CONTENT_SEED={seed} {pieces}")
            count += 1

    def test_large_reads(self) -> None:
        """Reads of a megabyte decode as small ones do."""
        line = b"." + b"x" * 70 + b"\r\n"
        stream = b"." + line * 30_000 + b".\r\nQUIT\r\n"
        expected = b"." + b"x" * 70 + b"\r\n" + line[1:] * 29_999
        for size in (1 << 20, 1 << 16, 4093):
            pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
            content, offset, damage = decode(pieces)
            self.assertEqual((offset, damage), (len(stream) - 6, None))
            self.assertTrue(content == expected, f"{size} octets a read")


class NormalizeTests(SynchronousTestCase):
    def test_line_ends(self) -> None:
        """Bare CR and bare LF are given as CRLF, and are no damage."""
        cases = [
            (b"a\nb\rc\r\n.\r\n", b"a\r\nb\r\nc\r\n"),
            (b"a\r\r\n.\r\n", b"a\r\n\r\n"),
            (b"a\n\r\n.\r\n", b"a\r\n\r\n"),
            (b"\n\r\n.\r\n", b"\r\n\r\n"),
            (b"a\r\n.\r\n", b"a\r\n"),
        ]
        for stream, content in cases:
            for pieces in each_cut(stream):
                with self.subTest(pieces=pieces):
                    self.assertEqual(decode(pieces, normalize=True), (content, len(stream), None))

    def test_dots(self) -> None:
        """A dot is undone after a bare line end too."""
        for pieces in each_cut(b".a\n.b\r..\n..\r\n...\r\n.\r\n"):
            with self.subTest(pieces=pieces):
                self.assertEqual(decode(pieces, normalize=True)[0], b"a\r\nb\r\n.\r\n.\r\n..\r\n")

    def test_a_dot_alone(self) -> None:
        """A line of one dot with a bare line end on either side ends nothing and is content."""
        for sequence in (b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r\n.\r", b"\r.\r\n"):
            for pieces in each_cut(b"a" + sequence + b"b\r\n.\r\n"):
                with self.subTest(pieces=pieces):
                    self.assertEqual(decode(pieces, normalize=True)[0], b"a\r\n.\r\nb\r\n")

    def test_a_dot_alone_first(self) -> None:
        """The same holds for the first line, before which the CRLF of the DATA command stands."""
        for stream in (b".\nb\r\n.\r\n", b".\rb\r\n.\r\n"):
            for pieces in each_cut(stream):
                with self.subTest(pieces=pieces):
                    self.assertEqual(decode(pieces, normalize=True), (b".\r\nb\r\n", len(stream), None))

    def test_nul(self) -> None:
        """NUL is damage, unless it may pass."""
        self.assertEqual(decode([b"a\n\0\r\n.\r\n"], normalize=True), (b"", 8, Damage.NUL))
        self.assertEqual(decode([b"a\n\0\r\n.\r\n"], normalize=True, nul=True)[0], b"a\r\n\0\r\n")


class ChunkDecoderTests(SynchronousTestCase):
    def opened(self, length: int, *, binary: bool = True) -> ChunkDecoder:
        """Make a decoder with an open chunk."""
        decoder = ChunkDecoder(binary=binary)
        decoder.begin(length)
        return decoder

    def test_every_cut(self) -> None:
        """A chunk is as many bytes as its command says, whatever they are."""
        for pieces in each_cut(b"\r\n.\r\n\0\nQUIT"):
            decoder = self.opened(7)
            content, fed = b"", 0
            for piece in pieces:
                more, offset = decoder.feed(piece)
                content += more
                if offset >= 0:
                    break
                fed += len(piece)
            self.assertEqual((content, fed + offset, decoder.remaining), (b"\r\n.\r\n\0\n", 7, 0), pieces)

    def test_start(self) -> None:
        """The offset counts from the front of the data."""
        self.assertEqual(self.opened(3).feed(b"BDAT 3\r\nabcQUIT", 8), (b"abc", 11))

    def test_next_chunk(self) -> None:
        """When a chunk is over, the next may be opened."""
        decoder = self.opened(1)
        self.assertEqual(decoder.feed(b"ab"), (b"a", 1))
        decoder.begin(2)
        self.assertEqual(decoder.feed(b"cd"), (b"cd", 2))

    def test_out_of_order(self) -> None:
        """There is nothing to feed when no chunk is open, and none to open when one is."""
        decoder = self.opened(1)
        self.assertRaises(ValueError, decoder.begin, 1)
        decoder.feed(b"a")
        self.assertRaises(ValueError, decoder.feed, b"b")
        decoder.begin(0)
        self.assertRaises(ValueError, decoder.feed, b"b")

    def test_negative(self) -> None:
        """No chunk is shorter than nothing."""
        self.assertRaises(ValueError, ChunkDecoder().begin, -1)

    def test_whole_reads_are_not_copied(self) -> None:
        """A read that belongs to the chunk is given on as it is."""
        data = b"a" * 1000
        for binary in (True, False):
            self.assertIs(self.opened(2000, binary=binary).feed(data)[0], data)

    def test_dots(self) -> None:
        """Dots mean nothing."""
        text = b".\r\n.\r\n..\r\na."
        decoder = self.opened(len(text), binary=False)
        self.assertEqual(decoder.feed(text), (text, len(text)))
        decoder.finish()
        self.assertIsNone(decoder.damaged)


class ChunkDamageTests(SynchronousTestCase):
    @given(streams, st.integers(0, 20))
    def test_every_cut(self, stream: bytes, border: int) -> None:
        """The first damage is found, wherever the border of two chunks is and however the octets come."""
        found = re.search(rb"\r(?!\n)|(?<!\r)\n|\0", stream)
        names = {b"\r": Damage.BARE_CR, b"\n": Damage.BARE_LF, b"\0": Damage.NUL}
        expected = names[found.group()] if found else None
        for pieces in each_cut(stream):
            decoder = ChunkDecoder()
            lengths = [length for length in (min(border, len(stream)), len(stream) - border) if length > 0]
            for piece in pieces:
                start = 0
                while start < len(piece):
                    if not decoder.remaining:
                        decoder.begin(lengths.pop(0))
                    _, end = decoder.feed(piece, start)
                    start = len(piece) if end < 0 else end
            decoder.finish()
            self.assertEqual(decoder.damaged, expected, (pieces, border))

    def test_dropped(self) -> None:
        """Once there is damage, no more content is given."""
        decoder = ChunkDecoder()
        decoder.begin(9)
        self.assertEqual([decoder.feed(data)[0] for data in (b"abc", b"a\nb", b"abc")], [b"abc", b"", b""])
        self.assertEqual(decoder.remaining, 0)

    def test_open_end(self) -> None:
        """A CR that came last is damage when the message has ended, and not before."""
        decoder = ChunkDecoder()
        decoder.begin(2)
        decoder.feed(b"a\r")
        self.assertIsNone(decoder.damaged)
        decoder.finish()
        self.assertEqual(decoder.damaged, Damage.BARE_CR)

    def test_binary(self) -> None:
        """Of binary content nothing is damage."""
        decoder = ChunkDecoder(binary=True)
        decoder.begin(6)
        self.assertEqual(decoder.feed(b"\0\n\r\rx\r"), (b"\0\n\r\rx\r", 6))
        decoder.finish()
        self.assertIsNone(decoder.damaged)


class FindDamageTests(SynchronousTestCase):
    def test_every_short_text(self) -> None:
        """All texts of up to six octets of CR, LF and another are judged as a search for bare ones judges them."""
        bare = re.compile(rb"\r(?!\n)|(?<!\r)\n")
        for length in range(7):
            for octets in itertools.product(b"\r\na", repeat=length):
                text = bytes(octets)
                self.assertEqual(has_whole_line_ends(text), not bare.search(text), text)

    def test_lines_of_one_length(self) -> None:
        """In much content of lines of one length each bare CR or LF is found, wherever it stands."""
        whole = (b"A" * 76 + b"\r\n") * 60
        bare = re.compile(rb"\r(?!\n)|(?<!\r)\n")
        for begin, end in itertools.product((0, 1, 75, 76, 78), (0, 1, 75, 77, 78)):
            clean = whole[begin : len(whole) - end]
            self.assertEqual(has_whole_line_ends(clean), not bare.search(clean), (begin, end))
            for octet, at in itertools.product(b"\r\nA", range(0, len(clean), 7)):
                text = clean[:at] + bytes([octet]) + clean[at + 1 :]
                self.assertEqual(has_whole_line_ends(text), not bare.search(text), (begin, end, octet, at))

    def test_much_of_anything(self) -> None:
        """In much content of lines of any length each bare CR or LF is found."""
        bare = re.compile(rb"\r(?!\n)|(?<!\r)\n")
        chance = random.Random(5)
        for width in (0, 1, 38, 39, 40, 41, 4094, 5000):
            line = b"A" * width
            for text in (line + b"\r\n", line + b"\n", line + b"\r", line + b"\r\n" + line + b"\n\r"):
                much = text * (5000 // len(text) + 1)
                for cut in (much, b"\r\n" + much, b"\n" + much, much + b"\r", much + b"\r\n", chance.randbytes(5000)):
                    self.assertEqual(has_whole_line_ends(cut), not bare.search(cut), (width, text[-4:]))

    def test_octets_that_are_no_line_ends(self) -> None:
        """No other octet is taken for a line end."""
        others = bytes(octet for octet in range(1, 256) if octet not in b"\r\n")
        self.assertIsNone(find_damage(others + b"\r\n" + others))

    def test_wording(self) -> None:
        """A damage formats as its name."""
        self.assertEqual(f"{Damage.BARE_LF} in message", "bare LF in message")
