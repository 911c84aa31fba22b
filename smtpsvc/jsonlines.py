"""
The log as JSON: one flat object a line, for programs that read logs.

A line has ``time`` (ISO 8601, UTC), ``level``, ``namespace``, ``message`` and the fields of the event, and a
failure's ``exception`` and ``traceback``. It is ASCII: whatever a stranger has sent is escaped by JSON.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from twisted.logger import ILogObserver, Logger, LogLevel, formatEvent
from twisted.python.failure import Failure
from zope.interface import implementer

from smtpsvc.grammar.shown import shown

#: What an event has for people who read text, and what others write for themselves: such a field is left out.
TEXT_ONLY: Final = "text_only"

#: Texts are cut there, in characters; tracebacks later.
LONGEST: Final = 4096
_TRACEBACK: Final = 32768
#: So many items of a list are shown, and fields of an event.
_MANY: Final = 100

#: The names that each line has.
_OURS: Final = frozenset({"time", "level", "namespace", "message", "exception", "traceback"})
#: What the log of old puts into events for itself.
_LEGACY: Final = frozenset({"time", "message", "system", "isError", "format", "failure", "why"})
_encode: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False, ensure_ascii=True).encode


def encode_event(event: Mapping[str, Any]) -> bytes:
    """
    Write an event as a line of JSON. It never raises, whatever the event has.

    :returns: ASCII that ends in a newline, and has no other.
    """
    try:
        line = _encode(_fields(event))
    except Exception as error:
        line = _encode({"level": "error", "message": f"an event could not be shown: {type(error).__name__}"})
    return line.encode("ascii") + b"\n"


def _fields(event: Mapping[str, Any]) -> dict[str, Any]:
    message = _message(event)
    fields: dict[str, Any] = {
        "time": _time(event.get("log_time")),
        "level": getattr(event.get("log_level"), "name", "info"),
        "namespace": _text(event.get("log_namespace", "")),
        "message": message,
    }
    legacy = "log_legacy" in event or "log_text" in event
    for name, value in event.items():
        if name[:4] == "log_" or (legacy and name in _LEGACY):
            continue
        if len(fields) >= _MANY:
            break
        # Most are short texts or nothing.
        plain = value if value is None or (type(value) is str and len(value) <= LONGEST) else _plain(value)
        if plain != message:
            fields[f"{name}_" if name in _OURS else _cut(name, LONGEST)] = plain
    failure = event.get("log_failure")
    if isinstance(failure, Failure):
        fields["exception"] = _text(failure.type.__qualname__ if failure.type is not None else "")
        fields["traceback"] = _cut(_traceback(failure), _TRACEBACK)
    return fields


def _message(event: Mapping[str, Any]) -> str:
    form = event.get("log_format")
    if type(form) is str and "(" not in form and "log_flattened" not in event:
        # Twisted's way is for calls, which are rare, and takes ten times as long.
        try:
            return _cut(form.format_map(event), LONGEST)
        except Exception:
            pass
    return _cut(formatEvent(dict(event)), LONGEST)


def _time(seconds: Any) -> str | None:
    try:
        moment = datetime.fromtimestamp(float(seconds), UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        return None
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _traceback(failure: Failure) -> str:
    try:
        text: str = failure.getTraceback()
    except Exception:
        return "(the traceback cannot be shown)"
    return text


def _plain(value: Any, deep: bool = True) -> Any:
    """Give what JSON has for a value: itself, a list of texts, or its text."""
    kind = type(value)
    if value is None or kind is bool or kind is int:
        return value if kind is not int or abs(value) < 1 << 63 else _text(value)
    if kind is float:
        return value if math.isfinite(value) else repr(value)
    if kind is bytes:
        return _cut(shown(value[:LONGEST]), LONGEST)
    if kind in (list, tuple) and deep:
        return [_plain(each, deep=False) for each in value[:_MANY]]
    return _text(value)


def _text(value: Any) -> str:
    try:
        text = value if type(value) is str else str(value)
    except Exception:
        text = f"(a {type(value).__name__} that cannot be shown)"
    return _cut(text, LONGEST)


def _cut(text: str | None, longest: int) -> str:
    text = text or ""
    return text if len(text) <= longest else f"{text[:longest]}..."


@implementer(ILogObserver)
class JSONLog:
    """
    An observer that writes each event as a line of JSON. It is closed until :meth:`open`.

    Lines are written whole and at once. One that cannot be written, as on a full disk, is lost; how many were
    is told in the log as soon as there is room.

    :param path: a file, which is appended to; "-" for the standard output.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._file = -1
        self._lost = 0
        # True if the last line has no end.
        self._torn = False

    def open(self) -> None:
        """
        Open the file, unless it is open.

        :raises OSError: if that is not possible.
        """
        if self._file < 0:
            self._file = self._opened()

    def _opened(self) -> int:
        if self.path == "-":
            # Twisted's log has taken sys.stdout for itself.
            return os.dup(1)
        return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def reopen(self) -> None:
        """Go on in a new file, since somebody has renamed the old one, which is kept if there can be none."""
        if self._file < 0 or self.path == "-":
            return
        try:
            opened = self._opened()
        except OSError as error:
            Logger(namespace="smtpsvc").error(
                "--log-json {path}: it is not opened anew ({problem}); the old file is written to",
                path=self.path,
                problem=error.strerror,
            )
            return
        os.close(self._file)
        self._file = opened

    def close(self) -> None:
        """Write no more."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def __call__(self, event: Mapping[str, Any]) -> None:
        if self._file < 0 or event.get(TEXT_ONLY):
            return
        line = encode_event(event)
        if self._lost:
            line = (b"\n" if self._torn else b"") + encode_event(_loss(event, self._lost)) + line
        try:
            written = os.write(self._file, line)
        except OSError:
            written = 0
        if written == len(line):
            self._lost, self._torn = 0, False
        else:
            self._lost += 1
            self._torn = self._torn or written > 0


def _loss(event: Mapping[str, Any], lost: int) -> Mapping[str, Any]:
    return {
        "log_time": event.get("log_time"),
        "log_level": LogLevel.error,
        "log_namespace": "smtpsvc",
        "log_format": "{lost} lines before this one could not be written",
        "lost": lost,
    }


def standard_output() -> Callable[[Mapping[str, Any]], None]:
    """
    Give the observer that writes to the standard output: ``twistd --logger smtpsvc.jsonlines.standard_output``.
    """
    observer = JSONLog("-")
    observer.open()
    return observer
