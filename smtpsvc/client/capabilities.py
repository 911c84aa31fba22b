"""
What a server offers: its reply to EHLO, as values (RFC 5321 §4.1.1.1).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType

from smtpsvc.grammar.datetimes import parse_date_time
from smtpsvc.grammar.replies import Reply

_NUMBER = re.compile(r"[0-9]{1,20}", re.ASCII)
_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Capabilities:
    """
    A server's extensions; what it says of each is parsed where that has a meaning here.

    A value that makes no sense counts as none: a server is not left for a typing error.
    """

    #: The parameters as text, by keyword in upper case.
    keywords: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    #: The name that the server gives itself.
    name: str = ""
    #: False if the server knows HELO only.
    extended: bool = True
    #: The largest message in octets; None for no limit that is told (RFC 1870).
    size: int | None = None
    #: Names of mechanisms in upper case, in the server's order (RFC 4954).
    auth: tuple[str, ...] = ()
    #: The most recipients of a message, or None (RFC 9422, RCPTMAX).
    max_recipients: int | None = None
    #: The most messages of a connection, or None (MAILMAX).
    max_messages: int | None = None
    #: The most recipient domains of a connection, or None (RCPTDOMAINMAX).
    max_domains: int | None = None
    #: The shortest time in seconds after which it will return a message (RFC 2852); None if it says none.
    min_by_time: int | None = None
    #: The longest time in seconds for which it will hold a message (RFC 4865), or None.
    max_hold: int | None = None
    #: The latest time until which it will do that, or None.
    max_hold_until: datetime | None = None
    #: True if commands may be sent in groups (RFC 2920). Here with the rest: each message asks for them.
    pipelining: bool = False
    #: True if content may be sent by BDAT (RFC 3030).
    chunking: bool = False
    #: True if content may have octets above 127 (RFC 6152).
    eight_bit: bool = False

    def __contains__(self, keyword: str) -> bool:
        """Tell whether an extension is offered."""
        return keyword.upper() in self.keywords

    def attributes(self, keyword: str) -> frozenset[str]:
        """Give the words behind a keyword in upper case, as XCLIENT and XFORWARD have them."""
        return frozenset(self.keywords.get(keyword, "").upper().split())


def parse_capabilities(reply: Reply) -> Capabilities:
    """
    Read a positive reply to EHLO or LHLO.

    A keyword that is given twice counts as its first mention, except that mechanisms of AUTH add up;
    ``AUTH=`` of old servers counts as AUTH.
    """
    first, *lines = reply.text.split("\n")
    found: dict[str, str] = {}
    for line in lines:
        keyword, _, text = line.strip().partition(" ")
        keyword = keyword.upper()
        if keyword.startswith("AUTH="):
            keyword, text = "AUTH", f"{keyword[5:]} {text}"
        if keyword == "AUTH" and keyword in found:
            found[keyword] += f" {text}"
        elif keyword:
            found.setdefault(keyword, text.strip())
    limits = dict(word.upper().partition("=")[::2] for word in found.get("LIMITS", "").split())
    hold, _, until = found.get("FUTURERELEASE", "").partition(" ")
    return Capabilities(
        keywords=MappingProxyType(found),
        name=first.partition(" ")[0],
        # SIZE without a number, or 0, tells of no limit (RFC 1870 §4).
        size=_number(found.get("SIZE", "")) or None,
        auth=tuple(dict.fromkeys(found.get("AUTH", "").upper().split())),
        max_recipients=_number(limits.get("RCPTMAX", "")) or None,
        max_messages=_number(limits.get("MAILMAX", "")) or None,
        max_domains=_number(limits.get("RCPTDOMAINMAX", "")) or None,
        min_by_time=_number(found.get("DELIVERBY", "")),
        max_hold=_number(hold),
        max_hold_until=_time(until),
        pipelining="PIPELINING" in found,
        chunking="CHUNKING" in found,
        eight_bit="8BITMIME" in found,
    )


def _number(text: str) -> int | None:
    word = text.partition(" ")[0]
    return int(word) if _NUMBER.fullmatch(word) else None


def _time(text: str) -> datetime | None:
    try:
        return parse_date_time(text.strip())
    except ValueError:
        return None
