"""
SASL mechanisms (RFC 4422), a file each.

A mechanism turns what a client sends into credentials of ``twisted.cred`` and knows no SMTP; a portal
judges them. One of your own is a class that provides :class:`~smtpsvc.interfaces.ISASLMechanism`, most
easily a :class:`Mechanism` with an exchange that reads as it goes::

    class Pin(Mechanism):
        name = "X-PIN"
        plaintext = True
        credentials = (IUsernamePassword,)

        def exchange(self, context, response):
            if response is None:
                response = yield Challenge()
            user, _, pin = response.partition(b" ")
            return Done(PasswordLogin(user, pin))
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

from zope.interface import implementer

from smtpsvc.interfaces import ISASLExchange, ISASLMechanism

if TYPE_CHECKING:
    from smtpsvc.values import TLSInfo


class SASLError(Exception):
    """
    The client's response makes no sense to the mechanism; ``str()`` is a sentence for the client.

    It must repeat nothing of the response, which may be a secret.
    """


@dataclass(frozen=True, slots=True)
class Challenge:
    """Something to send to the client, which answers with a response."""

    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Done:
    """The end of an exchange: what the portal shall judge."""

    #: Provides one of the mechanism's credentials interfaces.
    credentials: Any = field(repr=False)
    #: Whom the client wants to act as; "" for the one whose credentials these are.
    identity: str = ""
    #: Gives what the client must hear once the credentials are good, e.g. the server's own proof.
    proof: Callable[[], bytes] | None = field(default=None, repr=False)
    #: A challenge to send where the credentials are refused, before the client is told so.
    refusal: bytes | None = None


def _no_binding(kind: str) -> bytes | None:
    return None


@dataclass(frozen=True, slots=True)
class Context:
    """What a mechanism may know of the connection and of who judges."""

    #: The server's name.
    hostname: str = "localhost"
    #: What the connection's TLS is, or None.
    tls: TLSInfo | None = None
    #: The portal's checkers by credentials interface; empty if it does not say.
    checkers: Mapping[Any, Any] = field(default_factory=lambda: MappingProxyType({}))
    #: Gives the channel binding of a kind, or None (RFC 5056).
    channel_binding: Callable[[str], bytes | None] = _no_binding
    #: The mechanisms that the client was offered.
    offered: Sequence[str] = ()


#: Gives challenges and is sent the client's responses; returns the end.
Steps: TypeAlias = Generator[Challenge, bytes, Done]


@implementer(ISASLMechanism)
class Mechanism:
    """A mechanism; provide a name, credentials and an exchange."""

    name: str
    plaintext = False
    server_first = False
    on_request = False
    credentials: Sequence[Any]

    def available(self, context: Context) -> bool:
        """Run on any connection."""
        return True

    def start(self, context: Context) -> Any:
        """Begin an exchange, which is that of :meth:`exchange`."""
        return Exchange(lambda response: self.exchange(context, response))

    def exchange(self, context: Context, response: bytes | None) -> Steps:
        """
        Converse with the client.

        :param response: the initial response, or None if the client sent none.
        :returns: a generator: it yields each :class:`Challenge`, gets the response to it, and returns
            :class:`Done`. It may raise what :meth:`~smtpsvc.interfaces.ISASLExchange.step` may.
        """
        raise NotImplementedError


@implementer(ISASLExchange)
class Exchange:
    """An exchange whose steps a generator takes."""

    def __init__(self, begin: Callable[[bytes | None], Steps]) -> None:
        self._begin = begin
        self._steps: Steps | None = None

    async def step(self, response: bytes | None) -> Challenge | Done:
        """Take the client's response, and go on to the next challenge or to the end."""
        try:
            if self._steps is None:
                self._steps = self._begin(response)
                return next(self._steps)
            assert response is not None
            return self._steps.send(response)
        except StopIteration as stop:
            done: Done = stop.value
            return done


def text_of(response: bytes) -> str:
    """
    Read a response that must be text.

    :raises SASLError: if it is not valid UTF-8 or has a NUL in it.
    """
    try:
        text = response.decode()
    except UnicodeDecodeError:
        raise SASLError("The response is not valid UTF-8") from None
    if "\0" in text:
        raise SASLError("The response has a NUL in it")
    return text


def default_mechanisms() -> list[Mechanism]:
    """The mechanisms that come with smtpsvc, the strongest first."""
    from smtpsvc.sasl.anonymous import Anonymous
    from smtpsvc.sasl.bearer import OAuthBearer, XOAuth2
    from smtpsvc.sasl.cram import CramMD5
    from smtpsvc.sasl.external import External
    from smtpsvc.sasl.login import Login
    from smtpsvc.sasl.plain import Plain
    from smtpsvc.sasl.scram import ScramSHA1, ScramSHA1Plus, ScramSHA256, ScramSHA256Plus

    return [
        ScramSHA256Plus(),
        ScramSHA1Plus(),
        ScramSHA256(),
        ScramSHA1(),
        External(),
        OAuthBearer(),
        XOAuth2(),
        CramMD5(),
        Plain(),
        Login(),
        Anonymous(),
    ]
