"""
Programs that policies ask: where they are, and what is done and logged while they cannot be had.
"""

from __future__ import annotations

import re
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint, clientFromString
from twisted.internet.interfaces import IProtocolFactory, IReactorTime, IStreamClientEndpoint
from twisted.logger import Logger

from smtpsvc.grammar.replies import Reply
from smtpsvc.grammar.shown import shown
from smtpsvc.policies.arguments import Arguments, parse_count

#: What the client hears while a program cannot be had.
NOT_AVAILABLE: Final = Reply(451, "A filter of this server is not available, try again later", "4.7.1")

#: Characters of a reply that somebody else words.
_LONGEST_TEXT: Final = 500
_ENHANCED = re.compile(r"([245]\.\d{1,3}\.\d{1,3})(?: |$)", re.ASCII)
_VERDICTS: Final = {"451": NOT_AVAILABLE, "accept": None}
_AT = re.compile(r"inet:(\d+)@(.+)")
_INET = re.compile(r"(?:inet|tcp):(\[[^]]+\]|[^:\[\]]+):(\d+)")

log = Logger()


class ProgramFailed(Exception):
    """A program cannot be had, is late, or says what it may not; ``str()`` is half a sentence."""


def endpoint_of(text: str, reactor: Any) -> IStreamClientEndpoint:
    """
    Read where a program listens.

    :param text: ``inet:HOST:PORT``, ``inet:PORT@HOST``, ``unix:PATH``, or any other client endpoint of Twisted.
    :raises ValueError: with a sentence.
    """
    at = _AT.fullmatch(text)
    found = _INET.fullmatch(f"inet:{at[2]}:{at[1]}" if at is not None else text)
    if found is not None:
        port = parse_count(found[2])
        if not 0 < port < 65536:
            raise ValueError(f"{port} is no port; write a number from 1 to 65535")
        return HostnameEndpoint(reactor, found[1].strip("[]").encode("idna"), port)
    kind, _, rest = text.partition(":")
    if kind in ("unix", "local") and rest.startswith("/") and ":" not in rest:
        return UNIXClientEndpoint(reactor, rest)
    try:
        endpoint: IStreamClientEndpoint = clientFromString(reactor, text)
    except Exception:
        raise ValueError(f"{text!r} is no place of a program; write inet:HOST:PORT or unix:/PATH") from None
    return endpoint


def read_failure(arguments: Arguments) -> Reply | None:
    """
    Take what becomes of mail while the program cannot be had: ``on-failure``, or else ``on-timeout``.

    :returns: a refusal, or None for consent.
    :raises ValueError: with a sentence.
    """
    return _VERDICTS[arguments.choice("on-failure", tuple(_VERDICTS), arguments.given("on-timeout") or "451")]


class Reach:
    """
    The way to a program.

    A program that cannot be had is not asked for again for a while, so that mail does not wait each time; and that
    it cannot be had, and that it can again, is one line in the log each.

    :param endpoint: None where others connect, who ask :meth:`ready` and say :meth:`rest`.
    :param name: of the policy, for the log.
    :param seconds: for a connection to be made.
    :param pause: seconds without another try.
    """

    def __init__(
        self,
        endpoint: IStreamClientEndpoint | None,
        name: str,
        *,
        clock: IReactorTime,
        seconds: float = 5.0,
        pause: float = 5.0,
    ) -> None:
        self._endpoint = endpoint
        self._name = name
        self._clock = clock
        self._seconds = seconds
        self._pause = pause
        self._down_until = 0.0
        self._down = False

    async def connect(self, factory: IProtocolFactory) -> Any:
        """
        Connect.

        :returns: the protocol.
        :raises ProgramFailed: if that is not possible now.
        """
        self.ready()
        assert self._endpoint is not None, "who has none connects itself"
        try:
            return await in_time(self._endpoint.connect(factory), self._seconds, self._clock, "connection")
        except CancelledError:
            raise
        except Exception as error:
            self.rest()
            raise error if isinstance(error, ProgramFailed) else described(error) from error

    def ready(self) -> None:
        """
        Say whether to try.

        :raises ProgramFailed: if not, for now.
        """
        if self._down and self._clock.seconds() < self._down_until:
            raise ProgramFailed("it could not be had a moment ago")

    def rest(self) -> None:
        """Try no more for a while."""
        self._down_until = self._clock.seconds() + self._pause

    def failed(self, error: ProgramFailed) -> None:
        """Log that the program has failed, if it had not before."""
        if not self._down:
            log.error("{policy} cannot be asked: {problem}", policy=self._name, problem=str(error))
        self._down = True

    def worked(self) -> None:
        """Log that the program works again, if it had failed."""
        if self._down:
            log.info("{policy} can be asked again", policy=self._name)
        self._down = False


def described(error: BaseException) -> ProgramFailed:
    """Put somebody's exception into half a sentence."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return ProgramFailed(shown(reason.encode("utf-8", "backslashreplace"))[:200])


def as_greeting(reply: Reply | None) -> Reply | None:
    """Make a refusal one that can stand in the place of a greeting (RFC 5321 §4.3.2)."""
    if reply is None or reply.code == 421:
        return reply
    if reply.code >= 500:
        return Reply(554, reply.text, reply.enhanced)
    return Reply(421, reply.text, reply.enhanced)


def refusal_of(code: int, text: str, enhanced: str) -> Reply:
    """
    Make a refusal of words that may begin with an enhanced status code.

    :param enhanced: if they do not.
    """
    found = _ENHANCED.match(text)
    if found is not None and int(found[1][0]) == code // 100:
        enhanced, text = found[1], text[found.end() :]
    return Reply(code, shown(text[:_LONGEST_TEXT].encode("utf-8", "backslashreplace")), enhanced)


async def in_time(pending: Deferred[Any], seconds: float, clock: IReactorTime, what: str) -> Any:
    """
    Wait for something for so long.

    :param what: it is, for the sentence.
    :raises ProgramFailed: if it takes longer; it is cancelled then.
    :raises CancelledError: if this is cancelled, whatever the other makes of that: endpoints and HTTP clients have
        errors of their own, and that a client of ours has gone is no fault of the program.
    """
    late = gone = False

    def expire() -> None:
        nonlocal late
        late = True
        pending.cancel()

    def give_up(_: object) -> None:
        nonlocal gone
        gone = True
        pending.cancel()

    waiting: Deferred[Any] = Deferred(give_up)

    def came(outcome: Any) -> None:
        if not waiting.called:
            waiting.callback(outcome)

    pending.addBoth(came)
    timer = clock.callLater(seconds, expire)
    try:
        return await waiting
    except Exception as error:
        if gone:
            raise CancelledError from error
        if late:
            raise ProgramFailed(f"no {what} within {seconds:g} s") from error
        raise
    finally:
        if timer.active():
            timer.cancel()
