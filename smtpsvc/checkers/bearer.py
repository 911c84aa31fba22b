"""
Tokens of OAuth 2.0 that are signed: JSON Web Tokens (RFC 7519, RFC 9068), for OAUTHBEARER and XOAUTH2.

``bearer:FILE,issuer=URL,audience=NAME`` checks each token against FILE, which is a public key or certificate
in PEM, or a JWK Set (RFC 7517). It is read again when it changes. The token must be of that issuer, for
that audience, and not expired. The account's name is the token's ``sub``, or another claim:
``bearer:keys.json,issuer=https://id.example,audience=mail,claim=email``. Needs ``smtpsvc[oauth]``.

A key allows the algorithms that it is made for and no others; ``none`` is no algorithm, and a public
key is never taken for a shared secret. Clocks may differ by 30 seconds, or by ``leeway=SECONDS``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from smtpsvc.extras import need
from smtpsvc.sasl.credentials import IBearerToken
from smtpsvc.watched import WatchedFile

_WHAT: Final = "bearer:"

_RSA: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_BY_CURVE: Final = {"secp256r1": ("ES256",), "secp384r1": ("ES384",), "secp521r1": ("ES512",)}
_SECRET: Final = ("HS256", "HS384", "HS512")


@dataclass(frozen=True, slots=True)
class Key:
    """A key that tokens are signed with."""

    #: As PyJWT takes it.
    key: Any = field(repr=False)
    algorithms: Sequence[str]
    #: Its name in a JWK Set, or "".
    id: str = ""


@implementer(ICredentialsChecker)
class BearerChecker:
    """
    Checks tokens against keys in a file.

    :param path: of a key in PEM or a JWK Set.
    :param issuer: who must have made a token.
    :param audience: whom it must be for.
    :param claim: has the account's name.
    :param leeway: how far clocks may differ.
    :raises ValueError: with a sentence, if PyJWT or the file cannot be had.
    """

    credentialInterfaces = (IBearerToken,)

    def __init__(self, path: str, *, issuer: str, audience: str, claim: str = "sub", leeway: float = 30) -> None:
        self._jwt = need("jwt", "oauth", _WHAT)
        need("cryptography", "oauth", _WHAT)
        self._file = WatchedFile(path, parse_keys)
        self._issuer = issuer
        self._audience = audience
        self._claim = claim
        self._leeway = leeway

    def requestAvatarId(self, credentials: Any) -> Deferred[Any]:
        """Give the name in the token; fails with UnauthorizedLogin if it is not good."""
        try:
            name = self._claims(credentials.token).get(self._claim)
        except (self._jwt.PyJWTError, ValueError):
            return fail(UnauthorizedLogin())
        if not isinstance(name, str) or not name:
            return fail(UnauthorizedLogin())
        return succeed(name.encode())

    def _claims(self, token: str) -> dict[str, Any]:
        header = self._jwt.get_unverified_header(token)
        for key in self._file.current():
            if header.get("alg") in key.algorithms and (not key.id or header.get("kid") in (None, key.id)):
                try:
                    claims: dict[str, Any] = self._jwt.decode(
                        token,
                        key.key,
                        algorithms=list(key.algorithms),
                        audience=self._audience,
                        issuer=self._issuer,
                        leeway=self._leeway,
                        options={"require": ["exp", "iss", "aud", self._claim]},
                    )
                except self._jwt.InvalidSignatureError:
                    continue
                return claims
        raise ValueError("no key fits the token")


def parse_keys(content: bytes) -> list[Key]:
    """
    Read a key in PEM or a JWK Set.

    :raises ValueError: with a sentence.
    """
    return _jwk_set(content) if content.lstrip().startswith(b"{") else [_pem(content)]


def _pem(content: bytes) -> Key:
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from cryptography.x509 import load_pem_x509_certificate

    if b"PRIVATE KEY" in content:
        raise ValueError("this is a private key; the public key is all that is needed")
    try:
        if b"BEGIN CERTIFICATE" in content:
            key: Any = load_pem_x509_certificate(content).public_key()
        else:
            key = load_pem_public_key(content)
    except ValueError as error:
        raise ValueError("neither a public key or certificate in PEM nor a JWK Set") from error
    return Key(key, _algorithms(key))


def _jwk_set(content: bytes) -> list[Key]:
    jwt = need("jwt", "oauth", _WHAT)
    try:
        found = json.loads(content)
        keys = found.get("keys", [found])
        usable = [each for each in keys if each.get("use", "sig") == "sig"]
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"no JWK Set: {error}") from error
    made = []
    problem = "the JWK Set has no keys for signatures"
    for each in usable:
        # RFC 7517 §5: keys that are not understood are let pass.
        try:
            made.append(_jwk(jwt, each))
        except (jwt.PyJWTError, ValueError) as error:
            problem = f"no key of the JWK Set can be used: {error}"
    if not made:
        raise ValueError(problem)
    return made


def _jwk(jwt: Any, data: dict[str, Any]) -> Key:
    # Without "alg" PyJWT guesses one; which are allowed, the key says.
    key = jwt.PyJWK(data).key
    allowed = _algorithms(key)
    named = data.get("alg")
    if named is not None and named not in allowed:
        raise ValueError(f"{named} is no algorithm for that key")
    return Key(key, (named,) if named is not None else allowed, str(data.get("kid", "")))


def _algorithms(key: Any) -> Sequence[str]:
    """
    Say which algorithms a key is made for.

    :raises ValueError: if there is none, or it is no public key.
    """
    from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

    if isinstance(key, bytes):
        if len(key) < 32:
            raise ValueError("a shared secret has 32 bytes at least")
        return _SECRET
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < 2048:
            raise ValueError("an RSA key has 2048 bits at least")
        return _RSA
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _BY_CURVE:
        return _BY_CURVE[key.curve.name]
    if isinstance(key, (ed25519.Ed25519PublicKey, ed448.Ed448PublicKey)):
        return ("EdDSA",)
    raise ValueError("keys must be public ones of RSA, of ECDSA with P-256, P-384 or P-521, or of EdDSA")


def make(argument: str) -> BearerChecker:
    """
    Make the checker for ``--auth bearer:FILE,issuer=…,audience=…``.

    :raises ValueError: with a sentence.
    """
    path, *pairs = argument.split(",")
    options: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or name not in ("issuer", "audience", "claim", "leeway") or not value or name in options:
            raise ValueError(f"bearer: {pair!r} is not one of issuer=URL, audience=NAME, claim=NAME, leeway=SECONDS")
        options[name] = value
    if not path or not {"issuer", "audience"} <= options.keys():
        raise ValueError("bearer: write bearer:FILE,issuer=URL,audience=NAME; a token for anybody would be let in else")
    if "leeway" in options:
        if not options["leeway"].isdecimal():
            raise ValueError(f"bearer: leeway={options['leeway']} is no number of seconds")
        options["leeway"] = int(options["leeway"])
    return BearerChecker(path, **options)
