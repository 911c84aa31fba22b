"""
XOORG: the organization that a message comes from, as Exchange servers tell each other.
"""

from __future__ import annotations

from smtpsvc.extensions import Extension
from smtpsvc.grammar.xtext import decode_printable
from smtpsvc.settings import Role


def parse_xoorg(value: str | None) -> str:
    """
    Read XOORG.

    :returns: the organization, decoded; mostly a domain.
    :raises ValueError: if there is none, or it is not xtext of printable US-ASCII.
    """
    if not value:
        raise ValueError("needs a value")
    return decode_printable(value)


class XOORG(Extension):
    """
    XOORG (Exchange): the sending server names the organization that a message comes from.

    It is a claim like any other; believe it only of a client that you trust.
    """

    keyword = "XOORG"
    on_request = True
    roles = frozenset({Role.SMTP, Role.SUBMISSION})
    mail_params = {"XOORG": parse_xoorg}
