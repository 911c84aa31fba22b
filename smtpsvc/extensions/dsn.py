"""
DSN: delivery status notifications (RFC 3461), for internationalized addresses too (RFC 6533).
"""

from __future__ import annotations

import re
from typing import Final

from smtpsvc.extensions import Extension
from smtpsvc.grammar.addresses import parse_mailbox
from smtpsvc.grammar.params import choice
from smtpsvc.grammar.xtext import decode_printable, decode_utf8_addr_unitext
from smtpsvc.parameters import Notify, OriginalRecipient, Ret

MAX_ENVID: Final = 100  # RFC 3461 §4.4
MAX_ORCPT: Final = 500  # RFC 3461 §4.2

_ATOM: Final = re.compile(r"[A-Za-z0-9!#$%&'*+/?^_`{|}~-]++")
_WORDS: Final = {member.value: member for member in Notify}


def parse_notify(value: str | None) -> frozenset[Notify]:
    """
    Read NOTIFY (RFC 3461 §4.1).

    :raises ValueError: unless it is NEVER, or some of the others with commas between them, each once.
    """
    words = (value or "").upper().split(",")
    if not (value or "").isascii() or not all(word in _WORDS for word in words):
        raise ValueError("must be NEVER, or some of SUCCESS, FAILURE and DELAY with commas between them")
    found = frozenset(_WORDS[word] for word in words)
    if len(found) != len(words):
        raise ValueError("has a word twice")
    if Notify.NEVER in found and len(found) > 1:
        raise ValueError("has NEVER beside other words")
    return found


def parse_envid(value: str | None) -> str:
    """
    Read ENVID (RFC 3461 §4.4).

    :returns: the identifier, decoded: printable US-ASCII, of which spaces are a part.
    :raises ValueError: if it is longer than 100 characters, or not xtext of such.
    """
    if value is None or len(value) > MAX_ENVID:
        raise ValueError(f"must be 1 to {MAX_ENVID} characters")
    return decode_printable(value)


def parse_orcpt(value: str | None) -> OriginalRecipient:
    """
    Read ORCPT (RFC 3461 §4.2; RFC 6533 §3 for the type ``utf-8``).

    :raises ValueError: if it is longer than 500 characters, or not a type, a semicolon and an
        address that is encoded as its type has it.
    """
    if value is None or len(value) > MAX_ORCPT:
        raise ValueError(f"must be 1 to {MAX_ORCPT} characters")
    type, semicolon, encoded = value.partition(";")
    if not semicolon or not encoded or not _ATOM.fullmatch(type):
        raise ValueError("must be like rfc822;user@example.com")
    type = type.lower()
    if type == "utf-8":
        # Whether it may go beyond US-ASCII unencoded, the conversation knows: see SMTPUTF8.
        return OriginalRecipient(type, str(parse_mailbox(decode_utf8_addr_unitext(encoded))))
    return OriginalRecipient(type, decode_printable(encoded))


class DSN(Extension):
    """
    DSN (RFC 3461): the sender says which notifications it wants.

    RET and ENVID on MAIL, NOTIFY and ORCPT on RCPT. Who takes a message with them must send what they
    ask for, or hand them on to a host that has this extension.
    """

    keyword = "DSN"
    mail_params = {"RET": choice(Ret), "ENVID": parse_envid}
    rcpt_params = {"NOTIFY": parse_notify, "ORCPT": parse_orcpt}
