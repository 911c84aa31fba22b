"""
TLS as a client begins it: who is at the other end is verified unless told otherwise.
"""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives import hashes
from OpenSSL import SSL
from twisted.internet.error import ConnectionClosed
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import CertificateOptions, TLSVersion, optionsForClientTLS
from zope.interface import implementer

from smtpsvc.client.options import TLS, Options
from smtpsvc.grammar.addresses import is_address_literal
from smtpsvc.grammar.shown import shown
from smtpsvc.values import TLSInfo

_MINIMUM = {"raiseMinimumTo": TLSVersion.TLSv1_2}
# RFC 5929 §4.1: with these hashes in the certificate's signature, SHA-256 is used in their place.
_WEAK = (hashes.MD5, hashes.SHA1)


def verifies(options: Options) -> bool:
    """Tell whether the certificate of a connection is looked at."""
    return options.verify and options.tls in (TLS.REQUIRED, TLS.IMPLICIT)


def creator(options: Options, host: str) -> Any:
    """
    Make what begins TLS.

    :param host: what was connected to; "" if that has no name.
    :raises ValueError: if there is nothing to compare the certificate's name with.
    """
    name = options.server_name or host
    if not verifies(options):
        return _Unverified(name, options.certificate)
    if not name:
        raise ValueError("the server's certificate cannot be verified without a name: give server_name")
    return optionsForClientTLS(name, options.trust, options.certificate, extraCertificateOptions=_MINIMUM)


@implementer(IOpenSSLClientConnectionCreator)
class _Unverified:
    """Takes any certificate."""

    def __init__(self, name: str, certificate: Any) -> None:
        options = CertificateOptions(verify=False, **_MINIMUM) if certificate is None else certificate.options()
        self._context = options.getContext()
        self._context.set_verify(SSL.VERIFY_NONE, lambda *_: True)
        # RFC 6066 §3: no address may stand there.
        self._name = "" if not name or name.startswith("[") or is_address_literal(f"[{name}]") or ":" in name else name

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        """Make the OpenSSL connection."""
        connection = SSL.Connection(self._context, None)
        if self._name:
            connection.set_tlsext_host_name(self._name.encode("idna" if not self._name.isascii() else "ascii"))
        return connection


def tls_info(connection: SSL.Connection) -> TLSInfo:
    """Say what is known of a connection whose handshake is complete; the certificate is the server's."""
    return TLSInfo(
        version=connection.get_protocol_version_name(),
        cipher=connection.get_cipher_name() or "",
        certificate=connection.get_peer_certificate(as_cryptography=True),
        alpn=shown(connection.get_alpn_proto_negotiated()),
    )


def binding(connection: SSL.Connection) -> tuple[str, bytes] | None:
    """
    Give the kind and the data of what binds a login to a connection's TLS (RFC 9266, RFC 5929).

    :returns: None if there is none.
    """
    if connection.get_protocol_version_name() == "TLSv1.3":
        # RFC 9266 §4.2: earlier versions need an extension of which OpenSSL does not tell whether it was used.
        return "tls-exporter", connection.export_keying_material(b"EXPORTER-Channel-Binding", 32, b"")
    certificate = connection.get_peer_certificate(as_cryptography=True)
    try:
        algorithm = certificate.signature_hash_algorithm if certificate is not None else None
    except Exception:  # one that the library does not know
        return None
    if certificate is None or algorithm is None:
        return None
    return "tls-server-end-point", certificate.fingerprint(
        hashes.SHA256() if isinstance(algorithm, _WEAK) else algorithm
    )


def problem(cause: BaseException | None) -> str:
    """Say why a handshake failed, in half a sentence."""
    if isinstance(cause, SSL.Error):
        parts = [str(part[-1]) for part in (cause.args[0] if cause.args else ()) if part and part[-1]]
        return "; ".join(parts) or "OpenSSL gives no reason"
    if cause is None or isinstance(cause, ConnectionClosed):
        return "the server closed the connection"
    return f"the certificate is not the server's: {type(cause).__name__} {cause}"[:300]
