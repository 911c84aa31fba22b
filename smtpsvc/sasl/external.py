"""
EXTERNAL: the client is who its TLS certificate says (RFC 4422 appendix A).
"""

from __future__ import annotations

from smtpsvc.sasl import Challenge, Context, Done, Mechanism, Steps, text_of
from smtpsvc.sasl.credentials import CertificateLogin, ITLSCertificate


class External(Mechanism):
    """Offered to clients that have shown a certificate; the response is empty, or whom the client wants to act as."""

    name = "EXTERNAL"
    credentials = (ITLSCertificate,)

    def available(self, context: Context) -> bool:
        """Tell whether the client has shown a certificate."""
        return context.tls is not None and context.tls.certificate is not None

    def exchange(self, context: Context, response: bytes | None) -> Steps:
        """Take the identity, asking for it if it was not sent with the command."""
        if response is None:
            response = yield Challenge()
        assert context.tls is not None
        return Done(CertificateLogin(context.tls.certificate), text_of(response))
