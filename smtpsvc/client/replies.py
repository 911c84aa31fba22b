"""
A server's replies, read as they come (RFC 5321 §4.2).
"""

from __future__ import annotations

import re
from typing import Final

from smtpsvc.grammar.replies import Reply
from smtpsvc.grammar.shown import shown

#: Longest line taken; RFC 5321 §4.5.3.1.5 has 512, and there are servers that say more.
MAX_LINE: Final = 4096
#: Most lines of one reply: EHLO's is the longest, and has some thirty.
MAX_LINES: Final = 256
#: Most octets of one reply.
MAX_REPLY: Final = 64 * 1024

#: Replies that are remembered by each connection: servers say the same few again and again.
_KNOWN: Final = 64

_LINE = re.compile(rb"([2-5][0-9][0-9])([ -]|\Z)(.*)", re.DOTALL)
_ENHANCED = re.compile(r"([245])\.\d{1,3}\.\d{1,3}(?= |\Z)", re.ASCII)


class ReplyProblem(ValueError):
    """Octets that are no reply; ``str()`` says why, and shows little of them."""


class ReplyReader:
    """
    Make replies of what a server sends, cut anywhere.

    Everything is bounded, so that a server that never ends a line or a reply is found out. A line may
    end in LF alone.
    """

    __slots__ = ("_code", "_known", "_lines", "_rest", "_size")

    def __init__(self) -> None:
        self._rest = b""
        self._code = b""
        self._lines: list[str] = []
        self._size = 0
        self._known: dict[bytes, Reply] = {}

    @property
    def pending(self) -> bool:
        """True if part of a reply has come."""
        return bool(self._rest or self._lines)

    def feed(self, data: bytes) -> list[Reply]:
        """
        Take the next octets.

        :returns: the replies that are complete.
        :raises ReplyProblem: if they are none; what came before is lost with it.
        """
        if self._rest:
            data = self._rest + data
        found: list[Reply] = []
        *lines, self._rest = data.split(b"\n")
        if len(self._rest) > MAX_LINE:
            raise ReplyProblem(f"a line of more than {MAX_LINE} octets")
        known = self._known
        for line in lines:
            reply = known.get(line)
            if reply is None or self._lines:
                reply = self._take(line)
            if reply is not None:
                found.append(reply)
        return found

    def _take(self, line: bytes) -> Reply | None:
        if len(line) > MAX_LINE:
            raise ReplyProblem(f"a line of more than {MAX_LINE} octets")
        octets = line.removesuffix(b"\r")
        match = _LINE.fullmatch(octets)
        if match is None:
            raise ReplyProblem(f"'{shown(octets[:40])}', which is no line of a reply")
        code, mark, text = match.groups()
        if self._lines and code != self._code:
            raise ReplyProblem(f"a reply begins with {self._code.decode()} and goes on with {code.decode()}")
        self._code = code
        self._size += len(line)
        self._lines.append(shown(text))
        if self._size > MAX_REPLY or len(self._lines) > MAX_LINES:
            raise ReplyProblem("a reply without an end")
        if mark == b"-":
            return None
        lines, self._lines, self._size = self._lines, [], 0
        reply = make_reply(int(code), lines)
        if len(lines) == 1 and len(self._known) < _KNOWN and len(line) < 128:
            self._known[line] = reply
        return reply


def make_reply(code: int, lines: list[str]) -> Reply:
    """Make a reply of its lines; an enhanced code is taken off where it fits the code (RFC 2034 §4)."""
    match = _ENHANCED.match(lines[0])
    if match is None or int(match[1]) != code // 100:
        return Reply(code, "\n".join(lines))
    enhanced = match[0]
    texts = [line[len(enhanced) :].removeprefix(" ") if line.startswith(enhanced) else line for line in lines]
    return Reply(code, "\n".join(texts), enhanced)
