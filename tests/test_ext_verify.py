"""
Tests of VRFY and EXPN beyond ASCII (RFC 6531 §3.7.4.2), and of replies in UTF-8.
"""

from __future__ import annotations

import copy
import pickle
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.grammar import replies
from smtpsvc.grammar.commands import Query, parse_verify
from smtpsvc.grammar.replies import MAX_REPLY_LINE, Reply, SMTPError, UTF8Reply
from smtpsvc.interfaces import IVerifier
from smtpsvc.server.verbs import ASK_IN_UTF8, NO_UTF8
from smtpsvc.testing import ScriptedBackend, Wire
from tests.extended import extended
from tests.support import given, st

NAME = "Jörg <jörg@bücher.example>"


def answer(line: str, *found: str, **fields: Any) -> Wire:
    """Ask a session that finds *found*."""
    backend = ScriptedBackend({"verify": [list(found)], "expand": [list(found)]}, provides=[IVerifier])
    return extended(backend, **fields).greeted().say(line)


class AnswerTests(SynchronousTestCase):
    def test_asked_for(self) -> None:
        """With the parameter an answer beyond ASCII is sent in UTF-8."""
        for line in ("VRFY jo SMTPUTF8", "EXPN jo smtputf8"):
            with self.subTest(line):
                self.assertEqual(answer(line, NAME).output, f"250 2.1.5 {NAME}\r\n".encode())

    def test_not_asked_for(self) -> None:
        """Without it the client is told to ask for it: 252 2.6.8."""
        for line in ("VRFY jo", "EXPN jo", "VRFY jörg"):
            with self.subTest(line):
                self.assertEqual(answer(line, NAME, "b@y.example").last_reply, ASK_IN_UTF8)

    def test_ascii(self) -> None:
        """An answer in ASCII is the same with and without it."""
        for line in ("VRFY jo", "VRFY jo SMTPUTF8"):
            with self.subTest(line):
                self.assertEqual(answer(line, "jo@y.example").last_reply, Reply(250, "jo@y.example", "2.1.5"))

    def test_lines(self) -> None:
        """Each item is a line, and control characters make none."""
        output = answer("EXPN all SMTPUTF8", "ä\r\n550 b", "ö\u2028\x85").output
        self.assertEqual(output, "250-2.1.5 ä  550 b\r\n250 2.1.5 ö  \r\n".encode())

    def test_nothing(self) -> None:
        """Nothing found is 252 and 550, as without the parameter."""
        self.assertEqual(answer("VRFY jo SMTPUTF8").last_reply, replies.CANNOT_VERIFY)
        self.assertEqual(answer("EXPN jo SMTPUTF8").last_reply, replies.NO_SUCH_USER)

    def test_not_offered(self) -> None:
        """Where SMTPUTF8 is disabled, the parameter is 504 5.5.4."""
        self.assertEqual(answer("VRFY jo SMTPUTF8", NAME, disable={"SMTPUTF8"}).last_reply, NO_UTF8)
        self.assertEqual(answer("VRFY jo", NAME, disable={"SMTPUTF8"}).last_reply, ASK_IN_UTF8)


class QueryTests(SynchronousTestCase):
    def test_parameter(self) -> None:
        """The parameter stands behind the text, in any case."""
        cases = {
            b"jo": Query("jo", False),
            b"jo SMTPUTF8": Query("jo", True),
            b"jo foo  smtputf8": Query("jo foo", True),
            b"joSMTPUTF8": Query("joSMTPUTF8", False),
            b"SMTPUTF8": Query("SMTPUTF8", False),
        }
        for argument, query in cases.items():
            with self.subTest(argument):
                self.assertEqual(parse_verify(argument), query)

    def test_nothing(self) -> None:
        """The parameter alone is no query."""
        for argument in (b"", b"  ", b"  SMTPUTF8"):
            self.assertRaises(SMTPError, parse_verify, argument)


class UTF8ReplyTests(SynchronousTestCase):
    @given(st.text(max_size=2000))
    def test_lines(self, text: str) -> None:
        """Whatever the text, every line fits, is UTF-8, and forges nothing."""
        wire = UTF8Reply(250, text, "2.1.5").wire(True)
        self.assertTrue(wire.endswith(b"\r\n"))
        *inner, last = wire[:-2].split(b"\r\n")
        self.assertTrue(all(line.startswith(b"250-2.1.5 ") for line in inner))
        self.assertTrue(last.startswith(b"250 2.1.5 "))
        for line in (*inner, last):
            self.assertLessEqual(len(line) + 2, MAX_REPLY_LINE)
            self.assertFalse(set(line.decode()) & {"\r", "\n", "\0", "\x85", "\u2028"})

    def test_cut(self) -> None:
        """A long line is cut between characters."""
        wire = UTF8Reply(250, "ü" * 600).wire(False)
        self.assertEqual(wire.decode().replace("\r\n", "").replace("250-", "").replace("250 ", ""), "ü" * 600)

    def test_copies(self) -> None:
        """A copy is one in UTF-8 too."""
        reply = UTF8Reply(250, NAME)
        for other in (copy.copy(reply), pickle.loads(pickle.dumps(reply))):
            self.assertEqual((type(other), other), (UTF8Reply, reply))
