"""
Tests of smtpsvc.jsonlines: the log as JSON, a line for each event.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.logger import ILogObserver, Logger, LogLevel, globalLogPublisher
from twisted.python import log as old_log
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from smtpsvc.jsonlines import LONGEST, JSONLog, encode_event, standard_output
from tests.support import given, settings, st


class Awkward:
    """Cannot be shown."""

    def __str__(self) -> str:
        raise KeyError("x")

    __repr__ = __str__


def line(**event: Any) -> dict[str, Any]:
    """Encode an event, and read it as JSON."""
    event = {"log_time": 0.0, "log_level": LogLevel.info, "log_namespace": "n", "log_format": "text", **event}
    found = encode_event(event)
    assert found.endswith(b"\n") and found.count(b"\n") == 1 and found.isascii(), found
    read: dict[str, Any] = json.loads(found, parse_constant=lambda name: 1 / 0)
    return read


class EncodeTests(SynchronousTestCase):
    """An event becomes one flat object."""

    def test_plain(self) -> None:
        """A line has the time in UTC, the level, the namespace, the message, and the fields; nothing else."""
        expected = {
            "time": "2026-11-20T10:00:00.250Z",
            "level": "warn",
            "namespace": "smtpsvc",
            "message": "5 of them",
            "count": 5,
        }
        found = line(
            log_time=1795168800.25,
            log_level=LogLevel.warn,
            log_namespace="smtpsvc",
            log_format="{count} of them",
            count=5,
            log_logger=object(),
            log_source=object(),
        )
        self.assertEqual(found, expected)

    def test_values(self) -> None:
        """Numbers, texts, null and lists stay what they are; other things are shown as text."""
        values: list[tuple[Any, Any]] = [
            (5, 5),
            (0.5, 0.5),
            (True, True),
            (None, None),
            ("é", "é"),
            (b"\xff\r\n", "\\xff\\r\\n"),
            (["a", 1, None], ["a", 1, None]),
            ((b"a",), ["a"]),
            ([["nested"]], ["['nested']"]),
            ({"a": 1}, "{'a': 1}"),
            (float("nan"), "nan"),
            (float("-inf"), "-inf"),
            (1 << 80, str(1 << 80)),
            (IPv4Address("TCP", "192.0.2.1", 5), "IPv4Address(type='TCP', host='192.0.2.1', port=5)"),
            (Awkward(), "(a Awkward that cannot be shown)"),
        ]
        for value, expected in values:
            with self.subTest(value=type(value)):
                self.assertEqual(line(field=value)["field"], expected)

    def test_forging(self) -> None:
        """No character of a stranger's ends a line, or reaches a terminal as it is."""
        text = "\r\n\x1b[31m\x00\x85\u2028\u202e\ud800"
        found = encode_event({"log_format": "{helo}", "helo": text})
        self.assertTrue(found.rstrip(b"\n").decode("ascii").isprintable())
        self.assertEqual(json.loads(found)["message"], text)

    def test_own_names(self) -> None:
        """A field that is named as one of ours does not take its place."""
        found = line(level="high", time="now", message="x")
        self.assertEqual((found["level"], found["level_"]), ("info", "high"))
        self.assertEqual((found["time_"], found["message_"]), ("now", "x"))

    def test_failure(self) -> None:
        """A failure has its class and its traceback."""
        try:
            raise ZeroDivisionError("why")
        except ZeroDivisionError:
            found = line(log_failure=Failure())
        self.assertEqual(found["exception"], "ZeroDivisionError")
        self.assertIn("test_jsonlines", found["traceback"])

    def test_bounded(self) -> None:
        """A line is not longer than it needs to be, whatever an event has."""
        found = encode_event({"log_format": "{x}", "x": "x" * 10**6, "y": ["z" * 10**6] * 5})
        self.assertLess(len(found), 8 * LONGEST)
        found = encode_event({"log_format": "", **{f"field{number}": 1 for number in range(10**4)}})
        self.assertLess(len(found), 8 * LONGEST)

    def test_message_once(self) -> None:
        """A field that is the whole message is not there twice."""
        self.assertEqual(line(log_format="{line}", line="words").keys(), {"time", "level", "namespace", "message"})

    @settings(max_examples=300)
    @given(
        st.dictionaries(
            st.text(max_size=9) | st.sampled_from(["log_time", "log_level", "log_format", "log_failure", "message"]),
            st.integers() | st.floats() | st.text() | st.binary() | st.lists(st.text()) | st.just(Awkward()),
        )
    )
    def test_anything(self, event: dict[str, Any]) -> None:
        """Whatever an event has, it becomes a line of JSON."""
        found = encode_event(event)
        self.assertEqual((found.count(b"\n"), found[-1:]), (1, b"\n"))
        self.assertIsInstance(json.loads(found), dict)

    def test_old_log(self) -> None:
        """What is logged by twisted.python.log has no noise either."""
        events: list[Any] = []
        globalLogPublisher.addObserver(events.append)
        self.addCleanup(globalLogPublisher.removeObserver, events.append)
        old_log.msg("words", more=5)
        found = json.loads(encode_event(events[0]))
        self.assertEqual(found.keys(), {"time", "level", "namespace", "message", "more"})
        self.assertEqual((found["message"], found["more"]), ("words", 5))


class FileTests(SynchronousTestCase):
    """Where the lines go."""

    def setUp(self) -> None:
        directory = Path(tempfile.mkdtemp(prefix="smtpsvc-"))
        self.addCleanup(shutil.rmtree, directory, ignore_errors=True)
        self.path = directory / "log.json"
        self.log = JSONLog(str(self.path))
        self.addCleanup(self.log.close)
        self.logger = Logger(namespace="n", observer=self.log)

    def messages(self, path: Path | None = None) -> list[str]:
        """The messages in the file."""
        return [json.loads(line)["message"] for line in (path or self.path).read_text().splitlines()]

    def test_interface(self) -> None:
        """It is an observer."""
        verifyObject(ILogObserver, self.log)

    def test_append(self) -> None:
        """Lines are appended, each at once; before it is opened and after it is closed there are none."""
        self.logger.info("zero")
        self.log.open()
        self.logger.info("one")
        self.assertEqual(self.messages(), ["one"])
        self.log.close()
        self.logger.info("two")
        self.log.open()
        self.logger.info("three")
        self.assertEqual(self.messages(), ["one", "three"])

    def test_mode(self) -> None:
        """Strangers do not read it."""
        self.log.open()
        self.assertEqual(self.path.stat().st_mode & 0o007, 0)

    def test_reopen(self) -> None:
        """After a rename the lines go to a new file."""
        self.log.open()
        self.logger.info("one")
        old = self.path.rename(self.path.with_suffix(".1"))
        self.logger.info("two")
        self.log.reopen()
        self.logger.info("three")
        self.assertEqual((self.messages(old), self.messages()), (["one", "two"], ["three"]))

    def test_reopen_fails(self) -> None:
        """If there can be no new file, the old one is written to, and the log says so."""
        self.log.open()
        events: list[Any] = []
        globalLogPublisher.addObserver(events.append)
        self.addCleanup(globalLogPublisher.removeObserver, events.append)
        gone = self.path.parent.rename(self.path.parent.with_suffix(".1"))
        self.addCleanup(shutil.rmtree, gone, ignore_errors=True)
        self.log.reopen()
        self.logger.info("one")
        self.assertEqual(self.messages(gone / "log.json"), ["one"])
        self.assertEqual([event["problem"] for event in events], ["No such file or directory"])

    def test_full(self) -> None:
        """What cannot be written is lost, nothing is raised, and later it is told how much."""
        self.log.open()
        written: list[bytes] = []
        room = 0

        def write(file: int, data: bytes) -> int:
            if not room:
                raise OSError(28, "No space left on device")
            written.append(data[:room])
            return len(written[-1])

        self.patch(os, "write", write)
        for _ in range(3):
            self.logger.info("lost")
        room = 10
        self.logger.info("torn")
        room = 10**6
        self.logger.info("there")
        lines = b"".join(written).split(b"\n")
        self.assertEqual(json.loads(lines[1])["lost"], 4)
        self.assertEqual(json.loads(lines[2])["message"], "there")

    def test_text_only(self) -> None:
        """What is for readers of text is left out."""
        self.log.open()
        self.logger.info("for people", text_only=True)
        self.assertEqual(self.messages(), [])

    def test_standard_output(self) -> None:
        """``--logger smtpsvc.jsonlines.standard_output`` gives twistd an observer."""
        observer: Any = standard_output()
        self.addCleanup(observer.close)
        verifyObject(ILogObserver, observer)
        self.assertEqual(observer.path, "-")
