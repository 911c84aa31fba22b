"""
Lists in the DNS, as people type them: ``zen.example.net=127.0.0.[2;4..11]*3``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from smtpsvc.grammar.addresses import SyntaxProblem, parse_domain

_LIST = re.compile(r"([^=*]+)(?:=([^*]+))?(?:\*(.+))?")
_CODES = re.compile(r"([0-9]+|\[[0-9.;]+\])" + r"\.([0-9]+|\[[0-9.;]+\])" * 3)
_SPAN = re.compile(r"([0-9]{1,3})(?:\.\.([0-9]{1,3}))?")


@dataclass(frozen=True, slots=True)
class DNSList:
    """
    A list in the DNS.

    :param codes: for each octet of its answers, those that count; empty if all do.
    :param weight: below 0 for a list of those who are well known.
    """

    zone: str
    codes: tuple[frozenset[int], ...] = ()
    weight: int = 1

    def counts(self, code: str) -> bool:
        """Tell whether an answer counts; it is an address of IPv4."""
        octets = map(int, code.split("."))
        return not self.codes or all(octet in some for octet, some in zip(octets, self.codes, strict=True))


def parse_list(text: str) -> DNSList:
    """
    Read a list.

    :raises ValueError: with a sentence.
    """
    found = _LIST.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no list; write such as zen.example.net=127.0.0.[2..11]*3")
    zone, codes, weight = found.groups()
    try:
        zone = parse_domain(zone.removesuffix("."))
    except SyntaxProblem as problem:
        raise ValueError(f"{zone!r} is no zone of a list: {problem}") from None
    return DNSList(zone, parse_codes(codes) if codes else (), parse_weight(weight) if weight else 1)


def parse_codes(text: str) -> tuple[frozenset[int], ...]:
    """
    Read which answers count: an address whose octets are numbers, or brackets with numbers and ranges.

    :raises ValueError: with a sentence.
    """
    found = _CODES.fullmatch(text)
    octets = tuple(map(_octets, found.groups())) if found is not None else ()
    if not octets or not all(octets):
        raise ValueError(f"{text!r} are no codes; write such as 127.0.0.2 or 127.0.0.[2;4..11]")
    return octets


def _octets(text: str) -> frozenset[int]:
    """Give the numbers of one octet; none if the text is wrong."""
    found: set[int] = set()
    for item in text.strip("[]").split(";"):
        span = _SPAN.fullmatch(item)
        if span is None:
            return frozenset()
        first = int(span[1])
        last = int(span[2] or span[1])
        if not first <= last <= 255:
            return frozenset()
        found.update(range(first, last + 1))
    return frozenset(found)


def parse_weight(text: str) -> int:
    """
    Read a weight.

    :raises ValueError: with a sentence.
    """
    if not re.fullmatch(r"-?[0-9]{1,4}", text):
        raise ValueError(f"{text!r} is no weight; write a whole number such as 3 or -2")
    return int(text)
