"""
Commands: the arguments of the core verbs.

Every parser takes the octets behind the verb and returns a value, or raises
:class:`~smtpsvc.grammar.replies.SMTPError` with the reply, or :class:`ValueError` with a sentence
for a 501 5.5.4. All of them are linear in the length of the line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from smtpsvc.grammar import replies
from smtpsvc.grammar.addresses import Address, SyntaxProblem, read_path
from smtpsvc.grammar.params import Parser, UnknownParameter, parse_params
from smtpsvc.grammar.replies import Reply, SMTPError

#: What a MAIL or RCPT without parameters has: one mapping for all, made once.
NO_PARAMS: Final[Mapping[str, Any]] = MappingProxyType({})

#: None of these may be in a command line: lines end in CRLF, and no text holds NUL.
BARE: Final = b"\r\n\0"

_SPACE: Final = ord(" ")
#: The longest path there can be, about (RFC 5321 §4.5.3.1).
_MEMORABLE: Final = 330
_CONTROLS: Final = bytes([*range(32), 127])
#: Control characters in the clothes of UTF-8: C1, and the separators of lines and paragraphs.
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def line_fault(line: bytes, limit: int, *, partial: bool = False) -> Reply | None:
    """
    Find the first thing wrong with a command line: the same however its octets come.

    :param line: without its CRLF.
    :param limit: the most octets it may have with its CRLF.
    :param partial: its end has not come yet; a CR in the last place may belong to it.
    :returns: None, or 500 5.5.2 for a bare CR, LF or NUL or for too many octets.
    """
    head = line[: limit - 1]
    if partial and len(head) == len(line) and head.endswith(b"\r"):
        head = head[:-1]
    if head.translate(None, BARE) != head:
        return replies.BAD_LINE_END
    return replies.LINE_TOO_LONG if len(head) > limit - 2 else None


class Query(NamedTuple):
    """The argument of VRFY or EXPN."""

    text: str
    #: True if the client takes UTF-8 in the reply (RFC 6531 §3.7.4.2).
    utf8: bool


class Path(NamedTuple):
    """The argument of MAIL or RCPT."""

    address: Address
    params: Mapping[str, Any]
    #: True if the argument is ASCII throughout; otherwise SMTPUTF8 must have been declared.
    ascii: bool


def parse_mail(argument: bytes, parsers: Mapping[str, Parser], *, lenient: bool = False) -> Path:
    """
    Parse ``FROM:<path> [parameters]`` (RFC 5321 §4.1.1.2).

    :param parsers: for the parameters that are offered, by upper-case name.
    :param lenient: also take what :func:`~smtpsvc.grammar.addresses.read_path` calls lenient.
    :raises SMTPError: 501 5.1.7 for the path, 501 5.5.4 or 555 5.5.4 for the parameters.
    """
    return _path(argument, b"FROM:", "5.1.7", parsers, lenient, sender=True)


def parse_rcpt(argument: bytes, parsers: Mapping[str, Parser], *, lenient: bool = False) -> Path:
    """
    Parse ``TO:<path> [parameters]`` (RFC 5321 §4.1.1.3).

    :raises SMTPError: 501 5.1.3 for the path, 501 5.5.4 or 555 5.5.4 for the parameters.
    """
    return _path(argument, b"TO:", "5.1.3", parsers, lenient, sender=False)


def remembering(parse: Callable[[bytes], Path]) -> Callable[[bytes], Path]:
    """
    Give *parse* a memory for the last 1,024 arguments without parameters.

    Few senders and recipients make most of a server's mail: 0.2 µs for one that is known, against
    1.7. What is remembered is immutable, and bounded in number and size.
    """
    known = lru_cache(maxsize=1024)(parse)

    def look(argument: bytes) -> Path:
        if _SPACE in argument or len(argument) > _MEMORABLE:
            return parse(argument)
        return known(argument)

    return look


def _path(
    argument: bytes, prefix: bytes, enhanced: str, parsers: Mapping[str, Parser], lenient: bool, sender: bool
) -> Path:
    start = len(prefix)
    if argument[:start].upper() != prefix:
        raise SMTPError(Reply(501, f"Syntax: {'MAIL' if sender else 'RCPT'} {prefix.decode()}<address>", "5.5.4"))
    if argument[start : start + 1] == b" ":
        # Outlook sends "RCPT TO: <a@b>" with a space after the colon.
        start += 1
    try:
        address, end = read_path(argument, start, lenient=lenient, null=sender, postmaster=not sender)
    except SyntaxProblem as problem:
        raise SMTPError(Reply(501, _sentence(problem), enhanced)) from None
    ascii = argument.isascii()
    if end == len(argument):
        return Path(address, NO_PARAMS, ascii)
    try:
        # Whether UTF-8 in a parameter of RCPT was declared is known from its MAIL: see ascii.
        return Path(address, parse_params(argument, end, parsers, utf8=not sender), ascii)
    except UnknownParameter:
        raise SMTPError(replies.UNKNOWN_PARAMETER) from None
    except ValueError as problem:
        raise SMTPError(Reply(501, _sentence(problem), "5.5.4")) from None


def _sentence(problem: ValueError) -> str:
    text = str(problem)
    return text[:1].upper() + text[1:]


def parse_name(argument: bytes) -> str:
    """
    Parse the name behind EHLO, HELO or LHLO.

    Any 1 to 255 octets without control characters are taken: curl and Windows hosts send odd
    names, and RFC 5321 §4.1.4 forbids refusing mail for it.

    :returns: the name; octets that are not UTF-8 are escaped as ``\\xNN``.
    :raises SMTPError: 501 5.5.4.
    """
    name = argument.strip(b" ")
    if not 1 <= len(name) <= 255 or name.translate(None, _CONTROLS) != name:
        raise SMTPError(replies.NEED_NAME)
    text = name.decode("utf-8", "backslashreplace")
    if _CONTROL.search(text):
        raise SMTPError(replies.NEED_NAME)
    return text


def parse_nothing(argument: bytes) -> None:
    """
    Check that a verb stands alone (RSET, DATA, QUIT).

    :raises SMTPError: 501 5.5.4 if it does not.
    """
    if argument:
        raise SMTPError(replies.NO_ARGUMENT)


def parse_optional_text(argument: bytes) -> str:
    """
    Take any text or none (NOOP, HELP; RFC 5321 §4.1.1.8, §4.1.1.9).

    :returns: the text; octets that are not UTF-8 are escaped as ``\\xNN``.
    :raises SMTPError: 501 5.5.4 if there are control characters in it.
    """
    text = argument.decode("utf-8", "backslashreplace")
    if _CONTROL.search(text):
        raise SMTPError(replies.BAD_ARGUMENT)
    return text


def parse_verify(argument: bytes) -> Query:
    """
    Parse the argument of VRFY or EXPN (RFC 5321 §4.1.1.6), with or without the parameter SMTPUTF8
    (RFC 6531 §3.7.4.2).

    :raises SMTPError: 501 5.5.4 if there is none or it has control characters.
    """
    text, _, last = argument.rpartition(b" ")
    declared = last.upper() == b"SMTPUTF8" and bool(text)
    query = parse_optional_text((text if declared else argument).strip(b" "))
    if not query:
        raise SMTPError(replies.NEED_ARGUMENT)
    return Query(query, declared)
