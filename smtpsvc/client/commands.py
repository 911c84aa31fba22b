"""
Command lines: addresses and words become octets here, and nothing that would be a line of its own passes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final

from smtpsvc.grammar.addresses import NULL, Address, SyntaxProblem, parse_mailbox, parse_path
from smtpsvc.grammar.xtext import encode_xtext

#: Any of these in a command would begin a line of its own, or be taken for its end by somebody.
_CONTROLS: Final = bytes([*range(32), 127])

_NAME = re.compile(r"[!-~]{1,255}")
_UNAVAILABLE: Final = "[UNAVAILABLE]"


def line(*words: str) -> bytes:
    """
    Make a command line.

    :raises ValueError: if there is a control character in it.
    """
    octets = " ".join(words).encode()
    if octets.translate(None, _CONTROLS) != octets:
        raise ValueError("a command cannot have control characters in it")
    return octets + b"\r\n"


def hello(verb: str, name: str) -> bytes:
    """
    Make EHLO, HELO or LHLO.

    :raises ValueError: unless the name is 1 to 255 printable octets without spaces.
    """
    if not _NAME.fullmatch(name):
        raise ValueError("the name for EHLO must be a domain or an address literal like [192.0.2.1]")
    return line(verb, name)


def address_of(mailbox: str | Address, *, sender: bool = False) -> Address:
    """
    Make an address of what callers give.

    :param mailbox: text like ``user@example.com``; ``""`` is the null sender, ``postmaster`` alone a
        recipient. An :class:`~smtpsvc.Address` is looked at again, leniently: a server that is lenient
        has taken it.
    :raises SyntaxProblem: with what is wrong.
    """
    return _address(str(mailbox), isinstance(mailbox, Address), sender)


@lru_cache(maxsize=4096)
def _address(text: str, lenient: bool, sender: bool) -> Address:
    if sender and not text:
        return NULL
    if not sender and text.lower() == "postmaster":
        return Address(text)
    if not lenient:
        return parse_mailbox(text)
    try:
        return parse_path(b"<%b>" % text.encode(), lenient=True)
    except UnicodeEncodeError:
        raise SyntaxProblem("address has a surrogate in it") from None


@lru_cache(maxsize=4096)
def path(address: Address, utf8: bool) -> str:
    """
    Write an address between its brackets.

    :param utf8: the transaction has SMTPUTF8; else a domain is written in A-labels.
    :raises SyntaxProblem: if the local part needs SMTPUTF8 and there is none.
    """
    if utf8 or address.is_ascii:
        return f"<{address}>"
    if not address.local.isascii():
        raise SyntaxProblem("the local part of the address needs SMTPUTF8")
    return f"<{address.local}@{address.ascii_domain}>"


@lru_cache(maxsize=4096)
def plain(verb: str, text: str) -> tuple[Address, bytes] | None:
    """
    Make ``MAIL FROM:<...>`` or ``RCPT TO:<...>`` of an address that needs no SMTPUTF8; without its line end.

    Kept for the addresses used last: few make most of the mail, and each costs 3 µs.

    :returns: None if the address is another, or none.
    """
    if not text.isascii():
        return None
    try:
        address = address_of(text, sender=verb.startswith("MAIL"))
    except SyntaxProblem:
        return None
    return address, line(f"{verb}:<{address}>")[:-2]


def attributes(verb: str, given: Mapping[str, object], offered: Iterable[str], reported: list[str]) -> bytes | None:
    """
    Make XCLIENT or XFORWARD.

    :param given: values by name; None is what is not known.
    :param offered: the names that the server takes.
    :param reported: the names that it does not take are added here.
    :returns: None if nothing is left to say.
    :raises ValueError: if a value cannot be written.
    """
    known = frozenset(offered)
    words = []
    for name, value in given.items():
        if name.upper() not in known:
            reported.append(name.upper())
            continue
        text = _UNAVAILABLE if value is None else encode_xtext(str(value))
        words.append(f"{name.upper()}={text}")
    return line(verb, *words) if words else None
