"""
FUTURERELEASE: messages that are held until a later time (RFC 4865).
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final

from smtpsvc.extensions import Extension
from smtpsvc.grammar.datetimes import format_date_time, parse_date_time
from smtpsvc.grammar.replies import Reply
from smtpsvc.interfaces import IConversation
from smtpsvc.settings import Role
from smtpsvc.values import Envelope

WEEK: Final = 7 * 24 * 3600

BOTH: Final = Reply(501, "HOLDFOR and HOLDUNTIL cannot stand together", "5.5.4")

_INTERVAL: Final = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)


def parse_hold_for(value: str | None) -> int:
    """
    Read HOLDFOR (RFC 4865).

    :returns: seconds.
    :raises ValueError: if it is not a number of one to nine digits without a leading zero.
    """
    if not _INTERVAL.fullmatch(value or ""):
        raise ValueError("must be a number of seconds from 1 to 999999999, without leading zeros")
    return int(value or "")


def parse_hold_until(value: str | None) -> datetime:
    """
    Read HOLDUNTIL (RFC 4865 with its erratum 2040).

    :returns: the time in UTC, which may be past: the message is then not held.
    :raises ValueError: if it is no ``date-time`` of RFC 3339.
    """
    return parse_date_time(value or "")


class FutureRelease(Extension):
    """
    FUTURERELEASE (RFC 4865): the message is held for a while, or until a given time.

    HOLDFOR or HOLDUNTIL on MAIL, not both (501 5.5.4), and not beyond the limit (554 5.5.4).

    :param longest: the limit in seconds, 1 to 999999999.
    :raises ValueError: for a limit that cannot be announced.
    """

    keyword = "FUTURERELEASE"
    on_request = True
    argument = "SECONDS"
    roles = frozenset({Role.SUBMISSION})
    mail_params = {"HOLDFOR": parse_hold_for, "HOLDUNTIL": parse_hold_until}
    # What is announced moves on with the time.
    varies = True

    def __init__(self, longest: int = WEEK) -> None:
        parse_hold_for(str(longest))
        self.longest = longest
        self.too_long = Reply(554, f"No message is held for more than {longest} seconds", "5.5.4")

    def configured(self, argument: str) -> FutureRelease:
        """Take the limit in seconds."""
        return FutureRelease(parse_hold_for(argument))

    def advertise(self, conversation: IConversation) -> str:
        """Show the longest time and the latest."""
        return f"{self.longest} {format_date_time(conversation.now() + self.longest)}"

    def mail(self, conversation: IConversation, envelope: Envelope) -> Reply | None:
        """Refuse both parameters at once, and a time beyond the limit."""
        params = envelope.mail_params
        if "HOLDFOR" in params and "HOLDUNTIL" in params:
            return BOTH
        if "HOLDFOR" in params:
            beyond = params["HOLDFOR"] > self.longest
        else:
            beyond = params["HOLDUNTIL"].timestamp() > conversation.now() + self.longest
        return self.too_long if beyond else None
