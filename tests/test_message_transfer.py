from __future__ import annotations

import base64
import binascii
import quopri

from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.message.transfer import Decoded, QuotedPrintable, decoder
from tests.support import given, st

OCTETS = st.binary(max_size=300)
STEPS = st.integers(min_value=1, max_value=50)


def decode(encoding: str, octets: bytes, step: int) -> tuple[bytes, bool]:
    """Decode in pieces; say whether something was damaged."""
    made = decoder(encoding)
    assert made is not None
    found = [made.feed(octets[place : place + step]) for place in range(0, len(octets), step)]
    return b"".join(found) + made.end(), made.damaged


class DecoderTests(SynchronousTestCase):
    @given(OCTETS, STEPS)
    def test_base64(self, octets: bytes, step: int) -> None:
        """base64 comes back, however it is cut."""
        self.assertEqual(decode("base64", base64.encodebytes(octets), step), (octets, False))

    @given(OCTETS, STEPS)
    def test_quoted_printable(self, octets: bytes, step: int) -> None:
        """quoted-printable comes back, however it is cut."""
        self.assertEqual(decode("quoted-printable", quopri.encodestring(octets), step)[0], octets)

    @given(OCTETS, STEPS)
    def test_uuencode(self, octets: bytes, step: int) -> None:
        """uuencode comes back, however it is cut."""
        lines = [binascii.b2a_uu(octets[place : place + 45]) for place in range(0, len(octets), 45)]
        encoded = b"begin 644 x\r\n" + b"".join(lines) + b"`\nend\n"
        self.assertEqual(decode("x-uuencode", encoded, step), (octets, False))

    @given(OCTETS, STEPS, st.sampled_from(["base64", "quoted-printable", "uue", "8bit"]))
    def test_whatever(self, octets: bytes, step: int, encoding: str) -> None:
        """Any octets decode to something, and to the same however they are cut."""
        self.assertEqual(decode(encoding, octets, step), decode(encoding, octets, 1000))

    def test_damaged(self) -> None:
        """Of damaged base64 the good letters are decoded, and the damage is known."""
        for encoded, octets in (
            (b"QU!JD", b"ABC"), (b"QUJDR", b"ABC"), (b"QUI", b"AB"), (b"QQ==QUJD", b"AABC"), (b"====", b""),
        ):  # fmt: skip
            with self.subTest(encoded=encoded):
                self.assertEqual(decode("base64", encoded, 3)[0], octets)
        self.assertTrue(decode("base64", b"QU!JD", 10)[1])
        self.assertFalse(decode("base64", b"QUI=", 10)[1])

    def test_long_line(self) -> None:
        """A line of quoted-printable without an end is not gathered for ever."""
        for piece in (b"=41" * 22_000, b"=" * 66_000, b"\r" * 66_000, b"=\r" * 33_000):
            with self.subTest(piece=piece[:3]):
                made = decoder("quoted-printable")
                assert isinstance(made, QuotedPrintable)
                found = b"".join(made.feed(piece) for _ in range(5))
                self.assertLess(len(made._rest), 66_000)
                if piece.startswith(b"=41"):
                    self.assertEqual(found + made.end(), b"A" * 110_000)

    def test_unknown(self) -> None:
        """What is not known is None."""
        self.assertIsNone(decoder("x-gzip"))


class DecodedTests(SynchronousTestCase):
    def test_pieces(self) -> None:
        """A decoded file is read as any other, in any pieces."""
        encoded = base64.encodebytes(bytes(range(256)) * 1000)
        made = decoder("base64")
        assert made is not None
        file = Decoded(lambda place, size: encoded[place : place + size], made)
        self.assertEqual(b"".join(iter(lambda: file.read(1000) or b"", b"")), bytes(range(256)) * 1000)
