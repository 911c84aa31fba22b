"""Tests of smtpsvc.backends.relayoptions, and of the breaker and the connections of a next hop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.backends.breaker import Breaker
from smtpsvc.backends.relay import RelayBackend, make_lmtp, make_smtp
from smtpsvc.backends.relayoptions import parse_relay
from smtpsvc.client import TLS
from smtpsvc.plugins import backend_help, find_backend
from smtpsvc.tlstesting import Authority


class OptionsTests(SynchronousTestCase):
    def file(self, content: bytes) -> str:
        """Write a file, and give its path."""
        path = Path(self.mktemp())
        path.write_bytes(content)
        return str(path)

    def test_plugins(self) -> None:
        """Both are backends by name, with a help of their own."""
        for name in ("smtp", "lmtp"):
            self.assertIsInstance(find_backend(f"{name}:127.0.0.1:2525", MemoryReactorClock()), RelayBackend)
            self.assertIn("xforward", backend_help(name))

    def test_per_recipient(self) -> None:
        """Behind ``lmtp:`` each recipient has a fate of its own, behind ``smtp:`` all have one."""
        self.assertTrue(make_lmtp("unix:/x", MemoryReactorClock()).per_recipient)
        self.assertFalse(make_smtp("mx.example", MemoryReactorClock()).per_recipient)

    def test_shown(self) -> None:
        """People read where mail goes; they do not read a password's file."""
        backend = make_smtp("mx1.example:25,[::1]:26,tls=none", MemoryReactorClock())
        self.assertEqual(backend.destination, "on to mx1.example:25, or [::1]:26")

    def options(self, argument: str, *, lmtp: bool = False) -> Any:
        """Give the options of the client that an argument makes."""
        return parse_relay(argument, MemoryReactorClock(), lmtp=lmtp).hops[0]._dial.args[3]  # type: ignore[attr-defined]

    def test_tls(self) -> None:
        """TLS is required, but not on this machine; what is said counts."""
        for argument, tls in (
            ("mx.example:25", TLS.REQUIRED),
            ("127.0.0.1:25", TLS.NONE),
            ("[::1]:25", TLS.NONE),
            ("localhost", TLS.NONE),
            ("localhost,mx.example", TLS.REQUIRED),
            ("127.0.0.1:25,tls=opportunistic", TLS.OPPORTUNISTIC),
            ("mx.example:465,tls=implicit", TLS.IMPLICIT),
        ):
            self.assertIs(self.options(argument).tls, tls, argument)
        self.assertIs(self.options("unix:/x", lmtp=True).tls, TLS.NONE)

    def test_ports(self) -> None:
        """Without a port it is the usual one."""
        for argument, lmtp, port in (
            ("mx.example", False, 25),
            ("mx.example,tls=implicit", False, 465),
            (f"mx.example,auth={self.file(b'a:b')}", False, 587),
            ("mx.example", True, 24),
        ):
            dial: Any = parse_relay(argument, MemoryReactorClock(), lmtp=lmtp).hops[0]._dial
            self.assertEqual(dial.args[2]._port, port, argument)

    def test_all(self) -> None:
        """All settings are read."""
        pem = self.file(Authority().pem)
        made = parse_relay(
            f"mx.example,tls=required,ca={pem},name=other.example,auth={self.file(b'anna:a:b')},helo=me.example,"
            "source=192.0.2.1,pool=3,idle=5s,wait=1m,connect-timeout=2s,timeout=1m,end-timeout=2m,xclient,xforward=yes",
            MemoryReactorClock(),
            lmtp=False,
        )
        dial: Any = made.hops[0]._dial
        options = dial.args[3]
        self.assertEqual((options.login.username, options.login.password), ("anna", "a:b"))
        self.assertEqual((options.server_name, options.hostname), ("other.example", "me.example"))
        self.assertEqual((options.timeouts.connect, options.timeouts.command, options.timeouts.end), (2, 60, 120))
        self.assertEqual((options.timeouts.greeting, options.timeouts.data, options.timeouts.block), (60, 60, 60))
        self.assertEqual((made.xclient, made.xforward), (True, True))
        self.assertEqual(dial.args[2]._bindAddress, ("192.0.2.1", 0))

    def test_mistakes(self) -> None:
        """A mistake is a sentence that says what to write."""
        auth = self.file(b"nobody")
        for argument, words in (
            ("", "write HOST:PORT"),
            ("mx.example:x", "'x' is no port"),
            ("mx.example:70000", "no port"),
            ("::1", "stands in brackets"),
            ("[::1", "is no address"),
            (":25", "is no host"),
            ("unix:/x", "for lmtp: only"),
            ("mx.example,tls=yes", "is not one of required, implicit, opportunistic, none"),
            ("mx.example,auth=/nowhere", "No such file"),
            (f"mx.example,auth={auth}", "must be NAME:PASSWORD"),
            (f"mx.example,auth={self.file(b'a:b')},tls=opportunistic", "write tls=required"),
            ("mx.example,ca=/nowhere", "No such file"),
            (f"mx.example,ca={auth}", "has no certificate"),
            (f"mx.example,ca={self.file(b'-----BEGIN CERTIFICATE-----')}", "cannot be read"),
            ("mx.example,source=here", "no IP address"),
            ("mx.example,pool=0", "write 1 or more"),
            ("mx.example,helo=a b", "must be a domain"),
            ("mx.example,timeout=0", "more than 0 seconds"),
            ("mx.example,poll=3", "did you mean pool?"),
        ):
            with self.subTest(argument):
                error = self.assertRaises(ValueError, make_smtp, argument, MemoryReactorClock())
                self.assertIn(words, str(error))
        self.assertRaises(ValueError, make_lmtp, "unix:x", MemoryReactorClock())
        self.assertRaises(ValueError, RelayBackend, [])

    def test_password_changed(self) -> None:
        """The password is read for each connection; if it cannot be, that fails, and is tried again."""
        path = self.file(b"anna:first")
        made: Any = MemoryReactorClock()
        hop = parse_relay(f"192.0.2.1:25,auth={path}", made, lmtp=False).hops[0]
        Path(path).unlink()
        failure = self.failureResultOf(hop._dial({}))
        self.assertIn("the login cannot be read", str(failure.value))

    def test_nothing_opened(self) -> None:
        """To make a backend connects to nothing."""
        made = MemoryReactorClock()
        make_smtp("192.0.2.1:25", made)
        self.assertEqual(made.tcpClients, [])


class BreakerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.breaker = Breaker(self.clock, failures=2, first=1, longest=4)

    def fail_(self, count: int) -> None:
        for _ in range(count):
            self.breaker.failed()

    def test_closed(self) -> None:
        """Single failures change nothing."""
        for _ in range(5):
            self.breaker.failed()
            self.assertTrue(self.breaker.allows())
            self.breaker.succeeded()

    def test_one_probe(self) -> None:
        """When it is open one may try when its time has come, and no other meanwhile."""
        self.fail_(2)
        self.assertFalse(self.breaker.allows())
        self.clock.advance(1)
        self.assertEqual([self.breaker.allows(), self.breaker.allows()], [True, False])

    def test_back_off(self) -> None:
        """Each try that fails doubles the time, up to the longest; a success ends it."""
        self.fail_(2)
        for pause in (1, 2, 4, 4):
            self.clock.advance(pause - 0.5)
            self.assertFalse(self.breaker.allows())
            self.clock.advance(0.5)
            self.assertTrue(self.breaker.allows())
            self.breaker.failed(probe=True)
        self.clock.advance(4)
        self.assertTrue(self.breaker.allows())
        self.breaker.succeeded()
        self.assertFalse(self.breaker.open)
        self.fail_(2)
        self.clock.advance(1)
        self.assertTrue(self.breaker.allows())

    def test_late(self) -> None:
        """A failure that was on its way when it opened does not make the pause longer."""
        self.fail_(3)
        self.clock.advance(1)
        self.assertTrue(self.breaker.allows())
        self.breaker.failed()
        self.assertFalse(self.breaker.allows())

    def test_given_up(self) -> None:
        """If the one that might try is stopped, the next may."""
        self.fail_(2)
        self.clock.advance(1)
        self.breaker.allows()
        self.breaker.given_up()
        self.assertTrue(self.breaker.allows())
