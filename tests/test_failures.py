"""
Tests of smtpsvc.failures: what of a client's words in an exception reaches the log.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import formatEventAsClassicLogText, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.failures import shown_failure
from smtpsvc.testing import ScriptedBackend, Wire, clocked_factory
from tests.hooks import RCPT

EVIL = "\r\n2026-11-20T00:00:00+0000 [-] FORGED\x1b[2J\x85\u2028\u202e\x00\ttail"


def failed(error: BaseException) -> Failure:
    """Raise an exception, and give the failure."""
    try:
        raise error
    except BaseException:
        return Failure()


class Broken(Exception):
    """One that cannot even be worded."""

    def __str__(self) -> str:
        raise ZeroDivisionError


class ShownTests(SynchronousTestCase):
    """The failure that is logged."""

    def test_escaped(self) -> None:
        """Controls are escaped, and each further line of the exception's words is marked."""
        text = shown_failure(failed(ValueError(EVIL))).getTraceback()
        *_, first, second, end = text.split("\n")
        self.assertEqual(first, r"builtins.ValueError: \r")
        self.assertEqual(
            second, r"    | 2026-11-20T00:00:00+0000 [-] FORGED\x1b[2J\x85\u2028\u202e\x00\ttail"
        )
        self.assertEqual(end, "")

    def test_same(self) -> None:
        """It is a failure of the same exception, with the same frames; the one that it was made of is as before."""
        failure = failed(ValueError(EVIL))
        before = failure.getTraceback()
        made = shown_failure(failure)
        self.assertIs(made.value, failure.value)
        self.assertTrue(made.check(ValueError))
        self.assertIn("in failed", made.getTraceback())
        self.assertEqual(failure.getTraceback(), before)

    def test_ordinary(self) -> None:
        """Ordinary words are left alone."""
        failure = failed(ValueError("the disk is full"))
        self.assertEqual(shown_failure(failure).getTraceback(), failure.getTraceback())

    def test_unspeakable(self) -> None:
        """One that cannot be worded is shown too."""
        self.assertIn("Broken", shown_failure(failed(Broken())).getTraceback())

    @given(st.text())
    def test_any(self, words: str) -> None:
        """Whatever the words are, each line of the traceback is printable, and only the first of them is not marked."""
        lines = shown_failure(failed(ValueError(f"x{words}"))).getTraceback().split("\n")
        self.assertTrue(all(line.isprintable() for line in lines), lines)
        start = next(number for number, line in enumerate(lines) if line.startswith("builtins.ValueError: x"))
        self.assertTrue(all(line.startswith("    | ") for line in lines[start + 1 : -1]), lines)


class HookTests(SynchronousTestCase):
    """Hooks that raise what the client has said."""

    def test_log(self) -> None:
        """No line of the log is forged by it, and nothing in it steers a terminal, whichever hook raises it."""

        def fail(*arguments: object) -> None:
            raise ValueError(EVIL)

        for hook in ("open_session", "helo", "mail", "rcpt", "data", "write", "finish", "abort", "reset", "close"):
            with self.subTest(hook):
                events: list[Any] = []
                observe = events.append
                globalLogPublisher.addObserver(observe)
                try:
                    wire = Wire(clocked_factory(ScriptedBackend({hook: fail}))[0])
                    if not wire.closed:
                        wire.say("EHLO x", "MAIL FROM:<a@x.example>", RCPT, "DATA", "text", ".", "MAIL FROM:<>", "RSET")
                        wire.say("MAIL FROM:<a@x.example>", RCPT, "DATA", "text").hang_up()
                finally:
                    globalLogPublisher.removeObserver(observe)
                self.assertNotEqual(self.flushLoggedErrors(ValueError), [])
                text = "".join(formatEventAsClassicLogText(event, lambda _: "TIME") or "" for event in events)
                self.assertIn("FORGED", text)
                for line in text.split("\n"):
                    self.assertTrue(line.removeprefix("\t").isprintable(), ascii(line))
                    self.assertFalse(line.lstrip("\t").startswith("2026"), line)
