"""
What a web hook is told, and how its verdict reads: JSON, and the signature of it.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from smtpsvc.grammar.replies import Reply
from smtpsvc.grammar.shown import shown
from smtpsvc.message.fields import field
from smtpsvc.policies.held import HeldMessage
from smtpsvc.policies.reaching import ProgramFailed
from smtpsvc.values import Envelope, Login, Peer, Recipient

#: Of what is told; it grows when something in it changes its meaning.
VERSION: Final = 1
TIMESTAMP: Final = "X-Smtpsvc-Timestamp"
SIGNATURE: Final = "X-Smtpsvc-Signature"

_LONGEST_TEXT: Final = 500
_MOST_FIELDS: Final = 50
_DEFAULTS: Final[Mapping[str, tuple[int, str, str]]] = {
    "reject": (550, "Refused by the policy of this server", "5.7.1"),
    "defer": (451, "Refused for now by the policy of this server, try again later", "4.7.1"),
}
ACTIONS: Final = ("accept", "reject", "defer", "discard", "tag", "quarantine")


@dataclass(frozen=True, slots=True)
class HookVerdict:
    """
    What a hook says.

    :param action: one of :data:`ACTIONS`.
    :param reply: the refusal, for ``reject`` and ``defer``.
    :param text: why, for ``quarantine``.
    :param fields: whole header fields to put before the message.
    """

    action: str
    reply: Reply | None = None
    text: str = ""
    fields: tuple[bytes, ...] = ()


def question(
    stage: str,
    envelope: Envelope,
    recipient: Recipient | None = None,
    held: HeldMessage | None = None,
    *,
    header: bool = False,
) -> bytes:
    """
    Write what a hook is told.

    :param header: with the header of the message, when it is there.
    """
    told: dict[str, Any] = {
        "version": VERSION,
        "stage": stage,
        "id": envelope.id,
        "protocol": envelope.role.name.lower(),
        "client": _client(envelope.peer),
        "sender": str(envelope.sender),
        "sender_params": _params(envelope.mail_params),
        "recipients": [str(each) for each in envelope.recipients],
        "size": envelope.size if held is None else held.size,
    }
    if recipient is not None:
        told["recipient"] = str(recipient)
        told["recipient_params"] = _params(recipient.params)
    if held is not None and header:
        told["headers"] = [[each.name, shown(each.value)] for each in held.header if each.name]
    return json.dumps(told, separators=(",", ":")).encode("ascii")


def _client(peer: Peer) -> dict[str, Any]:
    login = peer.results.get(Login)
    tls = peer.tls
    return {
        "id": peer.id,
        "address": peer.host,
        "port": peer.port,
        "name": peer.name,
        "helo": peer.helo,
        "tls": None if tls is None else {"version": tls.version, "cipher": tls.cipher},
        "account": None if peer.account is None else peer.account.name,
        "mechanism": None if peer.account is None or login is None else login.mechanism,
    }


def _params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Write parameters: numbers and words as they are, all else as text."""
    plain = {name: value.value if isinstance(value, enum.Enum) else value for name, value in params.items()}
    return {
        name: value if value is None or isinstance(value, (bool, int, str)) else str(value)
        for name, value in plain.items()
    }


def signed(body: bytes, secret: bytes, seconds: float) -> dict[str, str]:
    """
    Sign a body with HMAC-SHA256 over the time, a full stop and the body.

    :param seconds: since 1970; the time of the signature.
    :returns: the header fields of the request that say so.
    """
    time = str(int(seconds))
    digest = hmac.new(secret, time.encode() + b"." + body, hashlib.sha256).hexdigest()
    return {TIMESTAMP: time, SIGNATURE: f"sha256={digest}"}


def read_verdict(body: bytes) -> HookVerdict:
    """
    Read what a hook says.

    :raises ProgramFailed: if that makes no sense.
    """
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ProgramFailed("its answer is no JSON") from error
    if not isinstance(found, dict):
        raise ProgramFailed("its answer is no object of JSON")
    action = found.get("action")
    if action not in ACTIONS:
        raise ProgramFailed(f"its action is {_brief(action)}, which is none of {', '.join(ACTIONS)}")
    text = found.get("text", "")
    if not isinstance(text, str):
        raise ProgramFailed("its text is none")
    text = shown(text[:_LONGEST_TEXT].encode("utf-8", "backslashreplace"))
    fields = _fields(found.get("headers", []))
    if action == "tag" and not fields:
        raise ProgramFailed("it tags without headers")
    if action in ("reject", "defer"):
        return HookVerdict(action, _reply(action, found, text))
    return HookVerdict(action, None, text, fields)


def _reply(action: str, found: Mapping[str, Any], text: str) -> Reply:
    usual, words, enhanced = _DEFAULTS[action]
    code = found.get("code", usual)
    if not isinstance(code, int) or code // 100 != usual // 100:
        raise ProgramFailed(f"its code is {_brief(code)}, which is none to {action}")
    try:
        return Reply(code, text or words, found.get("enhanced") or enhanced)
    except (TypeError, ValueError) as error:
        raise ProgramFailed(f"its enhanced code is {_brief(found.get('enhanced'))}") from error


def _fields(headers: Any) -> tuple[bytes, ...]:
    """Read header fields: an object of names and values, or a list of pairs."""
    pairs = list(headers.items()) if isinstance(headers, dict) else headers
    if not isinstance(pairs, list) or len(pairs) > _MOST_FIELDS:
        raise ProgramFailed("its headers are no object and no short list of pairs")
    made = []
    for pair in pairs:
        if not (isinstance(pair, (list, tuple)) and len(pair) == 2 and all(isinstance(each, str) for each in pair)):
            raise ProgramFailed(f"one of its headers is {_brief(pair)}")
        try:
            made.append(field(*pair))
        except ValueError as error:
            raise ProgramFailed(f"one of its headers is {_brief(pair)}") from error
    return tuple(made)


def _brief(value: Any) -> str:
    return ascii(value)[:80]
