"""
The conversation and its security over real sockets: over our transport, and over Twisted's.

The tests are those that run in memory elsewhere; see :mod:`tests.overwire`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any
from unittest import TestCase, TestLoader, TestSuite

from twisted.trial.unittest import SynchronousTestCase

from tests.live import ROOT

MODULES = """
    auth_session chunking chunking_hooks deadlines dialogues ext_dsn ext_limits ext_offer ext_verify ext_words faults
    handles limits_content limits_errors limits_waits lmtp log_hygiene prdr prompts protocol received replace_peer
    replies results results_each roles space starttls verbs verbs_mail waiting xclient xforward
""".split()

#: What holds in memory only, and why.
IN_MEMORY = {
    "test_chunking_hooks.WaitingTests.test_write_pauses": "counts the packets that are delivered",
    "test_chunking_hooks.WaitingTests.test_silence": "the last thing there is not the end of the connection",
    "test_deadlines.CommandTests.test_farewell_not_taken": "the kernel takes what the client does not",
    "test_deadlines.CommandTests.test_reading_slowly": "the kernel takes what the client does not",
    "test_deadlines.CommandTests.test_replies_not_read": "the kernel takes what the client does not",
    "test_limits_waits.GreetDelayTests.test_gone": "a client that has gone takes nothing",
    "test_log_hygiene.EscapeTests.test_xclient": "a connection that nobody holds is closed, and leaves a line",
    "test_protocol.WriteTests.test_producer": "looks into the transport",
    "test_starttls.OfferTests.test_transport_without": "here the transport has TLS",
    "test_xclient.SyntaxTests.test_mistakes": "a connection that nobody holds is closed, and its session",
}

#: What Twisted's transport does not promise: a farewell while the client's octets lie unread, which makes it an RST.
RESET = dict.fromkeys(
    (
        "test_handles.PauseTests.test_deadlines_stand_still",
        "test_prompts.EndTests.test_silence",
        "test_prompts.EndTests.test_close_is_final",
    ),
    "the reply is lost by the reset",
)

#: Seconds that a run may take; it takes some on an idle machine.
PATIENCE = 300.0


def cases(suite: Any) -> Iterator[TestCase]:
    """Give the tests of a suite, one by one."""
    for member in suite:
        if isinstance(member, TestSuite):
            yield from cases(member)
        else:
            yield member


class SocketTests(SynchronousTestCase):
    def check(self, kind: str) -> None:
        """Run all of them over a kind of transport."""
        loader = TestLoader()
        tests = (case for name in MODULES for case in cases(loader.loadTestsFromName(f"tests.test_{name}")))
        found = {name for case in tests if (name := case.id()).startswith("tests.test_") and "Tests." in name}
        without = {f"tests.{name}" for name in IN_MEMORY | (RESET if kind == "stock" else {})}
        self.assertEqual(without - found, set())
        names = sorted(found - without)
        with tempfile.TemporaryDirectory() as directory, tempfile.TemporaryFile() as output:
            done = subprocess.run(
                [sys.executable, "-m", "twisted.trial", "--temp-directory", f"{directory}/trial", *names],
                cwd=ROOT,
                env={**os.environ, "SMTPSVC_WIRE": kind},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
                timeout=PATIENCE,
            )
            output.seek(0)
            said = output.read().decode(errors="replace")
        self.assertEqual(done.returncode, 0, said[-20_000:])
        self.assertRegex(said, r"PASSED \((skips=\d+, )?successes=\d{3}")

    def test_direct(self) -> None:
        """Over our transport everything is as it is in memory."""
        self.check("direct")

    def test_stock(self) -> None:
        """Over Twisted's transport, too."""
        self.check("stock")
