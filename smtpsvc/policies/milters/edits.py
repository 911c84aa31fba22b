"""
What a filter wants changed, done to a message that is held.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from kilter.protocol import messages
from twisted.logger import Logger

from smtpsvc.grammar.addresses import NULL, Address, parse_path
from smtpsvc.grammar.shown import shown
from smtpsvc.message.fields import Field, Header
from smtpsvc.policies.held import HeldMessage
from smtpsvc.policies.reaching import ProgramFailed
from smtpsvc.values import Recipient

_BREAK = re.compile(rb"\r\n|[\r\n]")
# A break behind which the field would not go on.
_OPEN = re.compile(rb"\r\n(?![ \t])")

log = Logger()


def own_received(held: HeldMessage) -> Field | None:
    """Give the field that this server has put before the message, of which filters are not told."""
    first = next(iter(held.header), None)
    mine = first is not None and first.name == "Received" and f"id {held.envelope.id}".encode() in first.raw
    return first if mine else None


def edit(held: HeldMessage, edits: Iterable[messages.Message], *, leading_space: bool) -> None:
    """
    Do what a filter has asked for, in its order.

    Places of headers are counted as if the first were this server's ``Received``, whether it is there or not.

    :param leading_space: its headers bring their own blank behind the colon.
    :raises ProgramFailed: if something cannot be done; part of it may be.
    """
    own = own_received(held)
    body = bytearray()
    replaced = False
    for each in edits:
        try:
            match each:
                case messages.ReplaceBody():
                    body += bytes(each.content)
                    replaced = True
                # Inserted is a kind of changed for the codec.
                case messages.InsertHeader():
                    raw = _raw(each.name, bytes(each.value), leading_space)
                    held.header.insert(raw, each.index if own is not None else max(0, each.index - 1))
                case messages.ChangeHeader():
                    _change(held.header, each, own, leading_space)
                case messages.AddHeader():
                    held.header.append(_raw(each.name, bytes(each.value), leading_space))
                case messages.AddRecipient() | messages.AddRecipientPar():
                    held.add_recipient(Recipient(_address(each.address)))
                case messages.RemoveRecipient():
                    held.remove_recipient(_address(each.address))
                case messages.ChangeSender():
                    held.change_sender(_address(each.address, null=True))
                case messages.Quarantine():
                    _quarantine(held, each.reason)
        except ValueError as error:
            problem = shown(str(error).encode("utf-8", "backslashreplace"))
            raise ProgramFailed(f"its {type(each).__name__} cannot be done: {problem}") from error
    if replaced:
        held.replace_body(_BREAK.sub(b"\r\n", bytes(body)))


def _change(header: Header, each: messages.ChangeHeader, own: Field | None, leading_space: bool) -> None:
    n = max(0, each.index - 1) + (own is not None and each.name.lower() == "received")
    if bytes(each.value).strip():
        header.replace(each.name, _raw(each.name, bytes(each.value), leading_space), n)
    else:
        header.remove(each.name, n)


def _raw(name: str, value: bytes, leading_space: bool) -> bytes:
    """Write a field so that nothing in its value begins another."""
    lines = _BREAK.sub(b"\r\n", value.replace(b"\0", b"").rstrip(b"\r\n"))
    blank = b"" if leading_space else b" "
    return name.encode("ascii") + b":" + blank + _OPEN.sub(b"\r\n\t", lines) + b"\r\n"


def _address(text: str, *, null: bool = False) -> Address:
    path = text.strip()
    if path in ("", "<>") and null:
        return NULL
    octets = path.encode("utf-8", "backslashreplace")
    return parse_path(octets if octets.startswith(b"<") else b"<%b>" % octets, lenient=True, postmaster=True)


def _quarantine(held: HeldMessage, reason: str) -> None:
    words = shown(reason.encode("utf-8", "backslashreplace"))[:500]
    log.info("message {id} is to be kept apart: {reason}", id=held.envelope.id, reason=words)
    held.quarantine(words)
