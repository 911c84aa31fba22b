"""
Tests of smtpsvc.launch: what the service says to the person who starts it.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any

from twisted.internet import reactor
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import fail, succeed
from twisted.internet.error import CannotListenError
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.backends.function import on_message
from smtpsvc.backends.null import NullBackend
from smtpsvc.extensions import Extension
from smtpsvc.launch import PIPE, LaunchedService, Plan, StartError, one_sentence, say
from smtpsvc.listeners import Listener, ListenError, PortGroup
from smtpsvc.session import Backend
from smtpsvc.settings import Role, Settings

V4 = IPv4Address("TCP", "127.0.0.1", 2525)
V6 = IPv6Address("TCP", "::1", 2525)
EVERYWHERE = IPv4Address("TCP", "0.0.0.0", 25)


class FakePort:
    """An open port."""

    def __init__(self, address: Any) -> None:
        self.address = address

    def getHost(self) -> Any:
        """Give the address."""
        return self.address

    def stopListening(self) -> None:
        """Close."""


class FakeEndpoint:
    """Gives a port, or fails."""

    def __init__(self, result: Any) -> None:
        self.result = result

    def listen(self, factory: object) -> Any:
        """Open the port."""
        return self.result


def listener(*addresses: Any, name: str = "--port 2525", **more: Any) -> Listener:
    """Make a listener that opens ports at some addresses; two or more make a loopback listener."""
    ports = tuple(FakePort(address) for address in addresses)
    port = ports[0] if len(ports) == 1 else PortGroup(ports)
    return Listener(name, FakeEndpoint(succeed(port)), loopback=len(ports) > 1, **more)


def launched(*listeners: Listener, **more: Any) -> LaunchedService:
    """Make the service for some listeners."""
    fields: dict[str, Any] = {"settings": Settings(), "backend": NullBackend(), "backend_name": "null:", **more}
    return LaunchedService(Plan(listeners=listeners, **fields))


class LaunchTestCase(SynchronousTestCase):
    """Catches what is logged, and keeps Python's own hook."""

    def setUp(self) -> None:
        """Begin to catch."""
        self.events: list[Any] = []
        globalLogPublisher.addObserver(self.events.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.events.append)
        self.patch(sys, "excepthook", sys.excepthook)
        self.waiting: list[Any] = []
        self.patch(reactor, "callWhenRunning", self.waiting.append)

    def run_service(self, service: LaunchedService) -> None:
        """Start a service, and do what waits for the reactor to run."""
        service.startService()
        self.addCleanup(service.stopService)
        self.run_reactor()

    def run_reactor(self) -> None:
        """Do what waits for the reactor to run."""
        while self.waiting:
            self.waiting.pop(0)()

    def logged(self, level: str) -> list[str]:
        """Give the lines of a level that smtpsvc has logged."""
        ours = [event for event in self.events if event["log_namespace"] == "smtpsvc"]
        return [event.get("line") or event["sentence"] for event in ours if event["log_level"].name == level]


class StartLinesTests(LaunchTestCase):
    """Two lines at the start: where, and a command to try."""

    def test_logged(self) -> None:
        """They are logged when the reactor runs and signals are heeded, and not before."""
        service = launched(listener(V4, V6))
        service.privilegedStartService()
        service.startService()
        self.addCleanup(service.stopService)
        self.assertEqual(self.logged("info"), [])
        self.run_reactor()
        self.assertEqual(self.logged("info"), service.start_lines())
        self.assertEqual(self.logged("warn"), [])

    def test_loopback(self) -> None:
        """A bare number is told with both addresses, and with the way to more."""
        service = launched(listener(V4, V6))
        service.startService()
        where, command = service.start_lines()
        self.assertEqual(
            where,
            "listening for SMTP on 127.0.0.1:2525 and [::1]:2525 (only this machine can connect; "
            f"for all: --port tcp:2525); mail goes to {NullBackend.destination}",
        )
        self.assertEqual(
            command,
            "to try it: printf 'Subject: hello\\n\\nhi\\n' | curl -sS --crlf -T - smtp://127.0.0.1:2525 "
            "--mail-from me@example.com --mail-rcpt you@example.com",
        )

    def test_several(self) -> None:
        """Listeners are told by their roles."""
        lmtp = listener(UNIXAddress(b"/run/lmtp"), name="--lmtp unix:/run/lmtp", role=Role.LMTP)
        service = launched(listener(V4), lmtp, listener(EVERYWHERE))
        service.startService()
        self.assertTrue(
            service.start_lines()[0].startswith(
                "listening for SMTP on 127.0.0.1:2525, 0.0.0.0:25; listening for LMTP on unix:/run/lmtp; mail goes to "
            )
        )

    def test_relative_path(self) -> None:
        """A unix socket is told by its absolute path."""
        service = launched(listener(UNIXAddress(b"run/smtp")))
        service.startService()
        self.assertIn(f"on unix:{os.path.abspath('run/smtp')};", service.start_lines()[0])

    def test_targets(self) -> None:
        """The command reaches what listens, from this machine."""
        cases = [
            (EVERYWHERE, "smtp://127.0.0.1:25"),
            (IPv6Address("TCP", "::", 25), "'smtp://[::1]:25'"),
            (IPv4Address("TCP", "192.0.2.1", 25), "smtp://192.0.2.1:25"),
            (UNIXAddress(b"/run/my smtp"), "--unix-socket '/run/my smtp' smtp://localhost"),
        ]
        for address, target in cases:
            with self.subTest(target):
                service = launched(listener(address))
                service.startService()
                self.assertIn(f"-T - {target} --mail-from", service.start_lines()[1])

    def test_domain(self) -> None:
        """The command's recipient is in the first domain that is taken."""
        service = launched(listener(V4), domains=["a.example", "b.example"])
        service.startService()
        self.assertTrue(service.start_lines()[1].endswith("--mail-rcpt you@a.example"))

    def test_nothing_to_try(self) -> None:
        """Where curl could not connect, no command is given."""
        service = launched(listener(V4, plain=False))
        service.startService()
        self.assertEqual(len(service.start_lines()), 1)

    def test_destinations(self) -> None:
        """Where mail goes is what the backend says, or else its name."""

        class Mute(Backend):
            pass

        cases: list[tuple[Any, str]] = [
            (on_message(lambda message: None), str(on_message(lambda message: None).destination)),
            (Mute(), "the backend python:my.mute"),
        ]
        for backend, words in cases:
            with self.subTest(words):
                service = launched(listener(V4), backend=backend, backend_name="python:my.mute")
                service.startService()
                self.assertTrue(service.start_lines()[0].endswith(f"mail goes to {words}"), service.start_lines()[0])


class WarningTests(LaunchTestCase):
    """A public address without ``--domain`` is worth a warning."""

    def test_public(self) -> None:
        """It says what is open, and what that means."""
        self.run_service(launched(listener(EVERYWHERE, name="--port tcp:25")))
        self.assertEqual(
            self.logged("warn"),
            ["--port tcp:25 is open to other machines and no --domain is given: mail for any domain is taken"],
        )

    def test_quiet(self) -> None:
        """With a domain, or on this machine alone, there is nothing to warn of."""
        self.run_service(launched(listener(EVERYWHERE), domains=["x.example"]))
        self.run_service(launched(listener(V4, V6), listener(UNIXAddress(b"/run/smtp"))))
        self.assertEqual(self.logged("warn"), [])

    def test_logins(self) -> None:
        """Where all clients must log in, mail for any domain is what they are there for."""
        self.run_service(launched(listener(EVERYWHERE, role=Role.SUBMISSION)))
        login = Extension()
        login.keyword = "AUTH"
        settings = Settings(require_auth=True)
        self.run_service(launched(listener(EVERYWHERE), settings=settings, extensions=[login]))
        self.assertEqual(self.logged("warn"), [])


class FailureTests(LaunchTestCase):
    """What keeps the service from starting is one sentence."""

    def problem(self, error: BaseException) -> StartError:
        """Give the problem that an error makes."""

        def start() -> None:
            with one_sentence():
                raise error

        return self.assertRaises(StartError, start)

    def test_port(self) -> None:
        """A port that cannot be opened is told by its option, whichever start comes first."""
        for start in ("privilegedStartService", "startService"):
            with self.subTest(start):
                error = CannotListenError("127.0.0.1", 25, OSError(98, "Address already in use"))
                service = launched(Listener("--port 25", FakeEndpoint(fail(error))))
                problem = self.assertRaises(StartError, getattr(service, start))
                self.assertEqual(
                    str(problem), "--port 25: 127.0.0.1:25 is in use by another program; end it or give another port"
                )

    def test_sentences(self) -> None:
        """Errors of the backend are told by the option that named it."""
        cases: list[tuple[Exception, str]] = [
            (ListenError("--port 25: no"), "--port 25: no"),
            (ValueError("maildir: no\nroom"), "--backend: maildir: no room"),
            (OSError(28, "No space left on device"), "--backend: [Errno 28] No space left on device"),
            (KeyError("x"), f"--backend: it did not start: KeyError: 'x' ({__file__}, line "),
        ]
        for error, sentence in cases:
            with self.subTest(sentence):
                self.assertEqual(str(self.problem(error))[: len(sentence)], sentence)

    def test_pipe(self) -> None:
        """What twistd hands to the terminal is the sentence, or as much of it as the pipe takes."""
        for sentence in ("short", "word " * 40):
            with self.subTest(sentence):
                (note,) = self.problem(ListenError(sentence)).__notes__
                self.assertLessEqual(len(note), PIPE)
                self.assertTrue(note == sentence or note.endswith("word ..."))

    def test_shown(self) -> None:
        """When the process ends with it, the sentence alone is printed."""
        terminal = Terminal()
        self.patch(sys, "__stderr__", terminal)
        problem = self.problem(ListenError("no"))
        sys.excepthook(type(problem), problem, problem.__traceback__)
        self.assertEqual(terminal.getvalue(), "smtpsvc: no\n")

    def test_others_shown(self) -> None:
        """Any other exception is shown as it was before."""
        seen: list[Any] = []
        sys.excepthook = lambda *args: seen.append(args)
        self.problem(ListenError("no"))
        sys.excepthook(KeyError, KeyError("x"), None)
        self.assertEqual(len(seen), 1)


class Terminal(io.StringIO):
    """A terminal, whose descriptor is that of some directory."""

    def fileno(self) -> int:
        """Give a descriptor that is not the null device."""
        descriptor = os.open(".", os.O_RDONLY)
        self.descriptor = descriptor
        return descriptor

    def write(self, text: str) -> int:
        """Take text; the descriptor is no longer needed."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
        return super().write(text)


class SayTests(LaunchTestCase):
    """The terminal is told, or else the log."""

    def test_daemon(self) -> None:
        """Where stderr is the null device, closed or none, the sentence is logged."""
        closed = open(os.devnull, "w")  # noqa: SIM115
        closed.close()
        with open(os.devnull, "w") as null:
            for terminal in (null, closed, None):
                with self.subTest(terminal):
                    self.patch(sys, "__stderr__", terminal)
                    self.events.clear()
                    say("no")
                    self.assertEqual(self.logged("critical"), ["no"])
        self.flushLoggedErrors()
