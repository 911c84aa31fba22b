"""
Text out of octets that strangers have sent: charsets, encoded words (RFC 2047) and parameters (RFC 2231).

Nothing here raises, takes more than linear time, or gives a lone surrogate or a control character of a header.
"""

from __future__ import annotations

import binascii
import re
import urllib.parse
from encodings.aliases import aliases
from typing import Final

__all__ = ["decode_charset", "decode_words", "known_charset", "parameters"]

#: Parameters of one field that are looked at.
_MOST_PARAMETERS: Final = 100

# Names that are looked up nowhere else: Python tries to import what it does not know, and remembers each failure.
_KNOWN: Final = frozenset([*aliases, *aliases.values(), "koi8_u", "koi8_t", "cp720", "cp856", "cp874", "cp875"]) - {
    # These decode no charset of the world, and some of them in quadratic time.
    "idna", "punycode", "unicode_escape", "raw_unicode_escape", "mbcs", "oem", "undefined", "dbcs", "ansi",
}  # fmt: skip
# What mail calls them, and the larger charsets that mail means.
_OTHERS: Final = {
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "x_gbk": "gb18030",
    "ks_c_5601_1987": "cp949",
    "euc_kr": "cp949",
    "x_sjis": "cp932",
    "shift_jis": "cp932",
    "iso_8859_8_i": "iso8859_8",
    "iso_8859_8_e": "iso8859_8",
    "unicode_1_1_utf_7": "utf_7",
    "utf8mb4": "utf_8",
    "x_mac_roman": "mac_roman",
    "x_unknown": "",
    "unknown_8bit": "",
    "default_charset": "",
}

#: Parameters in which people look for encoded words all the same.
_WORDS: Final = frozenset({"name", "filename"})

_ENCODED = re.compile(r"=\?([^?\s]{1,80})\?([bBqQ])\?([^?]*+)\?=")
_BLANKS = re.compile(r"[ \t\r\n]*+")
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_SURROGATES = re.compile("[\ud800-\udfff]")
_NOT_BASE64 = re.compile(rb"[^A-Za-z0-9+/]")
_PARAMETER = re.compile(r';[\s]*+([^\s=;"]{1,80})[\s]*+=[\s]*+("(?:[^"\\]|\\.)*+"?|[^;]*+)', re.DOTALL)
_NEXT = re.compile(r'(?:[^;"]|"(?:[^"\\]|\\.)*+(?:"|\Z))*+', re.DOTALL)
_PAIR = re.compile(r"\\(.)", re.DOTALL)
_PIECE = re.compile(r"(.+?)(?:\*([0-9]{1,3}))?(\*)?", re.DOTALL)


def known_charset(name: str) -> str:
    """
    Find the codec for the name of a charset.

    :returns: what :meth:`bytes.decode` takes, or "" if there is none.
    """
    name = re.sub(r"[^a-z0-9]+", "_", name.strip()[:80].lower()).strip("_")
    name = _OTHERS.get(name, name)
    found = name if name in _KNOWN else name.replace("_", "") if name.replace("_", "") in _KNOWN else ""
    if not found:
        return ""
    try:
        b"aaaa".decode(found, "replace")
    except LookupError:
        # The codecs that turn octets into octets (base64, zlib) are no charsets.
        return ""
    return found


def decode_charset(octets: bytes, charset: str = "") -> tuple[str, bool]:
    """
    Decode text.

    :param charset: as the message names it; "" or ``us-ascii`` may be UTF-8 as well, as much mail is.
    :returns: the text, and whether all of it could be decoded. What cannot be is U+FFFD, or Windows-1252
        where no charset is named.
    """
    name = known_charset(charset) if charset else "ascii"
    good = bool(name)
    if not name or name in ("ascii", "us_ascii"):
        try:
            return octets.decode(), good
        except UnicodeDecodeError:
            return octets.decode("cp1252", "replace"), False
    try:
        text = octets.decode(name)
    except (UnicodeError, ValueError):
        text, good = octets.decode(name, "replace"), False
    # UTF-7 and UTF-16 of some codecs give halves of characters.
    if _SURROGATES.search(text):
        return _SURROGATES.sub("\ufffd", text), False
    return text, good


def decode_words(octets: bytes) -> tuple[str, bool]:
    """
    Decode the value of a header field: unfolded octets with encoded words in them (RFC 2047).

    Words of one charset that follow each other are decoded together, since some cut a character in two.

    :returns: the text in one line, and whether all of it could be decoded. Control characters are spaces.
    """
    text, good = decode_charset(octets)
    if "=?" not in text:
        return _CONTROLS.sub(" ", text).strip(), good
    found: list[str] = []
    word: list[bytes] = []
    charset, place = "", 0

    def end() -> bool:
        decoded, fine = decode_charset(b"".join(word), charset)
        found.append(decoded)
        word.clear()
        return fine

    for match in _ENCODED.finditer(text):
        between = text[place : match.start()]
        named = match[1].partition("*")[0].lower()  # RFC 2231 §5: a language may follow
        apart = not place or _BLANKS.fullmatch(between) is None
        if word and (apart or named != charset):
            good = end() and good
        if apart:
            found.append(between)
        charset = named
        decoded, fine = _decode_word(match[2], match[3])
        word.append(decoded)
        good = good and fine
        place = match.end()
    if word:
        good = end() and good
    found.append(text[place:])
    return _CONTROLS.sub(" ", "".join(found)).strip(), good


def _decode_word(encoding: str, text: str) -> tuple[bytes, bool]:
    octets = text.encode("utf-8", "replace")
    if encoding in "qQ":
        return binascii.a2b_qp(octets, header=True), True
    letters = _NOT_BASE64.sub(b"", octets)
    whole, rest = letters[: len(letters) // 4 * 4], len(letters) % 4
    if rest > 1:
        whole = letters + b"=" * (4 - rest)
    return binascii.a2b_base64(whole), rest != 1


def parameters(value: bytes) -> tuple[str, dict[str, str], bool]:
    """
    Read a value with parameters: ``text/plain; charset=utf-8``.

    Continuations and charsets of RFC 2231 are put together, and so are encoded words, which have no
    business in parameters but are often there.

    :param value: unfolded.
    :returns: what stands before the parameters, in lower case; the parameters by lower-case name, the first of a
        name; and whether all could be decoded.
    """
    text, good = decode_charset(value)
    place = _NEXT.match(text)
    start = place.end() if place is not None else len(text)
    head = _CONTROLS.sub(" ", text[:start]).strip().lower()
    pieces: dict[str, dict[int, tuple[str, bool]]] = {}
    for _ in range(_MOST_PARAMETERS):
        match = _PARAMETER.match(text, start)
        if match is not None:
            _keep(pieces, match[1], match[2])
            start = match.end()
        elif start < len(text):
            start += 1  # the semicolon
        # What is no parameter is passed over, up to the next semicolon.
        following = _NEXT.match(text, start)
        start = following.end() if following is not None else len(text)
        if start >= len(text):
            break
    else:
        good = False
    found = {}
    for name, parts in pieces.items():
        found[name], fine = _joined(parts, words=name in _WORDS)
        good = good and fine
    return head, found, good


def _keep(pieces: dict[str, dict[int, tuple[str, bool]]], name: str, value: str) -> None:
    """Keep a parameter, or one piece of it, where nothing of that name and number was before."""
    if value.startswith('"'):
        value = _PAIR.sub(r"\1", value[1:-1] if len(value) > 1 and value.endswith('"') else value[1:])
    else:
        value = value.strip()
    match = _PIECE.fullmatch(name.lower())
    assert match is not None, "an expression that takes any characters matches where there are some"
    pieces.setdefault(match[1], {}).setdefault(int(match[2] or 0), (value, bool(match[3])))


def _joined(parts: dict[int, tuple[str, bool]], *, words: bool) -> tuple[str, bool]:
    """Put the pieces of a parameter together (RFC 2231 §3 and §4)."""
    octets, charset, encoded = b"", "", False
    for number in sorted(parts):
        value, marked = parts[number]
        if marked and number == min(parts):
            charset, _, rest = value.partition("'")
            value = rest.partition("'")[2] if "'" in rest else value
            encoded = True
        octets += urllib.parse.unquote_to_bytes(value) if marked else value.encode("utf-8", "replace")
    if encoded and charset:
        text, good = decode_charset(octets, charset)
        return _CONTROLS.sub(" ", text).strip(), good
    if words:
        return decode_words(octets)
    text, good = decode_charset(octets)
    return _CONTROLS.sub(" ", text).strip(), good
