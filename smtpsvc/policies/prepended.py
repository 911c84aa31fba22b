"""
Header fields that a policy puts before the content without holding it back.
"""

from __future__ import annotations

from dataclasses import dataclass

from smtpsvc.grammar.trace import continues
from smtpsvc.message.fields import Header
from smtpsvc.values import Envelope


@dataclass(frozen=True, slots=True)
class Prepended:
    """In ``envelope.results``: what the content is to begin with; whole header fields."""

    fields: bytes


def prepend(envelope: Envelope, raw: bytes) -> None:
    """
    Put a header field before all of the message.

    A policy that calls this has ``prepends = True``, and calls it before the content comes: in ``data`` at the
    latest. Of two fields the later one stands first.

    :param raw: one whole field, as :func:`smtpsvc.message.fields.field` makes it.
    :raises ValueError: if it is not one field.
    """
    Header().insert(raw)
    envelope.results.put(Prepended(raw + prepended(envelope)))


def prepended(envelope: Envelope) -> bytes:
    """Give the header fields that the content is to begin with."""
    found = envelope.results.get(Prepended)
    return b"" if found is None else found.fields


def put_before(fields: bytes, content: bytes) -> bytes:
    """Put fields before what a message begins with, which must not continue the last of them."""
    between = b"\r\n" if fields and continues(content) else b""
    return fields + between + content
