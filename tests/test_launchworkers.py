"""
Tests of smtpsvc.launchworkers: what --workers makes of a command line.
"""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, succeed
from twisted.python import usage
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.backends.function import on_message
from smtpsvc.backends.null import NullBackend
from smtpsvc.handover import HeldPorts
from smtpsvc.launch import LaunchedService, Plan, StartError
from smtpsvc.launchworkers import ParentService, check_shareable, share
from smtpsvc.policies.chain import Policy, with_policies
from smtpsvc.settings import MIB
from smtpsvc.tap import Options, makeService
from tests.support import settings_with
from tests.test_launch import V4, FakeEndpoint, FakePort, listener


def parse(*arguments: str) -> Options:
    """Read a command line."""
    options = Options()
    options.parseOptions(arguments)
    return options


class OptionTests(SynchronousTestCase):
    def test_one(self) -> None:
        """Without the option, and with 1, it is a single process as ever."""
        for arguments in ((), ("--workers", "1")):
            options = parse("--backend", "null:", *arguments)
            self.assertIs(type(makeService(options)), LaunchedService)
            self.assertIsNone(options.held)

    def test_several(self) -> None:
        """With more there is a parent, which opens and starts nothing before it is started."""
        options = parse("--backend", "null:", "--workers", "3")
        service = makeService(options)
        self.assertIsInstance(service, ParentService)
        self.assertEqual(options.plan.workers, 3)
        assert options.held is not None
        self.assertEqual(options.held.sockets(), [])

    def test_values(self) -> None:
        """What is no number of processes is refused with a sentence."""
        for text, sentence in (
            ("0", "--workers: 0 processes cannot be; give 1 to 128, about as many as there are cores"),
            ("129", "--workers: 129 processes cannot be; give 1 to 128, about as many as there are cores"),
            ("two", "--workers: 'two' is no whole number; write digits only"),
        ):
            error = self.assertRaises(usage.UsageError, parse, "--workers", text)
            self.assertEqual(str(error), sentence)

    def test_dedupe(self) -> None:
        """``--dedupe`` is refused: a copy could come to another worker."""
        error = self.assertRaises(usage.UsageError, parse, "--workers", "2", "--dedupe", "60", "--backend", "null:")
        self.assertIn("--dedupe: ", str(error))
        self.assertEqual(parse("--workers", "1", "--dedupe", "60", "--backend", "null:").plan.workers, 1)

    def test_transport(self) -> None:
        """``--transport`` is heeded by the workers, and a mistake in it is told by the parent."""
        options = parse("--workers", "2", "--transport", "stock", "--backend", "null:")
        assert options.held is not None
        self.assertEqual(options.held.transport, "stock")
        error = self.assertRaises(usage.UsageError, parse, "--workers", "2", "--transport", "none")
        self.assertIn("--transport: 'none' is neither", str(error))


class ShareTests(SynchronousTestCase):
    def plan(self, backend: Any, workers: int = 2) -> Plan:
        """Make a plan."""
        return Plan(settings=settings_with(), backend_name="x:", backend=backend, listeners=[], workers=workers)

    def test_not_shareable(self) -> None:
        """A backend that is for one process is refused, also behind policies; a function that is for several is not."""

        class Some(Policy):
            def mail(self, envelope: Any) -> None:
                """Look."""

        function = on_message(lambda message: None)
        for backend in (function, with_policies(function, Some())):
            error = self.assertRaises(ValueError, check_shareable, self.plan(backend))
            self.assertIn("--workers: x: is for one process only", str(error))
            check_shareable(self.plan(backend, workers=1))
        function.shareable = True
        check_shareable(self.plan(function))
        check_shareable(self.plan(NullBackend()))

    def test_memory(self) -> None:
        """Memory is divided among the workers, connections are not; none has less than it needs."""
        settings = settings_with(buffered=64 * MIB, connections=1000)
        self.assertEqual(share(settings, 4).limits.buffered, 16 * MIB)
        self.assertEqual(share(settings, 4).limits.connections, 1000)
        self.assertEqual(share(settings, 128).limits.buffered, MIB)


class ParentTests(SynchronousTestCase):
    def parent(self, *listeners: Any, backend: Any = None) -> ParentService:
        """Make a parent."""
        plan = Plan(
            settings=settings_with(),
            backend_name="null:",
            backend=backend or NullBackend(),
            listeners=listeners,
            workers=2,
        )
        return ParentService(plan, HeldPorts(reactor))

    def test_own_port(self) -> None:
        """An endpoint that opens its port in a way of its own is refused: the parent would serve its clients."""
        opened = FakePort(V4)
        closed: list[bool] = []
        self.patch(FakePort, "stopListening", lambda port: closed.append(port is opened))
        for result in (succeed(opened), Deferred()):
            endpoint = listener(V4)
            object.__setattr__(endpoint, "endpoint", FakeEndpoint(result))
            error = self.assertRaises(StartError, self.parent(endpoint).privilegedStartService)
            self.assertEqual(str(error), "--port 2525: its port cannot be shared by --workers; leave one away")
        self.assertEqual(closed, [True])

    def test_backend_is_looked_at(self) -> None:
        """A backend that says that it could not start is told before anything is started."""

        class Full(NullBackend):
            def check(self) -> None:
                """Look."""
                raise ValueError("full: there is no room")

        error = self.assertRaises(StartError, self.parent(backend=Full()).startService)
        self.assertEqual(str(error), "--backend: full: there is no room")
