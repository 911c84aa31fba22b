"""
NO-SOLICITING: senders say what kind of solicitation a message is (RFC 3865).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from smtpsvc.extensions import Extension
from smtpsvc.grammar.replies import Reply
from smtpsvc.interfaces import IConversation
from smtpsvc.values import Envelope

MAX_KEYWORDS: Final = 1000  # RFC 3865 §2.2
#: What fits in one line of the reply to EHLO beside the keyword.
MAX_ANNOUNCED: Final = 490

_WORD = r"[A-Za-z][A-Za-z0-9._:-]*+"
_KEYWORDS: Final = re.compile(rf"{_WORD}(?:,{_WORD})*+", re.ASCII)


def parse_solicit(value: str | None) -> tuple[str, ...]:
    """
    Read SOLICIT (RFC 3865 §2.3).

    :returns: the solicitation class keywords, as given.
    :raises ValueError: if there are none, or more than 1,000 characters of them.
    """
    if value is None or len(value) > MAX_KEYWORDS or not _KEYWORDS.fullmatch(value):
        raise ValueError("must be keywords like org.example:ADV, with commas between them")
    return tuple(value.split(","))


class NoSoliciting(Extension):
    """
    NO-SOLICITING (RFC 3865): the sender says what kind of solicitation a message is.

    :param unwanted: solicitation class keywords that are announced, and refused at MAIL: 550 5.7.1.
        Without any, that is left to the hooks.
    :raises ValueError: if they are none, or too many for a line.
    """

    keyword = "NO-SOLICITING"
    on_request = True
    argument = "KEYWORD,..."
    mail_params = {"SOLICIT": parse_solicit}

    def __init__(self, unwanted: Iterable[str] = ()) -> None:
        self.unwanted = tuple(unwanted)
        announced = ",".join(self.unwanted)
        if announced:
            parse_solicit(announced)
        if len(announced) > MAX_ANNOUNCED:
            raise ValueError(f"more than {MAX_ANNOUNCED} characters of keywords cannot be announced")
        self._refusals = {
            word.upper(): Reply(550, f"Mail of the class {word} is not wanted here", "5.7.1") for word in self.unwanted
        }

    def configured(self, argument: str) -> NoSoliciting:
        """Take the keywords, with commas between them."""
        return NoSoliciting(argument.split(","))

    def advertise(self, conversation: IConversation) -> str:
        """Show the keywords, if there are any."""
        return ",".join(self.unwanted)

    def mail(self, conversation: IConversation, envelope: Envelope) -> Reply | None:
        """Refuse what is announced as unwanted (RFC 3865 §2.4)."""
        for word in envelope.mail_params["SOLICIT"]:
            refusal = self._refusals.get(word.upper())
            if refusal is not None:
                return refusal
        return None
