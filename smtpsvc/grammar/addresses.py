"""
Mail addresses as they stand in MAIL and RCPT (RFC 5321 §4.1.2, RFC 6531 §3.3).

An ordinary ``<user@example.com>`` costs one match of one regular expression. Whatever that does
not take is read again step by step, which finds the rarer forms and a sentence for each mistake.
Every expression is possessive, so that no input makes one of them step back.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from functools import lru_cache

import idna

from smtpsvc.grammar.labels import u_labels

__all__ = [
    "NULL",
    "Address",
    "SyntaxProblem",
    "is_address_literal",
    "is_domain",
    "parse_domain",
    "parse_mailbox",
    "parse_path",
    "read_path",
]

MAX_LOCAL = 64  # RFC 5321 §4.5.3.1.1
MAX_DOMAIN = 255  # RFC 5321 §4.5.3.1.2
MAX_LABEL = 63  # RFC 1035 §2.3.4
MAX_ROUTE = 256  # RFC 5321 §4.5.3.1.3; also bounds the work that a route's domains cause

_ATEXT = rb"A-Za-z0-9!#$%&'*+/=?^_`{|}~\-"
# Labels of let-dig, inner hyphens and single dots: a hyphen or dot always has a letter or digit behind it.
_NAME = rb"[A-Za-z0-9]++(?:(?:-++|\.)[A-Za-z0-9]++)*+"

_COMMON = re.compile(rb"<([%b]++(?:\.[%b]++)*+)@(%b)>(?![^ ])" % (_ATEXT, _ATEXT, _NAME))
_DOT_STRING = re.compile(rb"[%b.\x80-\xff]++" % _ATEXT)
_QUOTED = re.compile(rb'"(?:[ !#-\[\]-~\x80-\xff]++|\\[ -~])*+')  # all but its closing quote
_LITERAL = re.compile(rb"\[([!-Z^-~]*+)\]")
_ANY_NAME = re.compile(rb"[^\x00- \x7f>,:]*+")  # up to what may follow a domain; its characters are judged later
_LABEL = re.compile(r"[A-Za-z0-9]++(?:-++[A-Za-z0-9]++)*+")
_LDH = re.compile(r"[A-Za-z0-9-]*+")
_C1 = re.compile("[\x80-\x9f]")


class SyntaxProblem(ValueError):
    """
    Bytes that do not follow the grammar.

    ``str(problem)`` is a sentence for the client. It repeats none of the client's bytes, so it
    can stand in a reply as it is.
    """


@dataclass(frozen=True, slots=True)
class Address:
    """
    One mailbox, as the client wrote it.

    Make it with :func:`parse_mailbox`, which checks; the constructor checks nothing, because the
    reader that calls it for each command has already done so.

    :param local: the local part with its quotes and quoted pairs; empty for ``<>`` only.
    :param domain: a domain or an address literal; empty for ``<>`` and for ``<postmaster>``.
    """

    local: str
    domain: str = ""
    #: The wire form without brackets: ``local@domain``, ``postmaster`` or nothing. Made once: many ask for it.
    text: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", f"{self.local}@{self.domain}" if self.domain else self.local)

    @property
    def is_null(self) -> bool:
        """True for ``<>``, the sender of notifications (RFC 5321 §4.5.5)."""
        return self.local == ""

    @property
    def is_ascii(self) -> bool:
        """False for an address that needs SMTPUTF8 (RFC 6531 §3.4)."""
        return self.local.isascii() and self.domain.isascii()

    @property
    def is_literal(self) -> bool:
        """True where a bracketed IP address stands for the domain (RFC 5321 §4.1.3)."""
        return self.domain.startswith("[")

    @property
    def ascii_domain(self) -> str:
        """
        The domain in the form to compare: A-labels in lower case (RFC 5890 §2.3.2.1).

        An address literal or the empty domain is given as it is.
        """
        if self.is_literal:
            return self.domain
        return _a_labels(self.domain) if not self.domain.isascii() else self.domain.lower()

    @property
    def unicode_domain(self) -> str:
        """The same domain in the form to show: U-labels instead of A-labels, however the client wrote it."""
        return self.domain if self.is_literal else u_labels(self.ascii_domain)

    def __str__(self) -> str:
        """Give the wire form without brackets."""
        return self.text


NULL = Address("")
"""The empty path ``<>``."""


def read_path(
    data: bytes, start: int = 0, *, lenient: bool = False, null: bool = False, postmaster: bool = False
) -> tuple[Address, int]:
    """
    Read the path that begins at *start* and ends before a space or with the data.

    A source route is read and dropped (RFC 5321 §4.1.1.3, appendix C). Characters beyond
    US-ASCII are understood always; whether the client may send them is for the caller to say,
    by :attr:`Address.is_ascii`, or by ``data.isascii()`` where a dropped route counts too.

    :param lenient: also take odd dots in a local part (first, last, doubled) and a path without
        angle brackets.
    :param null: also take ``<>``, which is a sender only.
    :param postmaster: also take ``<postmaster>`` without a domain, in any case, which is a
        recipient only (RFC 5321 §4.5.1).
    :returns: the address and the offset of the first byte behind the path.
    :raises SyntaxProblem: with what is wrong.
    """
    match = _COMMON.match(data, start)
    if match is not None:
        local, domain = match.groups()
        # A domain within the limit of one label has no label beyond it.
        if len(local) <= MAX_LOCAL and len(domain) <= MAX_LABEL:
            return Address(local.decode(), domain.decode()), match.end()
    return _read_rare_path(data, start, lenient, null, postmaster)


def parse_path(data: bytes, *, lenient: bool = False, null: bool = False, postmaster: bool = False) -> Address:
    """
    Read *data* as one path and nothing else; the rest is as for :func:`read_path`.

    :raises SyntaxProblem: with what is wrong, also where something follows the path.
    """
    address, end = read_path(data, lenient=lenient, null=null, postmaster=postmaster)
    if end != len(data):
        raise SyntaxProblem("something stands behind the path")
    return address


def parse_mailbox(text: str) -> Address:
    """
    Make an address from ``local@domain`` without brackets, by the same strict rules.

    :raises SyntaxProblem: with what is wrong.
    """
    data = _encode(text)
    local, position = _read_local(data, 0, False)
    if not data.startswith(b"@", position):
        raise _unexpected(data, position, "address must have the form user@domain")
    domain, position = _read_domain(data, position + 1)
    if position != len(data):
        raise _unexpected(data, position, "something stands behind the address")
    return Address(local, domain)


def parse_domain(text: str) -> str:
    """
    Check a domain and give the form to compare it in, which is that of :attr:`Address.ascii_domain`.

    :param text: a domain of ASCII labels, U-labels or both; no address literal.
    :raises SyntaxProblem: with what is wrong.
    """
    domain = _check_domain(_encode(text))
    return domain.lower() if domain.isascii() else _a_labels(domain)


def is_domain(text: str) -> bool:
    """Tell whether *text* is a domain of US-ASCII (RFC 5321 §4.1.2, ``Domain``); U-labels are not."""
    if not text.isascii():
        return False
    try:
        _check_domain(text.encode())
    except SyntaxProblem:
        return False
    return True


def is_address_literal(text: str) -> bool:
    """Tell whether *text*, brackets included, is an IPv4 or IPv6 literal (RFC 5321 §4.1.3)."""
    if not text.isascii():
        return False
    match = _LITERAL.fullmatch(text.encode())
    return match is not None and _is_ip(match[1])


def _read_rare_path(data: bytes, start: int, lenient: bool, null: bool, postmaster: bool) -> tuple[Address, int]:
    """Read any path, in steps; see :func:`read_path`."""
    bracketed = data.startswith(b"<", start)
    if not bracketed and not lenient:
        raise SyntaxProblem("path must be in angle brackets: <user@domain>")
    position = start + bracketed
    if data.startswith(b"<>", start):
        if not null:
            raise SyntaxProblem("<> is a sender only")
        address = NULL
    else:
        if bracketed:
            position = _skip_route(data, position)
        address, position = _read_mailbox(data, position, lenient, postmaster)
    if bracketed:
        if not data.startswith(b">", position):
            raise _unexpected(data, position, "path lacks its closing angle bracket")
        position += 1
    if position < len(data) and not data.startswith(b" ", position):
        raise _unexpected(data, position, "a space must follow the path")
    return address, position


def _skip_route(data: bytes, start: int) -> int:
    """Give the offset behind a source route ``@a,@b:``, or *start* where there is none."""
    if not data.startswith(b"@", start):
        return start
    position = start
    while True:
        position = _read_name(data, position + 1)[1]
        if position - start > MAX_ROUTE:
            raise SyntaxProblem(f"source route is longer than {MAX_ROUTE} octets")
        if data.startswith(b":", position):
            return position + 1
        if not data.startswith(b",@", position):
            raise _unexpected(data, position, "no local part before the @, or a source route not like @a,@b:")
        position += 1


def _read_mailbox(data: bytes, start: int, lenient: bool, postmaster: bool) -> tuple[Address, int]:
    """Read ``local@domain``, or the bare ``postmaster`` where it may stand."""
    local, position = _read_local(data, start, lenient)
    if data.startswith(b"@", position):
        domain, position = _read_domain(data, position + 1)
        return Address(local, domain), position
    if postmaster and local.lower() == "postmaster":
        return Address(local), position
    if data.startswith(b" ", position):
        raise SyntaxProblem("no space may stand in a local part without quotes")
    if position == len(data) or data.startswith(b">", position):
        raise SyntaxProblem("address has no domain")
    raise _unexpected(data, position, "local part has a character that must stand in quotes")


def _read_local(data: bytes, start: int, lenient: bool) -> tuple[str, int]:
    """Read a local part, quoted or not, and leave the ``@`` unread."""
    quoted = data.startswith(b'"', start)
    match = (_QUOTED if quoted else _DOT_STRING).match(data, start)
    if match is None:
        raise _unexpected(data, start, "local part is missing or begins with a character that must stand in quotes")
    end = match.end()
    if quoted:
        if not data.startswith(b'"', end):
            end += data.startswith(b"\\", end)
            raise _unexpected(data, end, "quoted local part has no closing quote or a wrong character behind a \\")
        end += 1
    # RFC 5321 §4.5.3.1.1 counts octets, not characters; quotes and backslashes are sent, so they count.
    if end - start > MAX_LOCAL:
        raise SyntaxProblem(f"local part is longer than {MAX_LOCAL} octets")
    local = _decode(data[start:end])
    if _C1.search(local):
        raise SyntaxProblem("address has a control character in it")
    if not quoted and not local.strip("."):
        raise SyntaxProblem("local part is missing")
    if not quoted and not lenient and (local[0] == "." or local[-1] == "." or ".." in local):
        raise SyntaxProblem("local part begins or ends with a dot or has two in a row")
    return local, end


def _read_domain(data: bytes, start: int) -> tuple[str, int]:
    """Read a domain or an address literal."""
    if not data.startswith(b"[", start):
        return _read_name(data, start)
    match = _LITERAL.match(data, start)
    if match is None:
        raise SyntaxProblem("address literal has a wrong character or no closing bracket")
    if not _is_ip(match[1]):
        raise SyntaxProblem("address literal must be like [192.0.2.1] or [IPv6:2001:db8::1]")
    return match[0].decode(), match.end()


def _read_name(data: bytes, start: int) -> tuple[str, int]:
    """Read a domain that is no address literal."""
    match = _ANY_NAME.match(data, start)
    assert match is not None, "an expression that takes nothing too always matches"
    if not match[0]:
        raise _unexpected(data, start, "domain is missing")
    return _check_domain(match[0]), match.end()


def _check_domain(octets: bytes) -> str:
    """Give the octets as text if they are a domain of ASCII labels and U-labels (RFC 6531 §3.3)."""
    if not octets:
        raise SyntaxProblem("domain is missing")
    if len(octets) > MAX_DOMAIN:
        raise SyntaxProblem(f"domain is longer than {MAX_DOMAIN} octets")
    domain = _decode(octets)
    if not domain.isascii():
        _a_labels(domain)
        return domain
    for label in domain.split("."):
        _check_label(label)
    return domain


def _check_label(label: str) -> None:
    """Raise :exc:`SyntaxProblem` unless *label* is a label of US-ASCII (``sub-domain``)."""
    if len(label) > MAX_LABEL:
        raise SyntaxProblem(f"a label of the domain is longer than {MAX_LABEL} octets")
    if _LABEL.fullmatch(label):
        return
    if not label:
        raise SyntaxProblem("domain begins or ends with a dot or has two in a row")
    if _LDH.fullmatch(label):
        raise SyntaxProblem("a label of the domain begins or ends with a hyphen")
    raise SyntaxProblem("domain may have only letters, digits, hyphens and dots")


@lru_cache(maxsize=1024)
def _a_labels(domain: str) -> str:
    """
    Give the A-label form of a domain, in lower case.

    Kept for the domains used last: one is needed to check a domain and again to compare it, and
    ``idna`` takes some 20 µs.
    """
    labels = []
    for label in domain.split("."):
        if label.isascii():
            _check_label(label)
            labels.append(label.lower())
            continue
        try:
            encoded = idna.encode(label, strict=True, uts46=True, std3_rules=True).decode()
        except idna.IDNAError:
            raise SyntaxProblem("a label of the domain is no valid internationalized label") from None
        # The mapping turns U+3002 and its like into a dot, and some letters into ASCII ones.
        _check_label(encoded)
        labels.append(encoded.lower())
    result = ".".join(labels)
    if len(result) > MAX_DOMAIN:
        raise SyntaxProblem(f"domain is longer than {MAX_DOMAIN} octets in its ASCII form")
    return result


def _is_ip(octets: bytes) -> bool:
    """Tell whether the inside of an address literal is an IP address; other tags are not known."""
    text = octets.decode()
    try:
        if text[:5].upper() == "IPV6:":
            ipaddress.IPv6Address(text[5:])
            # A zone ("%eth0") means something on one machine only, and RFC 5321 §4.1.3 has none.
            return "%" not in text
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True


def _decode(octets: bytes) -> str:
    """Give the octets as text (RFC 3629: no overlong form, no surrogate)."""
    try:
        return octets.decode()
    except UnicodeDecodeError:
        raise SyntaxProblem("address is not valid UTF-8") from None


def _encode(text: str) -> bytes:
    """Give the octets that would stand on the wire."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise SyntaxProblem("address has a surrogate in it") from None


def _unexpected(data: bytes, position: int, sentence: str) -> SyntaxProblem:
    """Make the problem for an octet that may not stand where it does: *sentence*, or that it is a control."""
    octet = data[position : position + 1]
    if octet and (octet < b" " or octet == b"\x7f"):
        return SyntaxProblem("address has a control character in it")
    return SyntaxProblem(sentence)
