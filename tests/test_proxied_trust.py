"""
Tests of who may speak for others: --trusted-proxies, and the listeners that need it.
"""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

from twisted.internet.address import IPv6Address, UNIXAddress
from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IHandshakeListener,
    ILoggingContext,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactor
from twisted.protocols.policies import WrappingFactory
from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from smtpsvc.listeners import parse_listener
from smtpsvc.proxied import HeaderProtocol, ProxiedEndpoint, ProxiedFactory, check_trust
from smtpsvc.server.factory import SMTPFactory
from smtpsvc.settings import Settings, format_trusted, parse_trusted
from smtpsvc.tap import Options
from smtpsvc.testing import ScriptedBackend
from tests.proxies import CLIENT, PROXY


class MakingTests(SynchronousTestCase):
    """What it takes to listen behind a proxy."""

    def factory(self, trusted: str = "192.0.2.1") -> SMTPFactory:
        """Make a factory."""
        return SMTPFactory(ScriptedBackend(), Settings(trusted_proxies=parse_trusted(trusted)), clock=Clock())

    def test_interfaces(self) -> None:
        """Endpoint, factory and protocol are what they say."""
        factory = ProxiedFactory(self.factory())
        protocol = HeaderProtocol(factory, PROXY)
        self.assertTrue(verifyObject(IStreamServerEndpoint, ProxiedEndpoint(None)))  # type: ignore[arg-type]
        self.assertTrue(verifyObject(ILoggingContext, factory))
        self.assertTrue(verifyObject(IHalfCloseableProtocol, protocol))
        self.assertTrue(verifyObject(IHandshakeListener, protocol))

    def test_endpoint(self) -> None:
        """The endpoint listens with the wrapped factory."""
        reactor = MemoryReactor()
        listener = parse_listener("haproxy:tcp:2525", reactor)
        self.successResultOf(listener.listen(self.factory()))
        (server,) = reactor.tcpServers
        self.assertIsInstance(server[1], ProxiedFactory)

    def test_wrapped(self) -> None:
        """The factory behind may be wrapped itself, if its heart is an SMTPFactory."""
        core = self.factory()
        self.assertIs(ProxiedFactory(WrappingFactory(core)).core, core)
        with self.assertRaises(TypeError):
            ProxiedFactory(Factory())

    def test_started_together(self) -> None:
        """The factory behind is started and stopped with it."""
        core = self.factory()
        factory = ProxiedFactory(core)
        factory.doStart()
        self.assertEqual(core.numPorts, 1)
        factory.doStop()
        self.assertEqual(core.numPorts, 0)

    def test_trust(self) -> None:
        """A listener that nobody could use is refused with the fix."""
        cases: dict[tuple[str, bool | None], str] = {
            ("", None): "--port haproxy:25: no proxy is trusted, so nobody could connect; say which, such as "
            "--trusted-proxies 192.0.2.10",
            ("", True): "--trusted-proxies unix",
            ("192.0.2.1", True): "add the word unix",
            ("unix", False): "only unix sockets are trusted; add the proxy's address",
        }
        for (trusted, unix), sentence in cases.items():
            with self.subTest(trusted=trusted, unix=unix):
                settings = Settings(trusted_proxies=parse_trusted(trusted))
                with self.assertRaises(ValueError) as caught:
                    check_trust("--port haproxy:25", settings, unix=unix)
                self.assertIn(sentence, str(caught.exception))
        with self.assertRaises(ValueError):
            ProxiedFactory(self.factory(""))

    def test_trust_suffices(self) -> None:
        """A listener that somebody can use is let pass."""
        for trusted, unix in (("192.0.2.1", None), ("unix", None), ("unix", True), ("192.0.2.1,unix", False)):
            with self.subTest(trusted=trusted, unix=unix):
                self.assertIsNone(check_trust("x", Settings(trusted_proxies=parse_trusted(trusted)), unix=unix))


class ListenerTests(SynchronousTestCase):
    """The prefix ``haproxy:`` of a listener."""

    def test_prefix(self) -> None:
        """It may stand in front of any listener, in either case of letters."""
        for text in ("haproxy:2525", "HAProxy:tcp:2525", "haproxy:unix:/run/smtp", "haproxy:implicit-tls:tcp:465"):
            with self.subTest(text):
                plain = parse_listener(text.partition(":")[2], MemoryReactor())
                listener = parse_listener(text, MemoryReactor())
                self.assertIsInstance(listener.endpoint, ProxiedEndpoint)
                self.assertEqual((listener.proxied, listener.plain), (True, False))
                self.assertEqual((listener.places, listener.loopback), (plain.places, plain.loopback))
                self.assertEqual((listener.name, plain.proxied), (f"--port {text}", False))

    def test_mistakes(self) -> None:
        """A prefix in the wrong place is refused with what to write."""
        cases = {
            "haproxy:haproxy:2525": "the prefix haproxy: is there twice",
            "implicit-tls:haproxy:2525": "write haproxy: first",
            "haproxy:ssl:25:privateKey=x": "a proxy's header comes before TLS",
            "haproxy:": "this is no endpoint",
            "haproxy": "this is no endpoint",
            "haproxy:65536": "65536 is no port",
        }
        for text, sentence in cases.items():
            with self.subTest(text):
                error = self.assertRaises(ValueError, parse_listener, text, MemoryReactor())
                self.assertTrue(str(error).startswith(f"--port {text}: "), error)
                self.assertIn(sentence, str(error))

    def test_settings(self) -> None:
        """It is checked against who is trusted, by where it listens."""
        cases = {
            ("haproxy:2525", ""): "no proxy is trusted",
            ("haproxy:unix:/run/smtp", "192.0.2.1"): "nobody is trusted on a unix socket",
            ("haproxy:tcp:2525", "unix"): "only unix sockets are trusted",
        }
        for (text, trusted), sentence in cases.items():
            with self.subTest(text):
                listener = parse_listener(text, MemoryReactor())
                settings = Settings(trusted_proxies=parse_trusted(trusted))
                self.assertIn(sentence, str(self.assertRaises(ValueError, listener.check_settings, settings)))
        parse_listener("2525", MemoryReactor()).check_settings(Settings())

    def test_options(self) -> None:
        """On the command line the same is one line that names the option."""
        options = Options()
        error = self.assertRaises(UsageError, options.parseOptions, ["--backend", "null:", "--port", "haproxy:2525"])
        self.assertTrue(str(error).startswith("--port haproxy:2525: no proxy is trusted"), error)
        options = Options()
        given = "--backend null: --port haproxy:2525 --trusted-proxies 127.0.0.1,unix --trust-proxy-tls --xclient-login"
        options.parseOptions(given.split())
        settings = options.plan.settings
        self.assertEqual(settings.trusted_proxies, parse_trusted("127.0.0.1,unix"))
        self.assertTrue(settings.trust_proxy_tls and settings.xclient_login)
        self.assertFalse(Settings().trust_proxy_tls or Settings().xclient_login)


class TrustTests(SynchronousTestCase):
    """Who is trusted: Settings.trusts and the words of --trusted-proxies."""

    def test_words(self) -> None:
        """Addresses, networks and the word unix stand between commas."""
        cases: dict[str, tuple[Any, ...]] = {
            "": (),
            " ": (),
            "192.0.2.1": (ip_network("192.0.2.1/32"),),
            "192.0.2.0/24, 2001:db8::/32 ,UNIX": (ip_network("192.0.2.0/24"), ip_network("2001:db8::/32"), "unix"),
        }
        for text, trusted in cases.items():
            with self.subTest(text):
                self.assertEqual(parse_trusted(text), trusted)

    def test_mistakes(self) -> None:
        """What is neither is refused with what to write."""
        cases = {
            "proxy.example": "'proxy.example' is no address or network; write such as 192.0.2.10 or 2001:db8::/64",
            "192.0.2.1,": "'' is no address or network",
            "192.0.2.1/24": "is no network, since it has bits beyond its length; write 192.0.2.0/24, or 192.0.2.1",
            "192.0.2.1/33": "is no address or network",
        }
        for text, sentence in cases.items():
            with self.subTest(text):
                with self.assertRaises(ValueError) as caught:
                    parse_trusted(text)
                self.assertIn(sentence, str(caught.exception))

    def test_shown(self) -> None:
        """They are shown as they are read, an address without its length."""
        for text in ("", "192.0.2.1", "192.0.2.0/24,2001:db8::/32,unix", "2001:db8::1,0.0.0.0/0"):
            self.assertEqual(format_trusted(parse_trusted(text)), text)

    def test_settings(self) -> None:
        """Settings take networks and the word unix, and nothing else."""
        wrong: Any = ("192.0.2.0/24",)
        with self.assertRaises(ValueError):
            Settings(trusted_proxies=wrong)

    def test_trusts(self) -> None:
        """Networks are for TCP, the word for unix sockets; what has no address is trusted by neither."""
        everybody = "0.0.0.0/0,::/0"
        cases = (
            ("192.0.2.0/24", CLIENT, True),
            ("192.0.3.0/24", CLIENT, False),
            ("2001:db8::/32", CLIENT, False),
            ("2001:db8::/32", IPv6Address("TCP", "2001:db8::1", 1), True),
            ("fe80::/10", IPv6Address("TCP", "fe80::1%eth0", 1), True),
            ("192.0.2.0/24", IPv6Address("TCP", "::ffff:192.0.2.7", 1), True),
            ("unix", UNIXAddress(b"/run/smtp"), True),
            ("unix", CLIENT, False),
            (everybody, UNIXAddress(b"/run/smtp"), False),
            (everybody, None, False),
            (everybody + ",unix", object(), False),
            ("", CLIENT, False),
        )
        for trusted, address, result in cases:
            with self.subTest(trusted=trusted, address=address):
                self.assertIs(Settings(trusted_proxies=parse_trusted(trusted)).trusts(address), result)
