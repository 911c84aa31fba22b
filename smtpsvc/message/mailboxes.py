"""
Addresses as a receiver reads them: local part and domain, tags, and one form for all the ways to write a mailbox.

Only the host of a mailbox knows what its local part means (RFC 5321 §2.3.11). The rules here are for
mailboxes of one's own, and :class:`Canonical` can be told which those are.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from smtpsvc.grammar.addresses import Address, SyntaxProblem, parse_domain, parse_mailbox

__all__ = ["Canonical", "quoted", "split_address", "split_tag", "unquoted"]

_DOT_STRING = re.compile(r"[^\x00- \"(),:;<>@\[\\\]\x7f.]++(?:\.[^\x00- \"(),:;<>@\[\\\]\x7f.]++)*+")
_PAIR = re.compile(r"\\(.)", re.DOTALL)
_NEEDS_PAIR = re.compile(r'(["\\])')


def split_address(address: str | Address) -> tuple[str, str]:
    """
    Split an address at its last ``@``.

    :returns: the local part as it is written, with its quotes, and the domain.
    :raises ValueError: if there is no ``@`` with something on both sides.
    """
    text = str(address)
    local, _, domain = text.rpartition("@")
    if not local or not domain:
        raise ValueError(f"{text!r} is no address of the form user@domain")
    return local, domain


def unquoted(local: str) -> str:
    r"""
    Give what a local part means: ``"a\"b"`` and ``"ab"`` without quotes and quoted pairs (RFC 5321 §4.1.2).

    :param local: as ``local`` of an :class:`~smtpsvc.grammar.addresses.Address` has it.
    """
    if len(local) > 1 and local.startswith('"') and local.endswith('"'):
        return _PAIR.sub(r"\1", local[1:-1])
    return local


def quoted(text: str) -> str:
    """Write any text as a local part: as it is if that can be, else as a quoted string (RFC 5321 §4.1.2)."""
    return text if _DOT_STRING.fullmatch(text) else '"' + _NEEDS_PAIR.sub(r"\\\1", text) + '"'


def split_tag(local: str, separators: str = "+") -> tuple[str, str | None]:
    """
    Split a local part into mailbox and tag (RFC 5233 §1): ``info+news`` is ``info`` and ``news``.

    :param local: as it is written; quotes are undone.
    :param separators: each of these characters can stand in front of a tag; the first one found counts.
    :returns: both without quotes; the tag is None if there is none. A separator in the first place
        belongs to the mailbox.
    """
    text = unquoted(local)
    places = [place for place in (text.find(each, 1) for each in separators) if place > 0]
    if not places:
        return text, None
    return text[: min(places)], text[min(places) + 1 :]


@dataclass(frozen=True, slots=True)
class Canonical:
    """
    Gives one form of the many in which a mailbox can be written: call it with an address.

    Quotes that change nothing are left away, the domain has A-labels in lower case, and characters are
    composed (NFC, RFC 6530 §10.1). What else is the same mailbox, the fields say.

    :param separators: characters that begin a tag, which is left away; "" leaves it there.
    :param fold_case: True if local parts differ by more than case; then they are in lower case.
    :param ignore_dots: True if dots in a local part count for nothing.
    :param domains: where the rules for local parts hold; None for everywhere. Elsewhere a local part
        only loses its needless quotes.
    :raises ValueError: with a sentence, if a domain is none.
    """

    separators: str = "+"
    fold_case: bool = True
    ignore_dots: bool = False
    domains: frozenset[str] | None = None

    def __post_init__(self) -> None:
        if self.domains is not None:
            object.__setattr__(self, "domains", frozenset(map(_domain, self.domains)))

    def __call__(self, address: Address) -> Address:
        """Give the canonical form; that of ``<>`` is ``<>``."""
        if address.is_null:
            return address
        domain = address.ascii_domain
        local = unquoted(address.local)
        if self.domains is None or domain in self.domains:
            local = self._mailbox(local)
        return Address(quoted(local), domain)

    def tag(self, address: Address) -> str | None:
        """Give the tag of an address, or None if it has none, or is in a domain without these rules."""
        if self.domains is not None and address.ascii_domain not in self.domains:
            return None
        return split_tag(address.local, self.separators)[1]

    def same(self, addresses: Iterable[Address]) -> bool:
        """Say whether all of *addresses* are one mailbox."""
        return len({self(address) for address in addresses}) < 2

    def _mailbox(self, local: str) -> str:
        mailbox, _ = split_tag(quoted(unicodedata.normalize("NFC", local)), self.separators)
        if self.ignore_dots:
            mailbox = mailbox.replace(".", "") or mailbox
        return mailbox.lower() if self.fold_case else mailbox


def read_mailbox(local: str, domain: str) -> Address:
    """
    Make an address of what a mailbox is called and where it is.

    :param local: without quotes.
    :raises ValueError: with a sentence, if there can be none.
    """
    if not local:
        raise SyntaxProblem("local part is missing")
    return parse_mailbox(f"{quoted(local)}@{domain}")


def _domain(text: str) -> str:
    try:
        return parse_domain(text)
    except SyntaxProblem as problem:
        raise ValueError(f"{text!r} is no domain: {problem}") from None
