"""
The macros of the milter protocol: what a filter is told of a client and a message beside the commands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from smtpsvc._version import __version__
from smtpsvc.settings import default_hostname
from smtpsvc.values import Envelope, Login, Peer, Recipient

#: For each stage the letter of its command, and the macros that a filter gets which has not said which it wants.
STAGES: Final[Mapping[str, tuple[bytes, tuple[str, ...]]]] = {
    "connect": (
        b"C",
        ("j", "{daemon_name}", "{client_addr}", "{client_name}", "{client_port}", "{client_ptr}", "_", "v"),
    ),
    "helo": (b"H", ("{tls_version}", "{cipher}", "{cert_subject}", "{cert_issuer}")),
    "mail": (
        b"M",
        ("i", "{auth_type}", "{auth_authen}", "{mail_addr}", "{mail_host}", "{mail_mailer}"),
    ),
    "rcpt": (b"R", ("i", "{rcpt_addr}", "{rcpt_host}", "{rcpt_mailer}")),
    "data": (b"T", ("i",)),
    "eoh": (b"N", ("i",)),
    "eom": (b"E", ("i",)),
}


@dataclass(frozen=True, slots=True)
class Names:
    """
    What a filter is told of this server.

    :param hostname: ``j``; OpenDKIM, say, writes it into ``Authentication-Results``.
    :param daemon: ``{daemon_name}``.
    """

    hostname: str = ""
    daemon: str = "smtpsvc"


def macros_of_peer(names: Names, peer: Peer) -> dict[str, str]:
    """Give the macros that a client has; those with nothing in them are left out."""
    name = peer.name or (f"[{peer.host}]" if peer.host else "localhost")
    values = {
        "j": names.hostname or default_hostname(),
        "{daemon_name}": names.daemon,
        "v": f"smtpsvc {__version__}",
        "{client_addr}": peer.host,
        "{client_name}": peer.name or "unknown",
        "{client_ptr}": peer.name or "unknown",
        "{client_port}": str(peer.port),
        "_": f"{name} [{peer.host}]" if peer.host else name,
    }
    tls = peer.tls
    if tls is not None:
        values |= {"{tls_version}": tls.version, "{cipher}": tls.cipher}
        values |= _certificate(tls.certificate, tls.common_name)
    if peer.account is not None and peer.account.name:
        login = peer.results.get(Login)
        # Filters sign mail of those who have logged in, which they see by this one.
        values["{auth_type}"] = "PLAIN" if login is None else login.mechanism
        values["{auth_authen}"] = peer.account.name
    return {name: value for name, value in values.items() if value}


def macros_of(names: Names, envelope: Envelope, recipient: Recipient | None = None) -> dict[str, str]:
    """Give the macros that a transaction has, and those of its client."""
    sender = envelope.sender
    values = macros_of_peer(names, envelope.peer) | {
        "i": envelope.id,
        "{mail_addr}": sender.text or "<>",
        "{mail_host}": sender.domain,
        "{mail_mailer}": "smtp",
    }
    if recipient is not None:
        address = recipient.address
        values |= {"{rcpt_addr}": address.text, "{rcpt_host}": address.domain, "{rcpt_mailer}": "smtp"}
    return {name: value for name, value in values.items() if value}


def _certificate(certificate: Any, common_name: str) -> dict[str, str]:
    if certificate is None:
        return {"{cert_subject}": common_name}
    return {
        "{cert_subject}": _name(certificate, "get_subject"),
        "{cert_issuer}": _name(certificate, "get_issuer"),
    }


def _name(certificate: Any, which: str) -> str:
    """Write the name of a certificate of pyOpenSSL, as ``/CN=...`` with its parts."""
    found = getattr(certificate, which, None)
    if found is None:
        return ""
    return "".join(
        f"/{key.decode('ascii', 'replace')}={value.decode('utf-8', 'backslashreplace')}"
        for key, value in found().get_components()
    )
