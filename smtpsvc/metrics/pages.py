"""
The pages of ``--metrics``: ``/metrics`` for Prometheus, ``/healthz`` and ``/readyz`` for whoever restarts or
balances.

They are plain text, need no login, and show nothing of messages or people. Requests are bounded: GET and
HEAD only, no body, few connections at a time, each with its time.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Collection
from io import BytesIO
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.protocols.policies import WrappingFactory
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from smtpsvc.listeners import ListenError, explain, places_of
from smtpsvc.metrics.exposition import Page
from smtpsvc.metrics.totals import Totals

log = Logger(namespace="smtpsvc")

#: Connections at a time.
MOST: Final = 32
#: Seconds without a word of the client, and for the whole of a slow answer.
PATIENCE: Final = 20
#: Bytes of a body, which nobody needs; with more the connection is closed.
BODY: Final = 4096

_PLAIN: Final = b"text/plain; charset=utf-8"
_WAYS: Final = "/healthz, /metrics or /readyz"


class Pages(Resource):
    """
    The three pages.

    :param totals: gives what ``/metrics`` shows, or a Deferred of it.
    :param unready: gives why no mail can be taken, or "", or a Deferred of it.
    :param hosts: the names that ``Host:`` may have besides addresses, in lower case; None for any. Whoever
        listens on this machine's own addresses only refuses others: a web site could point its name there, and
        have its visitors' browsers read the pages.
    """

    isLeaf = True

    def __init__(
        self,
        totals: Callable[[], Totals | Deferred[Totals]],
        unready: Callable[[], str | Deferred[str]],
        hosts: Collection[str] | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._totals = totals
        self._unready = unready
        self._began = time.time()
        #: The names that ``Host:`` may have.
        self.hosts = hosts

    def render(self, request: Any) -> Any:
        """Answer a request."""
        request.setHeader(b"server", b"smtpsvc")
        request.setHeader(b"cache-control", b"no-store")
        request.setHeader(b"x-content-type-options", b"nosniff")
        if request.method not in (b"GET", b"HEAD"):
            request.setHeader(b"allow", b"GET, HEAD")
            return _say(request, 405, "GET and HEAD are served")
        if not _is_ours(request.getRequestHostname(), self.hosts):
            return _say(request, 421, "this host has another name")
        if request.path == b"/healthz":
            return _say(request, 200, "alive")
        if request.path == b"/readyz":
            return self._later(request, self._unready, self._show_ready)
        if request.path == b"/metrics":
            return self._later(request, self._totals, self._show_metrics)
        return _say(request, 404, f"there is {_WAYS}")

    def _later(self, request: Any, ask: Callable[[], Any], show: Callable[[Any, Any], bytes]) -> object:
        waiting = maybeDeferred(ask)
        gone = request.notifyFinish()
        gone.addErrback(lambda _: waiting.cancel())

        def answer(value: Any) -> None:
            # Else the client has gone.
            if not gone.called:
                request.write(show(request, value))
                request.finish()

        def failed(failure: Failure) -> None:
            if gone.called:
                return
            log.failure("{path} failed", failure=failure, path=request.path.decode("ascii", "replace"))
            request.write(_say(request, 500, "this failed, and the log says why"))
            request.finish()

        waiting.addCallback(answer).addErrback(failed)
        return NOT_DONE_YET

    def _show_ready(self, request: Any, problem: str) -> bytes:
        return _say(request, 503, problem) if problem else _say(request, 200, "ready")

    def _show_metrics(self, request: Any, totals: Totals) -> bytes:
        accept = (request.getHeader(b"accept") or b"").decode("latin-1")
        page, kind = Page(totals, self._began).write(accept)
        request.setHeader(b"content-type", kind.encode("ascii"))
        request.setHeader(b"content-length", b"%d" % len(page))
        return b"" if request.method == b"HEAD" else page


def _say(request: Any, code: int, text: str) -> bytes:
    content = f"{text}\n".encode()
    request.setResponseCode(code, b"Misdirected Request" if code == 421 else None)
    request.setHeader(b"content-type", _PLAIN)
    request.setHeader(b"content-length", b"%d" % len(content))
    return b"" if request.method == b"HEAD" else content


def _is_ours(host: bytes, hosts: Collection[str] | None) -> bool:
    name = host.decode("latin-1").strip("[]").lower()
    if hosts is None or not name or name in hosts:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class _Request(Request):
    """A request whose body is dropped."""

    _dropped = 0

    def gotLength(self, length: int | None) -> None:
        """Make no room for a body."""
        self.content = BytesIO()

    def handleContentChunk(self, data: bytes) -> None:
        """Drop it."""
        self._dropped += len(data)
        if self._dropped > BODY:
            self.loseConnection()  # type: ignore[no-untyped-call]


class _Bounded(WrappingFactory):
    """Closes what is beyond :data:`MOST` connections."""

    noisy = False

    def logPrefix(self) -> str:
        """Name the pages in what Twisted logs of their ports."""
        return "smtpsvc metrics"

    def buildProtocol(self, addr: Any) -> Any:
        """Make the protocol for a client, if there is room."""
        if len(self.protocols) >= MOST:
            return None
        return super().buildProtocol(addr)


def make_site(pages: Pages) -> Any:
    """Make the factory that serves the pages."""
    site = Site(pages, requestFactory=_Request, timeout=PATIENCE)
    site.noisy = site.displayTracebacks = False
    # No line in the log for each.
    site.log = lambda request: None  # type: ignore[method-assign]
    return _Bounded(site)  # type: ignore[no-untyped-call]


class MetricsService(Service):
    """
    Serves the pages as long as the service that it is a part of, so that they tell of its stop too.

    :param endpoint: where; for this machine alone it should be a loopback address.
    :param totals: gives what ``/metrics`` shows, or a Deferred of it: mostly ``Metrics.totals``.
    :param unready: gives why no mail can be taken, or "", or a Deferred of it.
    :param hostname: what this host is called besides ``localhost``.
    """

    def __init__(
        self,
        endpoint: IStreamServerEndpoint,
        totals: Callable[[], Totals | Deferred[Totals]],
        unready: Callable[[], str | Deferred[str]] = lambda: "",
        hostname: str = "localhost",
    ) -> None:
        self._endpoint = endpoint
        self._hosts = frozenset({"localhost", hostname.lower()})
        self._pages = Pages(totals, unready, self._hosts)
        self._opening = False
        #: The open port, or None.
        self.port: IListeningPort | None = None

    def privilegedStartService(self) -> None:
        """
        Open the port.

        :raises ListenError: if that is not possible.
        """
        super().privilegedStartService()  # type: ignore[no-untyped-call]
        self._open()

    def startService(self) -> None:
        """
        Open the port, unless that is done.

        :raises ListenError: if that is not possible.
        """
        super().startService()  # type: ignore[no-untyped-call]
        self._open()

    def _open(self) -> None:
        if self._opening:
            return
        self._opening = True
        failures: list[Failure] = []
        maybeDeferred(self._endpoint.listen, make_site(self._pages)).addCallbacks(self._opened, failures.append)
        if failures:
            self._opening = False
            error = failures[0].value
            raise error if isinstance(error, ListenError) else ListenError(explain(failures[0])) from error

    def _opened(self, port: IListeningPort) -> None:
        if not self._opening:
            port.stopListening()
            return
        self.port = port
        # Who listens for other machines is known by names that nobody here knows.
        self._pages.hosts = self._hosts if all(place.local for place in places_of(port)) else None

    def stopService(self) -> Deferred[None]:
        """
        Close the port.

        :returns: a Deferred that fires when that is done.
        """
        super().stopService()  # type: ignore[no-untyped-call]
        self._opening = False
        port, self.port = self.port, None
        if port is None:
            return succeed(None)
        stop: Callable[[], Any] = port.stopListening
        return maybeDeferred(stop)
