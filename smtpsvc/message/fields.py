"""
The header of a message, to be read and edited so that every other octet stays as it is.

A digital signature (DKIM) covers octets, and the least change to one breaks it. So nothing here is parsed and
written again: a header is its fields, each with the octets that it came with.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Final

__all__ = ["Field", "Header", "HeaderEditor", "edited", "field", "split_header"]

_WIDTH: Final = 78  # RFC 5322 §2.1.1
_LONGEST_LINE: Final = 998
_PIECE: Final = 64 * 1024
#: A header that is longer is not edited.
LONGEST_HEADER: Final = 1024 * 1024

_NAME: Final = rb"[!-9;-~]++"  # RFC 5322 §2.2
# A field with the lines that go on with it; the blanks before the colon are of RFC 822.
_FIELD = re.compile(rb"(%b)[ \t]*+:[^\n]*+(?:\n[ \t][^\n]*+)*+(?:\n|\Z)" % _NAME)
_LINE = re.compile(rb"[^\n]*+(?:\n|\Z)")
_WHOLE = re.compile(rb"(%b):(?:[^\r\n]*+\r\n[ \t])*+[^\r\n]*+\r\n" % _NAME)
_BLANK = re.compile(rb"(?:\r?\n)(?=\r?\n)")
_FOLD = re.compile(rb"\r?\n(?=[ \t])")
_UNFIT = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Field:
    """
    One field with all of its octets.

    :param raw: the lines of the field with their ends; of the last line that may be missing.
    :param name: as it is written; "" for a line that is no field.
    """

    raw: bytes
    name: str

    @property
    def value(self) -> bytes:
        """What stands behind the colon, unfolded (RFC 5322 §2.2.3), without blanks at both ends."""
        return _FOLD.sub(b"", self.raw.partition(b":")[2] if self.name else self.raw).strip(b" \t\r\n")


def field(name: str, value: str) -> bytes:
    """
    Write a field: folded at spaces where it is long, in UTF-8 where it is not ASCII (RFC 6532).

    :returns: the whole field with its CRLF, for :class:`Header` to insert.
    :raises ValueError: if *name* is none, *value* has control characters, which could begin another field, or a word
        in it is too long for a line.
    """
    if not re.fullmatch(_NAME, name.encode("ascii", "replace")) or not name.isascii():
        raise ValueError(f"{name!r} is no name of a header field")
    if _UNFIT.search(value):
        raise ValueError(f"control characters cannot stand in the header field {name}")
    lines = [f"{name}:"]
    for word in value.split(" "):
        # A line of blanks alone would look like the end of the header to some.
        if word and len(lines[-1].encode()) + 1 + len(word.encode()) > _WIDTH and lines[-1].strip():
            lines.append("")
        lines[-1] += " " + word
    if len(lines) > 1 and lines[0] == f"{name}:":
        lines[:2] = [lines[0] + lines[1]]
    octets = "\r\n".join(lines).encode() + b"\r\n"
    if max(map(len, octets.split(b"\r\n"))) > _LONGEST_LINE:
        raise ValueError(f"a word in the header field {name} is longer than a line may be")
    return octets


class Header:
    """
    The header of a message: its fields in order, and the empty line behind them.

    ``bytes(header)`` gives every octet, as it came where nothing was edited. Names are compared without
    regard to case. Fields to insert are octets, as :func:`field` and
    :func:`~smtpsvc.grammar.trace.return_path` make them.

    :param octets: up to and with the empty line; without one the message has no body.
    """

    __slots__ = ("_end", "_fields")

    def __init__(self, octets: bytes = b"\r\n") -> None:
        self._fields, place = _read(octets)
        #: The empty line.
        self._end = octets[place:]

    def __bytes__(self) -> bytes:
        return b"".join([each.raw for each in self._fields] + [self._end])

    def __len__(self) -> int:
        return len(self._fields)

    def __iter__(self) -> Iterator[Field]:
        return iter(self._fields)

    def __repr__(self) -> str:
        return f"<Header of {len(self._fields)} fields>"

    def copy(self) -> Header:
        """Give another one of the same fields, which can be changed without this."""
        made = Header.__new__(Header)
        made._fields = list(self._fields)
        made._end = self._end
        return made

    def find(self, name: str, n: int = 0) -> Field | None:
        """
        Find the n-th field of a name.

        :param n: from 0, the topmost, on; -1 is the last.
        :returns: None if there are not so many.
        """
        places = self._places(name)
        return self._fields[places[n]] if -len(places) <= n < len(places) else None

    def find_all(self, name: str) -> list[Field]:
        """Find all fields of a name, the topmost first."""
        return [self._fields[place] for place in self._places(name)]

    def insert(self, raw: bytes, place: int = 0) -> None:
        """
        Insert a field.

        :param raw: one whole field, lines ended by CRLF; a header whose lines end in LF gets LF.
        :param place: the number of the field that will be behind it; 0 is the top, where trace fields stand. A line
            that begins with a blank, and belongs to no field, stays in front of it.
        :raises ValueError: if *raw* is not one field.
        """
        made = self._made(raw)
        place = min(place, len(self._fields)) if place >= 0 else max(0, len(self._fields) + place)
        while place < len(self._fields) and self._fields[place].raw.startswith((b" ", b"\t")):
            # A line that goes on with no field would go on with ours, and put a stranger's words in it.
            place += 1
        self._fields.insert(place, made)
        if place:
            self._end_line(place - 1)

    def append(self, raw: bytes) -> None:
        """
        Put a field behind all others.

        :raises ValueError: if *raw* is not one field.
        """
        self.insert(raw, len(self._fields))

    def replace(self, name: str, raw: bytes, n: int = 0) -> None:
        """
        Put a field in the place of the n-th of a name, or at the end if there are not so many.

        :raises ValueError: if *raw* is not one field.
        """
        places = self._places(name)
        if -len(places) <= n < len(places):
            self._fields[places[n]] = self._made(raw)
        else:
            self.append(raw)

    def remove(self, name: str, n: int | None = None, *, where: Callable[[Field], bool] | None = None) -> int:
        """
        Remove fields of a name.

        :param n: which; None for all of them.
        :param where: says of each whether it is to go; None for yes.
        :returns: how many there were.
        """
        places = self._places(name)
        if n is not None:
            places = [places[n]] if -len(places) <= n < len(places) else []
        gone = {place for place in places if where is None or where(self._fields[place])}
        self._fields = [each for place, each in enumerate(self._fields) if place not in gone]
        return len(gone)

    def _places(self, name: str) -> list[int]:
        wanted = name.lower()
        return [place for place, each in enumerate(self._fields) if each.name.lower() == wanted]

    def _made(self, raw: bytes) -> Field:
        match = _WHOLE.fullmatch(raw)
        if match is None:
            raise ValueError("this is not one whole header field that ends in CRLF")
        return Field(raw.replace(b"\r\n", b"\n") if self._lf() else raw, match[1].decode())

    def _lf(self) -> bool:
        first = self._fields[0].raw if self._fields else self._end
        line = first.partition(b"\n")
        return bool(line[1]) and not line[0].endswith(b"\r")

    def _end_line(self, place: int) -> None:
        """Give the last line of a field the end that it lacks; only the last of all can lack it."""
        each = self._fields[place]
        if not each.raw.endswith(b"\n"):
            self._fields[place] = Field(each.raw + (b"\n" if self._lf() else b"\r\n"), each.name)


def _read(octets: bytes) -> tuple[list[Field], int]:
    """Find the fields, and where the empty line is or would be."""
    found = []
    place = 0
    while place < len(octets) and not octets.startswith((b"\r\n", b"\n"), place):
        match = _FIELD.match(octets, place)
        if match is not None:
            found.append(Field(match[0], match[1].decode()))
        else:
            # No field: a "From " line of mbox at the top, or somebody's mistake. It stays where it is.
            match = _LINE.match(octets, place)
            assert match is not None, "an expression that takes nothing too always matches"
            found.append(Field(match[0], ""))
        place = match.end()
    return found, place


def header_end(octets: bytes | bytearray, start: int = 0) -> int:
    """
    Find the end of a header, behind the empty line.

    :param start: where to look from; a place before which there is none.
    :returns: -1 if the empty line is not there.
    """
    if octets.startswith((b"\r\n", b"\n")):
        return 2 if octets.startswith(b"\r\n") else 1
    match = _BLANK.search(octets, start)
    if match is None:
        return -1
    return match.end() + (2 if octets.startswith(b"\r\n", match.end()) else 1)


def split_header(content: bytes) -> tuple[Header, bytes]:
    """
    Split a message.

    :returns: the header, with the empty line, and the body.
    """
    end = header_end(content)
    return (Header(content), b"") if end < 0 else (Header(content[:end]), content[end:])


class HeaderEditor:
    """
    Edits the header of a message whose octets come piece by piece, as a delivery gets them.

    Nothing is held back but the header, and that only until it is whole.

    :param edit: gets the :class:`Header` once, and changes it.
    :param longest: of the header, in bytes.
    """

    __slots__ = ("_edit", "_held", "_longest")

    def __init__(self, edit: Callable[[Header], object], longest: int = LONGEST_HEADER) -> None:
        self._edit = edit
        self._longest = longest
        self._held: bytearray | None = bytearray()

    def feed(self, content: bytes) -> bytes:
        """
        Take the next piece.

        :returns: what to hand on; nothing while the header is not whole.
        :raises ValueError: if the header is too long.
        """
        held = self._held
        if held is None:
            return content
        before = len(held)
        held += content
        end = header_end(held, max(0, before - 3))
        if end < 0:
            if len(held) > self._longest:
                raise ValueError(f"the header of the message is longer than {self._longest} bytes")
            return b""
        if end > self._longest:
            raise ValueError(f"the header of the message is longer than {self._longest} bytes")
        return self._edited(end)

    def end(self) -> bytes:
        """Take note that there is no more, and give what was held back: a header without a body."""
        return b"" if self._held is None else self._edited(len(self._held))

    def _edited(self, end: int) -> bytes:
        assert self._held is not None
        held, self._held = bytes(self._held), None
        header = Header(held[:end])
        self._edit(header)
        return bytes(header) + held[end:]


def edited(file: IO[bytes], edit: Callable[[Header], object], longest: int = LONGEST_HEADER) -> Iterator[bytes]:
    """
    Read a message with its header edited; what is behind the header is not in memory at one time.

    :param file: is read to its end, from where it stands.
    :param edit: gets the :class:`Header` once, and changes it.
    :raises ValueError: if the header is longer than *longest*.
    """
    editor = HeaderEditor(edit, longest)
    while content := file.read(_PIECE):
        made = editor.feed(content)
        if made:
            yield made
    last = editor.end()
    if last:
        yield last
