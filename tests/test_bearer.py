"""
Tests of the checker of signed tokens.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import sys
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from twisted.cred.error import UnauthorizedLogin
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.checkers.bearer import BearerChecker, make, parse_keys
from smtpsvc.sasl.credentials import BearerLogin
from tests.logins import b64, offered, wire_with
from tests.support import given, st
from tests.test_checkers import certificate

ISSUER, AUDIENCE = "https://id.example", "smtp"

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
SECRET = b"s" * 64


def pem(key: Any) -> bytes:
    """Write a public key."""
    made: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return made


def jwk(key: Any, **fields: Any) -> dict[str, Any]:
    """Write a public key, or a secret, as a JWK."""
    if isinstance(key, bytes):
        made = jwt.algorithms.HMACAlgorithm.to_jwk(key, as_dict=True)
    elif key is RSA:
        made = jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    elif key is ED:
        made = jwt.algorithms.OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
    else:
        made = jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return {**{name: value for name, value in made.items() if name != "key_ops"}, **fields}


def token(key: Any = RSA, algorithm: str = "RS256", headers: Any = None, leave_out: str = "", **claims: Any) -> str:
    """Sign a token for joe that is good for a minute."""
    usual = {"iss": ISSUER, "aud": AUDIENCE, "sub": "joe", "exp": int(time.time()) + 60}
    named = {name: value for name, value in {**usual, **claims}.items() if name != leave_out}
    return jwt.encode(named, key, algorithm=algorithm, headers=headers)


class BearerTestCase(SynchronousTestCase):
    def checker(self, content: bytes, **options: Any) -> BearerChecker:
        """Make a checker with a file of this content."""
        self.path = self.mktemp()
        self.write(content)
        return BearerChecker(self.path, issuer=ISSUER, audience=AUDIENCE, **options)

    def write(self, content: bytes) -> None:
        """Put a file in the place."""
        with open(f"{self.path}.new", "wb") as file:
            file.write(content)
        os.rename(f"{self.path}.new", self.path)

    def ask(self, checker: BearerChecker, token: str) -> bytes | None:
        """Ask it; give the name, or None for a refusal."""
        found: list[bytes] = []
        checker.requestAvatarId(BearerLogin(token)).addCallbacks(
            found.append, lambda failure: failure.trap(UnauthorizedLogin)
        )
        return found[0] if found else None


class TokenTests(BearerTestCase):
    def test_good(self) -> None:
        """A token of the issuer, for the audience, in its time, is good; so is one for several audiences."""
        checker = self.checker(pem(RSA))
        self.assertEqual(self.ask(checker, token()), b"joe")
        self.assertEqual(self.ask(checker, token(aud=["imap", AUDIENCE])), b"joe")

    def test_claims(self) -> None:
        """Any claim that is missing or wrong makes it worthless."""
        checker = self.checker(pem(RSA))
        now = int(time.time())
        for wrong in (
            {"iss": "https://evil.example"},
            {"iss": ISSUER + "/"},
            {"aud": "imap"},
            {"aud": []},
            {"exp": now - 60},
            {"nbf": now + 300},
            {"sub": ""},
            {"leave_out": "iss"},
            {"leave_out": "aud"},
            {"leave_out": "exp"},
            {"leave_out": "sub"},
        ):
            with self.subTest(wrong=wrong):
                self.assertIsNone(self.ask(checker, token(**wrong)))

    def test_leeway(self) -> None:
        """Clocks may differ a little, as little as is said."""
        late = token(exp=int(time.time()) - 10)
        self.assertEqual(self.ask(self.checker(pem(RSA)), late), b"joe")
        self.assertIsNone(self.ask(self.checker(pem(RSA), leeway=0), late))

    def test_other_claim(self) -> None:
        """The name may be another claim, which must be text."""
        checker = self.checker(pem(RSA), claim="email")
        self.assertEqual(self.ask(checker, token(email="joe@x.example")), b"joe@x.example")
        for claims in ({}, {"email": 7}, {"email": ["joe"]}, {"email": None}):
            self.assertIsNone(self.ask(checker, token(**claims)))

    def test_signature(self) -> None:
        """A token by another key, changed, cut or without signature is worthless."""
        checker = self.checker(pem(RSA))
        other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        head, body, sign = token().split(".")
        for bad in (
            token(other),
            f"{head}.{body}.",
            f"{head}.{body}",
            f"{head}.{body[:-4]}.{sign}",
            f"{head}.{token(sub='boss').split('.')[1]}.{sign}",
            jwt.encode({"iss": ISSUER, "aud": AUDIENCE, "sub": "joe", "exp": 2**32}, None, algorithm="none"),
            "",
            "a.b.c",
            "x" * 8000,
        ):
            self.assertIsNone(self.ask(checker, bad))

    def test_public_key_is_no_secret(self) -> None:
        """A token signed with the public key as if it were a shared secret is worthless (RFC 8725 §2.1)."""
        def part(data: bytes) -> bytes:
            return base64.urlsafe_b64encode(data).rstrip(b"=")

        claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "joe", "exp": 2**32}
        signed = part(json.dumps({"alg": "HS256", "typ": "JWT"}).encode()) + b"." + part(json.dumps(claims).encode())
        forged = signed + b"." + part(hmac.new(pem(RSA), signed, hashlib.sha256).digest())
        for content in (pem(RSA), json.dumps({"keys": [jwk(RSA)]}).encode()):
            self.assertIsNone(self.ask(self.checker(content), forged.decode()))

    def test_algorithms(self) -> None:
        """A key allows the algorithms that it is made for."""
        for key, good in ((RSA, ("RS256", "RS512", "PS256")), (EC, ("ES256",)), (ED, ("EdDSA",))):
            for content in (pem(key), json.dumps(jwk(key)).encode()):
                checker = self.checker(content)
                for algorithm in good:
                    with self.subTest(algorithm=algorithm):
                        self.assertEqual(self.ask(checker, token(key, algorithm)), b"joe")
                self.assertIsNone(self.ask(checker, token(SECRET, "HS256")))

    @given(st.data())
    def test_any(self, data: Any) -> None:
        """Whatever comes as a token is refused, and breaks nothing."""
        checker = self.checker(pem(RSA))
        for _ in range(10):
            self.assertIsNone(self.ask(checker, data.draw(st.text())))


class KeyTests(BearerTestCase):
    def keys(self, *keys: dict[str, Any]) -> bytes:
        """Write a JWK Set."""
        return json.dumps({"keys": keys}).encode()

    def test_set(self) -> None:
        """Of a set the key with the token's name is taken; without a name each is tried."""
        checker = self.checker(self.keys(jwk(EC, kid="e"), jwk(RSA, kid="r"), jwk(ED)))
        for key, algorithm, headers, name in (
            (RSA, "RS256", {"kid": "r"}, b"joe"),
            (RSA, "RS256", {"kid": "e"}, None),
            (RSA, "RS256", {"kid": "other"}, None),
            (RSA, "RS256", None, b"joe"),
            (EC, "ES256", {"kid": "e"}, b"joe"),
            (ED, "EdDSA", {"kid": "unnamed"}, b"joe"),
        ):
            self.assertEqual(self.ask(checker, token(key, algorithm, headers)), name)

    def test_several_of_a_kind(self) -> None:
        """While keys are exchanged, tokens of the old and the new one are good."""
        old = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        made = jwt.algorithms.RSAAlgorithm.to_jwk(old.public_key(), as_dict=True)
        checker = self.checker(self.keys(made, jwk(RSA)))
        self.assertEqual((self.ask(checker, token(old)), self.ask(checker, token())), (b"joe", b"joe"))

    def test_named_algorithm(self) -> None:
        """A key that names its algorithm takes no other."""
        checker = self.checker(self.keys(jwk(RSA, alg="RS512")))
        self.assertIsNone(self.ask(checker, token()))
        self.assertEqual(self.ask(checker, token(algorithm="RS512")), b"joe")

    def test_secret(self) -> None:
        """A shared secret works as a JWK, if it is long enough."""
        checker = self.checker(self.keys(jwk(SECRET)))
        self.assertEqual(self.ask(checker, token(SECRET, "HS256")), b"joe")
        self.assertRaisesRegex(ValueError, "32 bytes", parse_keys, self.keys(jwk(b"short")))

    def test_let_pass(self) -> None:
        """Keys for encryption and keys of unknown kinds are let pass (RFC 7517 §5)."""
        odd = ({"kty": "XYZ"}, jwk(RSA, use="enc"), jwk(RSA, alg="RSA-OAEP"), {"kty": "RSA"})
        checker = self.checker(self.keys(*odd, jwk(EC)))
        self.assertEqual(self.ask(checker, token(EC, "ES256")), b"joe")
        self.assertIsNone(self.ask(checker, token()))

    def test_no_good(self) -> None:
        """A file without a key that can be used is refused at the start."""
        private = RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)
        for content, sentence in (
            (b"", "neither a public key"),
            (b"nonsense", "neither a public key"),
            (private, "private key"),
            (pem(weak), "2048 bits"),
            (b"{", "no JWK Set"),
            (b"{}", "can be used"),
            (b'{"keys": 7}', "no JWK Set"),
            (self.keys(), "no keys for signatures"),
            (self.keys(jwk(RSA, use="enc")), "no keys for signatures"),
            (self.keys({"kty": "XYZ"}), "can be used"),
        ):
            with self.subTest(content=content[:40]):
                self.assertRaisesRegex(ValueError, sentence, parse_keys, content)

    def test_certificate(self) -> None:
        """A certificate has a key too."""
        keys = parse_keys(certificate("id.example").public_bytes(Encoding.PEM))
        self.assertEqual([list(key.algorithms) for key in keys], [["ES256"]])

    def test_reread(self) -> None:
        """New keys count at once; a file that makes no sense changes nothing."""
        checker = self.checker(pem(EC))
        self.assertIsNone(self.ask(checker, token()))
        self.write(pem(RSA))
        self.assertEqual(self.ask(checker, token()), b"joe")
        self.write(b"nonsense")
        self.assertEqual(self.ask(checker, token()), b"joe")


class ArgumentTests(BearerTestCase):
    def test_good(self) -> None:
        """The argument names the file, the issuer and the audience, and more."""
        self.checker(pem(RSA))
        checker = make(f"{self.path},issuer={ISSUER},audience={AUDIENCE},claim=email,leeway=0")
        self.assertEqual(self.ask(checker, token(email="joe@x.example")), b"joe@x.example")

    def test_mistakes(self) -> None:
        """A mistake is a sentence that says what to write."""
        self.checker(pem(RSA))
        good = f"{self.path},issuer={ISSUER},audience={AUDIENCE}"
        for argument, sentence in (
            ("", "write bearer:FILE,issuer=URL,audience=NAME"),
            (self.path, "write bearer:FILE"),
            (f"{self.path},issuer={ISSUER}", "write bearer:FILE"),
            (f",issuer={ISSUER},audience=x", "write bearer:FILE"),
            (f"{good},colour=red", "'colour=red' is not one of"),
            (f"{good},claim=", "'claim=' is not one of"),
            (f"{good},issuer=x", "'issuer=x' is not one of"),
            (f"{good},leeway=soon", "no number of seconds"),
            (f"/nowhere,issuer={ISSUER},audience=x", "No such file"),
        ):
            with self.subTest(argument=argument):
                self.assertRaisesRegex(ValueError, sentence, make, argument)

    def test_missing_extra(self) -> None:
        """Without PyJWT the sentence says what to install."""
        self.checker(pem(RSA))
        self.patch(sys, "modules", {**sys.modules, "jwt": None})
        with self.assertRaisesRegex(ValueError, r"pip install 'smtpsvc\[oauth\]'"):
            make(f"{self.path},issuer={ISSUER},audience={AUDIENCE}")


class WireTests(BearerTestCase):
    def test_wire(self) -> None:
        """Over the wire a good token is 235, another is explained and then 535."""
        wire = wire_with(self.checker(pem(RSA)))
        self.assertEqual(offered(wire), ["OAUTHBEARER", "XOAUTH2"])
        for good, codes in ((token(aud="imap"), [334, 535]), (token(), [235])):
            wire.forget().say(f"AUTH OAUTHBEARER {b64(f'n,a=joe,{chr(1)}auth=Bearer {good}{chr(1)}{chr(1)}')}")
            if codes[0] == 334:
                wire.say("AQ==")
            self.assertEqual(wire.codes, codes)
