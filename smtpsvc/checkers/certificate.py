"""
TLS client certificates, for EXTERNAL.

``certificate:`` lets in whoever shows a certificate of the authorities that ``--tls-client-ca`` names. The
account's name is the first mail address of the certificate's subjectAltName, or else the common name
of its subject; ``certificate:cn`` takes the common name always, ``certificate:email`` the mail address.
"""

from __future__ import annotations

from typing import Any

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from smtpsvc.sasl.credentials import ITLSCertificate

_FIELDS = {"": ("email", "cn"), "email": ("email",), "cn": ("cn",)}


@implementer(ICredentialsChecker)
class CertificateChecker:
    """
    Takes the name in a certificate that TLS has found to be good.

    :param fields: where the name may stand, ``email`` or ``cn``, in the order to look.
    """

    credentialInterfaces = (ITLSCertificate,)

    def __init__(self, *fields: str) -> None:
        self._fields = fields or _FIELDS[""]

    def requestAvatarId(self, credentials: Any) -> Deferred[Any]:
        """Give the name; fails with UnauthorizedLogin if the certificate has none."""
        for field in self._fields:
            name = name_in(credentials.certificate, field)
            if name:
                return succeed(name.encode())
        return fail(UnauthorizedLogin())


def name_in(certificate: Any, field: str) -> str:
    """
    Find a name in a certificate.

    :param certificate: of ``OpenSSL.crypto`` or of ``cryptography``.
    :param field: ``email`` or ``cn``.
    :returns: "" if it has none, or several common names, of which none is more its name than another.
    """
    from cryptography import x509

    if hasattr(certificate, "to_cryptography"):
        certificate = certificate.to_cryptography()
    if field == "cn":
        names = [each.value for each in certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]
        return str(names[0]) if len(names) == 1 else ""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ""
    addresses = found.value.get_values_for_type(x509.RFC822Name)
    return str(addresses[0]) if addresses else ""


def make(argument: str) -> CertificateChecker:
    """
    Make the checker for ``--auth certificate:``.

    :raises ValueError: with a sentence.
    """
    if argument not in _FIELDS:
        raise ValueError(f"certificate: {argument!r} is neither email nor cn")
    return CertificateChecker(*_FIELDS[argument])
