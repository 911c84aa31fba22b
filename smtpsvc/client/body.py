"""
What is sent as a message's content: octets, a file, or what comes piece by piece.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Iterator
from typing import IO, Any, Final, TypeAlias

from smtpsvc.client.errors import ContentRefused, Stage
from smtpsvc.grammar.content import has_whole_line_ends
from smtpsvc.grammar.stuffing import ContentCheck, LineEnds

#: What is read or cut off at once: it stays in the processor's cache, and one send takes about as much.
PIECE: Final = 256 * 1024

#: Octets, an open binary file, or pieces that an iterable or an asynchronous one gives.
Content: TypeAlias = "bytes | bytearray | memoryview | IO[bytes] | Iterable[bytes] | AsyncIterable[bytes]"


class Source:
    """
    A message's content, ready to be sent.

    :ivar size: octets, or None if that is not known before the end.
    :ivar whole: all of it, where it is in memory and was looked at; or None.
    :ivar repeatable: True if it can be sent more than once.
    :ivar check: looks at the pieces that nobody has looked at; None where nothing is to be looked for.
    """

    __slots__ = ("_source", "_start", "check", "eight_bit", "international", "line_open", "repeatable", "size", "whole")

    def __init__(self, content: Content, *, binary: bool = False, normalize: bool = False) -> None:
        """
        :param binary: any octets may be in it.
        :param normalize: bare CR and LF become CRLF.
        :raises ContentRefused: if it is in memory, and no text with whole line ends.
        :raises TypeError: if it is nothing that can be sent.
        """
        self.whole: bytes | None = None
        self.size: int | None = None
        #: True or False where it is known whether there are octets above 127.
        self.eight_bit: bool | None = None
        #: True if the header is UTF-8 beyond US-ASCII, as far as that is known: it needs SMTPUTF8.
        self.international = False
        self.line_open = False
        self.check: ContentCheck | None = None
        self._source: Any = content
        self._start = 0
        self.repeatable = True
        if isinstance(content, (bytes, bytearray, memoryview)):
            self._take_whole(content if type(content) is bytes else bytes(content), binary, normalize)
            return
        if not binary:
            self.check = ContentCheck()
        if hasattr(content, "read"):
            self._take_file(content, normalize)
        elif isinstance(self._source, str) or not isinstance(self._source, (AsyncIterable, Iterable)):
            kind = type(content).__name__
            raise TypeError(f"the content is bytes, a binary file or an iterable of bytes, not {kind}")
        else:
            self.repeatable = False
            self._source = _normalized(content) if normalize else content

    def _take_whole(self, data: bytes, binary: bool, normalize: bool) -> None:
        if normalize:
            ends = LineEnds()
            data = ends.feed(data) + ends.finish()
        self.whole = data
        self.eight_bit = not data.isascii()
        self.size = len(data)
        if binary:
            return
        self.line_open = data[-2:] != b"\r\n" and data != b""
        self.size += 2 * self.line_open
        self.check = None
        if len(data) <= PIECE and has_whole_line_ends(data) and 0 not in data:
            # A CR that comes last counts as bare there too.
            if self.eight_bit:
                self.international = _international(data)
            return
        check = ContentCheck()
        # It is known already, and need not be looked for.
        check.eight_bit = True
        for start in range(0, len(data), PIECE):
            damage = check.feed(data[start : start + PIECE] if len(data) > PIECE else data)
            if damage is not None:
                raise ContentRefused(f"the content has a {damage} in it", Stage.MAIL)
        damage = check.finish()
        if damage is not None:
            raise ContentRefused(f"the content has a {damage} in it", Stage.MAIL)
        if self.eight_bit:
            self.international = _international(data)

    def _take_file(self, file: Any, normalize: bool) -> None:
        try:
            self._start = file.tell()
            self.size = file.seek(0, 2) - self._start
            file.seek(self._start)
        except (OSError, ValueError, AttributeError, TypeError):
            self.repeatable = False
        pieces: Iterable[bytes] = iter(lambda: file.read(PIECE), b"")
        if normalize:
            self.size = None
            self.repeatable = False
            pieces = _normalized(pieces)
        self._source = pieces
        if self.repeatable:
            self._source = _File(file, self._start)

    def pieces(self) -> Iterator[bytes] | AsyncIterable[bytes]:
        """Give the content; from its beginning, if it is repeatable."""
        whole = self.whole
        if whole is not None:
            return (whole[start : start + PIECE] for start in range(0, len(whole), PIECE))
        source: Iterable[bytes] | AsyncIterable[bytes] = self._source
        return source if isinstance(source, AsyncIterable) else iter(source)


class _File:
    """A file that can be read again."""

    def __init__(self, file: Any, start: int) -> None:
        self._file = file
        self._start = start

    def __iter__(self) -> Iterator[bytes]:
        self._file.seek(self._start)
        return iter(lambda: self._file.read(PIECE), b"")


def _normalized(pieces: Any) -> Any:
    """Give pieces with whole line ends, waiting where the source waits."""
    return _normalized_later(pieces) if isinstance(pieces, AsyncIterable) else _normalized_now(pieces)


def _normalized_now(pieces: Iterable[bytes]) -> Iterator[bytes]:
    ends = LineEnds()
    for piece in pieces:
        yield ends.feed(piece)
    yield ends.finish()


async def _normalized_later(pieces: AsyncIterable[bytes]) -> Any:
    ends = LineEnds()
    async for piece in pieces:
        yield ends.feed(piece)
    yield ends.finish()


def _international(data: bytes) -> bool:
    """Tell whether the header has UTF-8 beyond US-ASCII (RFC 6532); octets that are no UTF-8 are old text of 8 bits."""
    end = data.find(b"\r\n\r\n")
    header = data if end < 0 else data[:end]
    if header.isascii():
        return False
    try:
        header.decode()
    except UnicodeDecodeError:
        return False
    return True
