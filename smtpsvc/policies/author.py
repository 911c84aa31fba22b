"""
Whose message it says it is: the one domain in From:, read so that no reader can see another (RFC 7489 §6.6.1).
"""

from __future__ import annotations

import re
from typing import Final

from smtpsvc.grammar.addresses import parse_domain
from smtpsvc.message.fields import Header

#: Octets of a field that is read.
LONGEST: Final = 64 * 1024

_WORD = re.compile(r"=\?[^?\s]{1,64}\?[bBqQ]\?[^?\s]*+\?=")
_PIECES = re.compile(r'\\.|[()"]|[^()\\"]+|\\', re.DOTALL)
_DOMAIN = re.compile(r'@\s*+([^\s<>,;:@()\[\]\\"]+)')


def author_domain(header: Header) -> str:
    """
    Give the domain of the author.

    Several addresses are taken if they are of one domain. Whatever stands behind an ``@`` counts, in a name without
    quotes too, since there are readers that take it for the address.

    :returns: in lower case, with A-labels.
    :raises ValueError: with a reason, if there is no one domain.
    """
    fields = header.find_all("From")
    if len(fields) != 1:
        raise ValueError(f"there are {len(fields)} fields" if fields else "there is no such field")
    value = fields[0].value
    if len(value) > LONGEST:
        raise ValueError("the field is too long")
    text = _WORD.sub(" ", bare(value.decode("utf-8", "replace")))
    names = _DOMAIN.findall(text)
    if not names or len(names) != text.count("@"):
        raise ValueError("an address has no domain" if "@" in text else "there is no address")
    try:
        domains = {parse_domain(name.rstrip(".")) for name in names}
    except ValueError:
        raise ValueError("a domain makes no sense") from None
    if len(domains) != 1:
        raise ValueError("there are several domains")
    return domains.pop()


def bare(text: str) -> str:
    """Take comments and quoted strings out of a field (RFC 5322 §3.2); one that has no end counts for none."""
    depth, quoted = 0, False
    kept = []
    for match in _PIECES.finditer(text):
        piece = match[0]
        if piece == '"' and not depth:
            quoted = not quoted
            kept.append("q")
        elif piece == "(" and not quoted:
            depth += 1
        elif piece == ")" and depth and not quoted:
            depth -= 1
        elif not depth and not quoted:
            kept.append(piece)
    return text if depth or quoted else "".join(kept)
