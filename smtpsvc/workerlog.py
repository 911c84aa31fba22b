"""
The log of workers: each writes its events into a pipe, and the parent logs them as its own.

An event is one line of JSON behind a record separator; whatever else comes, such as the last words of
an interpreter that ends, is text.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from threading import Lock
from typing import Any, Final

from twisted.logger import (
    ILogObserver,
    LogEvent,
    Logger,
    LogLevel,
    eventAsJSON,
    eventAsText,
    eventFromJSON,
    globalLogBeginner,
    globalLogPublisher,
)
from twisted.python.failure import Failure
from zope.interface import implementer

#: The longest line, in bytes; of a longer one the rest is dropped.
MOST: Final = 8 * 1024 * 1024

#: The field of an event that was marked.
MARK: Final = "smtpsvc_marked"

_SEPARATOR: Final = b"\x1e"
#: The field that has the words of a failure's exception, on the way.
_SAYS: Final = "failure_says"
_LEVELS: Final = tuple(LogLevel.iterconstants())

log = Logger(namespace="smtpsvc")


@implementer(ILogObserver)
class EventPipe:
    """
    In a worker: an observer that writes each event into a pipe, whole.

    It waits while the pipe is full, as one that writes to a slow disk would: nothing gathers in memory.

    :param descriptor: is not closed here.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        # Threads log too.
        self._lock = Lock()

    def __call__(self, event: LogEvent) -> None:
        """Write an event; when nobody reads any more it is lost."""
        failure = event.get("log_failure")
        if failure is not None:
            event = {**event, _SAYS: failure.getErrorMessage()}
        try:
            text = eventAsJSON(event)
        except Exception:
            plain = eventAsText(event, includeTimestamp=False, includeSystem=False)
            text = eventAsJSON({"log_format": "{text}", "text": plain, "log_namespace": "smtpsvc"})
        data = memoryview(_SEPARATOR + text.encode("ascii", "backslashreplace") + b"\n")
        with self._lock:
            try:
                while data:
                    data = data[os.write(self._descriptor, data) :]
            except OSError:
                pass


def log_into(observer: Any) -> None:
    """
    Log with one observer, whatever was logged with before.

    A process that was forked has its parent's observers, and the parent's file is for one writer.
    """
    for other in tuple(getattr(globalLogPublisher, "_observers", ())):
        globalLogPublisher.removeObserver(other)
    if getattr(globalLogBeginner, "_temporaryObserver", None) is None:
        globalLogPublisher.addObserver(observer)
    else:
        globalLogBeginner.beginLoggingTo([observer], discardBuffer=True)


class Lines:
    """
    Cuts octets into lines.

    :param line: is called with each, without its end.
    :param most: octets of a line; those beyond are dropped.
    """

    __slots__ = ("_buffer", "_line", "_most")

    def __init__(self, line: Callable[[bytes], object], most: int = MOST) -> None:
        self._buffer = bytearray()
        self._line = line
        self._most = most

    def feed(self, data: bytes) -> None:
        """Take the next octets, split anywhere."""
        *whole, rest = data.split(b"\n")
        for each in whole:
            self._take(each)
            self.end()
        self._take(rest)

    def end(self) -> None:
        """No more comes: give what there is."""
        if self._buffer:
            line = bytes(self._buffer)
            self._buffer.clear()
            self._line(line)

    def _take(self, data: bytes) -> None:
        self._buffer += data[: self._most - len(self._buffer)]


@implementer(ILogObserver)
class Marked:
    """
    In a worker: an observer that marks events for a log of their own, as the one in JSON.

    :param pipe: gets them.
    """

    def __init__(self, pipe: EventPipe) -> None:
        self._pipe = pipe

    def __call__(self, event: LogEvent) -> None:
        """Mark an event, and write it."""
        self._pipe({**event, MARK: True})


def log_line(worker: int, line: bytes, publish: Callable[[Any], object] = globalLogPublisher) -> None:
    """
    In the parent: log what a worker has written.

    :param worker: its number; events have it in the field ``worker``, and in what is shown as their system.
    :param publish: is given an event.
    """
    event = _event(line)
    if event is None:
        log.info("worker {worker}: {line}", worker=worker, line=line.decode("utf-8", "backslashreplace").rstrip("\r"))
        return
    namespace = event.get("log_namespace")
    level = event["log_level"]
    ours = isinstance(namespace, str) and namespace != "log_legacy"
    event["worker"] = worker
    event["log_system"] = f"worker {worker} {namespace}#{level.name}" if ours else f"worker {worker}"
    publish(event)


def _event(line: bytes) -> Any:
    """Read an event; None if it is none."""
    if not line.startswith(_SEPARATOR):
        return None
    try:
        event: Any = eventFromJSON(line[1:].decode("ascii"))
    except Exception:  # cut off by the end of the process, say
        return None
    if not isinstance(event, dict):
        return None
    failure, says = event.get("log_failure"), event.pop(_SAYS, "")
    if isinstance(failure, Failure):
        # The exception itself has not come through.
        failure.value = Exception(str(says))
    if event.get("log_level") not in _LEVELS:
        event["log_level"] = LogLevel.info
    return event
