"""
What an answer of a policy server of Postfix means here.
"""

from __future__ import annotations

import re
from typing import Final

from twisted.logger import Logger

from smtpsvc.grammar.replies import Reply
from smtpsvc.grammar.shown import shown
from smtpsvc.message.fields import field
from smtpsvc.policies.discarded import discard
from smtpsvc.policies.held import HeldMessage
from smtpsvc.policies.prepended import prepend
from smtpsvc.policies.reaching import refusal_of
from smtpsvc.values import Envelope, Quarantine

_CODE = re.compile(r"[45][0-9][0-9]")
_REFUSALS: Final = {
    "REJECT": (554, "Access denied", "5.7.1"),
    "DEFER": (450, "Access denied for now, try again later", "4.7.1"),
    "DEFER_IF_PERMIT": (450, "Access denied for now, try again later", "4.7.1"),
}

log = Logger()


def follow(action: str, envelope: Envelope | None, held: HeldMessage | None, name: str) -> Reply | None:
    """
    Do what an answer says.

    :param action: with its text.
    :param envelope: None before there is one.
    :param held: the message, at its end.
    :param name: of the policy, in the log.
    :raises ValueError: if that is not possible.
    """
    word, _, text = action.partition(" ")
    word, text = word.upper(), text.strip()
    if word in ("OK", "DUNNO", "DEFER_IF_REJECT", "") or (word.isdigit() and not _CODE.fullmatch(word)):
        return None
    if word in _REFUSALS:
        code, words, enhanced = _REFUSALS[word]
        return refusal_of(code, text or words, enhanced)
    if _CODE.fullmatch(word):
        return refusal_of(int(word), text or "Access denied", f"{word[0]}.7.1")
    if word in ("WARN", "INFO"):
        log.info("{policy} says: {text}", policy=name, text=printable(text), id=getattr(envelope, "id", ""))
        return None
    if word not in ("DISCARD", "HOLD", "PREPEND"):
        raise ValueError("there is no such action here")
    if envelope is None:
        raise ValueError("there is no message yet")
    if word == "HOLD":
        envelope.results.put(Quarantine(printable(text or name)))
    elif word == "PREPEND":
        title, colon, value = text.partition(":")
        raw = field(title.strip() if colon else "", value.strip())
        prepend(envelope, raw) if held is None else held.header.insert(raw)
    elif held is None:
        discard(envelope)
    else:
        held.discard()
    return None


def printable(text: str) -> str:
    """Escape and cut what a policy server says, for the log."""
    return shown(text[:500].encode("utf-8", "backslashreplace"))
