"""
Parameters of MAIL and RCPT: ``NAME`` or ``NAME=value`` (RFC 5321 §4.1.2, ``esmtp-param``).

This module knows the syntax. What a name means and what its value may be, extensions say by the
parsers they bring; three makers of common ones are here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import Enum
from typing import TypeVar

from smtpsvc.grammar.addresses import SyntaxProblem

__all__ = ["Parser", "UnknownParameter", "choice", "no_value", "number", "parse_params"]

Parser = Callable[[str | None], object]
"""
What an extension gives for each of its parameters.

It takes the value as text, or None where the client sent the name alone, and returns what the
envelope shall hold. It raises ValueError with a sentence for the client, which must not repeat
the value; the name is put in front of it.
"""

_PARAM = re.compile("( *+)([A-Za-z0-9][A-Za-z0-9-]*+)(?:=([!-<>-~\xa0-\U0010ffff]++))?+(?![^ ])")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_EMPTY_VALUE = re.compile(" *+[A-Za-z0-9][A-Za-z0-9-]*+=(?![^ ])")

_Member = TypeVar("_Member", bound=Enum)


class UnknownParameter(SyntaxProblem):
    """A parameter with good syntax that nobody here takes: 555 5.5.4 (RFC 5321 §4.1.1.11), not 501."""


def parse_params(data: bytes, start: int, parsers: Mapping[str, Parser], *, utf8: bool = False) -> dict[str, object]:
    """
    Read the parameters that stand behind a path.

    Malformed syntax and a name given twice are found before an unknown name, and that before a
    wrong value; so ``FOO=1 FOO=2`` is malformed whoever knows ``FOO``. More than one space
    between parameters and spaces at the end are let pass, since clients send them; tabs are not.

    :param data: the command; from *start* on it has parameters only, or nothing.
    :param parsers: the known names, in upper case.
    :param utf8: values may go beyond US-ASCII (RFC 6531 §3.3). They also may where one of the
        parameters is ``SMTPUTF8`` and that is known.
    :returns: what the parsers gave by name in upper case, in the client's order.
    :raises UnknownParameter: for a name that *parsers* does not have.
    :raises SyntaxProblem: for malformed or repeated parameters and for values that a parser refused.
    """
    if start >= len(data):
        return {}
    try:
        text = data[start:].decode()
    except UnicodeDecodeError:
        raise SyntaxProblem("parameters are not valid UTF-8") from None
    found = _split(text)
    if not (text.isascii() or utf8 or ("SMTPUTF8" in found and "SMTPUTF8" in parsers)):
        raise SyntaxProblem("a parameter may have non-ASCII characters only with SMTPUTF8")
    for name in found:
        if name not in parsers:
            raise UnknownParameter("a parameter is not known or not offered here")
    return {name: _parse_value(name, value, parsers[name]) for name, value in found.items()}


def no_value(value: str | None) -> bool:
    """
    Take a parameter that is a name alone, as SMTPUTF8 is.

    :returns: True.
    :raises ValueError: if there is a value.
    """
    if value is not None:
        raise ValueError("takes no value")
    return True


def number(max_digits: int) -> Callable[[str | None], int]:
    """Make a parser of a decimal number of 1 to *max_digits* digits, as SIZE has (RFC 1870 §4: 20)."""

    def parse(value: str | None) -> int:
        # isdigit alone takes digits of all scripts.
        if value is None or len(value) > max_digits or not (value.isascii() and value.isdigit()):
            raise ValueError(f"must be a number of 1 to {max_digits} digits")
        return int(value)

    return parse


def choice(words: type[_Member]) -> Callable[[str | None], _Member]:
    """
    Make a parser that gives a member of an enumeration, as BODY has (RFC 6152 §2).

    The word on the wire is the member's value if that is a str (a name of Python cannot be
    ``8BITMIME``) and its name otherwise. Case does not matter.

    :raises ValueError: if two members differ in nothing but case.
    """
    members: dict[str, _Member] = {}
    for member in words:
        word = (member.value if isinstance(member.value, str) else member.name).upper()
        if word in members:
            raise ValueError(f"{words.__name__}: two members are called {word}")
        members[word] = member
    sentence = f"must be one of {', '.join(members)}"

    def parse(value: str | None) -> _Member:
        # Some letters beyond US-ASCII have an ASCII one as upper case: U+0131 gives I.
        if value is None or not value.isascii() or value.upper() not in members:
            raise ValueError(sentence)
        return members[value.upper()]

    return parse


def _split(text: str) -> dict[str, str | None]:
    """Give the parameters by name in upper case; their values are not looked at."""
    found: dict[str, str | None] = {}
    position, end = 0, len(text)
    while position < end:
        match = _PARAM.match(text, position)
        if match is None:
            if not text[position:].strip(" "):
                break
            raise _malformed(text, position)
        name = match[2].upper()
        if name in found:
            raise SyntaxProblem("a parameter is given twice")
        found[name] = match[3]
        position = match.end()
    return found


def _malformed(text: str, position: int) -> SyntaxProblem:
    """Find the words for a parameter that does not match."""
    if "\t" in text:
        return SyntaxProblem("parameters must have spaces between them, not tabs")
    if _CONTROL.search(text):
        return SyntaxProblem("parameters have a control character in them")
    if _EMPTY_VALUE.match(text, position):
        return SyntaxProblem("a parameter has no value behind its =")
    return SyntaxProblem("parameters must be like NAME or NAME=value, with spaces between them")


def _parse_value(name: str, value: str | None, parser: Parser) -> object:
    """Ask the parser, and put the name before its complaint."""
    try:
        return parser(value)
    except SyntaxProblem:
        raise
    except UnicodeError:
        # Raised by codecs, not by hand; its text has the value in it.
        raise SyntaxProblem(f"{name}: the value is not valid") from None
    except ValueError as error:
        raise SyntaxProblem(f"{name}: {error}") from error
