"""
How a message is taken apart, in one pass over its lines.

Nesting costs no recursion and a part costs its header only, so a message of three thousand parts within each
other, or of a hundred thousand beside each other, is no more work than another of its size.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from smtpsvc.message.fields import Header, header_end
from smtpsvc.message.parts import Part
from smtpsvc.message.reading import Fields, Lines, Source

__all__ = ["Bounds", "Splitter", "whole_message"]

_LONGEST_BOUNDARY: Final = 200  # RFC 2046 §5.1.1 says 70
#: Octets of which expressions are made for one message: to make one costs a microsecond for each.
_MOST_COMPILED: Final = 64 * 1024

_ANY_DELIMITER = re.compile(rb"\n(?=--)")
_LIKE_FIELD = re.compile(rb"[!-9;-~]++[ \t]*+:")
_NO_FIELD: Final = "a header has a line that is no field; the content begins there"


@dataclass(frozen=True, slots=True)
class Bounds:
    """
    How much of a message is looked at. Beyond it nothing fails: the rest is one part, or is not there, and a defect
    says so.
    """

    #: Parts within each other.
    depth: int = 50
    #: Parts of the message, all together.
    parts: int = 1000
    #: Bytes of the message's header.
    header: int = 1024 * 1024
    #: Bytes of the header of a part.
    part_header: int = 64 * 1024
    #: Addresses of a field, and ids of References.
    addresses: int = 10_000
    #: Bytes of a text, decoded; of ``text`` and of ``html`` each.
    text: int = 16 * 1024 * 1024
    #: Sentences in ``defects``.
    defects: int = 100


class Splitter:
    """
    Finds the parts of a message.

    :param whole: the message itself, whose header is read.
    """

    def __init__(self, source: Source, whole: Part, bounds: Bounds, defect: Callable[[str], None]) -> None:
        self._lines = Lines(source, whole.begins)
        self._source = source
        self._bounds = bounds
        self._defect = defect
        self._count = 1
        # The multiparts that are open, from the outside in, and the places of their delimiters in that list.
        self._open: list[Part] = []
        self._delimiters: dict[bytes, int] = {}
        self._found_by: re.Pattern[bytes] | None = None
        self._compiled = 0
        self._current: Part | None = None
        self._whole = whole
        # True if a line begins where the lines are.
        self._fresh = True

    def split(self) -> None:
        """Read to the end of the message."""
        lines = self._lines
        self._begin(self._whole)
        # Where the line end begins that is part of a delimiter (RFC 2046 §5.1.1).
        before = lines.place
        while self._open and self._count <= self._bounds.parts and (line := lines.next()):
            level, last = self._delimiter(line) if self._fresh and line.startswith(b"--") else (-1, False)
            if level < 0:
                before = lines.find(self._pattern())
                self._fresh = True
                continue
            self._close(level if last else level + 1, before)
            if not last:
                self._part(self._open[level])
            before = lines.place
        end = self._source.length(lines.place)
        if self._count > self._bounds.parts:
            self._defect(f"there are more than {self._bounds.parts} parts; the others are not looked at")
        elif self._open:
            self._defect("a multipart does not end (RFC 2046 §5.1.1)")
        self._close(0, end)
        self._whole.ends = end

    def _delimiter(self, line: bytes) -> tuple[int, bool]:
        """Give the level of the multipart whose delimiter a line is, or -1; and whether it is the last."""
        text = line.rstrip(b" \t\r\n")
        level = self._delimiters.get(text, -1)
        if level >= 0:
            return level, False
        return (self._delimiters.get(text[:-2], -1), True) if text.endswith(b"--") else (-1, False)

    def _close(self, level: int, end: int) -> None:
        """End the part that is open, and the multiparts from *level* on inwards."""
        if self._current is not None:
            self._current.ends = max(self._current.begins, end)
            self._current = None
        for part in self._open[level:]:
            part.ends = max(part.begins, end)
            del self._delimiters[_delimiter_of(part)]
            self._found_by = None
            if not part.parts and self._count <= self._bounds.parts:
                # What there is may not get lost.
                self._defect("a multipart has no parts; it is taken for text")
                part.type, part.is_multipart = "text/plain", False
        del self._open[level:]

    def _pattern(self) -> re.Pattern[bytes]:
        """Give what finds a line that begins as one of the delimiters, and maybe others."""
        if self._found_by is None:
            self._compiled += sum(map(len, self._delimiters))
            if self._compiled > _MOST_COMPILED:
                # Who opens and closes a thousand multiparts wants us to make a thousand.
                self._found_by = _ANY_DELIMITER
            else:
                self._found_by = re.compile(b"\n(?=%b)" % b"|".join(map(re.escape, self._delimiters)))
        return self._found_by

    def _part(self, within: Part) -> None:
        """Take the header of a part, behind its delimiter."""
        self._count += 1
        if self._count > self._bounds.parts:
            return
        octets = self._header()
        part = Part(self._source, Fields(Header(octets), self._defect), self._lines.place, within, self._defect)
        within.parts.append(part)
        self._begin(part)
        self._fresh = not octets or octets.endswith(b"\n")

    def _header(self) -> bytes:
        octets = bytearray()
        fresh = True
        while len(octets) < self._bounds.part_header and (line := self._lines.next()):
            if fresh:
                if line in (b"\r\n", b"\n"):
                    return bytes(octets + line)
                if line.startswith(b"--") and self._delimiter(line)[0] >= 0:
                    # The part has neither content nor an empty line.
                    self._lines.push(line)
                    return bytes(octets)
                if not _LIKE_FIELD.match(line) and not (octets and line.startswith((b" ", b"\t"))):
                    self._defect(_NO_FIELD)
                    self._lines.push(line)
                    return bytes(octets)
            octets += line
            fresh = line.endswith(b"\n")
        if len(octets) >= self._bounds.part_header:
            self._defect(f"the header of a part is longer than {self._bounds.part_header} bytes; the rest is content")
        return bytes(octets)

    def _begin(self, part: Part) -> None:
        """A part has begun: see whether it has parts."""
        if not part.type.startswith("multipart/"):
            self._current = part
            return
        boundary = part.parameters.get("boundary", "")
        if not boundary or len(boundary) > _LONGEST_BOUNDARY:
            self._defect("a multipart has no boundary; it is taken for text (RFC 2046 §5.1.1)")
            part.type = "text/plain"
        elif part.encoding not in ("", "7bit", "8bit", "binary"):
            self._defect("a multipart is encoded, which it may not be (RFC 2045 §6.4); it is not taken apart")
        elif len(self._open) >= self._bounds.depth:
            self._defect(f"parts are nested deeper than {self._bounds.depth}; the innermost are one")
        elif _delimiter_of(part) in self._delimiters:
            self._defect("a multipart has the boundary of one around it; it is not taken apart")
        else:
            part.is_multipart = True
            self._delimiters[_delimiter_of(part)] = len(self._open)
            self._open.append(part)
            self._found_by = None
            return
        self._current = part


def _delimiter_of(part: Part) -> bytes:
    return b"--" + part.parameters.get("boundary", "").encode("utf-8", "replace")


def whole_message(source: Source, bounds: Bounds, defect: Callable[[str], None]) -> Part:
    """Read the header of a message, and nothing else."""
    octets = b""
    end = -1
    while end < 0 and len(octets) < bounds.header:
        piece = source.read(len(octets), min(max(4096, len(octets)), bounds.header - len(octets)))
        if not piece:
            break
        before = max(0, len(octets) - 3)
        octets += piece
        end = header_end(octets, before)
    if end < 0 and len(octets) >= bounds.header:
        defect(f"the header is longer than {bounds.header} bytes; the rest is taken for content")
    end = len(octets) if end < 0 else end
    header = Header(octets[:end])
    size = 0
    for number, each in enumerate(header):
        if not each.name and not (number == 0 and each.raw.startswith((b"From ", b">From "))):
            # RFC 5322 §2.2. What begins here must be the body, whose empty line is missing.
            defect(_NO_FIELD)
            header, end = Header(octets[:size]), size
            break
        size += len(each.raw)
    return Part(source, Fields(header, defect), end, None, defect)
