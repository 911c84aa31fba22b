"""
RRVS: mail that is for the owner of a mailbox and no later one (RFC 7293).
"""

from __future__ import annotations

from smtpsvc.extensions import Extension
from smtpsvc.grammar.datetimes import parse_date_time
from smtpsvc.parameters import RRVSAction, ValidSince

_ACTIONS = {"C": RRVSAction.CONTINUE, "R": RRVSAction.REJECT}


def parse_rrvs(value: str | None) -> ValidSince:
    """
    Read RRVS (RFC 7293 §3.1).

    :raises ValueError: if it is not a ``date-time`` of RFC 3339, perhaps with C or R behind a semicolon.
    """
    text, semicolon, letter = (value or "").partition(";")
    if not semicolon:
        return ValidSince(parse_date_time(text))
    # Not upper(): letters beyond US-ASCII may have these as upper case.
    action = _ACTIONS.get(letter.upper() if letter.isascii() else "")
    if action is None:
        raise ValueError("only C or R may stand behind the semicolon")
    return ValidSince(parse_date_time(text), action)


class RRVS(Extension):
    """
    RRVS (RFC 7293): mail only for who has owned the mailbox since a given time.

    Who takes such a recipient must know since when its mailbox has its owner, and refuse it with 550
    5.7.17 if that is later.
    """

    keyword = "RRVS"
    on_request = True
    rcpt_params = {"RRVS": parse_rrvs}
