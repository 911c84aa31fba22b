"""
What the tests of AUTH share: a portal to log in to, and clients that do.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable
from typing import Any

from scramp import ScramClient
from twisted.cred.checkers import ICredentialsChecker, InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.credentials import IUsernameHashedPassword, IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import IRealm, Portal
from twisted.logger import Logger, globalLogPublisher
from zope.interface import implementer

from smtpsvc.interfaces import IAccount
from smtpsvc.sasl import Context, Done
from smtpsvc.settings import Role
from smtpsvc.testing import ScriptedBackend, Wire, clocked_factory
from smtpsvc.values import Account, TLSInfo
from tests.support import settings_with

PASSWORD = "open sesame"

#: A connection that has TLS.
TLS = TLSInfo("TLSv1.3", "TLS_AES_128_GCM_SHA256")


@implementer(IRealm)
class CountingRealm:
    """A realm that counts who is logged in."""

    def __init__(self) -> None:
        self.logouts: list[str] = []

    def requestAvatar(self, avatarId: Any, mind: object, *interfaces: Any) -> Any:
        """Give an account."""
        name = avatarId.decode() if avatarId != () else ""
        return IAccount, Account(name), lambda: self.logouts.append(name)


def joes() -> Any:
    """Make a checker that holds passwords as they are; ``joe`` has one."""
    return InMemoryUsernamePasswordDatabaseDontUse(joe=PASSWORD.encode())


@implementer(ICredentialsChecker)
class AnswerChecker:
    """A checker that answers as it is told: a value, an exception to raise, or a function of the credentials."""

    def __init__(self, answer: Any = None, *interfaces: Any) -> None:
        self.answer = answer
        self.credentialInterfaces = interfaces or (IUsernamePassword, IUsernameHashedPassword)
        self.asked: list[Any] = []

    def requestAvatarId(self, credentials: Any) -> Any:
        """Answer."""
        self.asked.append(credentials)
        answer = self.answer(credentials) if callable(self.answer) else self.answer
        if isinstance(answer, Exception):
            raise answer
        return answer


def wire_with(
    *checkers: Any,
    backend: Any = None,
    role: Role = Role.SMTP,
    mechanisms: Iterable[Any] | None = None,
    monitors: Iterable[Any] = (),
    realm: Any = None,
    tls: TLSInfo | None = TLS,
    greeted: bool = True,
    clock: list[Any] | None = None,
    **fields: Any,
) -> Wire:
    """
    Connect to a server with these checkers, or with :func:`joes`.

    :param tls: what the connection's TLS is; None for none.
    :param clock: gets the server's clock.
    :param fields: of the settings.
    """
    portal = Portal(realm or CountingRealm(), checkers or [joes()])
    factory, time = clocked_factory(
        backend or ScriptedBackend(),
        settings_with(**fields),
        role=role,
        portal=portal,
        mechanisms=mechanisms,
        monitors=monitors,
    )
    if clock is not None:
        clock.append(time)
    wire = Wire(factory)
    wire.protocol.conversation.peer.tls = tls
    return wire.say(hello(wire)).forget() if greeted else wire.forget()


def hello(wire: Wire) -> str:
    """Word the greeting that the listener's role wants."""
    return f"{'LHLO' if b'LHLO' in wire.factory.tables.verbs else 'EHLO'} client.example"


def b64(text: str | bytes) -> str:
    """Encode a response."""
    return b64encode(text.encode() if isinstance(text, str) else text).decode()


def plain(name: str = "joe", password: str = PASSWORD, identity: str = "") -> str:
    """Make the response of PLAIN."""
    return b64(f"{identity}\0{name}\0{password}")


def offered(wire: Wire) -> list[str]:
    """Say EHLO, and give the mechanisms in the reply."""
    wire.forget().say("EHLO client.example")
    for line in wire.last_reply.text.split("\n"):
        if line.startswith("AUTH "):
            return line.split()[1:]
    return []


def challenge(wire: Wire) -> bytes:
    """Decode the challenge that came last."""
    line = wire.output.split(b"\r\n")[-2]
    assert line.startswith(b"334 "), line
    return b64decode(line[4:], validate=True)


class Client:
    """
    A SCRAM client by the library, with a GS2 header of one's own.

    :param header: e.g. ``p=tls-exporter,,``.
    :param binding: what it binds to.
    """

    def __init__(
        self, hash: str, name: str = "joe", password: str = PASSWORD, header: str = "n,,", binding: bytes = b""
    ) -> None:
        self._client = ScramClient([f"SCRAM-{hash}"], name, password)
        self._header = header
        self._binding = binding

    def first(self) -> str:
        """The client's first message."""
        return self._header + str(self._client.get_client_first()).removeprefix("n,,")

    def final(self, server_first: bytes) -> str:
        """The client's final message."""
        client, header, binding = self._client, self._header, self._binding

        class Header:
            def make_cbind_input(self, cb: object) -> bytes:
                return header.encode() + binding

        client.set_server_first(server_first.decode())
        client.gs2_header = Header()  # type: ignore[assignment]
        return str(client.get_client_final())

    def check(self, server_final: bytes) -> None:
        """Check the server's proof."""
        self._client.set_server_final(server_final.decode())


def judge(done: Done, *checkers: Any) -> str | None:
    """Ask a portal of these checkers about the end of an exchange; give the name it lets in, or None."""
    found: list[Any] = []
    login = Portal(CountingRealm(), checkers or [joes()]).login(done.credentials, None, IAccount)
    login.addCallbacks(lambda avatar: found.append(avatar[1].name), lambda failure: failure.trap(UnauthorizedLogin))
    return found[0] if found else None


def context(**fields: Any) -> Context:
    """Make a context with the checkers of a portal with :func:`joes`."""
    return Context(**{"checkers": Portal(CountingRealm(), [joes()]).checkers, **fields})


def logged(action: Callable[[], object]) -> str:
    """Do something, and give all that was logged meanwhile, with every field of every event."""
    events: list[Any] = []
    globalLogPublisher.addObserver(events.append)
    try:
        action()
        Logger().debug("something is logged always")
    finally:
        globalLogPublisher.removeObserver(events.append)
    return "\n".join(f"{event!r} {event.get('log_failure', '')}" for event in events)
