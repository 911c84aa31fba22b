"""
What a policy server of Postfix is told of a client and a message.
"""

from __future__ import annotations

from typing import Any, Final

from smtpsvc.settings import Role
from smtpsvc.values import Envelope, Login, Peer, Recipient

#: The stages, and what Postfix calls them.
STATES: Final = {
    "connect": "CONNECT",
    "helo": "EHLO",
    "mail": "MAIL",
    "rcpt": "RCPT",
    "data": "DATA",
    "end": "END-OF-MESSAGE",
}


def attributes_of_peer(stage: str, peer: Peer, name: str, context: str = "") -> dict[str, str]:
    """
    Describe a client.

    :param name: that it gives with EHLO.
    :param context: ``policy_context``, of the administrator.
    """
    tls = peer.tls
    login = peer.results.get(Login)
    account = "" if peer.account is None else peer.account.name
    certificate = None if tls is None else tls.certificate
    destination: Any = peer.destination
    return {
        "request": "smtpd_access_policy",
        "protocol_state": STATES[stage],
        "protocol_name": "ESMTP" if peer.extended else "SMTP",
        "client_address": peer.host,
        "client_name": peer.name or "unknown",
        "reverse_client_name": peer.name or "unknown",
        "client_port": str(peer.port),
        "helo_name": name,
        "sender": "",
        "recipient": "",
        "recipient_count": "0",
        "queue_id": "",
        "instance": peer.id,
        "size": "0",
        "etrn_domain": "",
        "stress": "",
        "sasl_method": login.mechanism if account and login is not None else "",
        "sasl_username": account,
        "sasl_sender": "",
        "ccert_subject": _common_name(certificate, "get_subject") or ("" if tls is None else tls.common_name),
        "ccert_issuer": _common_name(certificate, "get_issuer"),
        "ccert_fingerprint": _fingerprint(certificate),
        "encryption_protocol": "" if tls is None else tls.version,
        "encryption_cipher": "" if tls is None else tls.cipher,
        "encryption_keysize": "0",
        "policy_context": context,
        "server_address": str(getattr(destination, "host", "")),
        "server_port": str(getattr(destination, "port", "")),
    }


def attributes_of(
    stage: str, envelope: Envelope, recipient: Recipient | None = None, size: int | None = None, context: str = ""
) -> dict[str, str]:
    """
    Describe a transaction, and its client.

    :param size: of the message, when it is there.
    """
    peer = envelope.peer
    told = envelope.recipients
    if recipient is None and len(told) == 1:
        recipient = told[0]
    lmtp = envelope.role is Role.LMTP
    values = attributes_of_peer(stage, peer, peer.helo, context)
    return values | {
        "protocol_name": "LMTP" if lmtp else values["protocol_name"],
        "sender": str(envelope.sender),
        "recipient": "" if recipient is None else str(recipient),
        "recipient_count": str(len(told)) if stage in ("data", "end") else "0",
        "queue_id": envelope.id,
        "instance": f"{peer.id}.{envelope.id}",
        "size": str(envelope.size or 0 if size is None else size),
        "sasl_sender": str(envelope.mail_params.get("AUTH") or ""),
    }


def _common_name(certificate: Any, which: str) -> str:
    found = getattr(certificate, which, None)
    return "" if found is None else str(found().commonName or "")


def _fingerprint(certificate: Any) -> str:
    digest = getattr(certificate, "digest", None)
    return "" if digest is None else digest("sha256").decode("ascii")
