"""
TLS material: certificates with their keys, chosen by the name that a client asks for, and read anew when
their files change.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.oid import NameOID
from OpenSSL import SSL
from OpenSSL.crypto import X509
from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall, IOpenSSLServerConnectionCreator, IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from smtpsvc.current import current_reactor
from smtpsvc.server.secured import UNVERIFIED

#: Seconds between two looks at the files.
INTERVAL: Final = 60.0

#: Seconds after which the keys of session tickets are made anew: whoever steals them reads no more than that.
TICKETS: Final = 24 * 3600.0

#: A certificate that ends sooner is worth a warning.
SOON: Final = timedelta(days=14)

#: For TLS 1.2: forward secrecy and authenticated encryption only. TLS 1.3 has nothing else.
_CIPHERS: Final = b"ECDHE+AESGCM:ECDHE+CHACHA20"

#: Compression leaks secrets, and renegotiation is a way to keep a server busy.
_OPTIONS: Final = SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION

_KEY: Final = b"PRIVATE KEY-----"

log = Logger()


class CertificateError(ValueError):
    """A certificate cannot be used; ``str()`` is a sentence that names the option and its file."""


@dataclass(frozen=True, slots=True)
class _Pair:
    """A certificate with its key, as it was read."""

    path: str
    chain: Sequence[x509.Certificate]
    key: Any
    names: Sequence[str]


@dataclass(frozen=True, slots=True)
class _Material:
    """All that was read from the files."""

    pairs: Sequence[_Pair]
    authorities: Sequence[x509.Certificate]

    @property
    def end(self) -> datetime:
        """When the first certificate ends."""
        return min(pair.chain[0].not_valid_after_utc for pair in self.pairs)


class _Contexts:
    """
    A context for each certificate, and the choice among them.

    :param material: its first pair is for clients that ask for no name, or for one that is not there.
    """

    def __init__(self, material: _Material) -> None:
        self._by_name: dict[str, SSL.Context] = {}
        contexts = [_context(pair, material.authorities) for pair in material.pairs]
        for pair, context in zip(material.pairs, contexts, strict=True):
            for name in pair.names:
                self._by_name.setdefault(name, context)
        self.default = contexts[0]
        self.default.set_tlsext_servername_callback(self._choose)

    def _choose(self, connection: SSL.Connection) -> None:
        name = (connection.get_servername() or b"").decode("ascii", "replace").lower().rstrip(".")
        context = self._by_name.get(name) or self._by_name.get("*." + name.partition(".")[2])
        if context is not None and context is not self.default:
            connection.set_context(context)


@implementer(IOpenSSLServerConnectionCreator)
class CertificateStore(Service):
    """
    What TLS begins with: for ``SMTPFactory(tls=…)``, ``MailService(tls=…)``, and wherever Twisted takes an
    ``IOpenSSLServerConnectionCreator``.

    TLS 1.2 and 1.3, forward secrecy always, no compression, no renegotiation. As a service it reads its
    files when it starts (before the process gives up its rights, so that keys may be readable by root
    only), and again when one of them has changed. A new file that is no good is logged, and what was there
    before stays in use. Without a parent service, call :meth:`load` before the first connection.

    :param certificates: paths of PEM files, each with a certificate and those of its issuers; the first is
        for clients that ask for no name that is there.
    :param keys: paths of PEM files with private keys, in any order. A key may be in its certificate's file.
    :param client_ca: path of a PEM file with certificates of authorities: clients are then asked for a
        certificate. One that these authorities have issued is shown in ``peer.tls``; no other is, and
        nobody is refused for it.
    :param clock: schedules the looks at the files; the reactor if None.
    :param wall_clock: the time of day in seconds since the epoch.
    :raises ValueError: if there is no certificate.
    """

    def __init__(
        self,
        certificates: Iterable[str],
        keys: Iterable[str] = (),
        client_ca: str = "",
        *,
        clock: IReactorTime | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.certificates = tuple(certificates)
        self.keys = tuple(keys)
        self.client_ca = client_ca
        if not self.certificates:
            raise ValueError("at least one certificate is needed")
        self._clock = clock
        self._wall_clock = wall_clock
        self._material: _Material | None = None
        self._contexts: _Contexts | None = None
        # What was seen of the files when they were last read, whether with success or not.
        self._seen: object = None
        self._made = 0.0
        self._call: IDelayedCall | None = None

    def serverConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        """
        Make the OpenSSL connection for a client.

        :raises RuntimeError: if nothing was loaded yet.
        """
        if self._contexts is None:
            raise RuntimeError("the certificates were not loaded: start the service, or call load()")
        return SSL.Connection(self._contexts.default, None)

    @property
    def names(self) -> list[str]:
        """The names that the certificates are for, in order; empty before they are loaded."""
        return [name for pair in (self._material.pairs if self._material else ()) for name in pair.names]

    def check(self) -> None:
        """
        Find out whether the files are good, and change nothing.

        :raises CertificateError: if one is not.
        """
        _Contexts(self._read())

    def load(self) -> None:
        """
        Read the files and use what is there from now on.

        :raises CertificateError: if one is no good; what was in use stays in use.
        """
        self._seen = self._look()
        material = self._read()
        self._use(material)
        left = material.end - self._now()
        if left < SOON:
            log.warn(
                "a TLS certificate ends on {end:%Y-%m-%d}; renew it, and it will be read anew", end=material.end
            )

    def reload(self) -> bool:
        """
        Read the files anew, as at SIGHUP; log what came of it.

        :returns: False if one is no good: what was in use stays in use.
        """
        try:
            self.load()
        except CertificateError as error:
            log.error("{problem}; the certificates that are in use stay", problem=str(error))
            return False
        assert self._material is not None
        log.info(
            "read TLS certificates for {names}, until {end:%Y-%m-%d}",
            names=", ".join(self.names) or "no name",
            end=self._material.end,
        )
        return True

    def privilegedStartService(self) -> None:
        """
        Read the files, while the process may.

        :raises CertificateError: if one is no good.
        """
        self.load()

    def startService(self) -> None:
        """
        Begin to look at the files every minute.

        :raises CertificateError: if they are not read yet, and one is no good.
        """
        if self._contexts is None:
            self.load()
        super().startService()  # type: ignore[no-untyped-call]
        self._schedule()

    def stopService(self) -> None:
        """Look at the files no longer."""
        super().stopService()  # type: ignore[no-untyped-call]
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _schedule(self) -> None:
        clock = self._clock
        if clock is None:
            clock = self._clock = IReactorTime(current_reactor())
        self._call = clock.callLater(INTERVAL, self._watch)

    def _watch(self) -> None:
        self._schedule()
        if not self.catch_up() and self._material is not None and self._wall_clock() - self._made > TICKETS:
            self._use(self._material)

    def catch_up(self) -> bool:
        """
        Read the files anew if they have changed since they were read, as is done every minute.

        :returns: True if they have.
        """
        changed = self._look() != self._seen
        if changed:
            self.reload()
        return changed

    def _use(self, material: _Material) -> None:
        self._contexts = _Contexts(material)
        self._material = material
        self._made = self._wall_clock()

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._wall_clock(), UTC)

    def _look(self) -> object:
        """See of each file what changes with it; renewal by a symbolic link shows as another file."""
        found = []
        for path in (*self.certificates, *self.keys, self.client_ca):
            try:
                status = os.stat(path) if path else None
            except OSError:
                status = None
            found.append(status and (status.st_mtime_ns, status.st_size, status.st_dev, status.st_ino))
        return found

    def _read(self) -> _Material:
        keys = {path: _read_key(_read("--tls-key", path), f"--tls-key {path}") for path in self.keys}
        unused = dict(keys)
        pairs = []
        for path in self.certificates:
            option = f"--tls-certificate {path}"
            content = _read("--tls-certificate", path)
            chain = _read_certificates(content, option)
            candidates = dict(keys)
            if _KEY in content:
                candidates[path] = _read_key(content, option)
            found = [where for where, key in candidates.items() if _same_key(key, chain[0])]
            if not found:
                raise CertificateError(f"{option}: {_no_key(chain, candidates)}")
            self._check_time(chain[0], option)
            unused.pop(found[0], None)
            pairs.append(_Pair(path, chain, candidates[found[0]], _names(chain[0])))
        for path in unused:
            raise CertificateError(f"--tls-key {path}: it is the key of none of the certificates; give its certificate")
        authorities: Sequence[x509.Certificate] = ()
        if self.client_ca:
            content = _read("--tls-client-ca", self.client_ca)
            authorities = _read_certificates(content, f"--tls-client-ca {self.client_ca}")
        return _Material(pairs, authorities)

    def _check_time(self, certificate: x509.Certificate, option: str) -> None:
        now = self._now()
        if certificate.not_valid_after_utc <= now:
            raise CertificateError(f"{option}: it ended on {certificate.not_valid_after_utc:%Y-%m-%d}; renew it")
        if certificate.not_valid_before_utc > now + timedelta(days=1):
            begin = certificate.not_valid_before_utc
            raise CertificateError(f"{option}: it begins on {begin:%Y-%m-%d} only; is the clock right?")


def _read(option: str, path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise CertificateError(f"{option} {path}: it cannot be read: {error.strerror or error}") from error


def _read_certificates(content: bytes, option: str) -> Sequence[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError as error:
        raise CertificateError(
            f"{option}: no certificate can be read in it; a PEM file with BEGIN CERTIFICATE is needed"
        ) from error


def _read_key(content: bytes, option: str) -> Any:
    try:
        return load_pem_private_key(content, None)
    except TypeError as error:
        raise CertificateError(
            f"{option}: its key has a passphrase; take it off with: openssl pkey -in FILE -out FILE"
        ) from error
    except Exception as error:  # broken, or of a kind that the library does not know
        raise CertificateError(
            f"{option}: no private key can be read in it; a PEM file with BEGIN PRIVATE KEY is needed"
        ) from error


def _same_key(key: Any, certificate: x509.Certificate) -> bool:
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    public: Any = certificate.public_key()
    return bool(key.public_key().public_bytes(*form) == public.public_bytes(*form))


def _no_key(chain: Sequence[x509.Certificate], candidates: dict[str, Any]) -> str:
    if not candidates:
        return "there is no key for it; give --tls-key FILE"
    for key in candidates.values():
        if any(_same_key(key, certificate) for certificate in chain[1:]):
            return "the certificate that has the key must be the first in the file, those of its issuers behind it"
    return f"its key is not in {' or '.join(candidates)}; give the --tls-key that belongs to it"


def _names(certificate: x509.Certificate) -> list[str]:
    """Find the names that a certificate is for, in lower case; the common name counts only if there is no other."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (x509.ExtensionNotFound, ValueError):
        found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return [str(attribute.value).lower() for attribute in found[-1:]]
    return [name.lower().rstrip(".") for name in extension.value.get_values_for_type(x509.DNSName)]


def _context(pair: _Pair, authorities: Sequence[x509.Certificate]) -> SSL.Context:
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_cipher_list(_CIPHERS)
    context.set_options(_OPTIONS)
    # Sessions are resumed by tickets only: what the server need not keep, nobody can fill.
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    # An idle connection then has no buffers for records: 21 KiB less.
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    try:
        context.use_certificate(pair.chain[0])
        for issuer in pair.chain[1:]:
            context.add_extra_chain_cert(issuer)
        context.use_privatekey(pair.key)
        context.check_privatekey()
    except SSL.Error as error:
        reason = error.args[0][-1][-1] if error.args and error.args[0] else "it gives no reason"
        raise CertificateError(f"--tls-certificate {pair.path}: OpenSSL does not take it: {reason}") from error
    if authorities:
        _ask_clients(context, authorities)
    return context


def _ask_clients(context: SSL.Context, authorities: Sequence[x509.Certificate]) -> None:
    store = context.get_cert_store()
    assert store is not None
    for authority in authorities:
        store.add_cert(X509.from_cryptography(authority))
        context.add_client_ca(authority)
    # A resumed session would have a certificate that nobody has looked at again.
    context.set_options(SSL.OP_NO_TICKET)
    context.set_session_id(b"smtpsvc")
    context.set_verify(SSL.VERIFY_PEER, _verify)


def _verify(connection: SSL.Connection, certificate: X509, error: int, depth: int, good: int) -> bool:
    """Go on with whatever a client shows, and remember if it is not to be believed."""
    if not good:
        connection.set_app_data(UNVERIFIED)
    return True
