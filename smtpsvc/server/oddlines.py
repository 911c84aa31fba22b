"""
Odd lines: the part of a protocol that takes lines which are not as they should be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from smtpsvc.grammar.commands import line_fault
from smtpsvc.server.channel import PROMPT
from smtpsvc.settings import AUTH_LINE

if TYPE_CHECKING:
    from smtpsvc.server.conversation import Conversation
    from smtpsvc.server.factory import SMTPFactory

_CR: Final = ord("\r")


class OddLines:
    """Takes lines that are refused, skipped, long, not whole yet, or asked for by a prompt."""

    factory: SMTPFactory
    conversation: Conversation
    #: True while the rest of a refused line is dropped, up to its CRLF.
    _skipping: bool

    def _line_limit(self, line: bytes) -> int:
        limit = self.factory.settings.limits.line_length
        if self.conversation.mode is PROMPT or line[:5].upper() == b"AUTH ":
            return max(limit, AUTH_LINE)
        return limit

    def _odd_line(self, buffer: bytes, start: int, end: int) -> int:
        """
        Take a whole line that is refused, skipped, long, or asked for by a prompt.

        :returns: the offset behind its CRLF.
        """
        line = buffer[start:end]
        conversation = self.conversation
        if self._skipping:
            self._skipping = False
        else:
            wrong = line_fault(line, self._line_limit(line))
            if wrong is not None:
                conversation.refuse_line(wrong, line)
            elif conversation.mode is PROMPT:
                conversation.prompted(line)
            else:
                conversation.line_received(line)
        return end + 2

    def _partial_line(self, rest: bytes) -> bytes:
        """
        Look at a line whose end has not come: what is wrong already is answered at once.

        :returns: what to keep of it.
        """
        if not self._skipping:
            wrong = line_fault(rest, self._line_limit(rest), partial=True)
            if wrong is None:
                return rest
            self._skipping = True
            self.conversation.refuse_line(wrong, rest)
        # Up to the next CRLF all belongs to the refused line; its CR may have come.
        return b"\r" if rest[-1] == _CR else b""
