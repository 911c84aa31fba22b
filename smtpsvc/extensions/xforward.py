"""
XFORWARD: a trusted client says where the next message came from before (Postfix's XFORWARD_README).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from smtpsvc.extensions import Extension
from smtpsvc.extensions.xclient import attribute, one_of, parse_attributes, port_number, trusted_only
from smtpsvc.grammar import replies
from smtpsvc.grammar.replies import Reply
from smtpsvc.grammar.states import State
from smtpsvc.interfaces import Guard, IConversation
from smtpsvc.server.verbs import Verb
from smtpsvc.settings import Role, Settings
from smtpsvc.values import Forwarded

_MAX_PROTOCOL = 64


def _address(value: str | None) -> str | None:
    text = attribute(value)
    # Any text may be an address; an IPv6 one comes with its prefix from some clients.
    return text[5:] if text is not None and text[:5].upper() == "IPV6:" else text


def _protocol(value: str | None) -> str | None:
    text = attribute(value)
    if text is not None and len(text) > _MAX_PROTOCOL:
        raise ValueError(f"must be at most {_MAX_PROTOCOL} characters")
    return text


# The fields of Forwarded, and the parsers of their values.
_ATTRIBUTES: Final[Mapping[str, tuple[str, Callable[[str | None], Any]]]] = {
    "NAME": ("name", attribute),
    "ADDR": ("address", _address),
    "PORT": ("port", port_number),
    "PROTO": ("protocol", _protocol),
    "HELO": ("helo", attribute),
    "IDENT": ("ident", attribute),
    "SOURCE": ("source", one_of("LOCAL", "REMOTE")),
}
_PARSERS: Final = {name: parser for name, (_, parser) in _ATTRIBUTES.items()}


class XForward(Extension):
    """
    XFORWARD: behind a content filter the log still shows where a message came from.

    The envelope of the next transaction has it as ``forwarded``; nothing else changes. RSET, EHLO and
    HELO forget it, and so does the end of the transaction.
    """

    keyword = "XFORWARD"
    verbs: Mapping[str, Any]

    def __init__(self) -> None:
        self.verbs = {"XFORWARD": Verb(State.GREETED, _parse, _forward, listed=False)}

    def guards(self, settings: Settings, role: Role) -> Mapping[str, Guard | None]:
        """Let in none but trusted clients."""
        return {"XFORWARD": trusted_only}

    def advertise(self, conversation: IConversation) -> str | None:
        """Show the attributes to a trusted client, and nothing to others."""
        return " ".join(_ATTRIBUTES) if conversation.trusted else None


def _parse(argument: bytes) -> dict[str, Any]:
    return {_ATTRIBUTES[name][0]: value for name, value in parse_attributes(argument, _PARSERS).items()}


def _forward(conversation: IConversation, said: Mapping[str, Any]) -> Reply:
    peer = conversation.peer
    # What an earlier XFORWARD said of the same message stays.
    peer.forwarded = replace(peer.forwarded or Forwarded(), **said)
    return replies.OK
