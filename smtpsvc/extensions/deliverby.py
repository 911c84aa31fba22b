"""
DELIVERBY: a time limit for delivery (RFC 2852).
"""

from __future__ import annotations

import re
from typing import Final

from smtpsvc.extensions import Extension
from smtpsvc.grammar.params import number
from smtpsvc.grammar.replies import Reply
from smtpsvc.interfaces import IConversation
from smtpsvc.parameters import ByMode, DeliverBy
from smtpsvc.values import Envelope

_BY: Final = re.compile(r"([+-]?[0-9]{1,9});([NR])(T?)", re.IGNORECASE | re.ASCII)


def parse_by(value: str | None) -> DeliverBy:
    """
    Read BY (RFC 2852 §4).

    :raises ValueError: if it is not a number of at most nine digits, with N or R behind a semicolon
        and perhaps T; or if it is R with a time of 0 or less.
    """
    match = _BY.fullmatch(value or "")
    if match is None:
        raise ValueError("must be a number of seconds, a semicolon, and N or R with an optional T, like 600;R")
    by = DeliverBy(int(match[1]), ByMode(match[2].upper()), bool(match[3]))
    if by.mode is ByMode.RETURN and by.seconds <= 0:
        raise ValueError("with R the time must be more than 0 seconds")
    return by


class DELIVERBY(Extension):
    """
    DELIVERBY (RFC 2852): deliver within a time, or return the message or notify the sender.

    :param minimum: announced, where more than 0; a shorter time with R is refused: 555 5.5.4.
    """

    keyword = "DELIVERBY"
    on_request = True
    argument = "SECONDS"
    mail_params = {"BY": parse_by}

    def __init__(self, minimum: int = 0) -> None:
        self.minimum = minimum
        self.too_short = Reply(555, f"BY: less than {minimum} seconds cannot be promised", "5.5.4")

    def configured(self, argument: str) -> DELIVERBY:
        """Take the minimum in seconds."""
        return DELIVERBY(number(9)(argument))

    def advertise(self, conversation: IConversation) -> str:
        """Show the minimum, if there is one."""
        return str(self.minimum) if self.minimum else ""

    def mail(self, conversation: IConversation, envelope: Envelope) -> Reply | None:
        """Refuse a time below the minimum, if the message is to be returned after it."""
        by: DeliverBy = envelope.mail_params["BY"]
        return self.too_short if by.mode is ByMode.RETURN and by.seconds < self.minimum else None
