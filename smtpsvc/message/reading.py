"""
What a message is read from, and its fields as text.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from threading import Lock
from typing import IO, Any, Final

from smtpsvc.message.fields import Header
from smtpsvc.message.words import decode_words, parameters

__all__ = ["Fields", "Lines", "Source", "open_source"]

#: Longer lines are given in pieces.
_LINE: Final = 64 * 1024
_PIECE: Final = 64 * 1024
_LONGEST_VALUE: Final = 64 * 1024
#: No pattern for :meth:`Lines.find` finds more than that.
LONGEST_DELIMITER: Final = 1024


class Source:
    """
    What a message is read from: bytes, or a file that can seek.

    :param begins: where the message begins in the file.
    """

    def __init__(self, file: IO[bytes], begins: int) -> None:
        self._file = file
        self._begins = begins
        # Parts may be read in several threads.
        self._lock = Lock()

    def read(self, place: int, size: int) -> bytes:
        """Read from any place."""
        with self._lock:
            self._file.seek(self._begins + place)
            return self._file.read(size)

    def length(self, place: int) -> int:
        """Find where it ends, at *place* or behind it."""
        while octets := self.read(place, _PIECE):
            place += len(octets)
        return place


class Lines:
    """Lines from a place on, or long pieces of them; what need not be looked at is passed over quickly."""

    def __init__(self, source: Source, place: int) -> None:
        self._source = source
        # What was read and may be needed again, where that begins, and how much of it is behind us.
        self._octets = b""
        self._start = place
        self._at = 0

    @property
    def place(self) -> int:
        """Where the next line begins."""
        return self._start + self._at

    def next(self) -> bytes:
        """Give the next line with its end, or nothing at the end."""
        while not (end := self._octets.find(b"\n", self._at) + 1):
            end = len(self._octets)
            if end - self._at >= _LINE or not self._more(self._at):
                break
        line = self._octets[self._at : end]
        self._at = end
        return line

    def push(self, line: bytes) -> None:
        """Take the last line back."""
        self._at -= len(line)

    def find(self, pattern: re.Pattern[bytes]) -> int:
        """
        Go to the next line behind a line end that *pattern* finds.

        :returns: where that line end begins, or -1 if there is none; then the end is reached.
        """
        # That of the last line is one too.
        at = max(0, self._at - 1)
        while (match := pattern.search(self._octets, at)) is None:
            self._at = len(self._octets)
            at = max(at, self._at - LONGEST_DELIMITER)
            before = self._start
            if not self._more(at):
                return -1
            at -= self._start - before
        self._at = match.start() + 1
        return self._start + match.start() - self._octets.endswith(b"\r", 0, match.start())

    def _more(self, keep: int) -> bool:
        """Read on, and forget what stands before *keep* but for one octet."""
        octets = self._source.read(self._start + len(self._octets), _PIECE)
        cut = max(0, keep - 1)
        self._octets = self._octets[cut:] + octets
        self._start += cut
        self._at -= cut
        return bool(octets)


class Fields:
    """The fields of a header, decoded as they are asked for (RFC 2047)."""

    def __init__(self, header: Header, defect: Callable[[str], None]) -> None:
        self._header = header
        self._defect = defect
        self._found: dict[str, list[bytes]] = {}
        for each in header:
            self._found.setdefault(each.name.lower(), []).append(each.raw)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._found

    def __len__(self) -> int:
        return len(self._header)

    def names(self) -> list[str]:
        """The names of the fields as they are written, in order."""
        return [each.name for each in self._header if each.name]

    def get(self, name: str, default: str = "") -> str:
        """Give the value of the first field of a name, decoded, in one line."""
        octets = self.raw(name)
        return default if octets is None else self._decoded(name, octets)

    def get_all(self, name: str) -> list[str]:
        """Give the values of all fields of a name, decoded, in order."""
        return [self._decoded(name, each) for each in self.all_raw(name)]

    def raw(self, name: str) -> bytes | None:
        """Give the octets of the first field of a name, unfolded, or None."""
        found = self._found.get(name.lower())
        return None if found is None else _value(found[0])

    def all_raw(self, name: str) -> list[bytes]:
        """Give the octets of all fields of a name, unfolded."""
        return [_value(each) for each in self._found.get(name.lower(), ())]

    def _decoded(self, name: str, octets: bytes) -> str:
        if len(octets) > _LONGEST_VALUE:
            self._defect(f"the field {name} is longer than {_LONGEST_VALUE} bytes; it is cut there")
            octets = octets[:_LONGEST_VALUE]
        text, good = decode_words(octets)
        if not good:
            self._defect(f"the field {name} cannot be decoded as a whole")
        return text

    def parameters(self, name: str) -> tuple[str, dict[str, str]]:
        """Give the first field of a name that has parameters (RFC 2045 §5.1): its value, and these."""
        octets = self.raw(name) or b""
        value, found, good = parameters(octets[:_LONGEST_VALUE])
        if not good or len(octets) > _LONGEST_VALUE:
            self._defect(f"the field {name} cannot be read as a whole")
        return value, found


def _value(raw: bytes) -> bytes:
    return raw.partition(b":")[2].replace(b"\r\n", b"").replace(b"\n", b"").strip(b" \t")


def open_source(message: Any) -> Source:
    """
    Make the source of whatever has a message.

    :param message: bytes; a file, read from where it stands; or what has an ``open()`` that gives one.
    :raises TypeError: if it is none of these.
    """
    if isinstance(message, (bytes, bytearray, memoryview)):
        return Source(io.BytesIO(message), 0)
    if hasattr(message, "open") and not hasattr(message, "read"):
        message = message.open()
    if not hasattr(message, "read"):
        raise TypeError(f"{message!r:.80} is no message: bytes, a binary file or a Message is needed")
    if not message.seekable():
        return Source(io.BytesIO(message.read()), 0)
    return Source(message, message.tell())
