"""
Credentials that SASL mechanisms make, and that checkers of ``twisted.cred`` judge.

None of them shows a secret in its ``repr``.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from twisted.cred.credentials import IAnonymous, ICredentials, IUsernameHashedPassword, IUsernamePassword
from zope.interface import Attribute, Interface, implementer


class IBearerToken(ICredentials):
    """A token of OAuth 2.0 (RFC 6750): whoever bears it is let in."""

    token: str = Attribute("The token.")


class ITLSCertificate(ICredentials):
    """The certificate of a TLS client, already verified."""

    certificate: Any = Attribute("The certificate, as ``peer.tls.certificate`` has it.")


@dataclass(frozen=True, slots=True)
class ScramSecrets:
    """What a server keeps of a user's password for SCRAM (RFC 5802 §3)."""

    salt: bytes = field(repr=False)
    iterations: int
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)


class ScramParameters(NamedTuple):
    """What SCRAM tells a client before it has proven anything."""

    salt: bytes
    iterations: int
    #: False if nobody of that name is there and the rest is made up.
    known: bool


class IScramCredentials(ICredentials):
    """A client's proof by SCRAM."""

    username: bytes = Attribute("Who it says it is.")
    hash: str = Attribute("``SHA-1`` or ``SHA-256``.")

    def proves(secrets: ScramSecrets) -> bool:
        """
        Tell whether the client knows the password of which these are the secrets.

        :param secrets: with the salt and the iterations that the client was told.
        """


class IScramSecrets(Interface):
    """
    Provided by a checker that takes :class:`IScramCredentials`: tells what the client must be told first.

    Checkers that hold passwords as they are (``IUsernameHashedPassword``) serve SCRAM without it.
    """

    scram_hashes: frozenset[str] = Attribute("The hashes for which all its users have secrets; may change.")

    def scram_parameters(username: bytes, hash: str) -> ScramParameters | Awaitable[ScramParameters]:
        """
        Give a user's salt and iterations.

        :param hash: ``SHA-1`` or ``SHA-256``.
        :returns: for a user who is not there, such as a user who is would have, always the same ones.
        """


@implementer(IUsernamePassword)
class PasswordLogin:
    """A name and a password, as PLAIN and LOGIN send them: UTF-8."""

    __slots__ = ("password", "username")

    def __init__(self, username: bytes, password: bytes) -> None:
        self.username = username
        self.password = password

    def checkPassword(self, password: bytes) -> bool:
        """Compare with the password as it should be, in constant time."""
        return hmac.compare_digest(self.password, _octets(password))

    def __repr__(self) -> str:
        return f"<PasswordLogin {self.username!r}>"


@implementer(IUsernameHashedPassword)
class CramLogin:
    """The answer to a challenge of CRAM-MD5 (RFC 2195)."""

    __slots__ = ("_challenge", "_digest", "username")

    def __init__(self, username: bytes, challenge: bytes, digest: bytes) -> None:
        self.username = username
        self._challenge = challenge
        self._digest = digest

    def checkPassword(self, password: bytes) -> bool:
        """Tell whether the client has computed its answer with this password."""
        expected = hmac.new(_octets(password), self._challenge, "md5").hexdigest().encode()
        return hmac.compare_digest(self._digest, expected)

    def __repr__(self) -> str:
        return f"<CramLogin {self.username!r}>"


@implementer(IBearerToken)
class BearerLogin:
    """A token, as OAUTHBEARER and XOAUTH2 send it."""

    __slots__ = ("token",)

    def __init__(self, token: str) -> None:
        self.token = token

    def __repr__(self) -> str:
        return "<BearerLogin>"


@implementer(ITLSCertificate)
class CertificateLogin:
    """The certificate that the client showed."""

    __slots__ = ("certificate",)

    def __init__(self, certificate: Any) -> None:
        self.certificate = certificate


@implementer(IAnonymous)
class AnonymousLogin:
    """Somebody; what it says of itself is for the log (RFC 4505)."""

    __slots__ = ("trace",)

    def __init__(self, trace: str) -> None:
        self.trace = trace


def _octets(password: bytes | str) -> bytes:
    # Twisted's own checker for "memory:" keeps str.
    return password.encode() if isinstance(password, str) else password
