"""
Tests of smtpsvc.metrics over HTTP: the pages, and who may read them.
"""

from __future__ import annotations

import asyncio
import http.client
import socket
from typing import Any

from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse
from twisted.internet import reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import serverFromString
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer

from smtpsvc.interfaces import IReady, IStorage
from smtpsvc.listeners import ListenError
from smtpsvc.metrics import Metrics, MetricsService, attach
from smtpsvc.metrics.counters import OTHER
from smtpsvc.metrics.exposition import Page
from smtpsvc.metrics.families import FAMILIES
from smtpsvc.metrics.pages import BODY, MOST
from smtpsvc.metrics.readiness import PATIENCE, unready
from smtpsvc.metrics.shared import attach_parent, attach_worker
from smtpsvc.metrics.totals import Totals
from smtpsvc.service import MailService
from smtpsvc.settings import Role
from smtpsvc.testing import ScriptedBackend, Wire, clocked_factory
from tests.support import settings_with

HERE = "tcp:0:interface=127.0.0.1"


def fetch(port: int, path: str = "/metrics", method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Ask for a page; to be called in a thread."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def exchange(port: int, octets: bytes, *, ends: bool = True) -> bytes:
    """Send octets, perhaps end that side, and give what comes until the end; to be called in a thread."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        try:
            connection.sendall(octets)
            if ends:
                connection.shutdown(socket.SHUT_WR)
        except OSError:
            return b""
        found = b""
        while True:
            try:
                piece = connection.recv(65536)
            except OSError:
                return found
            if not piece:
                return found
            found += piece


class PageTestCase(TestCase):
    """Serves the pages on a free port."""

    def serve(self, totals: Any = Totals, unready: Any = lambda: "", endpoint: str = HERE) -> int:
        """Serve, and give the port."""
        service = MetricsService(serverFromString(reactor, endpoint), totals, unready, "mx.example")
        service.startService()
        self.addCleanup(service.stopService)
        assert service.port is not None
        port: int = service.port.getHost().port
        return port


class MetricsPageTests(PageTestCase):
    async def test_page(self) -> None:
        """The page is read by Prometheus's own parser, and says what was counted."""
        metrics = Metrics()
        wire = Wire(clocked_factory(ScriptedBackend(), monitors=[metrics])[0])
        wire.say("EHLO x", "MAIL FROM:<a@x>", "RCPT TO:<b@y.example>", "DATA", "text", ".", "NOPE")
        status, headers, page = await deferToThread(fetch, self.serve(metrics.totals))
        self.assertEqual(status, 200)
        self.assertTrue(headers["content-type"].startswith("text/plain; version="), headers)
        self.assertEqual(headers["cache-control"], "no-store")
        samples = {(s.name, *sorted(s.labels.items())): s.value for f in parse(page.decode()) for s in f.samples}
        role = ("role", "smtp")
        self.assertEqual(samples["smtpsvc_messages_total", ("result", "taken"), role], 1)
        self.assertEqual(samples["smtpsvc_replies_total", ("class", "5xx"), role, ("verb", OTHER)], 1)
        self.assertEqual(samples["smtpsvc_message_size_bytes_bucket", ("le", "1024.0"), role], 1)
        self.assertEqual(samples["smtpsvc_message_size_bytes_bucket", ("le", "+Inf"), role], 1)
        self.assertEqual(samples["smtpsvc_message_size_bytes_count", role], 1)
        self.assertEqual(samples["smtpsvc_message_size_bytes_sum", role], len(b"text\r\n"))

    async def test_openmetrics(self) -> None:
        """Whoever asks for OpenMetrics gets it."""
        metrics = Metrics()
        Wire(clocked_factory(ScriptedBackend(), monitors=[metrics])[0])
        accept = "application/openmetrics-text; version=1.0.0"
        _, headers, page = await deferToThread(fetch, self.serve(metrics.totals), accept=accept)
        self.assertTrue(headers["content-type"].startswith("application/openmetrics-text"), headers)
        self.assertIn("smtpsvc_connections", {family.name for family in parse_openmetrics(page.decode())})

    async def test_head(self) -> None:
        """HEAD is answered as GET is, without the page."""
        port = self.serve(Metrics().totals)
        for path in ("/metrics", "/healthz", "/nope"):
            status, headers, page = await deferToThread(fetch, port, path, "HEAD")
            self.assertEqual((status, page), (404 if path == "/nope" else 200, b""))
            self.assertGreater(int(headers["content-length"]), 0)

    async def test_later(self) -> None:
        """Values may come later, as those of other processes do."""
        waiting: Deferred[Totals] = Deferred()
        port = self.serve(lambda: waiting)
        asked = deferToThread(fetch, port)
        reactor.callLater(0, waiting.callback, Totals())  # type: ignore[attr-defined]
        status, _, _ = await asked
        self.assertEqual(status, 200)

    async def test_gone(self) -> None:
        """A client that does not wait is not answered, and nothing is logged."""
        cancelled: Deferred[None] = Deferred()
        port = self.serve(lambda: Deferred(lambda _: cancelled.callback(None)))
        await deferToThread(exchange, port, b"GET /metrics HTTP/1.0\r\n\r\n")
        await cancelled

    async def test_failing(self) -> None:
        """What fails is logged, and is 500 without a reason."""

        def fail() -> Totals:
            raise KeyError("secret")

        status, _, page = await deferToThread(fetch, self.serve(fail))
        self.assertEqual(status, 500)
        self.assertNotIn(b"secret", page)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)


class RequestTests(PageTestCase):
    """What may be asked."""

    async def test_paths(self) -> None:
        """There are three pages."""
        port = self.serve(Metrics().totals)
        expected = {"/healthz": 200, "/readyz": 200, "/metrics": 200, "/metrics?name[]=x": 200, "/": 404, "/x/y": 404}
        for path, code in expected.items():
            status, headers, _ = await deferToThread(fetch, port, path)
            self.assertEqual(status, code, path)
            self.assertEqual((headers["server"], headers["x-content-type-options"]), ("smtpsvc", "nosniff"))

    async def test_methods(self) -> None:
        """Nothing else is done than to read."""
        port = self.serve()
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW"):
            status, headers, _ = await deferToThread(fetch, port, "/metrics", method)
            self.assertEqual((status, headers["allow"]), (405, "GET, HEAD"), method)

    async def test_hosts(self) -> None:
        """On this machine's own addresses a web site's name is refused, so that none can have its visitors read."""
        port = self.serve()
        for host in ("localhost", "LOCALHOST:80", "127.0.0.1", "[::1]:9100", "192.0.2.1", "mx.example"):
            status, _, _ = await deferToThread(fetch, port, "/healthz", host=host)
            self.assertEqual(status, 200, host)
        for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "a b", "\xe4"):
            status, _, _ = await deferToThread(fetch, port, "/metrics", host=host)
            self.assertIn(status, (400, 421), host)

    async def test_any_host(self) -> None:
        """Where other machines connect this one may have any name."""
        port = self.serve(endpoint="tcp:0")
        status, _, _ = await deferToThread(fetch, port, "/healthz", host="metrics.internal.example")
        self.assertEqual(status, 200)

    async def test_bodies(self) -> None:
        """A body is dropped, and a large one ends the connection."""
        port = self.serve()
        head = b"GET /healthz HTTP/1.1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
        small = await deferToThread(exchange, port, head % 4 + b"body", ends=False)
        self.assertTrue(small.startswith(b"HTTP/1.1 200 "), small)
        size = 1000 * BODY
        large = await deferToThread(exchange, port, head % size + bytes(size), ends=False)
        self.assertNotIn(b"200 OK", large)

    async def test_nonsense(self) -> None:
        """What is no request is refused, and the next one is served."""
        port = self.serve()
        for octets in (b"EHLO x\r\n", b"\x16\x03\x01" * 99, b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 5000, b"\r\n" * 9999):
            answer = await deferToThread(exchange, port, octets)
            self.assertNotIn(b"200 OK", answer)
        status, _, _ = await deferToThread(fetch, port, "/healthz")
        self.assertEqual(status, 200)

    async def test_many(self) -> None:
        """So many connections are served at a time; one more is closed."""
        port = self.serve()

        def crowd() -> tuple[bytes, bytes]:
            opened = [socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(MOST)]
            try:
                # All are there when the last is answered.
                opened[-1].sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
                served = opened[-1].recv(99)
                return served, exchange(port, b"GET /healthz HTTP/1.1\r\n\r\n")
            finally:
                for connection in opened:
                    connection.close()

        served, refused = await deferToThread(crowd)
        self.assertTrue(served.startswith(b"HTTP/1.1 200 "), served)
        self.assertEqual(refused, b"")


@implementer(IReady, IStorage)
class Judged(ScriptedBackend):
    """A backend that knows whether it is ready."""

    verdict: Any = None
    free: int | None = None

    def ready(self) -> Any:
        """Say so."""
        if isinstance(self.verdict, Exception):
            raise self.verdict
        return self.verdict

    def free_space(self) -> int | None:
        """Say so."""
        return self.free


class ReadinessTests(SynchronousTestCase):
    """When mail can be taken."""

    def service(self, backend: Any = None, **settings: Any) -> MailService:
        """Start a service that listens."""
        service = MailService(backend or ScriptedBackend(), settings_with(**settings))
        service.listen(serverFromString(reactor, HERE))
        service.startService()
        self.addCleanup(service.stopService)
        return service

    def problem(self, service: MailService, clock: Any = None) -> str:
        """Say why a service is not ready."""
        return self.successResultOf(unready(service, clock or Clock()))

    def test_ready(self) -> None:
        """A service that listens is ready."""
        self.assertEqual(self.problem(self.service()), "")

    def test_asyncio(self) -> None:
        """A backend may answer with a Future of asyncio."""
        loop = asyncio.new_event_loop()
        self.addCleanup(loop.close)
        backend = Judged()
        backend.verdict = loop.create_future()
        backend.verdict.set_result("the disk is full")
        self.assertEqual(self.problem(self.service(backend)), "the disk is full")

    def test_not_started(self) -> None:
        """One that was not started is not, nor one that is stopping, or listens nowhere."""
        self.assertIn("not started", self.problem(MailService(ScriptedBackend())))
        service = self.service()
        service.stopService()
        self.assertIn("stopping", self.problem(service))
        service = MailService(ScriptedBackend())
        service.startService()
        self.addCleanup(service.stopService)
        self.assertIn("ports", self.problem(service))

    def test_backend(self) -> None:
        """The backend is asked, if it knows; at once or later."""
        backend = Judged()
        service = self.service(backend)
        for verdict, expected in ((None, ""), ("", ""), ("the broker is away", "the broker is away")):
            for given in (verdict, succeed(verdict)):
                backend.verdict = given
                self.assertEqual(self.problem(service), expected)

    def test_backend_fails(self) -> None:
        """A backend that fails is not ready, and what it raises is for the log."""
        backend = Judged()
        backend.verdict = KeyError("secret")
        self.assertEqual(self.problem(self.service(backend)), "the backend fails")
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)

    def test_backend_silent(self) -> None:
        """A backend that does not answer in time is not ready."""
        backend, clock = Judged(), Clock()
        backend.verdict = Deferred()
        waiting = unready(self.service(backend), clock)
        self.assertNoResult(waiting)
        clock.advance(PATIENCE)
        self.assertEqual(self.successResultOf(waiting), "the backend does not say whether it is ready")

    def test_space(self) -> None:
        """With less space than there must be no mail can be taken."""
        backend = Judged()
        service = self.service(backend, min_free_space=1024)
        for free, expected in ((None, ""), (1024, ""), (1023, "less than 1K is free")):
            backend.free = free
            self.assertEqual(self.problem(service), expected)


class AttachedTests(PageTestCase):
    """The pages of a mail service."""

    async def test_life(self) -> None:
        """They live as long as the service, and tell of its stop."""
        metrics = Metrics()
        late: Deferred[None] = Deferred()
        backend = ScriptedBackend(close=lambda reason: late)
        mail = MailService(backend, settings_with(), monitors=[metrics])
        mail.listen(serverFromString(reactor, HERE))
        pages = attach(mail, metrics, serverFromString(reactor, HERE), Clock())
        mail.startService()
        assert pages.port is not None
        port = pages.port.getHost().port
        self.assertEqual((await deferToThread(fetch, port, "/readyz"))[0], 200)
        smtp = await deferToThread(socket.create_connection, ("127.0.0.1", mail.ports[0].getHost().port))
        self.assertIn(b"220 ", await deferToThread(smtp.recv, 99))
        stopped = mail.stopService()
        status, _, page = await deferToThread(fetch, port, "/readyz")
        self.assertEqual((status, page), (503, b"the service is stopping, or has not started\n"))
        self.assertEqual((await deferToThread(fetch, port, "/healthz"))[0], 200)
        self.assertIn(b"smtpsvc_stopping 1.0\n", (await deferToThread(fetch, port))[2])
        smtp.close()
        late.callback(None)
        await stopped
        self.assertIsNone(pages.port)

    def test_busy(self) -> None:
        """A port that is busy is a sentence."""
        port = self.serve()
        service = MetricsService(serverFromString(reactor, f"tcp:{port}:interface=127.0.0.1"), Totals)
        error = self.assertRaises(ListenError, service.privilegedStartService)
        self.assertIn("in use", str(error))

    def test_gauges(self) -> None:
        """The budget and the limits are told too."""
        metrics = Metrics()
        mail = MailService(ScriptedBackend(), settings_with(connections=7, buffered=1 << 20), monitors=[metrics])
        mail.listen(serverFromString(reactor, HERE), Role.LMTP)
        attach(mail, metrics, serverFromString(reactor, HERE), Clock())
        assert mail.shared is not None
        mail.shared.budget.take(5)
        totals = metrics.totals()
        names = ("buffered_bytes", "buffered_limit_bytes", "connections_limit", "unfinished_hooks", "stopping")
        self.assertEqual([totals.get(name) for name in names], [5, 1 << 20, 7, 0, 1])


class SharedTests(SynchronousTestCase):
    """The pages of a parent, and what its workers answer."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.answers: dict[int, dict[bytes, Any]] = {}
        self.parent = MailService(ScriptedBackend(), settings_with(connections=7), clock=self.clock)
        self.pages: Any = attach_parent(self.parent, self.ask, serverFromString(reactor, HERE))

    def ask(self, kind: bytes) -> Deferred[list[bytes]]:
        """Ask all workers, as a parent does."""
        return succeed([answers[kind]() for answers in self.answers.values()])

    def worker(self, number: int, backend: Any = None) -> tuple[MailService, Metrics]:
        """Start a worker."""
        metrics = Metrics()
        mail = MailService(backend or ScriptedBackend(), settings_with(), monitors=[metrics], clock=self.clock)
        mail.listen(serverFromString(reactor, HERE))
        self.answers[number] = {}
        attach_worker(mail, metrics, self.answers[number].__setitem__, self.clock)
        mail.startService()
        self.addCleanup(mail.stopService)
        return mail, metrics

    def totals(self) -> Totals:
        """What the page shows."""
        found: Totals = self.successResultOf(self.pages._pages._totals())
        return found

    def problem(self) -> str:
        """Why there is no mail taken."""
        found = self.pages._pages._unready()
        return found if isinstance(found, str) else self.successResultOf(found)

    def test_sums(self) -> None:
        """What workers count is summed; what holds for all together is told once."""
        for number in (1, 2):
            mail, _ = self.worker(number)
            Wire(mail.factory())
        totals = self.totals()
        self.assertEqual(totals.get("connections_total", "smtp"), 2)
        self.assertEqual(totals.get("processes"), 2)
        self.assertEqual((totals.get("connections_limit"), totals.get("stopping")), (7, 1))

    def test_gone(self) -> None:
        """Of a worker that is gone the counts stay, and what it had open does not."""
        for number in (1, 2):
            mail, _ = self.worker(number)
            Wire(mail.factory())
            self.totals()
        del self.answers[1]
        totals = self.totals()
        self.assertEqual(totals.get("connections_total", "smtp"), 2)
        self.assertEqual(totals.get("connections_open", "smtp"), 1)

    def test_ready(self) -> None:
        """Mail can be taken as long as one worker can take it."""
        self.assertEqual(self.problem(), "the service is stopping, or has not started")
        self.parent.startService()
        self.addCleanup(self.parent.stopService)
        self.assertEqual(self.problem(), "no worker listens")
        backend = Judged()
        backend.verdict = "the broker is away"
        self.worker(1, backend)
        self.assertEqual(self.problem(), "the broker is away")
        self.worker(2)
        self.assertEqual(self.problem(), "")

    def test_later(self) -> None:
        """A backend that takes its time is asked for the next time, and by one question at a time."""
        backend = Judged()
        asked: list[Deferred[str]] = []
        backend.ready = lambda: asked.append(Deferred()) or asked[-1]  # type: ignore[method-assign,func-returns-value]
        self.worker(1, backend)
        self.parent.startService()
        self.addCleanup(self.parent.stopService)
        for _ in range(3):
            self.assertIn("not known yet", self.problem())
        [waiting] = asked
        waiting.callback("")
        self.assertEqual(self.problem(), "")
        asked[-1].callback("the broker is away")
        self.assertEqual(self.problem(), "the broker is away")
        asked[-1].callback("")


class ExpositionTests(SynchronousTestCase):
    def test_empty(self) -> None:
        """Every family is there before anything has happened."""
        page, _ = Page(Totals(), 0.0).write("")
        for family in FAMILIES.values():
            self.assertIn(f"# HELP {family.name} {family.help}\n", page.decode())
            self.assertIn(f"# TYPE {family.name} {family.kind}\n", page.decode())

    def test_private(self) -> None:
        """Nothing of ours is in the library's global registry."""
        from prometheus_client import REGISTRY, generate_latest

        Metrics().totals()
        self.assertNotIn(b"smtpsvc", generate_latest(REGISTRY))
