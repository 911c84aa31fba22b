"""
Tests of smtpsvc.grammar.shown.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.grammar.shown import shown


class ShownTests(SynchronousTestCase):
    def test_cases(self) -> None:
        """Printable text stays as it is; the rest is escaped as Python does."""
        cases = [
            (b"", ""),
            (b"mx.example", "mx.example"),
            ("b\u00fccher".encode(), "b\u00fccher"),
            (b"a\r\nb\x1b[31m\0", r"a\r\nb\x1b[31m\x00"),
            ("\u202eevil\u2028\u0085\ufeff".encode(), r"\u202eevil\u2028\x85\ufeff"),
            (b"\xff\xfe", r"\xff\xfe"),
        ]
        for octets, text in cases:
            with self.subTest(octets):
                self.assertEqual(shown(octets), text)

    @given(st.binary())
    def test_printable(self, octets: bytes) -> None:
        """Whatever the octets are, the text is printable, and so one line."""
        self.assertTrue(shown(octets).isprintable())
