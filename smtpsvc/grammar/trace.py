"""
The header fields a server adds to a message: Received (RFC 5321 §4.4) and those of final delivery.

Whatever text goes in, what comes out is one whole field: folded, without control characters.
"""

from __future__ import annotations

import ipaddress
import re
import time
from functools import lru_cache

from smtpsvc.grammar.addresses import Address, is_address_literal, is_domain

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

_WIDTH = 78  # RFC 5322 §2.1.1
_LONGEST_BEFORE_DATE = _WIDTH - len("\tfor <>; Fri, 20 Nov 2026 08:00:00 +0000")
_LONGEST_COMMENT = 255  # before its quoted pairs; this and the next two keep a line without folds within 998
_LONGEST_ATOM = 255
_LONGEST_PATH = 512  # a real one has at most 320 octets

# C0, DEL and C1 end or garble a line; lone surrogates have no UTF-8.
_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SPECIAL_IN_COMMENT = re.compile(r"([()\\])")
_NOT_ATEXT = re.compile(r"[^A-Za-z0-9!#$%&'*+\-/=?^_`{|}~]")


def continues(content: bytes) -> bool:
    """
    Tell whether content would continue a header field that is put in front of it (RFC 5322 §2.2.3).

    Such content has no header: its first line is body, and an empty line must come before it.
    """
    return content[:1] in (b" ", b"\t")


class Received:
    """
    The Received field of the messages of one connection (RFC 5321 §4.4), prepared as far as it can be.

    A HELO name that is a domain or an address literal stands as it is. Any other is put, quoted,
    in a comment, and the address of the client stands in its place.
    """

    __slots__ = ("_prefix", "_utf8")

    def __init__(self, *, helo: str, host: str, by: str, protocol: str, tls: str = "") -> None:
        """
        :param helo: what the client called itself, any text; empty for nothing.
        :param host: the client's IP address; any other text, such as the path of a unix socket, says
            that the client is on this machine, and is not shown.
        :param by: the name of this server.
        :param protocol: see :func:`with_protocol`.
        :param tls: what protects the connection, to be shown in a comment; empty for none.
        """
        self._utf8 = protocol.startswith("UTF8")
        self._prefix = _prefix(helo, host, by, protocol, tls)

    def line(self, id: str, recipient: Address | None, date: bytes) -> bytes:
        """
        Make the field for one message.

        :param id: the name of the message here; characters that no atom has become hyphens.
        :param recipient: the one recipient, to be named in ``for``; None if there are several. One that
            needs SMTPUTF8 is named only where the protocol is one of UTF8 (RFC 6531 §3.7.3).
        :param date: see :func:`date_time`.
        :returns: the whole field with its CRLF.
        """
        if not (id.isascii() and id.isalnum()) or len(id) > _LONGEST_ATOM:
            id = _atom(id)
        clause = _NO_CLAUSE if recipient is None else _for_clause(recipient.text, self._utf8)
        return b"%b%b%b%b\r\n" % (self._prefix, id.encode(), clause, date)


_NO_CLAUSE = b";\r\n\t"


@lru_cache(maxsize=1024)
def _for_clause(path: str, utf8: bool) -> bytes:
    """Name a recipient, if that may be, and give what stands before the date."""
    if len(path) <= _LONGEST_PATH and (utf8 or path.isascii()) and (path.isprintable() or not _UNFIT.search(path)):
        wire = path.encode()
        if 0 < len(wire) <= _LONGEST_PATH:
            return b"\r\n\tfor <%b>%b" % (wire, b"; " if len(wire) <= _LONGEST_BEFORE_DATE else _NO_CLAUSE)
    return _NO_CLAUSE


def with_protocol(
    *, lmtp: bool = False, extended: bool = False, tls: bool = False, authenticated: bool = False, utf8: bool = False
) -> str:
    """
    Name the protocol of a transaction for ``with`` (RFC 3848, RFC 6531 §4.3).

    :param lmtp: LMTP; *extended* is then true whatever it says.
    :param extended: the client said EHLO. Without it the name is ``SMTP``: TLS and AUTH have no other.
    :param utf8: the client gave SMTPUTF8 for this message.
    """
    if not (lmtp or extended or utf8):
        return "SMTP"
    name = "LMTP" if lmtp else "SMTP" if utf8 else "ESMTP"
    return ("UTF8" if utf8 else "") + name + ("S" if tls else "") + ("A" if authenticated else "")


def date_time(seconds: float) -> bytes:
    """
    Give a time as RFC 5322 §3.3 writes it, in UTC: ``Fri, 20 Nov 2026 08:00:00 +0000``.

    :param seconds: since 1970; what is below a second is dropped.
    """
    return _date_time(int(seconds // 1))


@lru_cache(maxsize=4)
def _date_time(second: int) -> bytes:
    """
    Do the work of :func:`date_time`, once a second.
    """
    # Not strftime: its names of days and months follow the locale.
    moment = time.gmtime(second)
    day, month = _DAYS[moment.tm_wday], _MONTHS[moment.tm_mon - 1]
    clock = f"{moment.tm_hour:02}:{moment.tm_min:02}:{moment.tm_sec:02}"
    return f"{day}, {moment.tm_mday} {month} {moment.tm_year:04} {clock} +0000".encode()


def return_path(sender: Address) -> bytes:
    """
    Make the Return-Path field of final delivery (RFC 5321 §4.4), with its CRLF.

    :raises ValueError: if the address has control characters, which none from the wire has.
    """
    return b"Return-Path: <%b>\r\n" % _wire_form(sender)


def delivered_to(recipient: Address) -> bytes:
    """
    Make the Delivered-To field of final delivery (RFC 9228), with its CRLF.

    :raises ValueError: if the address has control characters, which none from the wire has.
    """
    return b"Delivered-To: %b\r\n" % _wire_form(recipient)


@lru_cache(maxsize=256)
def _prefix(helo: str, host: str, by: str, protocol: str, tls: str) -> bytes:
    """
    Make all of a Received field that stands before the id; see :class:`Received`.
    """
    # Cached, since clients come back: 5.5 against 0.4 microseconds a connection.
    clauses = [
        _from_clause(helo, _literal(host)),
        *([_comment("using " + tls)] if tls else []),
        [*_by_clause(by), "with", _atom(protocol), "id"],
    ]
    return "\r\n\t".join(map(_fill, clauses)).encode() + b" "


def _wire_form(address: Address) -> bytes:
    """
    Encode an address, but none that would end the field.
    """
    text = str(address)
    if _UNFIT.search(text):
        raise ValueError("control characters in an address cannot stand in a header field")
    return text.encode()


def _literal(host: str) -> str:
    """
    Write an IP address as an address literal (RFC 5321 §4.1.3).

    :returns: an empty string for what is no IP address.
    """
    try:
        address = ipaddress.ip_address(host.partition("%")[0])  # no literal has a scope
    except ValueError:
        return ""
    if address.version == 4:
        return f"[{address}]"
    # An IPv4 client of a socket for both.
    return f"[{address.ipv4_mapped}]" if address.ipv4_mapped else f"[IPv6:{address}]"


def _from_clause(helo: str, literal: str) -> list[str]:
    """
    Say who the client is: the words of the from clause, with the name of the field before it.

    A literal stands there only with the client's own address in brackets behind it, as the grammar
    wants (RFC 5321 §4.4, ``Extended-Domain``).
    """
    named = is_domain(helo) or (bool(literal) and is_address_literal(helo))
    name = helo if named else literal or "unknown"
    words = ["Received: from", name, f"({literal or 'local'})"]
    return words if named or not helo else words + _comment("HELO " + helo)


def _by_clause(by: str) -> list[str]:
    """
    Say who this server is. A host name that is no domain (of a container, with ``_``) is put in a comment.
    """
    if is_domain(by):
        return ["by", by]
    if is_address_literal(by):
        return ["by", by, f"({by})"]
    return ["by", "unknown", *_comment(by)]


def _comment(text: str) -> list[str]:
    """
    Quote any text for a comment (RFC 5322 §3.2.2), and cut it where it is too long.

    :returns: the words of the comment: between them it may be folded.
    """
    text = text.encode("ascii", "backslashreplace").decode()
    text = _CONTROL.sub(lambda control: f"\\x{ord(control[0]):02x}", text)
    if len(text) > _LONGEST_COMMENT:
        text = text[: _LONGEST_COMMENT - 3] + "..."
    quoted = _SPECIAL_IN_COMMENT.sub(r"\\\1", text)
    return f"({quoted})".split()


def _atom(text: str) -> str:
    """
    Make an atom of any text (RFC 5322 §3.2.3).
    """
    return _NOT_ATEXT.sub("-", text)[:_LONGEST_ATOM] or "-"


def _fill(words: list[str]) -> str:
    """
    Join words by spaces, and by folds where a line would get too long.
    """
    text = words[0]
    width = len(text)
    for word in words[1:]:
        width += 1 + len(word)
        if width > _WIDTH:
            text += "\r\n\t" + word
            width = 1 + len(word)
        else:
            text += " " + word
    return text
