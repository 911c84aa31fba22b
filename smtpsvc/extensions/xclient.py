"""
XCLIENT: a trusted proxy says who the client is (Postfix's XCLIENT_README).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress

from smtpsvc.extensions import Extension
from smtpsvc.grammar import replies
from smtpsvc.grammar.addresses import SyntaxProblem
from smtpsvc.grammar.params import UnknownParameter, parse_params
from smtpsvc.grammar.replies import Reply
from smtpsvc.grammar.states import State
from smtpsvc.grammar.xtext import decode_xtext
from smtpsvc.interfaces import Guard, IConversation
from smtpsvc.server.verbs import Verb
from smtpsvc.settings import Role, Settings
from smtpsvc.values import Account, Peer

#: What a proxy says for a value that it does not have, in any case of letters.
UNAVAILABLE: Final = frozenset({"[UNAVAILABLE]", "[TEMPUNAVAIL]"})

#: Longest value, decoded.
MAX_VALUE: Final = 255

_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)
_IPV6 = "IPV6:"


def attribute(value: str | None) -> str | None:
    """
    Decode an attribute's value.

    :returns: printable text of 1 to 255 characters, or None for what the proxy does not have.
    :raises ValueError: with a sentence.
    """
    if value is None:
        raise ValueError("needs a value")
    text = decode_xtext(value)
    if text.upper() in UNAVAILABLE:
        return None
    if len(text) > MAX_VALUE or not text.isprintable():
        raise ValueError(f"must be 1 to {MAX_VALUE} printable characters")
    return text


def port_number(value: str | None) -> int | None:
    """
    Decode a port.

    :raises ValueError: with a sentence.
    """
    text = attribute(value)
    if text is None:
        return None
    if not _PORT.fullmatch(text) or int(text) > 65535:
        raise ValueError("must be a port from 0 to 65535")
    return int(text)


def one_of(*words: str) -> Callable[[str | None], str | None]:
    """Make a parser of a word of any case; it gives the word in upper case."""

    def parse(value: str | None) -> str | None:
        text = attribute(value)
        if text is not None and text.upper() not in words:
            raise ValueError(f"must be one of {', '.join(words)}")
        return text and text.upper()

    return parse


def parse_attributes(argument: bytes, parsers: Mapping[str, Callable[[str | None], Any]]) -> dict[str, Any]:
    """
    Parse ``NAME=value`` pairs with spaces between them.

    :param parsers: by the names that are taken, in upper case.
    :raises SyntaxProblem: with a sentence, for what is not that.
    """
    try:
        found = parse_params(argument, 0, parsers)
    except UnknownParameter:
        raise SyntaxProblem("An attribute is not known or not offered here") from None
    except SyntaxProblem as problem:
        text = str(problem)
        raise SyntaxProblem(text[:1].upper() + text[1:]) from None
    if not found:
        raise SyntaxProblem("An attribute is needed")
    return found


def trusted_only(conversation: IConversation) -> Reply | None:
    """Let pass whom ``settings.trusted_proxies`` trusts; refuse others with 550 5.7.0."""
    return None if conversation.trusted else replies.NOT_TRUSTED


def _ip(value: str | None) -> str | None:
    text = attribute(value)
    if text is None:
        return None
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address
    try:
        if not text.upper().startswith(_IPV6):
            ip = ipaddress.IPv4Address(text)
        elif "%" in text:
            raise ValueError("a scope has no meaning to others")
        else:
            ip = ipaddress.IPv6Address(text[len(_IPV6) :])
            # A proxy that listens on one socket for both gives IPv4 clients so.
            ip = ip.ipv4_mapped or ip
    except ValueError:
        raise ValueError("must be an IPv4 address, or an IPv6 address behind IPV6:") from None
    return str(ip)


_ATTRIBUTES: Final[Mapping[str, Callable[[str | None], Any]]] = {
    "NAME": attribute,
    "ADDR": _ip,
    "PORT": port_number,
    "PROTO": one_of("SMTP", "ESMTP", "LMTP"),
    "HELO": attribute,
    "DESTADDR": _ip,
    "DESTPORT": port_number,
}
_WITH_LOGIN: Final = {**_ATTRIBUTES, "LOGIN": attribute}


class XClient(Extension):
    """
    XCLIENT: a trusted proxy puts the attributes of its client in place of its own.

    The session is closed and another opened, so that the backend's checks of the connection meet the
    client; its greeting is the reply. What one XCLIENT says stays for the next, but for HELO, PROTO and
    LOGIN. TLS stays too: it cannot be ended. LOGIN is taken where ``settings.xclient_login``.
    """

    keyword = "XCLIENT"
    verbs: Mapping[str, Any]

    def __init__(self) -> None:
        self.verbs = {
            "XCLIENT": Verb(State.CONNECTED | State.GREETED, _parse, _introduce, listed=False),
        }

    def guards(self, settings: Settings, role: Role) -> Mapping[str, Guard | None]:
        """Let in none but trusted proxies."""
        return {"XCLIENT": trusted_only}

    def advertise(self, conversation: IConversation) -> str | None:
        """Show the attributes to a trusted proxy, and nothing to others."""
        if not conversation.trusted:
            return None
        return " ".join(_WITH_LOGIN if conversation.settings.xclient_login else _ATTRIBUTES)


def _parse(argument: bytes) -> dict[str, Any]:
    return parse_attributes(argument, _WITH_LOGIN)


def _introduce(conversation: IConversation, said: Mapping[str, Any]) -> Any:
    if "LOGIN" in said and not conversation.settings.xclient_login:
        return Reply(501, "LOGIN is not offered here", "5.5.4")
    old = conversation.peer
    address = _address(old.address, said, "ADDR", "PORT")
    peer = Peer(address, old.id)
    peer.name = (said["NAME"] or "") if "NAME" in said else old.name
    peer.destination = _address(old.destination, said, "DESTADDR", "DESTPORT")
    peer.helo = said.get("HELO") or ""
    peer.extended = said.get("PROTO") in ("ESMTP", "LMTP")
    peer.tls = old.tls
    peer.proxied_by = old.speaker
    if said.get("LOGIN"):
        peer.account = Account(said["LOGIN"])
    return conversation.replace_peer(peer)


def _address(old: IAddress | None, said: Mapping[str, Any], host: str, port: str) -> IAddress | None:
    """Put the host and the port that were said in the place of the old ones; None if no host is known."""
    old_host = getattr(old, "host", None)
    if host not in said and (port not in said or old_host is None):
        return old
    new_host = said.get(host, old_host)
    if new_host is None:
        return None
    # The old port is that of the old host.
    new_port = said[port] if port in said else 0 if host in said else getattr(old, "port", 0)
    kind = IPv6Address if ":" in new_host else IPv4Address
    return kind("TCP", new_host, new_port or 0)
