"""
Tests of smtpsvc.listeners: what ``--port`` means.
"""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactor
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from smtpsvc.listeners import (
    Listener,
    ListenError,
    LoopbackEndpoint,
    Place,
    PortGroup,
    explain,
    parse_listener,
    places_of,
)
from smtpsvc.settings import Role


class FakePort:
    """A port that knows its address and whether it is closed."""

    def __init__(self, address: Any) -> None:
        self.address = address
        self.closed = False

    def getHost(self) -> Any:
        """Give the address."""
        return self.address

    def stopListening(self) -> None:
        """Close."""
        self.closed = True


class FakeReactor:
    """
    Listens on nothing: free numbers are 1000, 1001 …, and some addresses refuse.

    :param refusals: by address, an errno, or for each attempt an errno or None.
    """

    def __init__(self, **refusals: Any) -> None:
        self.refusals = {"127.0.0.1": refusals.get("v4"), "::1": refusals.get("v6")}
        self.ports: list[FakePort] = []

    def listenTCP(self, port: int, factory: object, backlog: int, interface: str) -> FakePort:
        """Open a fake port."""
        refusal = self.refusals[interface]
        if isinstance(refusal, list):
            refusal = refusal.pop(0) if refusal else None
        if refusal is not None:
            raise CannotListenError(interface, port, OSError(refusal, os.strerror(refusal)))
        kind: Any = IPv6Address if ":" in interface else IPv4Address
        self.ports.append(FakePort(kind("TCP", interface, port or 1000 + len(self.ports))))
        return self.ports[-1]


class ParseTests(SynchronousTestCase):
    """The words of an option become an endpoint, or a sentence."""

    def parse(self, text: str) -> Listener:
        """Read *text* as ``--port`` does."""
        return parse_listener(text, MemoryReactor())

    def test_interface(self) -> None:
        """A listener is an endpoint."""
        self.assertTrue(verifyObject(IStreamServerEndpoint, self.parse("2525")))

    def test_number(self) -> None:
        """A bare number is for this machine only."""
        listener = self.parse("2525")
        self.assertTrue(listener.loopback)
        self.assertEqual(listener.places, (Place("127.0.0.1", 2525), Place("::1", 2525)))
        self.assertTrue(all(place.local for place in listener.places))

    def test_descriptions(self) -> None:
        """Other words are the descriptions of Twisted's endpoints, as they say."""
        cases = {
            "tcp:2525": Place("0.0.0.0", 2525),
            "tcp:port=25:interface=192.0.2.1": Place("192.0.2.1", 25),
            "tcp6:25:interface=\\:\\:1": Place("::1", 25),
            "tcp6:25": Place("::", 25),
            "unix:/run/smtp:mode=660": Place(path="/run/smtp"),
        }
        for text, place in cases.items():
            with self.subTest(text):
                listener = self.parse(text)
                self.assertEqual(listener.places, (place,))
                self.assertFalse(listener.loopback)
                self.assertTrue(listener.plain)

    def test_stdio(self) -> None:
        """Of an endpoint that opens no socket by itself, no place is known before."""
        self.assertEqual(self.parse("stdio:").places, ())

    def test_not_from_systemd(self) -> None:
        """A socket that systemd has not passed is asked for in vain."""
        for text in ("systemd:domain=INET:index=0", "systemd:domain=INET:name=smtp"):
            with self.subTest(text):
                error = self.assertRaises(ValueError, self.parse, text)
                self.assertIn("systemd has passed no such socket", str(error))

    def test_role(self) -> None:
        """The role is the option's."""
        listener = parse_listener("2525", MemoryReactor(), option="--lmtp", role=Role.LMTP)
        self.assertEqual((listener.name, listener.role), ("--lmtp 2525", Role.LMTP))

    def test_mistakes(self) -> None:
        """A mistake is a sentence that names the option, what is wrong and what to write."""
        cases = {
            "65536": "65536 is no port; ports go from 1 to 65535, and 0 takes a free one",
            "1" * 5000: "is no port; ports go from 1 to 65535",
            "tcp:99999": "99999 is no port; ports go from 1 to 65535, and 0 takes a free one",
            "tcp:port=70000": "70000 is no port",
            "tcp:-1": "-1 is no port",
            "tcp:smtp": "this is no endpoint (its port is no number); write a port such as",
            "tcp:": "this is no endpoint",
            "tcp": "this is no endpoint",
            "": "this is no endpoint",
            "-1": "this is no endpoint",
            "٢٥": "this is no endpoint",
            "smpt:25": "this is no endpoint (Unknown endpoint type: 'smpt'); write a port such as",
            "tcp:25:a:b:c:d": "this is no endpoint (TypeError: ",
            "tcp:25:colour=red": "this is no endpoint (TypeError: ",
            "127.0.0.1:2525": "for that address write tcp:2525:interface=127.0.0.1",
            "[::1]:25": "for that address write tcp6:25:interface=\\:\\:1",
            "/run/smtp": "for a socket in the file system write unix:/run/smtp",
        }
        for text, sentence in cases.items():
            with self.subTest(text[:80]):
                error = self.assertRaises(ValueError, self.parse, text)
                self.assertTrue(str(error).startswith(f"--port {text}: "), str(error))
                self.assertIn(sentence, str(error))

    def test_suggestions_hold(self) -> None:
        """What a sentence tells to write is taken."""
        for text in ("127.0.0.1:2525", "[::1]:25", "/run/smtp"):
            with self.subTest(text):
                error = self.assertRaises(ValueError, self.parse, text)
                self.parse(str(error).rpartition(" ")[2])

    @given(st.text())
    def test_any_text(self, text: str) -> None:
        """Whatever is typed is a listener or a ValueError of one line."""
        try:
            parse_listener(text, MemoryReactor(), option="-p")
        except ValueError as error:
            said = str(error)
            self.assertTrue(said.startswith(f"-p {text}: "))


class LoopbackTests(SynchronousTestCase):
    """A bare number listens on both loopback addresses, or on none."""

    def listen(self, fake: FakeReactor, port: int) -> Any:
        """Listen, and give the port or the Failure."""
        results: list[Any] = []
        LoopbackEndpoint(fake, port).listen(Factory()).addBoth(results.append)
        return results[0]

    def test_both(self) -> None:
        """Both addresses are bound, with one number."""
        port = self.listen(FakeReactor(), 2525)
        self.assertEqual(places_of(port), (Place("127.0.0.1", 2525), Place("::1", 2525)))

    def test_free_number(self) -> None:
        """0 takes a number on the first address and the same on the second."""
        port = self.listen(FakeReactor(), 0)
        self.assertEqual(places_of(port), (Place("127.0.0.1", 1000), Place("::1", 1000)))

    def test_taken_on_second(self) -> None:
        """Where the second address has that number taken, another is tried."""
        fake = FakeReactor(v6=[errno.EADDRINUSE, errno.EADDRINUSE])
        port = self.listen(fake, 0)
        self.assertEqual(places_of(port), (Place("127.0.0.1", 1002), Place("::1", 1002)))
        self.assertEqual([port.closed for port in fake.ports], [True, True, False, False])

    def test_tries_end(self) -> None:
        """It does not try for ever."""
        fake = FakeReactor(v6=errno.EADDRINUSE)
        failure = self.listen(fake, 0)
        self.assertIsInstance(failure.value, CannotListenError)
        self.assertEqual(len(fake.ports), 20)
        self.assertTrue(all(port.closed for port in fake.ports))

    def test_no_ipv6(self) -> None:
        """A host without ::1 listens on 127.0.0.1."""
        for code in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            with self.subTest(errno.errorcode[code]):
                port = self.listen(FakeReactor(v6=code), 2525)
                self.assertEqual(places_of(port), (Place("127.0.0.1", 2525),))

    def test_busy(self) -> None:
        """A number that is taken on either address is an error, and nothing stays open."""
        for refusals in ({"v4": errno.EADDRINUSE}, {"v6": errno.EADDRINUSE}):
            with self.subTest(refusals):
                fake = FakeReactor(**refusals)
                failure = self.listen(fake, 2525)
                self.assertIsInstance(failure.value, CannotListenError)
                self.assertTrue(all(port.closed for port in fake.ports))


class PortGroupTests(SynchronousTestCase):
    """Several ports that are one."""

    def test_interface(self) -> None:
        """It is a port."""
        self.assertTrue(verifyObject(IListeningPort, PortGroup()))

    def test_stop(self) -> None:
        """It is closed when all of them are."""
        slow: Deferred[None] = Deferred()
        one, two = FakePort(None), FakePort(None)
        two.stopListening = lambda: slow  # type: ignore[method-assign, assignment, return-value]
        stopped = PortGroup((one, two)).stopListening()
        self.assertTrue(one.closed)
        self.assertNoResult(stopped)
        slow.callback(None)
        self.assertIsNone(self.successResultOf(stopped))


class PlaceTests(SynchronousTestCase):
    """Where a port listens, in words."""

    def test_addresses(self) -> None:
        """Twisted's addresses have their usual written forms, and say who can connect."""
        here = os.path.abspath("smtp.sock")
        cases: list[tuple[Any, str, bool]] = [
            (IPv4Address("TCP", "127.0.0.1", 25), "127.0.0.1:25", True),
            (IPv4Address("TCP", "0.0.0.0", 25), "0.0.0.0:25", False),
            (IPv6Address("TCP", "::1", 25), "[::1]:25", True),
            (IPv6Address("TCP", "::", 25), "[::]:25", False),
            (UNIXAddress(b"smtp.sock"), f"unix:{here}", True),
            ("elsewhere", "elsewhere:0", False),
        ]
        for address, text, local in cases:
            with self.subTest(text):
                (place,) = places_of(FakePort(address))  # type: ignore[arg-type]
                self.assertEqual((str(place), place.local), (text, local))


class ExplainTests(SynchronousTestCase):
    """Why a port cannot be opened, as a sentence."""

    def test_reasons(self) -> None:
        """The usual reasons say what to do."""
        low = "ports below 1024 are for root (twistd gives up the rights with --uid)"
        cases: list[tuple[Any, Any, Any, str]] = [
            ("::1", 25, errno.EADDRINUSE, "[::1]:25 is in use by another program; end it or give another port"),
            ("", 2525, errno.EADDRINUSE, "0.0.0.0:2525 is in use by another program; end it or give another port"),
            ("127.0.0.1", 25, errno.EACCES, f"this user may not listen on 127.0.0.1:25; {low}"),
            ("127.0.0.1", 2525, errno.EACCES, "this user may not listen on 127.0.0.1:2525"),
            ("192.0.2.1", 25, errno.EADDRNOTAVAIL, "192.0.2.1 is no address of this host; give one that it has"),
            (None, b"/run/x", errno.EADDRINUSE, "/run/x is in use by another program; end it or give another path"),
            (None, b"/run/x", errno.EACCES, "this user may not listen on /run/x"),
            (None, b"/run/x", errno.ENOENT, "cannot listen on /run/x: No such file or directory"),
        ]
        for interface, port, code, sentence in cases:
            with self.subTest(sentence):
                error = CannotListenError(interface, port, OSError(code, os.strerror(code)))
                self.assertEqual(explain(Failure(error)), sentence)

    def test_lock(self) -> None:
        """A unix socket that another process has locked is in use."""
        failure = Failure(CannotListenError(None, b"/run/x", "Cannot acquire lock"))
        self.assertEqual(explain(failure), "/run/x is in use by another program; end it or give another path")

    def test_others(self) -> None:
        """Any other error is told with its type."""
        cases = [
            (FileNotFoundError(errno.ENOENT, "No such file or directory"), "No such file or directory"),
            # Twisted's ports need it, below another root directory too.
            (FileNotFoundError(errno.ENOENT, "No such file", "/dev/null"), "No such file: /dev/null"),
            (OverflowError("too\nlarge"), "OverflowError: too large"),
        ]
        for error, text in cases:
            with self.subTest(text):
                self.assertEqual(explain(Failure(error)), f"cannot listen there: {text}")


class ListenerTests(TestCase):
    """Listeners on real sockets."""

    def take(self, host: str) -> int:
        """Listen on a free port as another program would; closed after the test."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        other = socket.socket(family)
        self.addCleanup(other.close)
        other.bind((host, 0))
        other.listen()
        return int(other.getsockname()[1])

    async def test_clients(self) -> None:
        """Clients reach both addresses of a bare number."""
        port = await parse_listener("0", reactor).listen(Factory())
        self.addCleanup(port.stopListening)
        for place in places_of(port):
            with self.subTest(str(place)):
                socket.create_connection((place.host, place.port), 5).close()

    async def test_busy(self) -> None:
        """A busy port is an error that names the option."""
        number = self.take("127.0.0.1")
        error = await self.assertFailure(parse_listener(str(number), reactor).listen(Factory()), ListenError)
        self.assertEqual(
            str(error),
            f"--port {number}: 127.0.0.1:{number} is in use by another program; end it or give another port",
        )

    async def test_check_says_what_listen_says(self) -> None:
        """A check fails as listening does, and leaves nothing open."""
        number = self.take("127.0.0.1")
        missing = f"unix:{self.mktemp()}/none/smtp"
        for text in (str(number), f"tcp:{number}", "tcp:0:interface=192.0.2.1", missing):
            with self.subTest(text):
                listener = parse_listener(text, reactor)
                self.assertRaises(ListenError, listener.check)
                await self.assertFailure(listener.listen(Factory()), ListenError)

    async def test_good_check(self) -> None:
        """After a good check, the same listener can be opened."""
        path = Path(self.mktemp()).resolve()
        for text in ("0", "tcp:0:interface=127.0.0.1", f"unix:{os.path.relpath(path)}"):
            with self.subTest(text):
                listener = parse_listener(text, reactor)
                listener.check()
                self.assertFalse(path.exists())
                port = await listener.listen(Factory())
                await (port.stopListening() or succeed(None))

    async def test_check_unix(self) -> None:
        """A path with a listener, or with a file that is no socket, cannot be had; a dead socket's can."""
        path = os.path.relpath(self.mktemp())
        listener = parse_listener(f"unix:{path}", reactor)
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(path)
            other.listen()
            self.assertRaises(ListenError, listener.check)
        listener.check()
        os.unlink(path)
        Path(path).touch()
        error = self.assertRaises(ListenError, listener.check)
        self.assertIn("a file of that name exists", str(error))

    async def test_late_failure(self) -> None:
        """Whatever an endpoint fails with becomes a sentence."""

        class Broken:
            def listen(self, factory: object) -> Deferred[Any]:
                return Deferred(lambda deferred: None)

        endpoint = Broken()
        listener = Listener("--port x:1", endpoint)
        listening = listener.listen(Factory())
        listening.errback(KeyError("x"))
        error = await self.assertFailure(listening, ListenError)
        self.assertEqual(str(error), "--port x:1: cannot listen there: KeyError: 'x'")
