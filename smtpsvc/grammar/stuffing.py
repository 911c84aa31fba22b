"""
The content of a message as it leaves: whole line ends, doubled dots, the dot that ends it (RFC 5321 §4.5.2).

As in :mod:`~smtpsvc.grammar.content`, whole pieces are taken at once and nothing looks at a line.
"""

from __future__ import annotations

import re

from smtpsvc.grammar.content import Damage, find_damage, has_whole_line_ends

# An expression that begins with an octet of its own hops from one to the next at 4 GB/s; bytes.replace
# does 0.9 where there is nothing to replace.
_find_dot = re.compile(rb"\r\n\.").search
_split_dots = re.compile(rb"\r\n\.").split

_CR = ord("\r")
_LF = ord("\n")
_DOT = ord(".")
_NUL = 0


class DotEncoder:
    """
    Double the dots at the beginnings of lines, and end the message.

    The content must have whole line ends (:class:`ContentCheck`): it is their CRLF that a dot is looked
    for behind.
    """

    __slots__ = ("_cr", "_line_begins")

    def __init__(self) -> None:
        self._cr = False
        self._line_begins = True

    def feed(self, data: bytes) -> bytes:
        """
        Take the next piece of content.

        :param data: any number of octets, cut anywhere.
        :returns: what is to be sent for it.
        """
        if not data:
            return data
        first = data[0]
        head = b""
        if first == _DOT and self._line_begins:
            head = b"."
        elif self._cr and data[:2] == b"\n.":
            head, data = b"\n.", data[1:]
        self._cr = data[-1] == _CR
        self._line_begins = data[-1] == _LF and (data[-2:] == b"\r\n" or len(data) == 1)
        if _find_dot(data) is not None:
            data = b"\r\n..".join(_split_dots(data))
        return head + data if head else data

    def finish(self) -> bytes:
        """Give the end of the message: a line of one dot, behind a line end if the content has none at its own."""
        return b".\r\n" if self._line_begins else b"\r\n.\r\n"


class ContentCheck:
    """
    Look whether content may be sent as text: whole line ends, no NUL (RFC 5321 §2.3.8, §4.5.2).

    :ivar eight_bit: True once there was an octet above 127.
    :ivar line_open: True if the last line has no line end yet.
    """

    __slots__ = ("_cr", "eight_bit", "line_open")

    def __init__(self) -> None:
        self._cr = False
        self.eight_bit = False
        self.line_open = False

    def feed(self, data: bytes) -> Damage | None:
        """
        Look at the next piece.

        :param data: any number of octets, cut anywhere.
        :returns: what no message may contain, or None.
        """
        if not data:
            return None
        if not self.eight_bit and not data.isascii():
            self.eight_bit = True
        looked_at = b"\r" + data if self._cr else data
        self._cr = looked_at[-1] == _CR
        self.line_open = looked_at[-2:] != b"\r\n"
        if self._cr:
            looked_at = looked_at[:-1]
        if has_whole_line_ends(looked_at) and _NUL not in looked_at:
            return None
        return find_damage(looked_at)

    def finish(self) -> Damage | None:
        """Take the content as ended: a CR that came last is a bare one."""
        return Damage.BARE_CR if self._cr else None


class LineEnds:
    """Make each bare CR and each bare LF a CRLF."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """
        Take the next piece, cut anywhere.

        :returns: the content with whole line ends; a CR that comes last is kept until the next piece.
        """
        if self._held:
            data, self._held = self._held + data, b""
        if data[-1:] == b"\r":
            data, self._held = data[:-1], b"\r"
        if has_whole_line_ends(data):
            return data
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")

    def finish(self) -> bytes:
        """Give what was kept."""
        return b"\r\n" if self._held else b""
