"""
Tests of smtpsvc.workerlog: what workers log, logged by their parent.
"""

from __future__ import annotations

import os
from typing import Any

from twisted.logger import Logger, LogLevel, eventAsText
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.workerlog import EventPipe, Lines, log_line
from tests.support import cuts


class EventTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Log into a pipe."""
        hear, self.say = os.pipe()
        self.hear = open(hear, "rb")  # noqa: SIM115, it is closed after the test
        self.addCleanup(self.hear.close)
        self.log: Any = Logger(namespace="smtpsvc.x", observer=EventPipe(self.say))

    def events(self) -> list[Any]:
        """Give what the parent logs of it."""
        os.close(self.say)
        events: list[Any] = []
        for line in self.hear.read().splitlines():
            log_line(2, line, events.append)
        return events

    def test_fields(self) -> None:
        """An event comes out with its level, its namespace, its fields and its time, and with the worker's number."""
        self.log.warn("{code} for {host}", code=250, host="h\n\x1e{x}")
        (event,) = self.events()
        self.assertEqual(event["log_level"], LogLevel.warn)
        self.assertEqual((event["log_namespace"], event["code"], event["worker"]), ("smtpsvc.x", 250, 2))
        shown = eventAsText(event, includeTimestamp=False)
        self.assertEqual(shown, "[worker 2 smtpsvc.x#warn] 250 for h\n\x1e{x}")

    def test_failure(self) -> None:
        """A failure comes out with its traceback."""
        try:
            raise LookupError("nothing there")
        except LookupError:
            self.log.failure("it broke")
        (event,) = self.events()
        shown = eventAsText(event)
        self.assertIn("it broke", shown)
        self.assertIn("LookupError: nothing there", shown)

    def test_odd_values(self) -> None:
        """What JSON cannot say is said as well as can be, and harms no other event."""
        circle: list[Any] = []
        circle.append(circle)
        self.log.info("first {odd}", odd=object, octets=b"\xff", name="\udcff")
        self.log.info("second", odd=circle)
        self.log.info("third")
        shown = [eventAsText(event, includeTimestamp=False, includeSystem=False) for event in self.events()]
        self.assertEqual([text.split()[0] for text in shown], ["first", "second", "third"])

    def test_large(self) -> None:
        """An event that is larger than a pipe comes out whole."""
        import threading

        writer = threading.Thread(target=lambda: (self.log.info("{text}", text="x" * 300_000), os.close(self.say)))
        writer.start()
        data = self.hear.read()
        writer.join()
        events: list[Any] = []
        Lines(lambda line: log_line(1, line, events.append)).feed(data)
        self.assertEqual(len(events[0]["text"]), 300_000)

    def test_nobody_reads(self) -> None:
        """Where nobody reads any more, an event is lost and nothing breaks."""
        self.hear.close()
        self.log.info("lost")
        os.close(self.say)


class TextTests(SynchronousTestCase):
    def test_text(self) -> None:
        """Anything else is text, also if it looks like an event and is none."""
        events: list[Any] = []
        from twisted.logger import globalLogPublisher

        globalLogPublisher.addObserver(events.append)
        self.addCleanup(globalLogPublisher.removeObserver, events.append)
        for line in (b"Fatal Python error", b"\x1e{cut off", b"\x1e[1]", b"\xff\r"):
            log_line(1, line)
        shown = [eventAsText(event, includeTimestamp=False, includeSystem=False) for event in events]
        self.assertEqual(
            shown,
            ["worker 1: Fatal Python error", "worker 1: \x1e{cut off", "worker 1: \x1e[1]", "worker 1: \\xff"],
        )

    def test_level(self) -> None:
        """An event without a level that is known is told as information."""
        events: list[Any] = []
        for line in (b'\x1e{"log_format": "x"}', b'\x1e{"log_format": "x", "log_level": "loud"}'):
            log_line(1, line, events.append)
        self.assertEqual([event["log_level"] for event in events], [LogLevel.info] * 2)


class LineTests(SynchronousTestCase):
    def test_cuts(self) -> None:
        """However the octets are cut, whole lines come out; the last is given when no more comes."""
        for packets in cuts(b"one\ntwo\n\nthree"):
            found: list[bytes] = []
            lines = Lines(found.append)
            for packet in packets:
                lines.feed(packet)
            self.assertEqual(found, [b"one", b"two"])
            lines.end()
            self.assertEqual(found, [b"one", b"two", b"three"])

    def test_too_long(self) -> None:
        """Of a line that is too long the rest is dropped, and never kept."""
        found: list[bytes] = []
        lines = Lines(found.append, most=5)
        for packet in (b"123", b"456", b"789\nab", b"cdefgh\n"):
            lines.feed(packet)
        self.assertEqual(found, [b"12345", b"abcde"])


class FailureTests(SynchronousTestCase):
    def test_restored(self) -> None:
        """The failure in an event is one that observers can look into."""
        hear, say = os.pipe()
        logger = Logger(namespace="smtpsvc", observer=EventPipe(say))
        logger.failure("broken", Failure(ValueError("x")))
        os.close(say)
        with open(hear, "rb") as file:
            events: list[Any] = []
            log_line(1, file.read().rstrip(b"\n"), events.append)
        self.assertIn("ValueError", events[0]["log_failure"].getTraceback())
