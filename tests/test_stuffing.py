"""Tests of smtpsvc.grammar.stuffing: what is sent, the decoder reads back; damage is found however it is cut."""

from __future__ import annotations

from itertools import pairwise

from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.grammar.content import Damage, DotDecoder, find_damage
from smtpsvc.grammar.stuffing import ContentCheck, DotEncoder, LineEnds
from tests.support import cuts, example, given, st

#: Made of what matters, so that edges meet.
TEXTS = st.lists(st.sampled_from([b"\r\n", b".", b"a", b"\r\n.\r\n", b"..", b"\xff"])).map(b"".join)
WILD = st.lists(st.sampled_from([b"\r", b"\n", b".", b"a", b"\0", b"\r\n"])).map(b"".join)
PLACES = st.lists(st.integers(0, 40))


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Cut at places."""
    edges = [0, *sorted(min(place, len(data)) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def stuffed(pieces: list[bytes]) -> bytes:
    """Encode a whole message."""
    encoder = DotEncoder()
    return b"".join([*map(encoder.feed, pieces), encoder.finish()])


class DotEncoderTests(SynchronousTestCase):
    @given(TEXTS, PLACES)
    @example(b"a\r\n.b", [2])
    @example(b"a\r\n.b", [3])
    def test_decoder_reads_it_back(self, text: bytes, places: list[int]) -> None:
        """Our decoder gives the same content, with a line end at its end, and finds nothing behind it."""
        decoder = DotDecoder()
        sent = stuffed(cut(text, places))
        content, end = decoder.feed(sent)
        whole = text if text.endswith(b"\r\n") or not text else text + b"\r\n"
        self.assertEqual((content, end, decoder.damaged), (whole, len(sent), None))

    def test_cut_anywhere(self) -> None:
        """However content is cut, the same is sent."""
        text = b".a\r\n.\r\n..\r\n\r\n.b\r\n"
        for packets in cuts(text):
            self.assertEqual(stuffed(list(packets)), b"..a\r\n..\r\n...\r\n\r\n..b\r\n.\r\n", packets)

    def test_without_dots(self) -> None:
        """Content without dots is sent as it is: the same object."""
        text = b"no dot at the beginning. of a line\r\n" * 100
        self.assertIs(DotEncoder().feed(text), text)


class ContentCheckTests(SynchronousTestCase):
    @given(WILD, PLACES)
    def test_same_as_whole(self, text: bytes, places: list[int]) -> None:
        """Cut anywhere, content is damaged if and only if it is as a whole."""
        check = ContentCheck()
        found = [check.feed(piece) for piece in cut(text, places)]
        found.append(check.finish())
        self.assertEqual(any(found), find_damage(text) is not None)

    def test_kinds(self) -> None:
        """The damage has a name."""
        for text, damage in ((b"a\rb", Damage.BARE_CR), (b"a\nb", Damage.BARE_LF), (b"a\0b", Damage.NUL), (b"a", None)):
            with self.subTest(text):
                self.assertEqual(ContentCheck().feed(text), damage)

    def test_eight_bit(self) -> None:
        """Octets above 127 are noticed and let pass."""
        check = ContentCheck()
        self.assertIsNone(check.feed(b"\xe4\r\n"))
        self.assertTrue(check.eight_bit)


class LineEndsTests(SynchronousTestCase):
    @given(WILD, PLACES)
    def test_whole_line_ends(self, text: bytes, places: list[int]) -> None:
        """Cut anywhere, each bare CR and LF becomes a CRLF, and CRLF stays."""
        ends = LineEnds()
        got = b"".join([*map(ends.feed, cut(text, places)), ends.finish()])
        self.assertEqual(got, text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n"))
