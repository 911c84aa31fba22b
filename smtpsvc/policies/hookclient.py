"""
The HTTP side of web hooks.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.ssl import Certificate, trustRootFromCertificates
from twisted.python.failure import Failure
from twisted.web.client import Agent, BrowserLikePolicyForHTTPS, HTTPConnectionPool, ResponseDone

from smtpsvc._version import __version__
from smtpsvc.extras import need
from smtpsvc.policies.reaching import ProgramFailed, Reach, described, in_time
from smtpsvc.settings import KIB

#: Octets of an answer.
LONGEST: Final = 64 * KIB
#: Connections that are kept for the next question.
MOST_IDLE: Final = 10

_END: Final = b"-----END CERTIFICATE-----"


class WebHook:
    """
    Posts JSON to a URL and gives the answer.

    :param url: http or https.
    :param client: an ``HTTPClient`` of treq.
    :param seconds: for all of an answer.
    :param pool: of the client, to be closed at the end.
    """

    def __init__(self, url: str, client: Any, reach: Reach, *, clock: IReactorTime, seconds: float, pool: Any) -> None:
        self.reach = reach
        self._url = url
        self._client = client
        self._clock = clock
        self._seconds = seconds
        self._pool = pool

    async def ask(self, body: bytes, headers: Mapping[str, str]) -> bytes:
        """
        Ask.

        :param headers: of the request, more than the usual ones.
        :returns: the body of an answer of 200; ``{"action": "accept"}`` for 204.
        :raises ProgramFailed: if there is none in time, or another.
        """
        self.reach.ready()
        pending = Deferred.fromCoroutine(self._ask(body, headers))
        try:
            answer: bytes = await in_time(pending, self._seconds, self._clock, "answer")
        except ProgramFailed as error:
            if not isinstance(error, _Answered):
                self.reach.rest()
            raise
        return answer

    async def _ask(self, body: bytes, headers: Mapping[str, str]) -> bytes:
        usual = {"Content-Type": "application/json", "User-Agent": f"smtpsvc/{__version__}"}
        try:
            response = await self._client.post(
                self._url, data=body, headers={**usual, **headers}, allow_redirects=False, unbuffered=True
            )
            reader = _Reader()
            response.deliverBody(reader)
            answer = await reader.done
        except (CancelledError, ProgramFailed):
            raise
        except Exception as error:
            raise described(error) from error
        if response.code == 204:
            return b'{"action":"accept"}'
        if response.code != 200:
            raise _Answered(f"it has answered with status {int(response.code)}")
        return answer

    def stop(self) -> Any:
        """Close the connections that are kept; a Deferred fires when they are."""
        return self._pool.closeCachedConnections()


class _Answered(ProgramFailed):
    """It can be had, but is of no help."""


class _Reader(Protocol):
    """Reads a short body."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self.done: Deferred[bytes] = Deferred(lambda _: self._close())

    def dataReceived(self, data: bytes) -> None:
        """Take octets."""
        self._size += len(data)
        self._parts.append(data)
        if self._size > LONGEST and not self.done.called:
            done = self.done
            self._close()
            done.errback(_Answered(f"its answer is longer than {LONGEST} octets"))

    def _close(self) -> None:
        transport: Any = self.transport
        if transport is not None:
            transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Give what has come."""
        if self.done.called:
            return
        if reason.check(ResponseDone):
            self.done.callback(b"".join(self._parts))
        else:
            self.done.errback(ProgramFailed("its answer has broken off"))


def web_hook(url: str, reach: Reach, reactor: Any, *, seconds: float, connect_timeout: float, ca: str = "") -> WebHook:
    """
    Make the client of a hook.

    :param ca: file of the authorities (PEM) that its certificate is verified with; "" for those of the system.
    :raises ValueError: with a sentence.
    """
    need("treq", "webhook", "the policy hook")
    from treq.client import HTTPClient

    trust = trustRootFromCertificates(read_authorities(ca)) if ca else None
    policy = BrowserLikePolicyForHTTPS(trust) if trust is not None else BrowserLikePolicyForHTTPS()
    pool = HTTPConnectionPool(reactor, persistent=True)
    pool.maxPersistentPerHost = MOST_IDLE
    agent = Agent(reactor, policy, connectTimeout=connect_timeout, pool=pool)
    return WebHook(check_url(url), HTTPClient(agent), reach, clock=reactor, seconds=seconds, pool=pool)


def read_authorities(path: str) -> list[Certificate]:
    """
    Read certificates.

    :raises ValueError: with a sentence.
    """
    try:
        content = Path(path).read_bytes()
        found = [Certificate.loadPEM(part + _END) for part in content.split(_END)[:-1]]
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    except Exception as error:
        raise ValueError(f"{path}: a certificate in it cannot be read") from error
    if not found:
        raise ValueError(f"{path}: there is no certificate in it")
    return found


def check_url(text: str) -> str:
    """
    Check where a hook is.

    :raises ValueError: with a sentence; also for http to another host, since what is told of mail would be read and
        changed on the way.
    """
    try:
        url = urlsplit(text)
        host, _ = url.hostname or "", url.port
    except ValueError as error:
        raise ValueError(f"{text!r} is no URL: {error}") from None
    if url.scheme not in ("http", "https") or not host or url.username is not None:
        raise ValueError(f"{text!r} is no URL of a hook; write https://HOST/PATH")
    if url.scheme == "http" and not _is_here(host):
        raise ValueError(f"{text!r} is not encrypted, and not on this host; write https://")
    return text


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
