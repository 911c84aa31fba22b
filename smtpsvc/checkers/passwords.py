"""
Hashed passwords, as lines of a password file have them.

======================  ======================================================  =================
form                    example                                                 needs
======================  ======================================================  =================
scrypt                  ``$scrypt$ln=15,r=8,p=3$SALT$HASH``                     nothing
argon2id                ``$argon2id$v=19$m=65536,t=3,p=4$SALT$HASH``            ``smtpsvc[auth]``
bcrypt                  ``$2b$12$…`` (``$2y$`` too)                             ``smtpsvc[auth]``
SCRAM                   ``SCRAM-SHA-256$4096:SALT$STORED:SERVER``               ``smtpsvc[auth]``
======================  ======================================================  =================

SCRAM entries are written as PostgreSQL writes them; the password is prepared by SASLprep (RFC 4013).
For the others it is the octets that the client sends, which are UTF-8.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable
from typing import Any, Final, Protocol

from smtpsvc.extras import need
from smtpsvc.sasl.credentials import ScramSecrets
from smtpsvc.sasl.scram import derive

_SCRYPT: Final = re.compile(r"\$scrypt\$ln=(\d{1,2}),r=(\d{1,2}),p=(\d{1,2})\$([A-Za-z0-9+/]+)\$([A-Za-z0-9+/]+)")
_BCRYPT: Final = re.compile(r"\$2[aby]\$\d\d\$[./A-Za-z0-9]{53}")
_SCRAM: Final = re.compile(r"SCRAM-(SHA-1|SHA-256)\$(\d{1,8}):([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+):([A-Za-z0-9+/=]+)")

_DIGESTS: Final = {"SHA-1": 20, "SHA-256": 32}

#: What new scrypt entries cost: 32 MiB and some 0.2 s.
LOG_N, R, P = 15, 8, 3


class Entry(Protocol):
    """A password that somebody has, in a form that does not show it."""

    #: Names the form and what it costs; entries of one kind take one time.
    kind: str

    def verify(self, password: bytes) -> bool:
        """Tell whether this is the password; takes a while, and may run in a thread."""


class Scrypt:
    """An entry of scrypt (RFC 7914), in the modular crypt format."""

    def __init__(self, text: str) -> None:
        match = _SCRYPT.fullmatch(text)
        if match is None:
            raise ValueError("a scrypt entry is like $scrypt$ln=15,r=8,p=3$SALT$HASH")
        self._log_n, self._r, self._p = map(int, match.groups()[:3])
        self._salt, self._hash = (_decode(each + "=" * (-len(each) % 4)) for each in match.groups()[3:])
        if not (1 <= self._log_n <= 20 and 1 <= self._r <= 32 and 1 <= self._p <= 16) or len(self._hash) < 16:
            raise ValueError("a scrypt entry has ln of at most 20, r of at most 32, p of at most 16, and 16 bytes")
        self.kind = text[: match.start(4)]

    def verify(self, password: bytes) -> bool:
        """Tell whether this is the password."""
        made = _scrypt(password, self._salt, self._log_n, self._r, self._p, len(self._hash))
        return hmac.compare_digest(made, self._hash)


class Argon2:
    """An entry of argon2id (RFC 9106)."""

    def __init__(self, text: str) -> None:
        argon2 = need("argon2", "auth", "an argon2id entry")
        try:
            argon2.extract_parameters(text)
        except argon2.exceptions.InvalidHashError as error:
            raise ValueError("an argon2id entry is like $argon2id$v=19$m=65536,t=3,p=4$SALT$HASH") from error
        self._text = text
        self._verify: Callable[[str, bytes], bool] = argon2.PasswordHasher().verify
        self._mismatch: Any = argon2.exceptions.VerificationError
        self.kind = text.rpartition("$")[0].rpartition("$")[0]

    def verify(self, password: bytes) -> bool:
        """Tell whether this is the password."""
        try:
            return self._verify(self._text, password)
        except self._mismatch:
            return False


class Bcrypt:
    """An entry of bcrypt; as everywhere, only the first 72 octets of a password count."""

    def __init__(self, text: str) -> None:
        self._check: Callable[[bytes, bytes], bool] = need("bcrypt", "auth", "a bcrypt entry").checkpw
        if not _BCRYPT.fullmatch(text):
            raise ValueError("a bcrypt entry is $2b$, a number of two digits, $ and 53 characters")
        self._hash = text.encode()
        self.kind = text[:7]

    def verify(self, password: bytes) -> bool:
        """Tell whether this is the password."""
        return self._check(password[:72], self._hash)


class Scram:
    """An entry of SCRAM (RFC 5802 §3): serves SCRAM itself, and PLAIN and LOGIN too."""

    def __init__(self, text: str) -> None:
        self._unfit: Any = need("scramp", "auth", "a SCRAM entry").ScramException
        match = _SCRAM.fullmatch(text)
        if match is None:
            raise ValueError("a SCRAM entry is like SCRAM-SHA-256$4096:SALT$STORED:SERVER")
        self.hash = match[1]
        salt, stored_key, server_key = map(_decode, match.groups()[2:])
        if not 4096 <= int(match[2]) <= 10_000_000 or len(salt) < 12:
            raise ValueError("a SCRAM entry has 4096 iterations and 12 bytes of salt at least")
        if not len(stored_key) == len(server_key) == _DIGESTS[self.hash]:
            raise ValueError(f"the keys of a SCRAM entry are as long as {self.hash} makes them")
        self.secrets = ScramSecrets(salt, int(match[2]), stored_key, server_key)
        self.kind = text[: match.start(3)]

    def verify(self, password: bytes) -> bool:
        """Tell whether this is the password."""
        known = self.secrets
        try:
            made = derive(self.hash, password.decode(), known.salt, known.iterations)
        except (UnicodeDecodeError, self._unfit):
            # No password may have such characters (RFC 4013).
            return False
        return hmac.compare_digest(made.stored_key, known.stored_key)


def parse_entry(text: str) -> Entry:
    """
    Read an entry of any form.

    :raises ValueError: with a sentence that does not repeat it.
    """
    if text.startswith("$scrypt$"):
        return Scrypt(text)
    if text.startswith("$argon2id$"):
        return Argon2(text)
    if text.startswith(("$2a$", "$2b$", "$2y$")):
        return Bcrypt(text)
    if text.startswith("SCRAM-"):
        return Scram(text)
    raise ValueError("what follows the name is neither a scrypt, argon2id, bcrypt nor SCRAM entry")


def make_entry(password: str, form: str = "") -> str:
    """
    Make an entry of a password.

    :param form: ``scrypt``, ``argon2id``, ``scram-sha-256`` or ``scram-sha-1``; "" for argon2id if it
        is installed, else scrypt.
    :raises ValueError: with a sentence.
    """
    if not form:
        try:
            return make_entry(password, "argon2id")
        except ValueError:
            return make_entry(password, "scrypt")
    if form == "argon2id":
        made: str = need("argon2", "auth", "an argon2id entry").PasswordHasher().hash(password)
        return made
    if form == "scrypt":
        salt = secrets.token_bytes(16)
        digest = _scrypt(password.encode(), salt, LOG_N, R, P, 32)
        return f"$scrypt$ln={LOG_N},r={R},p={P}${_encode(salt).rstrip('=')}${_encode(digest).rstrip('=')}"
    hash = form.upper().removeprefix("SCRAM-")
    scramp = need("scramp", "auth", "a SCRAM entry")
    try:
        made_of = derive(hash, password)
    except scramp.ScramException as error:
        raise ValueError(f"SCRAM cannot have this password: {error}") from error
    keys = f"{_encode(made_of.stored_key)}:{_encode(made_of.server_key)}"
    return f"SCRAM-{hash}${made_of.iterations}:{_encode(made_of.salt)}${keys}"


def _scrypt(password: bytes, salt: bytes, log_n: int, r: int, p: int, length: int) -> bytes:
    n = 1 << log_n
    # OpenSSL wants to be told that so much memory is meant.
    return hashlib.scrypt(password, salt=salt, n=n, r=r, p=p, maxmem=128 * r * (n + p + 2) + 4096, dklen=length)


def _encode(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode()


def _decode(text: str) -> bytes:
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error:
        raise ValueError("a salt or key is not base64") from None
