"""
The parts of a message (RFC 2046): what each says of itself, and its content.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Final

from smtpsvc.message.reading import Fields, Source
from smtpsvc.message.transfer import Decoded, Decoder, Identity, decoder

__all__ = ["Part"]

_PIECE: Final = 64 * 1024
_LONGEST_NAME: Final = 255


class Part:
    """
    One part of a message: what it says of itself, and its content.

    :ivar headers: the :class:`Fields` of its header.
    :ivar type: the content type in lower case, such as ``text/plain``.
    :ivar depth: 0 for the message itself, 1 for the parts of that.
    :ivar within: the part that it is a part of, or None.
    """

    def __init__(
        self, source: Source, headers: Fields, begins: int, within: Part | None, defect: Callable[[str], None]
    ) -> None:
        self._source = source
        #: Where its content begins and ends in the message; the end is known when its message was read.
        self.begins = begins
        self.ends: int | None = None
        self._size: int | None = None
        self._defect = defect
        self.headers = headers
        self.within = within
        self.depth: int = 0 if within is None else within.depth + 1
        self.type, self.parameters = headers.parameters("Content-Type")
        kind, slash, subtype = self.type.partition("/")
        if not (kind and slash and subtype) or " " in self.type:
            if self.type:
                defect("a content type is none; text/plain is meant (RFC 2045 §5.2)")
            self.type = "message/rfc822" if within is not None and within.type == "multipart/digest" else "text/plain"
        self.disposition, self._disposed = headers.parameters("Content-Disposition")
        self.encoding = headers.get("Content-Transfer-Encoding").lower().partition(";")[0].strip()
        #: The parts of a multipart.
        self.parts: list[Part] = []
        #: True if it is a multipart that was taken apart.
        self.is_multipart = False

    def __repr__(self) -> str:
        return f"<Part {self.type!r}>"

    @property
    def charset(self) -> str:
        """The charset that it names, or ""."""
        return self.parameters.get("charset", "")

    @property
    def content_id(self) -> str:
        """Its Content-ID (RFC 2392) without angle brackets, or ""."""
        return self.headers.get("Content-ID").strip(" \t<>")

    @property
    def name(self) -> str:
        """
        The name of the file that it was, or "".

        It is safe to be a name here too: the last component of what stands there, without control
        characters and leading dots, and of 255 bytes at most.
        """
        given = self._disposed.get("filename") or self.parameters.get("name", "")
        name = given.replace("\\", "/").rpartition("/")[2].strip().lstrip(".")
        # Marks of direction can make an .exe look like a .txt.
        name = "".join(each if each.isprintable() else "_" for each in name)
        stem, dot, end = name.rpartition(".")
        if len(name.encode()) > _LONGEST_NAME and dot and len(end.encode()) < 32:
            return stem.encode()[: _LONGEST_NAME - 1 - len(end.encode())].decode("utf-8", "ignore") + dot + end
        return name.encode()[:_LONGEST_NAME].decode("utf-8", "ignore")

    @property
    def size(self) -> int:
        """The size of its content, decoded, in bytes; the first time it is decoded for that."""
        if self._size is None:
            made = self._decoder()
            if isinstance(made, Identity):
                self._size = self._end() - self.begins
            else:
                with io.BufferedReader(Decoded(self._read, made), _PIECE) as file:
                    self._size = sum(map(len, iter(lambda: file.read(_PIECE), b"")))
                if made.damaged:
                    self._defect(f"a part in {self.encoding} is damaged")
        return self._size

    @property
    def data(self) -> bytes:
        """The whole content, decoded. :meth:`open` is the way to less memory."""
        with self.open() as file:
            return file.read()

    def open(self) -> io.BufferedReader:
        """Open the content for reading, decoded; each file has a position of its own."""
        return io.BufferedReader(Decoded(self._read, self._decoder()), _PIECE)

    def _decoder(self) -> Decoder:
        made = decoder(self.encoding)
        if made is None:
            self._defect("a part has a transfer encoding that is not known; it stays as it is")
            return Identity()
        return made

    def _end(self) -> int:
        assert self.ends is not None, "a part is given out when its end is known"
        return self.ends

    def _read(self, place: int, size: int) -> bytes:
        size = min(size, self._end() - self.begins - place)
        return self._source.read(self.begins + place, size) if size > 0 else b""
