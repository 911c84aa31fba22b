"""
Logging in: the client's side of the mechanisms (RFC 4422, RFC 4954).

Each is a generator: it yields responses, the first of which may go out with AUTH itself, and gets the
server's challenges.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from smtpsvc.client.options import Login
from smtpsvc.extras import need
from smtpsvc.grammar.shown import shown

Steps: TypeAlias = Generator[bytes | None, bytes, None]
"""
Yields responses and gets challenges. A first yield of None: the server speaks first. It returns once
the server has proved whatever it must prove; a success that comes earlier is none.
"""


class SASLProblem(Exception):
    """The server's side of an exchange makes no sense, or it could not prove that it knows the password."""


@dataclass(frozen=True, slots=True)
class Context:
    """What a mechanism may know of the connection."""

    host: str = ""
    #: The kind and data of the channel binding, or None.
    binding: tuple[str, bytes] | None = None
    offered: Sequence[str] = ()


def _plain(login: Login, context: Context) -> Steps:
    yield "\0".join((login.identity, login.username, login.password or "")).encode()


def _login(login: Login, context: Context) -> Steps:
    # It asks "Username:" and "Password:", in whatever words; the order is all that counts.
    yield None
    yield login.username.encode()
    yield (login.password or "").encode()


def _cram(login: Login, context: Context) -> Steps:
    challenge = yield None
    digest = hmac.new((login.password or "").encode(), challenge, "md5").hexdigest()
    yield f"{login.username} {digest}".encode()


def _external(login: Login, context: Context) -> Steps:
    yield login.identity.encode()


def _anonymous(login: Login, context: Context) -> Steps:
    yield login.username.encode()


def _xoauth2(login: Login, context: Context) -> Steps:
    # What comes back is the error in JSON, which an empty response acknowledges.
    yield f"user={login.username}\x01auth=Bearer {login.token}\x01\x01".encode()
    yield b""


def _bearer(login: Login, context: Context) -> Steps:
    name = login.identity or login.username
    header = f"n,{f'a={_escaped(name)}' if name else ''},"
    yield f"{header}\x01auth=Bearer {login.token}\x01\x01".encode()
    # RFC 7628 §3.2.3: the error is answered by one %x01.
    yield b"\x01"


def _escaped(name: str) -> str:
    """Write a name as a GS2 header has it (RFC 5801 §4)."""
    return name.replace("=", "=3D").replace(",", "=2C")


def _scram(hash: str, plus: bool) -> Callable[[Login, Context], Steps]:
    def exchange(login: Login, context: Context) -> Steps:
        scramp: Any = need("scramp", "auth", "SCRAM")
        try:
            client = scramp.ScramClient([f"SCRAM-{hash}"], login.username, login.password)
            client.gs2_header = _Header(login.identity, context, hash, plus)
            challenge = yield client.get_client_first().encode()
            client.set_server_first(challenge.decode())
            iterations = int(str(client.iterations))
            if not 1 <= iterations <= MAX_ITERATIONS:
                raise SASLProblem(f"the server asks for {iterations} iterations")
            challenge = yield client.get_client_final().encode()
            client.set_server_final(challenge.decode())
        except (scramp.ScramException, ValueError, KeyError) as error:
            why = shown(str(error).encode("utf-8", "replace")[:200])
            raise SASLProblem(f"the server's side of SCRAM is wrong: {why}") from error
        yield b""

    return exchange


#: More is no proof of care, but a way to keep us busy.
MAX_ITERATIONS: Final = 1_000_000


class _Header:
    """
    The GS2 header (RFC 5802 §7), in the place of scramp's: that has neither ``tls-exporter`` nor identities.
    """

    def __init__(self, identity: str, context: Context, hash: str, plus: bool) -> None:
        self._data = b""
        if plus and context.binding is not None:
            flag, self._data = f"p={context.binding[0]}", context.binding[1]
        else:
            # y: we could, and the server did not offer it. If it did, somebody took that out of its offer.
            flag = "y" if context.binding is not None and f"SCRAM-{hash}-PLUS" not in context.offered else "n"
        self._text = f"{flag},{f'a={_escaped(identity)}' if identity else ''},"

    def __str__(self) -> str:
        return self._text

    def make_cbind_input(self, cb: object) -> bytes:
        return self._text.encode() + self._data


@dataclass(frozen=True, slots=True)
class Mechanism:
    """One way to log in."""

    exchange: Callable[[Login, Context], Steps]
    #: The field of the login that it needs.
    needs: str
    #: Shows the secret to the server, and to whoever listens.
    plaintext: bool = False
    #: Binds the login to the connection's TLS.
    bound: bool = False
    #: How many responses must have gone out before a success is believed: the last acknowledges the server's proof.
    responses: int = 0


#: The strongest first.
MECHANISMS: Final[Mapping[str, Mechanism]] = {
    "SCRAM-SHA-256-PLUS": Mechanism(_scram("SHA-256", True), "password", bound=True, responses=3),
    "SCRAM-SHA-1-PLUS": Mechanism(_scram("SHA-1", True), "password", bound=True, responses=3),
    "SCRAM-SHA-256": Mechanism(_scram("SHA-256", False), "password", responses=3),
    "SCRAM-SHA-1": Mechanism(_scram("SHA-1", False), "password", responses=3),
    "EXTERNAL": Mechanism(_external, "external"),
    "OAUTHBEARER": Mechanism(_bearer, "token", plaintext=True),
    "XOAUTH2": Mechanism(_xoauth2, "token", plaintext=True),
    "CRAM-MD5": Mechanism(_cram, "password"),
    "PLAIN": Mechanism(_plain, "password", plaintext=True),
    "LOGIN": Mechanism(_login, "password", plaintext=True),
    "ANONYMOUS": Mechanism(_anonymous, "anonymous"),
}


def choose(login: Login, context: Context, *, trusted: bool) -> tuple[list[str], str]:
    """
    Find the mechanisms that may be tried, the best first.

    :param trusted: the connection has TLS, and the server is who it should be.
    :returns: their names; and where there are none, why.
    """
    wanted = MECHANISMS if login.mechanisms is None else [name.upper() for name in login.mechanisms]
    found, why = [], ""
    for name in wanted:
        mechanism = MECHANISMS.get(name)
        if mechanism is None or name not in context.offered or getattr(login, mechanism.needs) in (None, False):
            continue
        if mechanism.plaintext and not (trusted or login.in_clear):
            why = f"{name} would show the secret without verified TLS"
            continue
        if mechanism.bound and context.binding is None:
            continue
        if name.startswith("SCRAM-"):
            try:
                need("scramp", "auth", "SCRAM")
            except ValueError as error:
                why = str(error)
                continue
        found.append(name)
    offered = ", ".join(context.offered) or "none"
    return found, why or f"none of the mechanisms that the server offers can be used ({offered})"
