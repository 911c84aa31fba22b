"""
What checks of who has sent a message have found: one :class:`Authentication` for each, and one header field that
tells it (RFC 8601).

The policies ``spf``, ``dkim``, ``arc``, ``dmarc`` and ``fcrdns`` fill it. When all policies have consented, the field
stands at the top of the message, and those that came with our name are gone. Every other octet stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Final

from smtpsvc.grammar.addresses import is_address_literal, is_domain
from smtpsvc.message.fields import Field, Header, field
from smtpsvc.policies.arguments import Arguments
from smtpsvc.policies.fcrdns import ReverseName
from smtpsvc.policies.held import HeldMessage
from smtpsvc.policies.unknown import is_stranger
from smtpsvc.settings import Role, default_hostname
from smtpsvc.values import Envelope

NAME: Final = "Authentication-Results"
#: Characters of one value that are told.
LONGEST: Final = 320

_PLAIN = re.compile(r"[A-Za-z0-9!#$%&'*+\-.^_`{|}~]+(?:@[A-Za-z0-9.\-]+)?")
_PIECES = re.compile(r'(?P<open>\()|(?P<close>\))|\\(?P<pair>.)|(?P<quote>")|(?P<end>;)|[^()\\";]+|\\', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Finding:
    """
    What one method has found out.

    :param method: ``spf``, ``dkim``, ``arc``, ``dmarc`` or ``iprev``.
    :param result: a word of RFC 8601 §2.7, such as ``pass``.
    :param properties: what was looked at, by names of RFC 8601 §2.7: ``(("smtp.mailfrom", "a@x.example"),)``.
    :param reason: for people, not to be trusted.
    """

    method: str
    result: str
    properties: tuple[tuple[str, str], ...] = ()
    reason: str = ""

    def of(self, name: str) -> str:
        """Give a property, or "" if it is not there."""
        return dict(self.properties).get(name, "")


@dataclass(frozen=True, slots=True)
class Authentication:
    """In ``envelope.results``: what was found out about who has sent a message."""

    findings: tuple[Finding, ...] = ()

    def of(self, method: str) -> tuple[Finding, ...]:
        """Give what one method has found; empty if it was not asked."""
        return tuple(each for each in self.findings if each.method == method)


def found(envelope: Envelope) -> Authentication:
    """Give what was found out until now."""
    return envelope.results.get(Authentication) or Authentication()


def record(envelope: Envelope, *findings: Finding) -> None:
    """Add what was found out."""
    envelope.results.put(Authentication(found(envelope).findings + findings))


def concerns(envelope: Envelope) -> bool:
    """Tell whether a message comes from a stranger, by SMTP: others have no need to prove what they are."""
    return envelope.role is Role.SMTP and is_stranger(envelope.peer)


def tell(envelope: Envelope, held: HeldMessage, id: str) -> None:
    """
    Have the header field written when all policies have consented.

    What came by LMTP was looked at by somebody of ours before, and stays as it is.

    :param id: of this service in the field.
    """
    if envelope.role is not Role.LMTP:
        held.edit_last((NAME, id), partial(_write, envelope, held, id))


def _write(envelope: Envelope, held: HeldMessage, id: str, header: Header) -> None:
    # What a filter of ours has put there since is no forgery.
    came = {each.raw for each in held.header_as_it_came().find_all(NAME)}
    header.remove(NAME, where=lambda each: each.raw in came and names_us(each, id))
    findings = list(found(envelope).findings)
    iprev = envelope.peer.results.get(ReverseName)
    if iprev is not None and not any(each.method == "iprev" for each in findings):
        findings.append(Finding("iprev", iprev.result, (("policy.iprev", iprev.address),)))
        record(envelope, findings[-1])
    if findings:
        header.insert(results_field(id, findings))


def results_field(id: str, findings: Iterable[Finding]) -> bytes:
    """
    Write the field (RFC 8601 §2.2).

    What strangers have said is quoted where it is no plain word or address, escaped where it is no US-ASCII, and cut
    off where it is long.
    """
    told = [
        " ".join(
            [
                f"{each.method}={each.result}",
                *([f"reason={_value(each.reason, quoted=True)}"] if each.reason else []),
                *(f"{name}={_value(value)}" for name, value in each.properties),
            ]
        )
        for each in findings
    ]
    return field(NAME, "; ".join([_value(id), *(told or ["none"])]))


def _value(text: str, *, quoted: bool = False) -> str:
    text = text.encode("ascii", "backslashreplace").decode("ascii")
    text = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)[:LONGEST]
    if not quoted and _PLAIN.fullmatch(text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def names_us(each: Field, id: str) -> bool:
    """
    Tell whether a field claims to be ours, as the most lenient reader might see it (RFC 8601 §5).

    :param id: ours.
    """
    text = each.value.decode("utf-8", "replace")
    wanted = id.casefold()
    depth, quoted = 0, False
    pieces = []
    for match in _PIECES.finditer(text):
        kind = match.lastgroup
        if kind == "quote" and not depth:
            quoted = not quoted
        elif kind == "open" and not quoted:
            depth += 1
        elif kind == "close" and depth and not quoted:
            depth -= 1
        elif not depth:
            if kind == "end" and not quoted:
                break
            pieces.append(match["pair"] or match[0])
    if depth or quoted:
        # Readers differ in what they make of it.
        return wanted in text.casefold()
    claimed = "".join(pieces).casefold()
    words = [word.rstrip(".") for word in re.split(r"[\s/]+", claimed)]
    return wanted in words or re.sub(r"\s+", "", claimed).rstrip(".") == wanted


def read_id(arguments: Arguments) -> str:
    """
    Take ``id``, our name in the field; that of this host if it is not given.

    :raises ValueError: with a sentence.
    """
    id = arguments.text("id", arguments.hostname or default_hostname())
    if not (is_domain(id) or is_address_literal(id)):
        raise ValueError(f"id: {id!r} is no name of a host; write such as mx.example.org")
    return id
