"""
The encodings in which content travels (RFC 2045 §6), undone piece by piece.
"""

from __future__ import annotations

import binascii
import io
from collections.abc import Callable
from typing import Any, Final, Protocol

__all__ = ["Decoded", "decoder"]

_PIECE: Final = 64 * 1024
_LETTERS: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="
_OTHERS: Final = bytes(set(range(256)) - set(_LETTERS))
#: Octets in a row that may be the beginning of an escape.
_LONGEST_ESCAPE: Final = 64
_WHITE: Final = b" \t\r\n"
_FOREIGN: Final = bytes(set(_OTHERS) - set(_WHITE))


class Decoder(Protocol):
    """Undoes an encoding."""

    #: True if something was found that is not of the encoding; it is passed over.
    damaged: bool

    def feed(self, octets: bytes) -> bytes:
        """Take the next piece, and give what it decodes to."""

    def end(self) -> bytes:
        """Give what is left."""


class Identity:
    """7bit, 8bit and binary: nothing is to be done."""

    damaged = False

    def feed(self, octets: bytes) -> bytes:
        """Give the same."""
        return octets

    def end(self) -> bytes:
        """Give nothing."""
        return b""


class Base64:
    """base64 (RFC 2045 §6.8): other characters are passed over, and what follows a padding goes on."""

    def __init__(self) -> None:
        self.damaged = False
        self._rest = b""

    def feed(self, octets: bytes) -> bytes:
        """Decode all whole groups of four."""
        if not self.damaged and len(octets.translate(None, _FOREIGN)) != len(octets):
            self.damaged = True
        octets = self._rest + octets.translate(None, _OTHERS)
        if b"=" not in octets:
            return self._whole(octets)
        *padded, last = octets.split(b"=")
        found = [self._padded(each) for each in padded if each]
        found.append(self._whole(last))
        return b"".join(found)

    def end(self) -> bytes:
        """Decode what lacks its padding."""
        rest, self._rest = self._rest, b""
        if rest:
            self.damaged = True
        return self._padded(rest)

    def _whole(self, letters: bytes) -> bytes:
        whole = len(letters) // 4 * 4
        self._rest = letters[whole:]
        return binascii.a2b_base64(letters[:whole])

    def _padded(self, letters: bytes) -> bytes:
        """Decode letters up to a padding; one left over means nothing."""
        odd = len(letters) % 4
        if odd == 1:
            self.damaged = True
            letters = letters[:-1]
        return binascii.a2b_base64(letters + b"=" * (-len(letters) % 4))


class QuotedPrintable:
    """quoted-printable (RFC 2045 §6.7): what is no escape stays as it is."""

    def __init__(self) -> None:
        self.damaged = False
        self._rest = b""

    def feed(self, octets: bytes) -> bytes:
        """Decode all whole lines, and of a very long one nearly all."""
        octets = self._rest + octets
        end = octets.rfind(b"\n") + 1
        if len(octets) - end > _PIECE:
            # An escape has three characters, a soft line break four or so.
            last = end = len(octets) - 8
            while octets[end - 1 : end] in (b"=", b"\r") or octets[end - 2 : end - 1] == b"=":
                end -= 1
                if last - end > _LONGEST_ESCAPE:
                    # Nothing but the beginnings of escapes: that is none, wherever it is cut.
                    end = last
                    break
        self._rest = octets[end:]
        return binascii.a2b_qp(octets[:end])

    def end(self) -> bytes:
        """Decode the last line."""
        rest, self._rest = self._rest, b""
        return binascii.a2b_qp(rest)


class UU:
    """uuencode, which was there before MIME: lines between ``begin`` and ``end``."""

    def __init__(self) -> None:
        self.damaged = False
        self._rest = b""
        self._within = False

    def feed(self, octets: bytes) -> bytes:
        """Decode all whole lines."""
        *lines, self._rest = (self._rest + octets).split(b"\n")
        if len(self._rest) > _PIECE:
            self.damaged, self._rest = True, b""
        return b"".join(map(self._line, lines))

    def end(self) -> bytes:
        """Decode the last line."""
        rest, self._rest = self._rest, b""
        return self._line(rest)

    def _line(self, line: bytes) -> bytes:
        line = line.rstrip(b"\r")
        if not self._within:
            self._within = line.startswith(b"begin ")
            return b""
        if line == b"end":
            self._within = False
            return b""
        try:
            return binascii.a2b_uu(line)
        except binascii.Error:
            self.damaged = True
            return b""


_DECODERS: Final[dict[str, Callable[[], Decoder]]] = {
    "base64": Base64,
    "quoted-printable": QuotedPrintable,
    "x-uuencode": UU,
    "uuencode": UU,
    "x-uue": UU,
    "uue": UU,
    **dict.fromkeys(("", "7bit", "8bit", "binary"), Identity),
}


def decoder(encoding: str) -> Decoder | None:
    """
    Make what undoes an encoding.

    :param encoding: as ``Content-Transfer-Encoding`` has it, in lower case.
    :returns: None if it is not known.
    """
    make = _DECODERS.get(encoding)
    return None if make is None else make()


class Decoded(io.RawIOBase):
    """
    A file of what a part decodes to; what is read is what is in memory.

    :param read: gives so many bytes of the encoded content from a place on.
    """

    def __init__(self, read: Callable[[int, int], bytes], made: Decoder) -> None:
        self._read = read
        self._decoder = made
        self._place = 0
        self._ready = b""
        self._ended = False

    def readable(self) -> bool:
        """It can be read, and nothing else."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Decode as much as there is room for."""
        while not self._ready and not self._ended:
            octets = self._read(self._place, _PIECE)
            self._place += len(octets)
            self._ended = not octets
            self._ready = self._decoder.feed(octets) if octets else self._decoder.end()
        with memoryview(buffer) as view:
            found, self._ready = self._ready[: len(view)], self._ready[len(view) :]
            view[: len(found)] = found
        return len(found)
