"""
For tests of mail code under TLS: certificates made on the spot, and a client in memory that speaks TLS.
"""

from __future__ import annotations

import datetime
import ipaddress
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL import SSL
from twisted.internet.interfaces import ISSLTransport
from twisted.internet.task import Clock
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import alsoProvides

from smtpsvc.testing.wire import Wire, WireTransport

__all__ = ["Authority", "TLSWire", "TLSWireTransport", "certificate", "client_context"]

_DAY = datetime.timedelta(days=1)


class Authority:
    """
    Issues certificates for tests; none but the tests' own programs will believe them.

    :ivar pem: its own certificate.
    """

    def __init__(self, name: str = "Test Authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        self._certificate = self._sign(_builder(self._name, 30).issuer_name(self._name), self._key, True)
        self.pem = self._certificate.public_bytes(serialization.Encoding.PEM)

    def issue(
        self, *names: str, common_name: str = "", days: float = 30, key: Any = None, begin: float = -1
    ) -> tuple[bytes, bytes]:
        """
        Issue a certificate.

        :param names: the domains, wildcards and IP addresses that it is for; may be none.
        :param common_name: the subject's; the first of *names* if empty.
        :param days: ends so many days from now; may be negative.
        :param key: the private key; a new one on a NIST curve if None.
        :param begin: begins so many days from now.
        :returns: the certificate and its key, in PEM.
        """
        key = key or ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_name(common_name or (names[0] if names else "")), days, begin).issuer_name(self._name)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), False)
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        made = self._sign(builder.add_extension(usage, False), key, False)
        return made.public_bytes(serialization.Encoding.PEM), key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def _sign(self, builder: x509.CertificateBuilder, key: Any, ca: bool) -> x509.Certificate:
        builder = builder.public_key(key.public_key()).add_extension(x509.BasicConstraints(ca, None), True)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        subject = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        # Python 3.13 believes no authority without it (RFC 5280 §4.2.1.3).
        usage = _usage("key_cert_sign", "crl_sign") if ca else _usage("digital_signature")
        builder = builder.add_extension(usage, True)
        return builder.add_extension(issuer, False).add_extension(subject, False).sign(self._key, hashes.SHA256())


def certificate(*names: str, days: float = 30) -> tuple[bytes, bytes]:
    """
    Make a certificate that an authority of its own has issued.

    :param names: the domains, wildcards and IP addresses that it is for.
    :returns: the certificate and its key, in PEM.
    """
    return Authority().issue(*names, days=days)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else [])


def _usage(*names: str) -> x509.KeyUsage:
    known = (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
        *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    )
    return x509.KeyUsage(**{each: each in names for each in known})


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _builder(subject: x509.Name, days: float, begin: float = -1) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    end = now + days * _DAY
    start = min(now + begin * _DAY, end - _DAY)
    builder = x509.CertificateBuilder().subject_name(subject).serial_number(x509.random_serial_number())
    return builder.not_valid_before(start).not_valid_after(end)


def client_context(
    certificate: bytes = b"", key: bytes = b"", *, lowest: int = SSL.TLS1_2_VERSION, highest: int = 0
) -> SSL.Context:
    """
    Make what a client of tests speaks TLS with. It believes any server.

    :param certificate: what it shows to servers that ask, in PEM; nothing if empty.
    :param key: the key of that.
    :param lowest: the oldest version of TLS that it speaks.
    :param highest: the newest; 0 for any.
    """
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(lowest)
    context.set_max_proto_version(highest)
    if lowest < SSL.TLS1_2_VERSION:
        # OpenSSL has these below its lowest level of security only.
        context.set_cipher_list(b"ALL:@SECLEVEL=0")
    if certificate:
        chain = x509.load_pem_x509_certificates(certificate)
        context.use_certificate(chain[0])
        for issuer in chain[1:]:
            context.add_extra_chain_cert(issuer)
        private: Any = serialization.load_pem_private_key(key or certificate, None)
        context.use_privatekey(private)
    return context


class TLSWireTransport(WireTransport):
    """A transport in memory on which TLS can be started."""

    _tls: Any = None

    def startTLS(self, contextFactory: Any, normal: bool = True) -> bool:
        """Begin TLS behind what was written."""
        factory = TLSMemoryBIOFactory(contextFactory, False, None, Clock())  # type: ignore[arg-type]
        producer = self.producer
        if producer is not None:
            self.unregisterProducer()
        self._tls = TLSMemoryBIOProtocol(factory, self.protocol, False)
        self.protocol = self._tls
        alsoProvides(self, ISSLTransport)
        self._tls.makeConnection(_Below(self))
        if producer is not None:
            self.registerProducer(producer, True)
        return True

    @property
    def _line(self) -> Any:
        return super() if self._tls is None else self._tls

    def getHandle(self) -> Any:
        """The OpenSSL connection."""
        return self._tls.getHandle()

    def getPeerCertificate(self) -> Any:
        """The client's certificate."""
        return self._tls.getPeerCertificate()

    def write(self, data: bytes) -> None:
        """Take what the server sends."""
        self._line.write(data)

    def loseConnection(self) -> None:
        """Close, under TLS with its own farewell."""
        self._line.loseConnection()

    def abortConnection(self) -> None:
        """Drop the connection at once."""
        super().loseConnection()  # type: ignore[no-untyped-call]

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Tell *producer* when to pause."""
        self._line.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        """Tell it no more."""
        self._line.unregisterProducer()


class _Below:
    """The transport below TLS."""

    def __init__(self, transport: TLSWireTransport) -> None:
        self._transport = transport

    def __getattr__(self, name: str) -> Any:
        method = getattr(WireTransport, name, None)
        return getattr(self._transport, name) if method is None else method.__get__(self._transport)


class TLSWire(Wire):
    """
    A :class:`~smtpsvc.testing.Wire` that can speak TLS; :attr:`output` is what it has understood.

    :ivar client: its OpenSSL connection, or None before :meth:`secure`.
    """

    make_transport = TLSWireTransport

    client: Any = None
    _text = b""
    _taken = 0

    def secure(self, context: SSL.Context | None = None, sni: str = "") -> TLSWire:
        """
        Begin TLS as a client does.

        :param context: see :func:`client_context`.
        :param sni: the name to ask for.
        :raises OpenSSL.SSL.Error: if the handshake fails at the client's side.
        """
        self._understand()
        self.client = SSL.Connection(context or client_context(), None)
        if sni:
            self.client.set_tlsext_host_name(sni.encode())
        self.client.set_connect_state()
        self._pump()
        return self

    def receive(self, data: bytes) -> Wire:
        """Let the server read *data* as one packet, under TLS if that has begun."""
        if self.client is None:
            super().receive(data)
        else:
            while data:
                data = data[self.client.send(data[: 1 << 14]) :]
            self._pump()
        self._understand()
        return self

    def forget(self) -> Wire:
        """Let replies and counts start afresh."""
        self._understand()
        self._text = b""
        self._seen_writes = len(self.transport.writes)
        return self

    def hang_up(self, reason: Exception | None = None) -> Wire:
        """Lose the connection."""
        if not self.lost:
            self.lost = True
            self.transport.protocol.connectionLost(Failure(reason or ConnectionError()))
        return self

    @property
    def output(self) -> bytes:
        """What the server has sent and the client could read, since :meth:`forget`."""
        self._pump()
        return self._text

    def _pump(self) -> None:
        """Carry what either side has to say, until both are silent."""
        try:
            while True:
                self._understand()
                data = self._said()
                if not data:
                    break
                self.transport.deliver(data)
        finally:
            self._settle()

    def _said(self) -> bytes:
        """Give what the client's TLS has to say."""
        try:
            return bytes(self.client.bio_read(1 << 20)) if self.client is not None else b""
        except SSL.WantReadError:
            return b""

    def _understand(self) -> None:
        data = self.transport.value()[self._taken :]
        self._taken += len(data)
        if self.client is None:
            self._text += data
            return
        if data:
            self.client.bio_write(data)
        try:
            while True:
                self._text += self.client.recv(1 << 16)
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            self.client.shutdown()
        except SSL.Error:
            # The server is told why.
            self.transport.deliver(self._said())
            raise
