"""
Inspection: limits that lie in the text of a message.

A small message that comes in one piece has its lines counted, and no more: it cannot have too many of a kind.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from smtpsvc.grammar import replies
from smtpsvc.grammar.replies import Reply
from smtpsvc.values import Body

if TYPE_CHECKING:
    from smtpsvc.server.receiving import Receiver
    from smtpsvc.settings import Limits

_END: Final = b"\r\n\r\n"
_FIELD: Final = b"\nreceived:"
#: Octets of a header that the shortest field takes, with its CRLF.
_SHORTEST: Final = len(b"Received:\r\n")
# The beginning of a field (RFC 5322 §2.2, §4.5.8), and what may become one.
_NAME: Final = re.compile(rb"[!-9;-~]{1,998}+[ \t]*+:")
_PART_OF_NAME: Final = re.compile(rb"[!-9;-~]{0,998}+[ \t]*+")

#: A first piece of less than this is kept until the next comes, or the end.
_SMALL: Final = 4096


class Inspection:
    """
    Looks at the content of messages for what the limits forbid; one for all messages of a factory.

    :param limits: ``received`` and ``header_size`` are about the header: from the first line, if that is
        a field, to the first empty one. ``text_line`` is about all lines.
    """

    __slots__ = ("_few", "_go_on", "_plain", "_small", "limits")

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        # A header that is shorter has too little of anything.
        shortest = [limits.header_size] if limits.header_size else []
        if limits.received:
            shortest.append(limits.received * _SHORTEST)
        self._plain = 0 if limits.text_line else min(shortest, default=0)
        self._small = 0 if limits.text_line else min(_SMALL, limits.header_size or _SMALL)
        self._few = limits.received or _SMALL
        self._go_on = self._second

    @property
    def needed(self) -> bool:
        """True if there is any limit."""
        limits = self.limits
        return bool(limits.received or limits.header_size or limits.text_line)

    def begin(self, receiver: Receiver, content: bytes) -> Reply | None:
        """
        Look at the first piece of a message; what is to be done with the next is put in ``receiver.inspect``.

        :returns: a refusal, or None.
        """
        # Either takes less than it takes to make an object that knows more.
        if content.find(_END, 0, self._plain + 3) >= 0:
            receiver.inspect = None
            return None
        if len(content) < self._small and content.count(b"\n") <= self._few:
            receiver.beginning = content
            receiver.inspect = self._go_on
            return None
        text = _Text(self.limits)
        receiver.inspect = text.go_on
        return text.go_on(receiver, content)

    def _second(self, receiver: Receiver, content: bytes) -> Reply | None:
        """Look at the second piece of a message that began with a small one, in which nothing was wrong."""
        text = _Text(self.limits)
        receiver.inspect = text.go_on
        beginning, receiver.beginning = receiver.beginning, b""
        return text.go_on(receiver, beginning) or text.go_on(receiver, content)


class _Text:
    """What is known of one message that does not come in one piece, or has a long header."""

    __slots__ = ("_begun", "_carry", "_header", "_hops", "_limits", "_line", "_size", "_tail")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        # True until the empty line.
        self._header = bool(limits.received or limits.header_size)
        # The beginning of the first line, until it is known to be a field.
        self._begun: bytes | None = b""
        self._size = 0
        self._hops = 0
        # The end of the piece before; at the beginning stands what makes the first line one like the others.
        self._tail = b"\r\n"
        # The length of the line that has no end yet.
        self._line = 0
        # A CR at the end of the piece before.
        self._carry = b""

    def go_on(self, receiver: Receiver, content: bytes) -> Reply | None:
        """
        Look at the next piece.

        :returns: a refusal, or None.
        """
        refusal = self._look_at_header(content) if self._header else None
        limit = self._limits.text_line
        if limit and receiver.envelope.mail_params.get("BODY") is Body.BINARY_MIME:
            limit = 0
        if refusal is None and limit:
            refusal = self._look_at_lines(content, limit)
        elif not self._header:
            receiver.inspect = None
        return refusal

    def _look_at_header(self, content: bytes) -> Reply | None:
        if self._begun is not None:
            begun = self._begun + content
            if _NAME.match(begun):
                self._begun, content = None, begun
            elif _PART_OF_NAME.fullmatch(begun):
                self._begun = begun
                return None
            else:
                self._header = False
                return None
        before = len(self._tail)
        text = self._tail + content
        end = text.find(_END)
        header = text if end < 0 else text[: end + 2]
        self._header = end < 0
        limits = self._limits
        self._size += max(len(header) - before, 0)
        if limits.header_size and self._size > limits.header_size:
            return replies.HEADER_TOO_BIG
        if limits.received:
            self._hops += header.lower().count(_FIELD)
            if self._hops > limits.received:
                return replies.TOO_MANY_HOPS
        # No whole field fits into it, so none is counted twice.
        self._tail = text[1 - len(_FIELD) :]
        return None

    def _look_at_lines(self, content: bytes, limit: int) -> Reply | None:
        content = self._carry + content
        self._carry = b"\r" if content.endswith(b"\r") else b""
        first, *others = content.removesuffix(b"\r").split(b"\r\n")
        longest = self._line = self._line + len(first)
        if others:
            longest = max(longest, *map(len, others))
            self._line = len(others[-1])
        return replies.TEXT_LINE_TOO_LONG if longest > limit else None
