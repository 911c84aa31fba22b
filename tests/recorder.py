"""
A backend for tests with real clients: it notes each message as a line of JSON, in the file ``messages``.

It is copied to where the service runs, and so imports nothing of the tests. A recipient ``nobody`` is
refused at RCPT. One whose name is ``full`` is refused once the message has come; over SMTP that refuses
it for all.
"""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Mapping
from typing import Any

from smtpsvc import Address, Backend, Delivery, Envelope, IConnection, Peer, PermanentError, Recipient, Reply, Session


class Recorder(Backend):
    """Opens sessions that note what comes."""

    def open_session(self, peer: Peer, connection: IConnection) -> Session:
        """Open one."""
        return Recording()


class Recording(Session):
    """A session with a few rules for recipients."""

    def rcpt(self, envelope: Envelope, recipient: Recipient) -> None:
        """Refuse ``nobody``."""
        if recipient.address.local == "nobody":
            raise PermanentError("No such user", "5.1.1")

    def data(self, envelope: Envelope) -> Delivery:
        """Take the message."""
        return Note(envelope)


class Note(Delivery):
    """One message."""

    def __init__(self, envelope: Envelope) -> None:
        self.envelope = envelope
        self.content: list[bytes] = []

    def write(self, content: bytes) -> None:
        """Gather the content."""
        self.content.append(content)

    def finish(self) -> list[Reply | None]:
        """Note the message for those who are not full."""
        envelope = self.envelope
        full = [recipient.address.local == "full" for recipient in envelope.recipients]
        note = {
            "sender": str(envelope.sender),
            "params": plain(envelope.mail_params),
            "recipients": [str(each) for each, is_full in zip(envelope.recipients, full, strict=True) if not is_full],
            "recipient_params": [plain(each.params) for each in envelope.recipients],
            "forwarded": plain(envelope.forwarded),
            "content": b"".join(self.content).decode("latin-1"),
            **describe(envelope.peer),
        }
        with open("messages", "a") as file:
            file.write(json.dumps(note) + "\n")
        return [Reply(552, "Mailbox full", "5.2.2") if is_full else None for is_full in full]


def describe(peer: Peer) -> dict[str, Any]:
    """Say what is known of a client."""
    tls = peer.tls
    certificate = None if tls is None else tls.certificate
    return {
        "host": peer.host,
        "port": peer.port,
        "name": peer.name,
        "helo": peer.helo,
        "destination": [getattr(peer.destination, name, None) for name in ("host", "port")],
        "account": None if peer.account is None else peer.account.name,
        "tls": "" if tls is None else tls.version,
        "sni": "" if tls is None else tls.sni,
        "tls_of_proxy": tls is not None and tls.proxied,
        "name_of_proxy": "" if tls is None else tls.common_name,
        "certificate": "" if certificate is None else certificate.subject.rfc4514_string(),
    }


def plain(value: Any) -> Any:
    """Give a value as JSON has it."""
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, frozenset):
        return sorted(map(plain, value))
    if isinstance(value, Mapping):
        return {name: plain(each) for name, each in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, Address):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return str(value)
