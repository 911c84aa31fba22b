"""
Notifications of what became of a message (RFC 3464), as its sender asked for them (RFC 3461, RFC 6533).

They are for who takes a message first and finds out later that it cannot be delivered, or that it was.
"""

from __future__ import annotations

import enum
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as field_of
from datetime import datetime
from typing import IO, Any, Final

from smtpsvc.grammar.addresses import NULL, Address
from smtpsvc.grammar.commands import NO_PARAMS
from smtpsvc.grammar.replies import Reply
from smtpsvc.grammar.shown import shown
from smtpsvc.grammar.trace import date_time
from smtpsvc.grammar.xtext import encode_utf8_addr_unitext, encode_utf8_addr_xtext
from smtpsvc.message.fields import field, header_end
from smtpsvc.parameters import Notify, OriginalRecipient, Ret
from smtpsvc.values import Envelope, Recipient

__all__ = ["Action", "Fate", "Notification", "notification"]

#: A message that is larger is returned without its body, in octets.
MOST_RETURNED: Final = 256 * 1024
#: More of a header is not returned.
MOST_HEADER: Final = 64 * 1024
#: Recipients of one notification; what became of more is left out.
MOST_RECIPIENTS: Final = 1000

_MOST_TEXT: Final = 500
_LONGEST_LINE: Final = 998
_LONGEST_WORD: Final = 240  # in characters, of up to four octets


class Action(enum.Enum):
    """What became of a message for a recipient (RFC 3464 §2.3.3)."""

    #: It could not be delivered, and nobody tries any more.
    FAILED = "failed"
    #: It could not be delivered so far.
    DELAYED = "delayed"
    #: It is in the recipient's mailbox.
    DELIVERED = "delivered"
    #: It was passed on to a server that sends no notifications.
    RELAYED = "relayed"
    #: It was delivered to a list or an alias, and sent on to its members.
    EXPANDED = "expanded"


_WANTED_BY: Final = {Action.FAILED: Notify.FAILURE, Action.DELAYED: Notify.DELAY}
# RFC 3461 §4.1: without NOTIFY a sender hears of failures, and may hear of delays.
_USUAL: Final = frozenset({Notify.FAILURE, Notify.DELAY})

_STATUS: Final = {Action.FAILED: "5.0.0", Action.DELAYED: "4.0.0"}
_SUBJECT: Final = {
    Action.FAILED: "Undelivered mail returned to sender",
    Action.DELAYED: "Delayed mail (still being tried)",
    Action.DELIVERED: "Mail was delivered",
    Action.RELAYED: "Mail was passed on",
    Action.EXPANDED: "Mail was delivered to a list",
}
_WORDS: Final = {
    Action.FAILED: "Your message could not be delivered to the following recipients. It is not tried any more.",
    Action.DELAYED: "Your message could not be delivered to the following recipients yet. You need not send it again.",
    Action.DELIVERED: "Your message was delivered to the following recipients.",
    Action.RELAYED: "Your message was passed on for the following recipients to a server that sends no notifications.",
    Action.EXPANDED: "Your message was delivered to the following lists, and sent on to their members.",
}


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of a message for one recipient."""

    recipient: Recipient
    action: Action
    #: What the server said that was to take it, if one did.
    reply: Reply | None = None
    #: That server's name; "" for none.
    remote: str = ""
    #: Of RFC 3463; "" is that of the reply, or the usual of the action.
    status: str = ""
    #: When it was last tried, and until when it will be; with a zone.
    last_attempt: datetime | None = None
    retry_until: datetime | None = None

    @property
    def wanted(self) -> bool:
        """True if the sender wants to hear of it (RFC 3461 §4.1)."""
        asked: Any = self.recipient.params.get("NOTIFY") or _USUAL
        return _WANTED_BY.get(self.action, Notify.SUCCESS) in asked


@dataclass(frozen=True, slots=True)
class Notification:
    """A notification that is ready to be sent."""

    #: Whom it is for.
    recipient: Address
    content: bytes
    #: Parameters for its MAIL: ``SMTPUTF8`` where it needs that.
    mail_params: Mapping[str, Any]
    #: Always the null sender: nobody must be notified of a notification (RFC 3461 §6.1).
    sender: Address = NULL
    #: Parameters for its RCPT: if it cannot be delivered, that is that.
    rcpt_params: Mapping[str, Any] = field_of(default_factory=lambda: NO_PARAMS)


def notification(
    envelope: Envelope,
    fates: Iterable[Fate],
    original: bytes | IO[bytes],
    *,
    reporter: str,
    now: float,
    arrived: float | None = None,
    complete: bool = True,
    international: bool | None = None,
) -> Notification | None:
    """
    Write the notification of a message's fate.

    :param fates: what became of it for recipients; those of whom the sender wants to hear nothing are left out.
    :param original: the message with CRLF line ends, or an open file that has it. A file is read up to what is
        returned at most.
    :param reporter: our host name.
    :param now: in seconds since 1970, as ``arrived``, when we took the message.
    :param complete: False if *original* is the header alone.
    :param international: write it for SMTPUTF8 or not; None does if the message came with that. Without it, what
        is beyond US-ASCII is escaped; an address that is, as the sender, cannot be.
    :returns: None if there is nothing to notify of: nobody wants to hear of it, or the sender is ``<>``.
    :raises ValueError: if *reporter* is no host name.
    """
    if envelope.sender.is_null:
        return None
    wanted = [fate for fate in fates if fate.wanted][:MOST_RECIPIENTS]
    if not wanted:
        return None
    # RFC 6533 §4: in the international form if the message was international, so that its sender can read that.
    utf8 = envelope.utf8 if international is None else international
    utf8 = utf8 or not envelope.sender.local.isascii()
    lead = _lead(wanted)
    failed = lead is Action.FAILED
    returned, whole = _returned(original, full=failed and complete and envelope.mail_params.get("RET") is not Ret.HDRS)
    parts = [
        _part(_people("utf-8" if utf8 else "us-ascii"), _explained(wanted, reporter, utf8)),
        _part(_status_type(utf8), _status(envelope, wanted, reporter, arrived, utf8)),
        _part(_returned_type(utf8, whole), returned),
    ]
    boundary = secrets.token_hex(16)
    body = b"".join(b"--%b\r\n%b\r\n" % (boundary.encode(), part) for part in parts)
    header = b"".join(
        [
            field("Date", date_time(now).decode()),
            field("From", f"Mail Delivery System <MAILER-DAEMON@{reporter}>"),
            field("To", f"<{_address(envelope.sender, utf8)}>"),
            field("Subject", _SUBJECT[lead]),
            field("Message-ID", f"<{secrets.token_hex(16)}@{reporter}>"),
            # RFC 3834 §5: so that nobody answers it by himself.
            field("Auto-Submitted", "auto-replied"),
            field("MIME-Version", "1.0"),
            field("Content-Type", f'multipart/report; report-type=delivery-status; boundary="{boundary}"'),
            *([] if body.isascii() else [field("Content-Transfer-Encoding", "8bit")]),
        ]
    )
    content = b"%b\r\n%b--%b--\r\n" % (header, body, boundary.encode())
    params = {"SMTPUTF8": True} if utf8 else NO_PARAMS
    return Notification(envelope.sender, content, params, rcpt_params={"NOTIFY": frozenset({Notify.NEVER})})


def _lead(fates: Sequence[Fate]) -> Action:
    """Give what matters most."""
    found = {fate.action for fate in fates}
    return next(action for action in Action if action in found)


def _part(type: bytes, content: bytes) -> bytes:
    encoding = b"" if content.isascii() else b"Content-Transfer-Encoding: 8bit\r\n"
    return b"Content-Type: %b\r\n%b\r\n%b" % (type, encoding, content)


def _people(charset: str) -> bytes:
    return f"text/plain; charset={charset}\r\nContent-Description: Notification".encode()


def _status_type(utf8: bool) -> bytes:
    return b"message/global-delivery-status" if utf8 else b"message/delivery-status"


def _returned_type(utf8: bool, whole: bool) -> bytes:
    if whole:
        return b"message/global" if utf8 else b"message/rfc822"
    return b"message/global-headers" if utf8 else b"text/rfc822-headers"


def _explained(fates: Sequence[Fate], reporter: str, utf8: bool) -> bytes:
    """Say it for people."""
    lines = [f"This is the mail system at {reporter}."]
    for action in Action:
        chosen = [fate for fate in fates if fate.action is action]
        if not chosen:
            continue
        lines += ["", *_wrapped(_WORDS[action]), ""]
        for fate in chosen:
            lines.append(f"  <{_printable(str(fate.recipient.address), utf8)}>")
            if fate.reply is not None:
                said = f"{_printable(fate.remote, utf8)} said: " if fate.remote else ""
                lines += [f"    {line}" for line in _wrapped(said + _diagnostic(fate.reply, utf8))]
            if fate.retry_until is not None:
                lines.append(f"    It will be tried until {_date(fate.retry_until)}.")
    return "\r\n".join([*lines, ""]).encode()


def _wrapped(text: str, width: int = 72) -> list[str]:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def _status(envelope: Envelope, fates: Sequence[Fate], reporter: str, arrived: float | None, utf8: bool) -> bytes:
    """Say it for programs (RFC 3464 §2)."""
    fields = []
    envid: Any = envelope.mail_params.get("ENVID")
    if envid:
        fields.append(field("Original-Envelope-Id", _printable(str(envid), utf8)))
    fields.append(field("Reporting-MTA", f"dns; {reporter}"))
    if arrived is not None:
        fields.append(field("Arrival-Date", date_time(arrived).decode()))
    for fate in fates:
        fields.append(b"\r\n")
        original = fate.recipient.params.get("ORCPT")
        if isinstance(original, OriginalRecipient):
            # RFC 3461 §6.3 (a): if it was given, and only then.
            fields.append(field("Original-Recipient", _typed(original.type, original.address, utf8)))
        address = fate.recipient.address
        kind = "rfc822" if address.is_ascii else "utf-8"
        fields.append(field("Final-Recipient", _typed(kind, str(address), utf8)))
        fields.append(field("Action", fate.action.value))
        fields.append(field("Status", _code(fate)))
        if fate.remote:
            fields.append(field("Remote-MTA", f"dns; {_printable(fate.remote, utf8)}"))
        if fate.reply is not None:
            fields.append(field("Diagnostic-Code", f"smtp; {_diagnostic(fate.reply, utf8)}"))
        if fate.last_attempt is not None:
            fields.append(field("Last-Attempt-Date", _date(fate.last_attempt)))
        if fate.retry_until is not None and fate.action is Action.DELAYED:
            # RFC 3464 §2.3.9: of delays only.
            fields.append(field("Will-Retry-Until", _date(fate.retry_until)))
    return b"".join(fields)


def _code(fate: Fate) -> str:
    reply = fate.reply
    found = fate.status or (reply.enhanced or f"{reply.code // 100}.0.0" if reply is not None else "")
    usual = _STATUS.get(fate.action, "2.0.0")
    # RFC 3464 §2.3.4: what is said must not contradict the action; who gives up after a 4yz has failed with that.
    fits = {Action.FAILED: "45", Action.DELAYED: "4"}.get(fate.action, "2")
    return found if found[:1] and found[0] in fits else usual


def _diagnostic(reply: Reply, utf8: bool) -> str:
    text = " ".join(filter(None, (str(reply.code), reply.enhanced, " ".join(reply.text[:_MOST_TEXT].split()))))
    return _printable(text, utf8)


def _printable(text: str, utf8: bool) -> str:
    """Escape what cannot stand in a field, or not in this one; cut what is too long."""
    found = shown(text[:_MOST_TEXT].encode("utf-8", "backslashreplace"))
    found = found if utf8 else found.encode("ascii", "backslashreplace").decode()
    return " ".join(word[:_LONGEST_WORD] for word in found.split(" "))


def _typed(type: str, address: str, utf8: bool) -> str:
    """Write an address with its type (RFC 6533 §3): escaped, where the part is in US-ASCII."""
    if type == "utf-8":
        encode = encode_utf8_addr_unitext if utf8 else encode_utf8_addr_xtext
        try:
            # Cut if it would be longer than a line may be.
            return f"utf-8; {encode(address)[:_LONGEST_WORD]}"
        except ValueError:
            # No parser of ours gives such.
            return f"utf-8; {_printable(address, False)}"
    return f"{_printable(type, False)}; {_printable(address, utf8)}"


def _address(address: Address, utf8: bool) -> str:
    return str(address) if utf8 or address.is_ascii else f"{address.local}@{address.ascii_domain}"


def _date(when: datetime) -> str:
    return date_time(when.timestamp()).decode()


def _returned(original: bytes | IO[bytes], *, full: bool) -> tuple[bytes, bool]:
    """
    Give what is returned of a message.

    :returns: it, and whether that is the whole message.
    """
    octets = original[: MOST_RETURNED + 1] if isinstance(original, bytes) else original.read(MOST_RETURNED + 1)
    whole = full and len(octets) <= MOST_RETURNED
    if whole and b"\0" not in octets and _good_lines(octets):
        return octets if octets.endswith(b"\r\n") else octets + b"\r\n", True
    end = header_end(octets)
    header = octets[: end if end >= 0 else None][:MOST_HEADER].replace(b"\0", b"")
    lines = [line[:_LONGEST_LINE] for line in header.splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    return b"".join(line + b"\r\n" for line in lines), False


def _good_lines(octets: bytes) -> bool:
    """Tell whether all line ends are CRLF, and no line too long to be sent on (RFC 5322 §2.1.1)."""
    if octets.count(b"\r\n") != octets.count(b"\n") or octets.count(b"\r") != octets.count(b"\n"):
        return False
    return max(map(len, octets.split(b"\r\n"))) <= _LONGEST_LINE
