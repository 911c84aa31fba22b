"""
SCRAM-SHA-1 (RFC 5802) and SCRAM-SHA-256 (RFC 7677), each with and without channel binding (-PLUS).

The client proves the password without showing it, and the server proves that it knew it. The
proofs are computed by the ``scramp`` library. It has no ``tls-exporter`` (RFC 9266) and refuses to
act as someone else, so the GS2 header, where both stand, is read and judged here.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Callable
from inspect import isawaitable
from typing import Any, Final

from twisted.cred.credentials import IUsernameHashedPassword
from zope.interface import implementer

from smtpsvc.extras import need
from smtpsvc.interfaces import ISASLExchange
from smtpsvc.sasl import Challenge, Context, Done, Mechanism, SASLError, text_of
from smtpsvc.sasl.bearer import unescape
from smtpsvc.sasl.credentials import IScramCredentials, IScramSecrets, ScramParameters, ScramSecrets

#: The kinds of channel binding that are taken; ``tls-unique`` is none of TLS 1.3 (RFC 9266 §3).
BINDINGS: Final = ("tls-exporter", "tls-server-end-point")

#: What clients of checkers that hold passwords as they are must compute (RFC 7677 §4).
ITERATIONS: Final = 4096

# RFC 5802 §7: gs2-cbind-flag "," [ "a=" saslname ] "," and what follows.
_FIRST = re.compile("(n|y|p=([A-Za-z0-9.-]+)),(?:a=([^,]+))?,", re.DOTALL)

# Salts of checkers that have none of their own; the same for who is there and who is not.
_SALT_KEY = secrets.token_bytes(32)


class Scram(Mechanism):
    """SCRAM with one of its hashes."""

    credentials = (IScramCredentials, IUsernameHashedPassword)
    #: The hash, as the mechanism's name has it.
    hash: str
    #: True if the exchange is bound to the connection's TLS.
    plus = False

    def available(self, context: Context) -> bool:
        """Tell whether the library is there, the checker's users have secrets, and TLS can be bound to."""
        if self.plus and not any(map(context.channel_binding, BINDINGS)):
            return False
        checker = context.checkers.get(IScramCredentials)
        if IScramSecrets.providedBy(checker):
            served = self.hash in checker.scram_hashes
        else:
            served = IUsernameHashedPassword in context.checkers
        return served and _installed()

    def nonce(self) -> str:
        """Make the server's part of the nonce."""
        return secrets.token_urlsafe(18)

    def start(self, context: Context) -> _Exchange:
        """Begin an exchange."""
        return _Exchange(self, context)


class ScramSHA1(Scram):
    """SCRAM-SHA-1 (RFC 5802)."""

    name = "SCRAM-SHA-1"
    hash = "SHA-1"


class ScramSHA256(Scram):
    """SCRAM-SHA-256 (RFC 7677)."""

    name = "SCRAM-SHA-256"
    hash = "SHA-256"


class ScramSHA1Plus(ScramSHA1):
    """SCRAM-SHA-1-PLUS: bound to the connection's TLS."""

    name = "SCRAM-SHA-1-PLUS"
    plus = True


class ScramSHA256Plus(ScramSHA256):
    """SCRAM-SHA-256-PLUS: bound to the connection's TLS."""

    name = "SCRAM-SHA-256-PLUS"
    plus = True


@implementer(ISASLExchange)
class _Exchange:
    """One run of SCRAM: the client's first message, its final message, the end."""

    def __init__(self, mechanism: Scram, context: Context) -> None:
        self._mechanism = mechanism
        self._context = context
        self._login: ScramLogin | None = None
        self._identity = ""

    async def step(self, response: bytes | None) -> Challenge | Done:
        """Take the client's response."""
        if response is None:
            return Challenge()
        if self._login is None:
            return await self._first(text_of(response))
        self._login.final = text_of(response)
        return Done(self._login, self._identity, proof=self._login.proof)

    async def _first(self, text: str) -> Challenge:
        """Take ``gs2-header n=NAME,r=NONCE``, and tell the client its salt and iterations."""
        match = _FIRST.match(text)
        if match is None:
            raise SASLError("A SCRAM exchange begins with a GS2 header such as n,,")
        self._identity = unescape(match[3] or "")
        binding = match[0].encode() + self._binding(match[1], match[2])
        bare = text[match.end() :]
        name = _name_in(self._mechanism, bare)
        parameters = await self._parameters(name)
        self._login = ScramLogin(self._mechanism, name, bare, binding, parameters)
        return Challenge(self._login.server_first.encode())

    def _binding(self, flag: str, kind: str | None) -> bytes:
        """
        Judge what the client says of channel binding (RFC 5802 §6).

        :returns: what binds this exchange; nothing without channel binding.
        """
        if kind is None:
            if self._mechanism.plus:
                raise SASLError("This mechanism needs channel binding")
            if flag == "y" and f"{self._mechanism.name}-PLUS" in self._context.offered:
                # The client can bind and has seen no -PLUS: somebody has taken it out of our offer.
                raise SASLError("Channel binding is offered here, and the client did not see it")
            return b""
        data = self._context.channel_binding(kind) if self._mechanism.plus and kind in BINDINGS else None
        if data is None:
            raise SASLError("This kind of channel binding is not to be had here")
        return data

    async def _parameters(self, name: bytes) -> ScramParameters:
        checker = self._context.checkers.get(IScramCredentials)
        if IScramSecrets.providedBy(checker):
            found = checker.scram_parameters(name, self._mechanism.hash)
            parameters: ScramParameters = await found if isawaitable(found) else found
            return parameters
        salt = hmac.digest(_SALT_KEY, name, "sha256")[:16]
        return ScramParameters(salt, ITERATIONS, False)


@implementer(IScramCredentials, IUsernameHashedPassword)
class ScramLogin:
    """
    A client's proof: whoever has the password or the secrets made of it can judge.

    :param bare: the client's first message without its GS2 header.
    :param binding: that header and the channel binding.
    """

    def __init__(
        self, mechanism: Scram, username: bytes, bare: str, binding: bytes, parameters: ScramParameters
    ) -> None:
        self.username = username
        self.hash = mechanism.hash
        self._bare = bare
        self._binding = binding
        self._parameters = parameters
        self._nonce = mechanism.nonce()
        self._answer = ""
        #: The client's final message.
        self.final = ""
        #: What the client is told first: nonce, salt and iterations.
        self.server_first: str = self._server(_blank(parameters)).server_first

    def proves(self, secrets: ScramSecrets) -> bool:
        """Tell whether the client knows the password of which these are the secrets."""
        if (secrets.salt, secrets.iterations) != self._parameters[:2]:
            return False
        server = self._server(secrets)
        try:
            server.set_client_final(self.final)
            self._answer = server.get_server_final()
        except _scramp().ScramException:
            return False
        return True

    def checkPassword(self, password: bytes | str) -> bool:
        """Tell whether the client knows this password."""
        try:
            text = password.decode() if isinstance(password, bytes) else password
            made = derive(self.hash, text, self._parameters.salt, self._parameters.iterations)
        except (UnicodeDecodeError, _scramp().ScramException):
            return False
        return self.proves(made)

    def proof(self) -> bytes:
        """Give the server's own proof, once :meth:`proves` or :meth:`checkPassword` has said yes."""
        return self._answer.encode()

    def _server(self, secrets: ScramSecrets) -> Any:
        """Make scramp's side of this exchange, up to the client's final message."""
        values = (secrets.salt, secrets.stored_key, secrets.server_key, secrets.iterations)
        server = _begin(self.hash, self._bare, lambda name: values, self._nonce)
        server.get_server_first()
        server.gs2_header = _Header(self._binding)
        return server

    def __repr__(self) -> str:
        return f"<ScramLogin {self.username!r}>"


class _Header:
    """Stands in for scramp's GS2 header: what the client must show that it has bound to."""

    def __init__(self, binding: bytes) -> None:
        self._binding = binding

    def make_cbind_input(self, cb: object) -> bytes:
        return self._binding


def derive(hash: str, password: str, salt: bytes | None = None, iterations: int = ITERATIONS) -> ScramSecrets:
    """
    Make the secrets of a password, with a new salt if none is given.

    :param hash: ``SHA-1`` or ``SHA-256``.
    :raises ValueError: if scramp is not installed.
    :raises scramp.ScramException: if the password has characters that none may have (RFC 4013).
    """
    mechanism = _scramp().ScramMechanism(f"SCRAM-{hash}")
    made_salt, stored_key, server_key, count = mechanism.make_auth_info(password, iterations, salt)
    return ScramSecrets(made_salt, count, stored_key, server_key)


def _name_in(mechanism: Scram, bare: str) -> bytes:
    """
    Read the name in a client's first message.

    :raises SASLError: if the message is malformed.
    """
    names: list[str] = []

    def learn(name: str) -> tuple[bytes, bytes, bytes, int]:
        names.append(name)
        return bytes(16), b"", b"", ITERATIONS

    try:
        _begin(mechanism.hash, bare, learn)
    except _scramp().ScramException:
        raise SASLError("The message is none of SCRAM, or its name is not allowed") from None
    return names[0].encode()


def _begin(hash: str, bare: str, find: Callable[[str], Any], nonce: str | None = None) -> Any:
    """Let scramp read a client's first message, as one without channel binding."""
    server = _scramp().ScramMechanism(f"SCRAM-{hash}").make_server(find, s_nonce=nonce)
    server.set_client_first(f"n,,{bare}")
    return server


def _blank(parameters: ScramParameters) -> ScramSecrets:
    return ScramSecrets(parameters.salt, parameters.iterations, b"", b"")


def _installed() -> bool:
    try:
        _scramp()
    except ValueError:
        return False
    return True


def _scramp() -> Any:
    return need("scramp", "auth", "SCRAM")
