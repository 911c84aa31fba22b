"""
What is said on a connection, as a person reads it: a line each, without passwords and without the message.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from smtpsvc.grammar.shown import shown
from smtpsvc.values import TLSInfo

_END: Final = b"\r\n.\r\n"
#: Of a line without an end so much is kept.
_LONGEST: Final = 8192
_HIDDEN: Final = "***"


class Transcript:
    """
    Writes down a connection: ``C:`` is us, ``S:`` the server, ``*`` what else happens.

    What AUTH says is left out on both sides; of the message its size is told.

    :param write: gets one line, without its end; every octet in it is printable.
    :param host: the server's name, or "".
    :param content: show the message too.
    """

    def __init__(self, write: Callable[[str], object], host: str = "", *, content: bool = False) -> None:
        self._write = write
        self._show_content = content
        self._said = self._heard = b""
        self._auth = False
        # Within content: octets left of a chunk, or None where its end is to be found.
        self._within = False
        self._left: int | None = None
        self._tail = b""
        self._size = 0
        write(f"* connected to {host or 'the server'}")

    def sent(self, data: bytes) -> None:
        """We say this."""
        while data:
            if self._within:
                data = self._content(data)
                continue
            self._said += data
            line, end, data = self._said.partition(b"\n")
            if not end:
                return
            self._said = b""
            self._command(line.rstrip(b"\r"))

    def _command(self, line: bytes) -> None:
        words = line.split(b" ")
        verb = words[0].upper()
        if self._auth:
            self._write(f"C: {_HIDDEN}")
        elif verb == b"AUTH":
            self._auth = True
            rest = [_HIDDEN] if len(words) > 2 else []
            self._write(" ".join(["C: AUTH", *map(shown, words[1:2]), *rest]))
        else:
            self._write(f"C: {shown(line)}")
        if verb == b"BDAT" and len(words) > 1 and words[1].isdigit() and int(words[1]):
            self._begin(int(words[1]))

    def _begin(self, size: int | None) -> None:
        self._within, self._left, self._size = True, size, 0
        self._tail = b"\r\n"

    def _content(self, data: bytes) -> bytes:
        """Take content; give what is behind its end."""
        if self._left is not None:
            part, rest = data[: self._left], data[self._left :]
            self._left -= len(part)
            self._note(part, ended=not self._left)
            return rest
        whole = self._tail + data
        place = whole.find(_END)
        if place < 0:
            self._tail = whole[-4:]
            self._note(data, ended=False)
            return b""
        end = place + len(_END) - len(self._tail)
        # The point on a line of its own is no part of the message.
        self._size -= 3
        self._note(data[:end], ended=True)
        if not self._show_content:
            self._write("C: .")
        return data[end:]

    def _note(self, part: bytes, *, ended: bool) -> None:
        self._size += len(part)
        if self._show_content:
            lines = (self._said + part).split(b"\n")
            self._said = lines.pop()[:_LONGEST]
            if ended and self._said:
                lines.append(self._said)
            for line in lines:
                self._write(f"C: {shown(line.removesuffix(bytes([13])))}")
        elif ended:
            self._write(f"C: (the message: {self._size} octets)")
        if ended:
            self._within, self._said = False, b""

    def received(self, data: bytes) -> None:
        """The server says this."""
        lines = (self._heard + data).split(b"\n")
        self._heard = lines.pop()[:_LONGEST]
        for line in lines:
            self._reply(line.rstrip(b"\r"))

    def _reply(self, line: bytes) -> None:
        code = line[:3]
        if self._auth and code == b"334":
            self._write(f"S: 334 {_HIDDEN}")
            return
        self._write(f"S: {shown(line)}")
        if line[3:4] == b"-":
            return
        self._auth = False
        if code == b"354":
            self._begin(None)

    def secured(self, tls: TLSInfo) -> None:
        """TLS has begun."""
        self._write(f"* {tls}")

    def closed(self) -> None:
        """The connection is gone."""
        if self._heard:
            self._write(f"S: {shown(self._heard)}")
            self._heard = b""
        self._write("* closed")
