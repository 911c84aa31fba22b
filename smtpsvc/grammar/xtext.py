r"""
Text inside parameter values: xtext (RFC 3461 §4) and its UTF-8 kin (RFC 6533 §3).

xtext writes what a value cannot hold as ``+`` and two hexadecimal digits. The addresses of type
``utf-8`` write it as ``\x{HEX}`` with a code point: *utf-8-addr-xtext* everything beyond US-ASCII
too, *utf-8-addr-unitext* leaves that as it is and so needs SMTPUTF8.
"""

from __future__ import annotations

import re

from smtpsvc.grammar.addresses import SyntaxProblem

__all__ = [
    "decode_printable",
    "decode_utf8_addr_unitext",
    "decode_utf8_addr_xtext",
    "decode_xtext",
    "encode_utf8_addr_unitext",
    "encode_utf8_addr_xtext",
    "encode_xtext",
]

_XTEXT = re.compile(r"(?:[!-*,-<>-~]++|\+[0-7][0-9A-F])*+")
_HEXCHAR = re.compile(r"\+([0-9A-F]{2})")
_NOT_XCHAR = re.compile(r"[^!-*,-<>-~]")

# HEXPOINT, by the number of digits. Of US-ASCII it has what QCHAR leaves out, but neither NUL nor the controls
# that need a hexadecimal letter (so no CR and no LF); surrogates and leading zeros are out. The letters of an
# ABNF string are of either case (RFC 5234 §2.3); the "x" is given by number and is not.
_HEXPOINT = (
    "[01][1-9]|10|20|2[Bb]|3[Dd]|5[Cc]|7[Ff]|[89A-Fa-f][0-9A-Fa-f]"
    "|[1-9A-Fa-f][0-9A-Fa-f]{2}"
    "|[1-9ABCEFabcef][0-9A-Fa-f]{3}|[Dd][0-7][0-9A-Fa-f]{2}"
    "|[1-9A-Fa-f][0-9A-Fa-f]{4}"
    "|10[0-9A-Fa-f]{4}"
)
_QCHAR = r"!-*,-<>-\[\]-~"
_NON_ASCII = r"\x80-\ud7ff\ue000-\U0010ffff"
_ESCAPE = re.compile(r"\\x\{([0-9A-Fa-f]++)\}")
_ADDR_XTEXT = re.compile(rf"(?:[{_QCHAR}]++|\\x\{{(?:{_HEXPOINT})\}})++")
_ADDR_UNITEXT = re.compile(rf"(?:[{_QCHAR}{_NON_ASCII}]++|\\x\{{(?:{_HEXPOINT})\}})++")
_NOT_QCHAR = re.compile(f"[^{_QCHAR}]")
_NOT_QUCHAR = re.compile(f"[^{_QCHAR}{_NON_ASCII}]")
_NEVER = re.compile("[\x00\n-\x0f\x1a-\x1f\ud800-\udfff]")


def encode_xtext(text: str) -> str:
    """
    Write US-ASCII text so that it can be a parameter's value.

    :raises ValueError: if *text* goes beyond US-ASCII, for which xtext has no form.
    """
    if not text.isascii():
        raise ValueError("xtext has no form for characters beyond US-ASCII")
    return _NOT_XCHAR.sub(lambda match: f"+{ord(match[0]):02X}", text)


def decode_xtext(value: str) -> str:
    """
    Read xtext.

    :returns: text of US-ASCII, of which any character may be a control: ``+0D+0A`` is good xtext.
    :raises SyntaxProblem: for anything that is not xtext, small hexadecimal letters included.
    """
    if not _XTEXT.fullmatch(value):
        raise SyntaxProblem("not xtext of US-ASCII, where + stands before two digits of 0-9 and A-F")
    return _HEXCHAR.sub(lambda match: chr(int(match[1], 16)), value)


def decode_printable(value: str) -> str:
    """
    Read xtext that has no control characters in it, encoded or not: it can stand in a header field.

    :raises SyntaxProblem: for anything else.
    """
    text = decode_xtext(value)
    if not text.isprintable():
        raise SyntaxProblem("xtext has a control character in it")
    return text


def encode_utf8_addr_xtext(text: str) -> str:
    r"""
    Write an address in US-ASCII alone, with ``\x{HEX}`` for all that goes beyond it.

    :raises ValueError: if *text* is empty or has a character for which there is no form (NUL,
        LF to U+000F, U+001A to U+001F, surrogates).
    """
    return _escape(_NOT_QCHAR, text)


def encode_utf8_addr_unitext(text: str) -> str:
    """
    Write an address for a command with SMTPUTF8: what goes beyond US-ASCII stays as it is.

    :raises ValueError: as for :func:`encode_utf8_addr_xtext`.
    """
    return _escape(_NOT_QUCHAR, text)


def decode_utf8_addr_xtext(value: str) -> str:
    """
    Read an address that was written in US-ASCII alone.

    The result is an address only if :func:`~smtpsvc.grammar.addresses.parse_mailbox` takes it;
    this form can also spell some control characters, spaces and anything else.

    :raises SyntaxProblem: for anything that is not utf-8-addr-xtext.
    """
    return _unescape(_ADDR_XTEXT, value)


def decode_utf8_addr_unitext(value: str) -> str:
    r"""
    Read an address that came with SMTPUTF8, where ``\x{HEX}`` and plain characters may mix.

    What :func:`decode_utf8_addr_xtext` says of the result holds here too.

    :raises SyntaxProblem: for anything that is not utf-8-addr-unitext.
    """
    return _unescape(_ADDR_UNITEXT, value)


def _escape(forbidden: re.Pattern[str], text: str) -> str:
    r"""Write the characters that *forbidden* finds as ``\x{HEX}``."""
    if not text or _NEVER.search(text):
        raise ValueError("an address of type utf-8 is not empty and has no line ends, NUL or surrogates")
    return forbidden.sub(lambda match: f"\\x{{{ord(match[0]):02X}}}", text)


def _unescape(grammar: re.Pattern[str], value: str) -> str:
    r"""Check *value* and put characters for its ``\x{HEX}``."""
    if not grammar.fullmatch(value):
        raise SyntaxProblem("not an address of type utf-8, where \\x{ } holds the number of a character")
    return _ESCAPE.sub(lambda match: chr(int(match[1], 16)), value)
